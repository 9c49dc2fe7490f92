"""How tests wait: for a condition, with a limit that only ends what hangs. `test_house_rules.py` holds the tests to it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 4.0
"""Busy machines are so much slower: limits are there to end what hangs, and measure nothing."""


def until(
    what: Callable[[], Any],
    seconds: float = 60,
    why: str = "it did not happen in time",
    patience: float = PATIENCE,
    look: float = 0.1,
) -> Any:
    """Wait until `what` returns something true; returns it.

    Args:
        what: Called every `look` seconds.
        seconds: The most that it takes on two idle cores; `patience` times as long is waited.
    """
    deadline = time.monotonic() + seconds * patience
    while not (found := what()):
        assert time.monotonic() < deadline, why
        time.sleep(look)
    return found


async def until_in_loop(what: Callable[[], Any], seconds: float = 10, look: float = 0.005) -> None:
    """As `until`, for a condition that the other tasks of the running event loop bring about."""
    deadline = time.monotonic() + seconds * PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(look)


def still(what: Callable[[], Any], seconds: float, why: str = "it changed", look: float = 0.1) -> None:
    """`what` is true now and stays so for `seconds`: the only way to show that nothing happens."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert what(), why
        time.sleep(look)
    assert what(), why
