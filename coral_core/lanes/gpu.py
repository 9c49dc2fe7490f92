"""A GPU for a lane: it takes one for itself before its engine starts, and waits, visibly, while all are taken.

Waiting and not sharing: a second base model beside the first may leave no room, and out of memory is what the search
takes for a finding about a genome. A lane that waits beats as one that works, costs nothing (its account opens later),
and ends like an idle one when nothing is left for it to do.
"""

import contextlib
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from coral_core.devices import VISIBLE, Gpu, Taken, is_given_one, take_one, to_choose_from
from coral_core.errors import StoreError
from coral_core.lanes.worker import Ended, Order
from coral_core.queue.lane_board import BEAT_SECONDS, LaneBoard, LaneNote
from coral_core.queue.queue import JobQueue

log = logging.getLogger("coral.lane")

KIND = "CORAL_LANE_GPU"
"""Set by pools whose lanes are to take a GPU for themselves: the kind they are meant for. Kubernetes gives each its own."""
SAY_SECONDS = 60.0


@contextlib.contextmanager
def own_gpu(
    queue: JobQueue, lane: str, flow_run_id: str, order: Callable[[], Order], linger: float
) -> Iterator[Ended | None]:
    """Have a GPU that no other lane of this store uses, by CUDA_VISIBLE_DEVICES, for as long as this lasts.

    Nothing is done where the pool does not ask for it (`CORAL_LANE_GPU`), where somebody has chosen a GPU, or where there is none.

    Yields why the lane is to end before it got one, or None.

    Raises:
        StoreError: the store cannot hold locks.
    """
    kind = os.environ.get(KIND, "")
    choice = to_choose_from(kind) if kind and not is_given_one() else ()
    if not choice:
        yield None
        return
    queue.prepare()
    waiting = _Waiting(queue, lane, flow_run_id, choice)
    before = os.environ.get(VISIBLE)
    got = waiting.until_free(order, linger)
    if not isinstance(got, Taken):
        yield got
        return
    log.info("lane %s has GPU %s (%s)", lane, got.gpu.uuid, got.gpu.name)
    os.environ[VISIBLE] = got.gpu.uuid
    try:
        yield None
    finally:
        got.give_back()
        os.environ.pop(VISIBLE) if before is None else os.environ.update({VISIBLE: before})


def in_line(board: LaneBoard, lanes: Iterable[str]) -> str:
    """That all of `lanes` stand in line for a GPU, in words; empty when one does not, or there are none."""
    notes = [board.read(lane) for lane in lanes]
    hosts = sorted({note.host for note in notes if note is not None and note.state == "starting"})
    if not notes or any(note is None or note.state != "starting" for note in notes):
        return ""
    return f"all GPUs of {', '.join(hosts)} are taken by other lanes, and {len(notes)} wait for one"


class _Waiting:
    """A lane that stands in line."""

    def __init__(self, queue: JobQueue, lane: str, flow_run_id: str, choice: tuple[Gpu, ...]) -> None:
        self._queue = queue
        self._choice = choice
        self._folder = queue.top / "gpus"
        self._wish: Order = "go on"
        self._over = threading.Event()
        now = time.time()
        self._note = LaneNote(
            lane=lane, queue=queue.name, flow_run_id=flow_run_id, host=platform.node(), pid=os.getpid(), started=now
        )

    def until_free(self, order: Callable[[], Order], linger: float) -> Taken | Ended:
        """Take one as soon as one is free; or say why this ended without."""
        if (taken := self._take()) is not None:
            return taken
        threading.Thread(target=self._ask, args=(order,), name="order", daemon=True).start()
        wanted_last, say_next = time.monotonic(), 0.0
        try:
            while (taken := self._take()) is None:
                now = time.monotonic()
                if now >= say_next:
                    say_next = now + SAY_SECONDS
                    log.warning("%s", self._why())
                self._beat()
                if self._is_wanted():
                    wanted_last = now
                if (end := self._end(is_idle=now - wanted_last > linger)) is not None:
                    self._beat(state="ended", ended=f"{end}, and had no GPU")
                    return end
                time.sleep(BEAT_SECONDS)
            return taken
        finally:
            self._over.set()

    def _ask(self, order: Callable[[], Order]) -> None:
        """In a thread: a server that takes its time must not hold up the beats."""
        while not self._over.is_set():
            self._wish = order()
            self._over.wait(BEAT_SECONDS)

    def _take(self) -> Taken | None:
        try:
            self._queue.store.make_folder(self._folder)
            return take_one(self._choice, self._folder)
        except OSError as error:
            raise StoreError(
                f"store {self._queue.store.root}: {self._folder} cannot hold the locks by which lanes share GPUs "
                f"({error.strerror})",
                remedy=f"Mount it with locks, or give each worker one GPU by {VISIBLE}.",
            ) from error

    def _why(self) -> str:
        names = ", ".join(f"{gpu.name} {gpu.uuid}" for gpu in self._choice)
        return (
            f"lane {self._note.lane} waits for a GPU: other lanes of this store on {self._note.host} have all there are ({names}). "
            "Have fewer lanes here (--limit of its workers), or more GPUs"
        )

    def _is_wanted(self) -> bool:
        """Does any job wait that no lane does?"""
        return bool(self._queue.open_digests() - {claim.digest for claim in self._queue.claims()})

    def _end(self, is_idle: bool) -> Ended | None:
        if self._wish != "go on":
            return "cancelled" if self._wish == "stop" else "drained"
        if self._queue.lanes.asked_to_end(self._note.lane):
            return "asked"
        return "idle" if is_idle else None

    def _beat(self, **changes: object) -> None:
        self._note = self._note.model_copy(update={"beat": self._note.beat + 1, "seen": time.time()} | changes)
        self._queue.lanes.write(self._note)
