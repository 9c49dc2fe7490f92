"""Waiting, work and rates come from what lanes note, and the note stays small."""

import io
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from coral_core.digest import digest
from coral_core.errors import ConfigError
from coral_core.jobs.jobs import DeviceTime
from coral_core.queue.lane_board import MINUTES, MOST_JOBS, DoneJob, LaneNote, Recent
from coral_core.queue.queue import JobQueue, Ticket
from coral_core.store.store import Store
from flows.cli.status import screen
from flows.installation.figures import figures, percentile


def done(ended: float, seconds: float = 1.0, waited: float = 0.5, failed: bool = False) -> DoneJob:
    return DoneJob(ended=ended, waited=waited, seconds=seconds, failed=failed)


def test_the_note_of_a_busy_lane_stays_small_and_counts_an_hour() -> None:
    recent = Recent()
    for second in range(0, 3 * 3600, 2):
        recent = recent.with_job(done(1e9 + second, failed=second % 20 == 0))
    assert len(recent.jobs) == MOST_JOBS and len(recent.minutes) <= MINUTES
    assert len(LaneNote(lane="l", queue="training", started=0, recent=recent).model_dump_json()) < 12_000
    hour = recent.last_hour(1e9 + 3 * 3600)
    assert 1740 <= hour.done + hour.failed <= 1800 and 170 <= hour.failed <= 180
    assert recent.last_hour(1e9 + 5 * 3600).done == 0


def test_notes_of_earlier_versions_are_read() -> None:
    note = LaneNote.model_validate({"lane": "l", "queue": "training", "started": 0})
    assert note.recent == Recent()


def test_waiting_is_from_ticket_to_claim_by_one_clock(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    queue = JobQueue(store, "training")
    queue.prepare()
    ticket = Ticket(kind="training", digest=digest("a"), run_id="one", job={}, seconds=60)
    queue.submit(ticket)
    path = next((queue.root / "tickets").glob("*/*.json"))
    then = time.time() - 40
    os.utime(path, (then, then))
    taken = queue.take("lane")
    assert taken is not None
    assert 40 <= queue.waited(taken[1], ticket) < 60
    queue.finish(taken[1], ticket)
    assert queue.waited(taken[1], ticket) == 0.0  # nothing is there any more: no time is made up
    assert queue.uncollected(0) == []


def test_percentile_is_a_value_that_occurred() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 0.95) == 95 and percentile([3.0], 0.95) == 3 and percentile([], 0.95) is None


def test_figures_from_files_alone(tmp_path: Path) -> None:
    """Percentiles, rates and failures of two lanes, one of them ended; a third that ended yesterday counts for nothing."""
    store = Store(tmp_path / "store")
    store.prepare()
    queue = JobQueue(store, "training")
    queue.prepare()
    now = time.time()
    for lane, state, jobs in (
        ("training-1", "working", [done(now - 60 * n, seconds=n) for n in range(1, 11)]),
        ("training-2", "ended", [done(now - 60 * n, seconds=10 + n) for n in range(1, 11)] + [done(now, 99, 9, True)]),
        ("training-3", "ended", [done(now - 90_000, seconds=1000)]),
    ):
        recent = Recent()
        for job in sorted(jobs, key=lambda job: job.ended):
            recent = recent.with_job(job)
        device = DeviceTime(computing=6, loading=1, judging=2, idle=1)
        queue.lanes.write(
            LaneNote(lane=lane, queue="training", started=0, state=state, recent=recent, device=device)  # type: ignore[arg-type]
        )
    old = store.root / "queue" / "lanes" / "training-3.json"
    os.utime(old, (now - 90_000, now - 90_000))
    found = figures(str(store.root), str(tmp_path), None, ConfigError("nothing is up"))
    assert found.api.problem == "nothing is up" and not found.api.reachable
    pool = next(pool for pool in found.pools if pool.name == "coral-a100")
    assert (pool.completed_last_hour, pool.failed_last_hour, pool.jobs_measured) == (20, 1, 20)
    assert (pool.work_seconds_mean, pool.work_seconds_p95) == (10.5, 19)
    assert (pool.waiting_seconds_mean, pool.latency_seconds_mean) == (0.5, 11.0)
    assert pool.device == DeviceTime(computing=12, loading=2, judging=4, idle=2)
    page = io.StringIO()
    out = Console(file=page, width=200)
    out.print(screen(found))
    assert "coral-a100, lanes of the last day: device busy 60 %, loading 10 %, waiting 30 %" in page.getvalue()
    assert pool.lanes_online == 1 and pool.limit is None and pool.utilisation is None and pool.workers_online is None


def test_a_store_of_many_entries_is_not_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    for number in range(40):
        folder = store.adapter_path(digest(number))
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"x" * 1000)
        store.evaluation_path(digest(number)).write_bytes(b"y" * 500)
        store.evaluation_path(digest(number)).chmod(0)  # counted without being opened
    whole = store.size()
    assert (whole.adapters, whole.evaluations, whole.bytes, whole.exact) == (40, 40, 60_000, True)
    hurried = store.size(seconds=-1)
    assert (hurried.adapters, hurried.evaluations, hurried.exact) == (40, 40, False)


@pytest.mark.parametrize("content", ["name: [", "7", "search: {generations: many}", ""])
def test_a_run_that_cannot_be_read_is_listed_and_costs_the_others_nothing(tmp_path: Path, content: str) -> None:
    from tests.report.synthetic_run import make_run

    folder, store = make_run(tmp_path)
    broken = tmp_path / "runs" / "broken-e1"
    broken.mkdir()
    (broken / "run.json").write_text("{}")
    (broken / "config.yaml").write_text(content)
    found = figures(str(store.root), str(tmp_path / "runs"), None)
    assert [line.run_id for line in found.evolutions] == [folder.run_id]
    assert [line.run_id for line in found.unreadable] == ["broken-e1"] and found.unreadable[0].problem
    out = Console(file=io.StringIO(), width=120)
    out.print(screen(found))
    assert "broken-e1: cannot be read" in out.file.getvalue()  # type: ignore[attr-defined]
