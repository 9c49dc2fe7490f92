"""For child processes that answer a parent: take the pipes, end when the parent is gone."""

import os
import threading
import time
from typing import BinaryIO


def end_with(parent: int) -> None:
    """PDEATHSIG follows the thread that started us, which may end before its process: poll instead, once a second."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for requests and replies only: whatever else reads finds nothing, and prints go to stderr."""
    reader, writer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    return reader, writer
