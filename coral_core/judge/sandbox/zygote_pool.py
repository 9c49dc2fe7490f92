"""A pool of zygotes shared by threads, and the choice of their isolation layers."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, LifoQueue
from typing import Any

from coral_core.errors import JudgeError
from coral_core.judge.sandbox import seccomp
from coral_core.judge.sandbox.child_clock import Allowance
from coral_core.judge.sandbox.layers import landlock_abi
from coral_core.judge.sandbox.parent import Answer, Zygote

BASE_LAYERS = ("landlock", "seccomp")
CLOSED = "the judge is closed: it takes no more patches"


def detect_layers() -> dict[str, bool]:
    """Base layer -> whether this kernel and architecture support it."""
    return {"landlock": landlock_abi() >= 1, "seccomp": seccomp.known()}


def layers_in_use(accepted: Sequence[str] = ()) -> tuple[str, ...]:
    """The layers to ask a zygote for: the base layers, and namespaces where the machine has them.

    Args:
        accepted: Names of base layers that may be missing.

    Raises:
        JudgeError: a base layer is missing and not accepted by name.
    """
    available = detect_layers()
    missing = [name for name in BASE_LAYERS if not available[name] and name not in accepted]
    if missing:
        raise JudgeError(
            f"sandbox: {' and '.join(missing)} missing on this machine, so patches would not be contained",
            remedy="Use a kernel that has it, or accept the risk by name with "
            f"--set 'scoring.judge.allow_missing_layers=[{', '.join(missing)}]'",
        )
    return (*(name for name in BASE_LAYERS if available[name]), "namespaces")


class Pool:
    """A fixed number of places for zygotes, shared by threads. A zygote starts when its place is first used.

    Args:
        workers: Places, and so patches judged at a time.
        layers: Names of the layers to ask for, as `layers_in_use` gives them.
        hash_seed: As of `Zygote`.
    """

    def __init__(self, workers: int, layers: Sequence[str], hash_seed: int = 0) -> None:
        self._workers = workers
        self._hash_seed = hash_seed
        self._layers = tuple(layers)
        self._free: LifoQueue[Zygote | None] = LifoQueue()
        """The free places; None for one without a running zygote."""
        for _ in range(workers):
            self._free.put(None)
        self._next = threading.Lock()
        """Held while a thread takes places, so that others cannot overtake one that waits for all of them."""
        self._zygotes: set[Zygote] = set()
        """All running zygotes."""
        self._closed = False

    def run(self, request: dict[str, Any], allowance: Allowance, output_bytes: int, alone: bool = False) -> Answer:
        """Run `request` in the next free zygote. A zygote that failed is replaced, and the request is tried again.

        All zygotes may have died at once (out of memory), so there is one more try than there are zygotes.

        Args:
            request: The patch, its cases and limits (see `zygote.run_patch`).
            allowance: Seconds that the child may sleep and compute.
            output_bytes: Bytes that are read of it at most.
            alone: Wait until no other child of this pool runs, and start none until it has ended.

        Raises:
            JudgeError: the sandbox failed in each try, or the pool is closed.
        """
        for attempt in range(self._workers + 1):
            try:
                with self._zygote(self._workers if alone else 1) as zygote:
                    return zygote.run(request, allowance, output_bytes)
            except JudgeError:
                if attempt == self._workers:
                    raise
        raise AssertionError("unreachable")

    def active_layers(self) -> tuple[str, ...]:
        """Names of the layers that a zygote reports as active."""
        with self._zygote(1) as zygote:
            return zygote.layers

    @contextmanager
    def _zygote(self, count: int) -> Iterator[Zygote]:
        """A zygote that occupies `count` places until the end. It is ended when its request fails or the pool is closed."""
        places: list[Zygote | None] = []
        try:
            with self._next:
                for _ in range(count):
                    places.append(self._free.get())
                    if self._closed:
                        raise JudgeError(CLOSED)
            places.sort(key=lambda place: place is None)
            zygote = places[0] = places[0] or self._started()
            try:
                yield zygote
            except BaseException:
                places[0] = None
                self._end(zygote)
                raise
        finally:
            for place in places:
                self._free.put(place)
            if self._closed:  # closed in the meantime
                self.close()

    def _started(self) -> Zygote:
        zygote = Zygote(self._layers, self._hash_seed)
        self._zygotes.add(zygote)
        if self._closed:  # closed while the zygote started, so `close` has not ended it
            self._end(zygote)
            raise JudgeError(CLOSED)
        return zygote

    def _end(self, zygote: Zygote) -> None:
        self._zygotes.discard(zygote)
        zygote.close()

    def close(self) -> None:
        """End the free zygotes, and each busy one when its request is done."""
        self._closed = True
        places = []
        with suppress(Empty):
            while True:
                places.append(self._free.get_nowait())
        for zygote in places:
            if zygote is not None:
                self._end(zygote)
            self._free.put(None)

    def kill(self) -> None:
        """Kill all zygotes, also those at work: requests in progress fail with `JudgeError`."""
        self.close()
        for zygote in list(self._zygotes):
            zygote.kill()
