"""How far the recording of a project's tests is, on the error stream."""

import sys
import time
from types import TracebackType
from typing import Self

EVERY = 10.0
"""Seconds between lines where the error stream is no terminal."""


class RecordingProgress:
    """Prints what a recording says of its progress: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._last = 0.0
        self._open = False

    def __call__(self, text: str) -> None:
        line = "".join(letter if letter.isprintable() else " " for letter in text)[:150]
        now = time.monotonic()
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[2K{line[:100]}")
            sys.stderr.flush()
            self._open = True
        elif line.startswith("left out") or now - self._last > EVERY:
            self._last = now
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
