"""Whose job is next: start-time fair queueing over lane seconds (Goyal, Vin and Cheng 1996), weighted.

Each evolution has a virtual time: the lane seconds that it got, over its weight. The one with the
least is served. An evolution that has had no work does not save its turns up: when it comes, or
comes back, it begins at the virtual time of those in service (of whoever was served most, when nobody is).
"""

from collections.abc import Collection, Iterable, Mapping

from pydantic import Field

from coral_core.frozen import Frozen
from coral_core.queue.lane_board import Served
from coral_core.queue.tickets import RunId

Account = Mapping[tuple[str, str], Served]
"""(queue, evolution) -> what lanes did for it."""


class RunNote(Frozen):
    """How an evolution takes part in fair service."""

    run_id: RunId
    flow_run_id: str = ""
    weight: float = Field(1.0, gt=0, le=1000, description="Twice the weight gets twice the lane seconds.")
    start: dict[str, float] = Field({}, description="Per queue: virtual time at which it began, or began again.")
    before: dict[str, float] = Field({}, description="Per queue: lane seconds it had got before that.")


def virtual(note: RunNote, queue: str, served: Account) -> float:
    """Virtual time of an evolution, in lane seconds over weight."""
    done = served.get((queue, note.run_id), Served()).seconds - note.before.get(queue, 0.0)
    return note.start.get(queue, 0.0) + max(0.0, done) / note.weight


def begun(
    note: RunNote, others: Iterable[RunNote], in_service: Collection[str], queue: str, served: Account
) -> RunNote:
    """`note` as of an evolution that has work again: not behind those that are being served, and ahead only where it was.

    Args:
        note: With the weight that counts from now on.
        others: Notes of all other evolutions, also of those that have ended.
        in_service: Evolutions that lanes work for now.
        queue: Which of the two queues.
        served: What lanes did.
    """
    times = {other.run_id: virtual(other, queue, served) for other in others}
    busy = [time for run_id, time in times.items() if run_id in in_service]
    now = min(busy) if busy else max(times.values(), default=0.0)
    had = served.get((queue, note.run_id), Served()).seconds
    return note.model_copy(
        update={
            "start": note.start | {queue: max(now, virtual(note, queue, served))},
            "before": note.before | {queue: had},
        }
    )


def in_order(
    waiting: Iterable[str], notes: Iterable[RunNote], in_flight: Mapping[str, int], queue: str, served: Account
) -> list[str]:
    """`waiting` evolutions, least served first.

    Work in flight counts with the mean of what that evolution's jobs took, or else two free
    lanes would both turn to the same one.
    """
    known = {note.run_id: note for note in notes}

    def soon(run_id: str) -> float:
        note = known.get(run_id, RunNote(run_id=run_id))
        done = served.get((queue, run_id), Served())
        mean = done.seconds / done.jobs if done.jobs else 1.0
        return virtual(note, queue, served) + in_flight.get(run_id, 0) * mean / note.weight

    return sorted(waiting, key=lambda run_id: (soon(run_id), run_id))
