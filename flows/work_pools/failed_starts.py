"""Lanes that end before their first job: how many in a row say that their machine does not fit."""

import time
from dataclasses import dataclass

MOST_FAILED_STARTS = 3


@dataclass
class Starts:
    """Of one pool. Lanes that were started side by side count once: whatever ended one of them, a worker's death say,
    may have ended them all."""

    failed: int = 0
    _counted: float = 0.0

    def well(self) -> None:
        """A lane did something."""
        self.failed = 0

    def ended_early(self, started: float) -> bool:
        """A lane ended that was started at `started` (monotonic seconds). Were that `MOST_FAILED_STARTS` in a row?"""
        if self.failed and started <= self._counted:
            return False
        self.failed, self._counted = self.failed + 1, time.monotonic()
        if self.failed < MOST_FAILED_STARTS:
            return False
        self.failed = 0
        return True
