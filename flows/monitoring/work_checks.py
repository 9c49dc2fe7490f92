"""Does work get through? Queues, lanes, results, and whether evolutions say where they stand."""

import time
from collections.abc import Iterator, Sequence

from pydantic import Field

from coral_core.errors import StoreError
from coral_core.frozen import Frozen
from coral_core.ledger import Closure, Ledger
from coral_core.queue import Claim, FailedTicket, JobQueue, LaneNote
from coral_core.queue.lane_board import BEAT_SECONDS, LEASE_SECONDS
from coral_core.queue.queue import both
from coral_core.store.store import Store
from flows.installation.pool_status import PoolLook
from flows.monitoring.finding import Check, State, first

HOUR = 3600.0
SLACK_SECONDS = 60.0
"""A job may outlast its limit by this much: an engine is ended, and the lane says so."""
WAIT_SECONDS = 180.0
"""Jobs that wait so long with no lane at all: a lane start takes a quarter of that."""
MANY_FAILED = 10
TESTS_SECONDS = 300.0


class LaneLook(Frozen):
    """One lane that has not said goodbye."""

    note: LaneNote
    age: float = Field(description="Seconds since its note was written.")
    moved: bool = Field(True, description="Its beats went on while this looked.")
    limit: float | None = Field(None, description="Seconds that its job may take.")
    working: float = Field(0.0, description="Seconds since it claimed its job.")


class QueueLook(Frozen):
    """One of the two queues, as its files stand."""

    name: str
    problem: str = Field("", description="Why the queue cannot be used; nothing else is known of it then.")
    remedy: str = ""
    waiting: int = 0
    oldest: float = Field(
        0.0, description="Seconds that the ticket waits that waits longest; those that wait for a budget do not count."
    )
    waiting_runs: tuple[str, ...] = ()
    closed: dict[str, Closure] = Field({}, description="Evolutions whose budget lets no job start here -> why.")
    claims: int = 0
    failed: int = 0
    failed_last_hour: int = 0
    uncollected: tuple[str, ...] = ()
    lanes: tuple[LaneLook, ...] = ()
    done_last_hour: int = 0


def look_at_queues(store: Store) -> tuple[QueueLook, ...]:
    """Read the queues; waits for two beats when a lane seems silent. A store without a queue has none."""
    if not (store.root / "queue").is_dir():
        return ()
    found = [_look(queue) for queue in both(store)]
    if any(lane.age > 5 * BEAT_SECONDS for look in found for lane in look.lanes):
        time.sleep(2 * BEAT_SECONDS)
        board = JobQueue(store, "training").lanes
        found = [
            look.model_copy(update={"lanes": tuple(_again(lane, board.read(lane.note.lane)) for lane in look.lanes)})
            for look in found
        ]
    return tuple(found)


def _again(lane: LaneLook, note: LaneNote | None) -> LaneLook:
    return lane.model_copy(update={"moved": note is None or note.beat != lane.note.beat or note.state == "ended"})


def _look(queue: JobQueue) -> QueueLook:
    try:
        queue.prepare()
    except StoreError as error:
        return QueueLook(name=queue.name, problem=error.problem, remedy=error.remedy)
    now = time.time()
    claims = {claim.digest: claim for claim in queue.claims()}
    tickets = [ticket for run in queue.runs() for ticket in queue.waiting(run)]
    waiting = [t for t in tickets if t.digest not in claims and not queue.is_done(t.digest, t.file)]
    limits = {ticket.digest: ticket.seconds for ticket in tickets}
    notes = [note for note in queue.lanes.notes(since=now - 24 * HOUR) if note.queue == queue.name]
    hours = [note.recent.last_hour(now) for note in notes]
    closed = _closed(queue, {ticket.run_id for ticket in waiting})
    paths = [queue.root / "tickets" / t.run_id / t.file for t in waiting if t.run_id not in closed]
    return QueueLook(
        name=queue.name,
        waiting=len({t.digest for t in waiting}),
        oldest=max((now - p.stat().st_mtime for p in paths if p.exists()), default=0.0),
        waiting_runs=tuple(sorted({t.run_id for t in waiting} - closed.keys())),
        closed=closed,
        claims=len(claims),
        failed=len(failed := queue.all_failed()),
        failed_last_hour=_lately(queue, failed, now),
        uncollected=tuple(queue.uncollected(TESTS_SECONDS)),
        lanes=tuple(_lane(queue, note, claims, limits, now) for note in notes if note.state != "ended"),
        done_last_hour=sum(hour.done for hour in hours),
    )


def _closed(queue: JobQueue, runs: set[str]) -> dict[str, Closure]:
    """Which of `runs` their budgets keep from starting jobs; one without a budget on record is not asked about."""
    ledger = Ledger(queue.store)
    recorded = [run for run in sorted(runs) if (queue.store.root / "ledger" / "budgets" / f"{run}.json").exists()]
    return {run: why for run in recorded if (why := ledger.closed(run, queue.name))}


def _lately(queue: JobQueue, failed: list[FailedTicket], now: float) -> int:
    paths = [queue.root / "failed" / f.ticket.run_id / f.ticket.file for f in failed]
    return sum(path.exists() and now - path.stat().st_mtime < HOUR for path in paths)


