"""Raises an error at the k-th step of a request, whatever the step is: torch's operations and calls of Python functions."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from coral_core.lm import base_state

ERRORS: tuple[Callable[[], BaseException], ...] = (
    lambda: torch.OutOfMemoryError("CUDA out of memory (injected)"),
    lambda: OSError(errno.EIO, "Input/output error (injected)"),
    lambda: RuntimeError("injected"),
    lambda: KeyboardInterrupt("injected"),
    lambda: MemoryError("injected"),
)
_OURS = os.sep + os.path.join("coral_core", "lm") + os.sep
_PEFT = os.sep + "peft" + os.sep


class Steps:
    """Counts steps, and raises `error` at step `at` (never when it is 0)."""

    def __init__(self, at: int = 0, error: Callable[[], BaseException] = ERRORS[0]) -> None:
        self.count = 0
        self.paused = False
        self.raised = ""
        self._at = at
        self._error = error

    def take(self, name: str) -> None:
        if self.paused:
            return
        self.count += 1
        if self.count == self._at:
            self.raised = name
            raise self._error()


class _Operations(TorchFunctionMode):
    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._steps.take(getattr(function, "__name__", str(function)))
        return function(*args, **(kwargs or {}))


@contextmanager
def operations(steps: Steps) -> Iterator[None]:
    """Each operation of torch is a step: also those of the optimiser, of PEFT and of loading."""
    with _Operations(steps):
        yield


@contextmanager
def calls(steps: Steps) -> Iterator[None]:
    """Each call of a Python function of PEFT or of our engine is a step (and each time a generator goes on)."""

    def watch(frame: Any, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and (_OURS in name or _PEFT in name):
            steps.take(f"{os.path.basename(name)}:{frame.f_code.co_name}")

    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(None)


@contextmanager
def sparing_the_way_back(steps: Steps) -> Iterator[None]:
    """No errors in putting back and comparing themselves: what those leave is another test."""

    def spared(method: Any) -> Any:
        def call(self: Any) -> Any:
            before, steps.paused = steps.paused, True
            try:
                return method(self)
            finally:
                steps.paused = before

        return call

    state = base_state.BaseState
    restore, check = state.restore, state.check
    state.restore, state.check = spared(restore), spared(check)  # type: ignore[method-assign]
    try:
        yield
    finally:
        state.restore, state.check = restore, check  # type: ignore[method-assign]
