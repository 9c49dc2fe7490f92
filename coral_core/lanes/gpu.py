"""Reserves a GPU for a lane before its engine starts; the lane waits while all are taken.

Lanes do not share a GPU: two base models may exhaust its memory, and the search counts out of memory as a property of
the genome. The account of a waiting lane is not open yet, so waiting costs nothing.
"""

import contextlib
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator

from coral_core.devices import VISIBLE, Gpu, Taken, is_given_one, take_one, to_choose_from
from coral_core.errors import StoreError
from coral_core.queue.lane_board import BEAT_SECONDS, Ended
from coral_core.queue.queue import JobQueue

log = logging.getLogger("coral.lane")

KIND = "CORAL_LANE_GPU"
"""Variable of a pool: the kind of GPU that its lanes reserve. Kubernetes assigns GPUs itself, so its pools do not set it."""


@contextlib.contextmanager
def own_gpu(queue: JobQueue, lane: str, end_of: Callable[[float], Ended | None]) -> Iterator[Ended | None]:
    """Reserve a GPU that no other lane of this store uses, and select it by CUDA_VISIBLE_DEVICES within the context.

    Nothing is done if the pool does not set `CORAL_LANE_GPU`, if a GPU was selected before, or if there is none.

    Args:
        queue: The lane's queue.
        lane: The lane's id, for the log.
        end_of: Given the seconds since a free job was last seen, says why the lane ends now; None: it goes on waiting.

    Yields:
        None, or why the lane ends before it got a GPU.

    Raises:
        StoreError: the store cannot hold locks.
    """
    kind = os.environ.get(KIND, "")
    choice = to_choose_from(kind) if kind and not is_given_one() else ()
    if not choice:
        yield None
        return
    wanted_last = time.monotonic()
    if (taken := _take(queue, choice)) is None:
        names = ", ".join(f"{gpu.name} {gpu.uuid}" for gpu in choice)
        log.warning(
            "lane %s waits for a GPU: other lanes of this store on %s have all there are (%s). Have fewer lanes here "
            "(--limit of its workers), or more GPUs",
            lane,
            platform.node(),
            names,
        )
    while taken is None:
        now = time.monotonic()
        if queue.open_digests() - {claim.digest for claim in queue.claims()}:
            wanted_last = now
        if (end := end_of(now - wanted_last)) is not None:
            yield end
            return
        time.sleep(BEAT_SECONDS)
        taken = _take(queue, choice)
    log.info("lane %s has GPU %s (%s)", lane, taken.gpu.uuid, taken.gpu.name)
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = taken.gpu.uuid
    try:
        yield None
    finally:
        taken.give_back()
        os.environ.pop(VISIBLE) if before is None else os.environ.update({VISIBLE: before})


def _take(queue: JobQueue, choice: tuple[Gpu, ...]) -> Taken | None:
    folder = queue.top / "gpus"
    try:
        queue.store.make_folder(folder)
        return take_one(choice, folder)
    except OSError as error:
        raise StoreError(
            f"store {queue.store.root}: {folder} cannot hold the locks by which lanes share GPUs ({error.strerror})",
            remedy=f"Mount it with locks, or give each worker one GPU by {VISIBLE}.",
        ) from error