def _lane(queue: JobQueue, note: LaneNote, claims: dict[str, Claim], limits: dict[str, float], now: float) -> LaneLook:
    claim = claims.get(note.digest)
    return LaneLook(
        note=note,
        age=max(0.0, queue.lanes.age(note.lane)),
        limit=limits.get(note.digest),
        working=max(0.0, now - claim.since) if claim is not None else 0.0,
    )


def work_checks(looks: Sequence[QueueLook], pools: Sequence[PoolLook] | None, store: Store) -> Iterator[Check]:
    """The checks of this file that are about queues; `pools` is None when the API is away."""
    yield queue_connectivity(looks, pools, store)
    yield lanes(looks)
    yield result_collection(looks, store)


def queue_connectivity(looks: Sequence[QueueLook], pools: Sequence[PoolLook] | None, store: Store) -> Check:
    """Can the queues be reached: their folders in the store, and, for lanes to be started, the pools behind the API?"""
    name = "queue connectivity"
    broken = [look for look in looks if look.problem]
    if broken:
        return Check(name, "bad", broken[0].problem, "jobs can be neither submitted nor taken", broken[0].remedy)
    if not looks:
        text = "no evolution has used work pools with this store"
        return Check(name, "note", f"no queue in {store.root}", text)
    depth = ", ".join(f"{look.name} {look.waiting} waiting, {look.claims} in lanes" for look in looks)
    if pools is None:
        text = "lanes that run go on with what waits; none can be started without the API"
        return Check(name, "bad", depth, text, "see the check `api`")
    for look in looks:
        pool = next((pool for pool in pools if pool.queue == look.name), None)
        alive = any(lane.moved and lane.age < LEASE_SECONDS for lane in look.lanes)
        if look.waiting and look.oldest > WAIT_SECONDS and not alive:
            starting = pool.queued + pool.running if pool is not None else 0
            text = f"the oldest {look.name} waits for {look.oldest / 60:.0f} minutes and no lane is online"
            text += (
                f"; {starting} lanes were asked for"
                if starting
                else "; no lane was asked for: no evolution looks after them"
            )
            runs = first(look.waiting_runs)
            todo = (
                "see lane starts and worker responsiveness"
                if starting
                else f"go on with coral resume RUN ({runs}), or drop them: coral jobs clear"
            )
            return Check(name, "bad", depth, text, todo)
    closed = {run: why for look in looks for run, why in look.closed.items()}
    if closed:
        run, why = next(iter(closed.items()))
        todo = f"coral budget {run}; coral resume {run} with a raised limit, or wait"
        return Check(name, "note", depth, f"{len(closed)} evolutions wait for their budget: {why}", todo)
    return Check(name, "ok", depth)


def lanes(looks: Sequence[QueueLook]) -> Check:
    """Do lanes get on: do they beat, and is no job older than its limit?"""
    name = "lanes making progress"
    bad: list[str] = []
    notes: list[str] = []
    online = 0
    for look in looks:
        for lane in look.lanes:
            job = f" with {look.name} {lane.note.digest[:12]} in flight" if lane.note.digest else ""
            if not lane.moved and lane.age > LEASE_SECONDS:
                # a lane that is killed never says goodbye; it matters while its job is held, or for the moment
                (bad if lane.working or lane.age < 2 * LEASE_SECONDS else notes).append(
                    f"{lane.note.lane[:19]} on {lane.note.host} has not beaten for {lane.age:.0f} s{job if lane.working else ''}"
                )
                continue
            online += 1
            if lane.limit is not None and lane.working > lane.limit + SLACK_SECONDS:
                bad.append(
                    f"{lane.note.lane[:19]} on {lane.note.host} works on {lane.note.digest[:12]} for {lane.working / 60:.0f} minutes, "
                    f"and {lane.limit / 60:.0f} are allowed"
                )
    if bad:
        return Check(
            name,
            "bad",
            first(bad),
            "its job goes to another lane as soon as an evolution looks",
            "coral logs RUN --genome G shows what it did last; cancel its flow run in the UI if it stays",
        )
    done = ", ".join(f"{look.name} {look.done_last_hour}" for look in looks)
    found = f"{online} online" + (f"; done in the last hour: {done}" if done else "")
    text = f"{len(notes)} older ones ended without a word, as lanes do that are killed" if notes else ""
    return Check(name, "ok", found, text)


def result_collection(looks: Sequence[QueueLook], store: Store) -> Check:
    """Does somebody take the results, and do jobs end in results rather than failures?"""
    name = "result collection"
    left = [digest for look in looks for digest in look.uncollected]
    failed = sum(look.failed for look in looks)
    lately = sum(look.failed_last_hour for look in looks)
    if left:
        return Check(
            name,
            "bad",
            f"{len(left)} results that nobody has taken for {TESTS_SECONDS / 60:.0f} minutes: {first([d[:12] for d in left])}",
            "their evolution was killed or hangs; the results themselves are safe in the store",
            f"coral status shows which runs are stopped; coral resume RUN collects, coral jobs --store {store.root} lists",
        )
    state: State = "bad" if lately >= MANY_FAILED else "note" if failed else "ok"
    if state == "ok":
        return Check(name, "ok", "every result was taken, no job has failed for good")
    return Check(
        name,
        state,
        f"{failed} jobs were given up, {lately} of them in the last hour",
        "they failed as often as infra.attempts allows, or for a reason that no lane can mend",
        f"coral jobs --store {store.root} says why; coral jobs retry DIGEST, or drop DIGEST",
    )
