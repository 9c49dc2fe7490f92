"""The interface of those who are notified of what happens in an evolution."""

from typing import Literal

from coral_core.ledger import Standing
from coral_core.runs.progress import Progress
from coral_core.runs.records import GenomeRecord, Outcome


class Listener:
    """Is notified of what happens in an evolution; override what is of interest.

    Methods are called in the event loop of the evolution: they must return at once. What one raises ends the evolution.
    """

    def started(self, progress: Progress, start: str) -> None:
        """The session begins; the run may have been begun earlier. `start` says what the first population comes from."""

    def changed(self, progress: Progress) -> None:
        """The run may have got on since the last call; calls are at most some seconds apart."""

    def champion_found(self, champion: GenomeRecord, generation: int, before: float | None) -> None:
        """Generation `generation` (from 0) ended with another champion; `before` is the fitness of the one it replaces."""

    def paused(self, why: str) -> None:
        """The budget lets no job start."""

    def resumed(self) -> None:
        """Jobs start again after a pause."""

    def budget_reached(self, percent: Literal[80, 100], standing: Standing) -> None:
        """`percent` of a limit is spent (100 also when what is left is too little for a job); once per limit and day."""

    def ended(self, progress: Progress, outcome: Outcome, error: str) -> None:
        """The session has ended; `error` is empty unless it failed."""
