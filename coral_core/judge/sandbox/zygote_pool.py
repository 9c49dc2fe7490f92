"""A pool of zygotes shared by threads, and the choice of their isolation layers."""

import threading
from collections.abc import Sequence
from typing import Any

from coral_core.errors import JudgeError
from coral_core.judge.sandbox import seccomp
from coral_core.judge.sandbox.child_clock import Allowance
from coral_core.judge.sandbox.layers import landlock_abi
from coral_core.judge.sandbox.parent import Answer, Zygote

BASE_LAYERS = ("landlock", "seccomp")
CLOSED = "the judge is closed: it takes no more patches"


def detect_layers() -> dict[str, bool]:
    """Which base layers this kernel and machine offer."""
    return {"landlock": landlock_abi() >= 1, "seccomp": seccomp.known()}


def layers_in_use(accepted: Sequence[str] = ()) -> tuple[str, ...]:
    """The layers to ask a zygote for: the base, and namespaces if there are any.

    Raises:
        JudgeError: a base layer is missing and not accepted by name.
    """
    found = detect_layers()
    missing = [name for name in BASE_LAYERS if not found[name] and name not in accepted]
    if missing:
        raise JudgeError(
            f"sandbox: {' and '.join(missing)} missing on this machine, so patches would not be contained",
            remedy="Use a kernel that has it, or accept the risk by name with "
            f"--set 'scoring.judge.allow_missing_layers=[{', '.join(missing)}]'",
        )
    return (*(name for name in BASE_LAYERS if found[name]), "namespaces")


class Pool:
    """A fixed number of zygotes shared by threads.

    Args:
        workers: Zygotes, and so patches judged at a time.
        layers: Names of the layers to ask for, as `layers_in_use` gives them.
    """

    def __init__(self, workers: int, layers: Sequence[str]) -> None:
        self._layers = tuple(layers)
        self._free: list[Zygote] = []
        self._busy: set[Zygote] = set()
        self._count = 0
        self._workers = workers
        self._changed = threading.Condition()
        self._closed = False
        self._running = 0
        self._want_alone = 0
        self._alone = False

    def run(
        self, request: dict[str, Any], asleep: float, output_bytes: int, cpu: Sequence[float] = (), alone: bool = False
    ) -> Answer:
        """Run `request` in the next free zygote; a zygote that failed is replaced and the request tried again.

        All zygotes may have died at once (out of memory), hence one try more than there are zygotes.

        Args:
            request: What the child is to run (see `zygote.run_patch`).
            asleep: Seconds that it may sleep.
            output_bytes: Most that is read of it.
            cpu: CPU seconds while 0, 1, ... records have come.
            alone: Wait until no other child of this pool runs, and let none start meanwhile.
        """
        allowance = Allowance(asleep, tuple(cpu))
        for attempt in range(self._workers + 1):
            zygote = self._take(alone)
            try:
                answer = zygote.run(request, allowance, output_bytes)
            except BaseException as error:
                self._back(zygote, alone, broken=True)
                if attempt == self._workers or not isinstance(error, JudgeError):
                    raise
            else:
                self._back(zygote, alone)
                return answer
        raise AssertionError("unreachable")

    def active_layers(self) -> tuple[str, ...]:
        """Names of the layers that a zygote really has."""
        zygote = self._take(False)
        self._back(zygote, False)
        return zygote.layers

    def _take(self, alone: bool) -> Zygote:
        with self._changed:
            self._want_alone += alone
            try:
                while not self._may_run(alone) and not self._closed:
                    self._changed.wait()
            finally:
                self._want_alone -= alone
            if self._closed:
                raise JudgeError(CLOSED)
            self._running += 1
            self._alone = alone
            if self._free:
                zygote = self._free.pop()
                self._busy.add(zygote)
                return zygote
            self._count += 1
        try:
            zygote = Zygote(self._layers)
        except BaseException:
            with self._changed:
                self._count -= 1
                self._leave(alone)
            raise
        with self._changed:
            self._busy.add(zygote)
            ended = self._closed
        if ended:  # while it started, so that nobody has ended it
            self._back(zygote, alone)
            raise JudgeError(CLOSED)
        return zygote

    def _may_run(self, alone: bool) -> bool:
        if alone:
            return self._running == 0
        room = bool(self._free) or self._count < self._workers
        return room and not self._alone and not self._want_alone

    def _leave(self, alone: bool) -> None:
        self._running -= 1
        self._alone = self._alone and not alone
        self._changed.notify_all()

    def _back(self, zygote: Zygote, alone: bool, broken: bool = False) -> None:
        with self._changed:
            self._busy.discard(zygote)
            keep = not broken and not self._closed
            if keep:
                self._free.append(zygote)
            else:
                self._count -= 1
            self._leave(alone)
        if not keep:
            zygote.close()

    def close(self) -> None:
        """End the free zygotes, and each busy one when its request is done."""
        with self._changed:
            self._closed = True
            free, self._free = self._free, []
            self._changed.notify_all()
        for zygote in free:
            zygote.close()

    def kill(self) -> None:
        """End all zygotes at once, also those at work: what is under way fails with `JudgeError`."""
        self.close()
        with self._changed:
            busy = list(self._busy)
        for zygote in busy:
            zygote.kill()
