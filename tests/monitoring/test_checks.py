"""Each check is made to fail, and says what it saw and what to do."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from coral_core.config import RunConfig
from coral_core.config.budget_config import BudgetConfig
from coral_core.digest import digest
from coral_core.errors import ConfigError, StoreError
from coral_core.jobs.jobs import Cost
from coral_core.ledger import Closure, Ledger, Reason
from coral_core.queue.lane_board import LaneNote
from coral_core.queue.queue import Claim, Failure, JobQueue, Ticket
from coral_core.runs.records import JobTiming, Phase
from coral_core.runs.run_folder import RunFolder, identify_run
from coral_core.runs.run_lock import hold
from coral_core.store.store import Store
from flows.installation.figures import figures
from flows.installation.queue_status import LaneStatus, QueueStatus, read_queues
from flows.monitoring import storage_checks as storage
from flows.monitoring.finding import Check, healthy, summary
from flows.monitoring.installation_checks import installation_checks, judge_layers
from flows.monitoring.progress_checks import EvolutionStatus, progress_updates, read_evolutions
from flows.monitoring.server_checks import LaneRun, ServerStatus, read_server, server_checks, versions
from flows.monitoring.storage_checks import disk, ledger, shared, writable
from flows.monitoring.work_checks import lanes, work_checks
from flows.prefect_api.api_errors import ApiError, KeyRefusedError
from flows.prefect_api.client import RestClient, Worker
from tests.monitoring.fake_api import FakeApi, ago


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    for name in ("training", "evaluation"):
        JobQueue(store, name).prepare()  # type: ignore[arg-type]
    return store


def named(checks: Any) -> dict[str, Check]:
    return {check.name: check for check in checks}


def says(check: Check, state: str, *words: str) -> None:
    text = f"{check.found} {check.text} {check.todo}"
    assert check.state == state, check
    for word in words:
        assert word in text, f"{word!r} is not in {text!r}"


def server_of(url: str) -> ServerStatus:
    with RestClient(url) as api:
        return read_server(api)


def ticket(run: str = "one", name: str = "a", **more: Any) -> Ticket:
    return Ticket(kind="training", digest=digest(name), run_id=run, job={}, seconds=60, **more)


def older(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


# -- the server ----------------------------------------------------------------------------


def test_a_healthy_installation_is_well(fake: FakeApi, url: str, store: Store, tmp_path: Path) -> None:
    JobQueue(store, "training").installation()
    checks = named(installation_checks(str(store.root), str(tmp_path / "runs"), url))
    assert healthy(checks.values()), [check for check in checks.values() if check.state == "bad"]
    seed = {"queue connectivity", "worker responsiveness", "result collection", "progress updates"}
    ours = {"api", "version match", "pools", "pool templates", "deployments", "automations", "store writable"}
    assert seed | ours | {
        "lane starts",
        "store shared",
        "disk space",
        "ledger",
        "lanes making progress",
        "judge layers",
    } == set(checks)
    assert all(check.found for check in checks.values())


def test_no_api_at_all(store: Store, tmp_path: Path) -> None:
    checks = named(installation_checks(str(store.root), str(tmp_path), "http://127.0.0.1:9/api"))
    says(checks["api"], "bad", "http://127.0.0.1:9/api cannot be reached", "coral up", "PREFECT_API_URL")
    says(checks["queue connectivity"], "bad", "none can be started without the API")
    assert checks["store writable"].state == "ok"  # what does not need the API is checked all the same
    checks = named(
        installation_checks(str(store.root), str(tmp_path), None, ConfigError("nothing is up", remedy="Run coral up"))
    )
    says(checks["api"], "bad", "nothing is up", "Run coral up")


def test_a_refused_key(fake: FakeApi, url: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.status = 401
    says(
        named(installation_checks(str(store.root), str(tmp_path), url))["api"],
        "bad",
        "asks for a key (401)",
        "PREFECT_API_KEY",
    )
    with pytest.raises(KeyRefusedError):
        server_of(url)
    fake.status = 200
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    assert server_of(url).version and fake.keys[-1] is None, "it is of the API that is configured"
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert server_of(url).version and fake.keys[-1] == "Bearer secret"
    monkeypatch.delenv("PREFECT_API_KEY")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:secret")
    assert server_of(url).version and fake.keys[-1] == "Basic bWU6c2VjcmV0"


def test_something_else_than_prefect_answers(fake: FakeApi, url: str) -> None:
    with pytest.raises(ApiError):
        server_of(url.removesuffix("/api") + "/elsewhere/..%2f")


def test_versions() -> None:
    says(versions("3.8.2", "3.8.8"), "bad", "server 3.8.2, here 3.8.8", "pip install prefect==3.8.8")
    says(versions("3.9.1", "3.8.8"), "note", "newer server")
    says(versions("3.10.0", "3.9.1"), "note")  # numbers, not text
    says(versions("3.8.8", "3.8.8"), "ok")


def test_pools_deployments_and_automations(fake: FakeApi, url: str) -> None:
    del fake.pools["coral-a100"]
    del fake.deployments["evaluate-genomes/evaluate-genomes"]
    next(item for item in fake.automations if item["name"] == "coral: lost lanes")["enabled"] = False
    checks = named(server_checks(server_of(url)))
    says(checks["pools"], "bad", "coral-a100 missing", "coral setup")
    says(checks["deployments"], "bad", "evaluate-genomes/evaluate-genomes missing", "coral setup")
    says(checks["automations"], "bad", "coral: lost lanes switched off", "switch it on in the Prefect UI")
    next(item for item in fake.automations if item["name"] == "coral: lost lanes")["enabled"] = True
    next(item for item in fake.automations if item["name"] == "coral: champion found")["enabled"] = False
    checks = named(server_checks(server_of(url)))
    says(checks["automations"], "note", "coral: champion found switched off", "or leave it off")
    fake.__init__()  # type: ignore[misc]
    fake.deployments["evolve/evolve"] |= {"paused": True, "id": "d1"}
    says(
        named(server_checks(server_of(url)))["deployments"],
        "note",
        "evolve/evolve paused",
        "/deployments/d1/resume_deployment",
    )
    fake.pools["coral-a10g"]["is_paused"] = True
    fake.automations = []
    checks = named(server_checks(server_of(url)))
    says(checks["pools"], "note", "coral-a10g paused", "prefect work-pool resume coral-a10g")
    says(checks["automations"], "bad", " missing", "coral setup")


def test_a_template_that_was_opened(fake: FakeApi, url: str) -> None:
    configuration = fake.pools["coral-a100"]["base_job_template"]["job_configuration"]
    configuration["command"] = "{{ command }}"
    check = named(server_checks(server_of(url)))["pool templates"]
    says(check, "bad", "coral-a100 was changed after coral setup wrote it", "more rights", "coral setup")


def test_a_dead_worker_is_red_50_seconds_after_its_last_heartbeat(fake: FakeApi, url: str) -> None:
    """Long before Prefect says OFFLINE; it may have died just after that heartbeat, so within 70 s of its death."""

    def look() -> Check:
        return named(server_checks(server_of(url)))["worker responsiveness"]

    assert Worker(name="gpu-1", silent=50).is_online and not Worker(name="gpu-1", silent=50.1).is_online
    fake.workers["coral-a100"] = [fake.worker("gpu-1", 40)]
    says(look(), "ok", "coral-a100 1", "oldest heartbeat 4")
    fake.workers["coral-a100"] = [fake.worker("gpu-1", 60)]
    says(look(), "bad", "coral-a100: no worker, gpu-1 silent for 6", "prefect worker start", "coral up")
    fake.workers["coral-a100"] = []
    says(look(), "bad", "coral-a100: no worker ever was")
    fake.pools["coral-a100"]["is_paused"] = True
    says(look(), "ok")  # drained on purpose
    fake.pools["coral-a100"]["is_paused"] = False
    fake.workers["coral-a100"] = [fake.worker("gpu-1", 600, "OFFLINE"), fake.worker("gpu-2", 3)]
    says(look(), "bad", "gpu-1 silent for 10 minutes")
    fake.workers["coral-a100"] = [fake.worker("gpu-1", 90_000, "OFFLINE"), fake.worker("gpu-2", 3)]
    says(look(), "note", "gpu-1 silent for 25 hours", "replaced")


# -- the store -----------------------------------------------------------------------------


def test_a_store_that_cannot_be_written(store: Store, tmp_path: Path) -> None:
    says(writable(store), "ok", "durable")
    says(writable(Store(tmp_path / "none")), "bad", "no such directory", "--store")
    (store.root / "tmp").rmdir()
    (store.root / "tmp").write_text("in the way")
    says(writable(store), "bad", str(store.root), "results cannot be published")


def test_a_look_makes_no_store_where_none_is_mounted(fake: FakeApi, url: str, tmp_path: Path) -> None:
    """What is published there would lie below the store that is mounted again: monitoring must not make it one."""
    from tests.report.synthetic_run import make_run

    make_run(tmp_path)
    bare = tmp_path / "mount"
    bare.mkdir()
    checks = named(installation_checks(str(bare), str(tmp_path / "runs"), url))
    says(checks["store writable"], "bad", f"{bare}: no store", "mount it")
    assert list(bare.iterdir()) == [] and not healthy(checks.values())
    with pytest.raises(StoreError, match="it is gone"):
        Store(bare).scratch()


@pytest.mark.parametrize("lanes_run", [True, False])
def test_runs_and_store_that_are_gone_together(fake: FakeApi, url: str, tmp_path: Path, lanes_run: bool) -> None:
    """As on one mount. Lanes that work for this store say that it is no new installation."""
    place = tmp_path / "runs" / "store"
    lane = {
        "id": "f9", "name": "training lane 1", "tags": ["coral-lane", "slot:1", "store:0123"], "work_pool_name": "coral-a100",
        "parameters": {"store": str(place)}, "start_time": ago(500),
    }  # fmt: skip
    fake.flow_runs = [lane] if lanes_run else []
    checks = named(installation_checks(str(place), str(place.parent), url))
    says(checks["store writable"], "bad" if lanes_run else "note", str(place), "mount it")
    assert healthy(checks.values()) != lanes_run


def test_a_store_that_is_not_shared(store: Store) -> None:
    queue = JobQueue(store, "training")
    says(shared(store, []), "note", "has no name")
    name = queue.installation()[:12]
    run = LaneRun(
        flow_run_id="f1", name="training lane 0", queue="training", store="/data", installation=name, seconds=300
    )
    says(shared(store, [run]), "bad", "training lane 0", "write nothing into it", "same directory")
    says(shared(store, [run.model_copy(update={"seconds": 10})]), "ok")  # it may still be starting
    queue.lanes.write(LaneNote(lane="training-f1", queue="training", host="gpu-box", started=0))
    says(shared(store, [run]), "ok", "1 lanes run for it", "gpu-box")
    (store.root / "queue" / "installation.json").write_text("{")
    says(shared(store, [run]), "bad", "cannot be read", "Remove it")


def test_lanes_are_found_by_their_tags(fake: FakeApi, url: str, store: Store, tmp_path: Path) -> None:
    name = JobQueue(store, "training").installation()[:12]
    fake.flow_runs = [
        {
            "id": "f9", "name": "evaluation lane 2", "tags": ["coral-lane", "slot:2", f"store:{name}"],
            "work_pool_name": "coral-a10g", "parameters": {"store": "/elsewhere"}, "start_time": ago(500),
        }
    ]  # fmt: skip
    checks = named(installation_checks(str(store.root), str(tmp_path / "runs"), url))
    says(checks["store shared"], "bad", "evaluation lane 2 run for this store and write nothing into it")


def test_a_disk_that_is_full(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(store.root)
    for free, state in ((0.4e9, "bad"), (5e9, "note"), (500e9, "ok")):
        fields = [real.f_bsize, 1, *real[2:4], int(free), real.f_files, 10**6, 10**6, real.f_flag, real.f_namemax]
        monkeypatch.setattr(storage.os, "statvfs", lambda _, fields=fields: os.statvfs_result(fields))
        says(disk(store), state, f"{free / 1e9:.1f} GB free")
    assert "remove adapters" in named([disk(store)])["disk space"].todo or free > 1e10


# -- queues, lanes, results ----------------------------------------------------------------


def test_jobs_that_wait_for_nobody(fake: FakeApi, url: str, store: Store) -> None:
    queue = JobQueue(store, "training")
    queue.submit(ticket())
    checks = named(work_checks(read_queues(store), server_of(url), store))
    says(checks["queue connectivity"], "ok", "training 1 waiting")
    older(next((queue.root / "tickets").glob("*/*.json")), 600)
    checks = named(work_checks(read_queues(store), server_of(url), store))
    says(
        checks["queue connectivity"],
        "bad",
        "waits for 10 minutes",
        "no evolution looks after them",
        "coral resume",
        "one",
    )
    fake.counts = 2
    checks = named(work_checks(read_queues(store), server_of(url), store))
    says(checks["queue connectivity"], "bad", "lanes were asked for", "worker responsiveness")


def test_jobs_that_wait_for_their_budget_are_no_fault(fake: FakeApi, url: str, store: Store) -> None:
    queue = JobQueue(store, "training")
    queue.submit(ticket())
    older(next((queue.root / "tickets").glob("*/*.json")), 5000)
    Ledger(store).set_budget("one", BudgetConfig.model_validate({"evolution": {"gpu_hours": 0}}))
    checks = named(work_checks(read_queues(store), server_of(url), store))
    says(checks["queue connectivity"], "note", "wait for their budget", "0 GPU hours", "coral budget one")


def test_a_queue_that_cannot_be_written(fake: FakeApi, url: str, store: Store) -> None:
    folder = store.root / "queue" / "training" / "claims"
    folder.rmdir()
    folder.write_text("in the way")
    checks = named(work_checks(read_queues(store), server_of(url), store))
    says(checks["queue connectivity"], "bad", "cannot write in", "neither submitted nor taken")


def test_a_lane_that_stands_still(store: Store) -> None:
    queue = JobQueue(store, "training")
    queue.submit(ticket())
    lane = "training-0b5f2f0e"
    queue.lanes.write(
        LaneNote(lane=lane, queue="training", host="gpu-3", started=0, digest=digest("a"), state="working")
    )
    claim = Claim(digest=digest("a"), token="t", lane=lane, host="gpu-3", run_id="one", since=time.time() - 100)
    (queue.root / "claims" / f"{claim.digest}.json").write_text(claim.model_dump_json())
    says(lanes(read_queues(store)), "ok", "1 online")
    older(store.root / "queue" / "lanes" / f"{lane}.json", 90)
    says(lanes(read_queues(store)), "bad", "on gpu-3 has not beaten for 90 s", digest("a")[:12], "another lane")


def test_a_job_that_outlasts_its_limit() -> None:
    note = LaneNote(lane="training-77", queue="training", host="gpu-3", started=0, digest=digest("a"), state="working")
    late = LaneStatus(note=note, age=1, limit=1800, working=2400)
    says(
        lanes([QueueStatus(name="training", lanes=(late,))]), "bad", "for 40 minutes, and 30 are allowed", "coral logs"
    )
    dead = LaneStatus(note=note.model_copy(update={"digest": ""}), age=5000)
    says(lanes([QueueStatus(name="training", lanes=(dead,))]), "ok", "0 online", "1 older ones were killed")


def test_results_that_nobody_takes(fake: FakeApi, url: str, store: Store) -> None:
    queue = JobQueue(store, "training")
    queue.submit(ticket())
    manifest = store.adapter_path(digest("a")) / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    looks = read_queues(store)
    says(named(work_checks(looks, server_of(url), store))["result collection"], "ok")
    older(manifest, 400)
    check = named(work_checks(read_queues(store), server_of(url), store))["result collection"]
    says(check, "bad", "1 results that nobody has taken", digest("a")[:12], "coral resume")


def test_failures_that_pile_up(fake: FakeApi, url: str, store: Store) -> None:
    queue = JobQueue(store, "training")

    def fail(name: str) -> None:
        one = ticket(name=name)
        queue.submit(one)
        claim = Claim(digest=one.digest, token="t", lane="l", run_id="one", since=0)
        (queue.root / "claims" / f"{one.digest}.json").write_text(claim.model_dump_json())
        queue.fail(claim, one, Failure(lane="l", error="EngineError", message="no"), "Traceback ...")

    fail("first")
    check = named(work_checks(read_queues(store), server_of(url), store))["result collection"]
    says(check, "note", "1 jobs were given up", "coral jobs", "retry")
    for number in range(9):
        fail(f"more {number}")
    check = named(work_checks(read_queues(store), server_of(url), store))["result collection"]
    says(check, "bad", "10 jobs were given up, 10 of them in the last hour")


# -- the ledger ----------------------------------------------------------------------------


def test_a_ledger_that_cannot_be_read_is_bad(store: Store) -> None:
    says(ledger(store), "ok", "no lane has booked anything")
    Ledger(store).set_budget("one", BudgetConfig())
    account = store.root / "ledger" / "accounts" / "lane.json"
    account.write_text('{"lane": "lane"}')
    says(ledger(store), "ok", "1 accounts")
    account.write_text("{")
    says(ledger(store), "bad", str(account), "paused", "Restore it, or remove it")
    shutil.rmtree(account.parent)
    says(ledger(store), "bad", str(account.parent), "mkdir")


def test_a_budget_of_a_living_run_that_cannot_be_read_is_bad(store: Store, tmp_path: Path) -> None:
    config = RunConfig.model_validate({"runs": str(tmp_path / "runs"), "store": {"path": str(store.root)}})
    folder = RunFolder.create(config, identify_run(config), [])
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        facts = folder.path / "run.json"
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"pid": living.pid}))
        folder.append_timing(
            JobTiming(
                session=1.0,
                phase=Phase.BASELINES,
                kind="training",
                digest=digest("a"),
                label="a",
                cached=False,
                finished=time.time(),
                waited=0,
                cost=Cost(),
            )
        )
        limited = BudgetConfig.model_validate({"evolution": {"gpu_hours": 5}})
        Ledger(store).set_budget(folder.run_id, limited)
        says(progress_updates(read_evolutions(config.runs, store, None)), "ok")
        path = store.root / "ledger" / "budgets" / f"{folder.run_id}.json"
        for broken in ("{", None):
            path.write_text(broken) if broken else path.unlink()
            seen = progress_updates(read_evolutions(config.runs, store, None))
            says(seen, "bad", "paused", str(path), f"coral resume {folder.run_id}")
    finally:
        living.communicate(b"")


def _dead(folder: RunFolder) -> None:
    """As of a process that is gone."""
    (folder.path / "beat").unlink()


def test_a_living_run_is_seen_also_behind_newer_ones_and_with_broken_files(store: Store, tmp_path: Path) -> None:
    config = RunConfig.model_validate({"runs": str(tmp_path / "runs"), "store": {"path": str(store.root)}})
    folder = RunFolder.create(config, identify_run(config), [])
    for edition in range(2, 30):
        _dead(RunFolder.create(config, identify_run(config, edition), []))
    _dead(folder)
    older(folder.path / "run.json", 900)
    assert read_evolutions(config.runs, store, None) == []
    with hold(folder.path):
        says(progress_updates(read_evolutions(config.runs, store, None)), "ok", "1 evolutions run")
        assert folder.run_id in {line.run_id for line in figures(str(store.root), config.runs, None).evolutions}
        (folder.path / "config.yaml").write_text("name: [")
        says(progress_updates(read_evolutions(config.runs, store, None)), "bad", folder.run_id, "config.yaml")


# -- progress ------------------------------------------------------------------------------


def evolution(**changes: Any) -> EvolutionStatus:
    usual: dict[str, Any] = {"run_id": "night-1", "idle": 20, "last_shown": 21, "limit": 2100}
    return EvolutionStatus.model_validate(usual | changes)


def test_progress_that_is_not_updated() -> None:
    says(progress_updates([]), "ok", "no evolution runs")
    says(progress_updates([evolution()]), "ok", "1 evolutions run", "night-1 21 s ago")
    behind = evolution(idle=100, last_shown=400)
    says(progress_updates([behind]), "bad", "night-1: artifacts are 300 s behind its last job", "coral logs night-1")
    stuck = evolution(idle=5000, last_shown=5000)
    says(progress_updates([stuck]), "bad", "no job has finished for 83 minutes", "coral jobs")
    paused = stuck.model_copy(
        update={"paused": Closure(reason=Reason.LIMIT_REACHED, scope="day", unit="gpu_hours", limit=3)}
    )
    says(progress_updates([paused]), "note", "the limit of the day", "coral resume night-1 --set budget.day.gpu_hours")
    zombie = evolution(has_process=False)
    says(progress_updates([zombie]), "bad", "its process is gone", "coral resume night-1")


def test_a_run_whose_artifacts_stopped(fake: FakeApi, url: str, tmp_path: Path) -> None:
    from tests.report.synthetic_run import make_run

    folder, store = make_run(tmp_path, finished=False)
    Ledger(store).set_budget(folder.run_id, BudgetConfig())
    facts = json.loads((folder.path / "run.json").read_text())
    facts |= {"flow_run_id": "f1", "api": url, "pid": os.getpid()}
    (folder.path / "run.json").write_text(json.dumps(facts))
    older(folder.path / "run.json", 3000)
    timings = folder.path / "timings.jsonl"
    rows = [json.loads(line) for line in timings.read_text().splitlines()]
    jobs = [row | {"finished": time.time() - 90} for row in rows if row["type"] == "job"]
    timings.write_text("".join(json.dumps(row) + "\n" for row in jobs))
    fake.flow_runs = [{"id": "f1", "name": "synthetic", "state_type": "RUNNING"}]
    fake.artifacts = [{"updated": ago(85)}]
    checks = named(installation_checks(str(store.root), str(tmp_path / "runs"), url))
    says(checks["progress updates"], "ok", "1 evolutions run")
    fake.artifacts = [{"updated": ago(500)}]
    checks = named(installation_checks(str(store.root), str(tmp_path / "runs"), url))
    says(checks["progress updates"], "bad", folder.run_id, "s behind its last job")


def test_a_machine_without_the_judges_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    from coral_core.judge.sandbox import zygote_pool as pool

    assert judge_layers().state == "ok"
    found = dict.fromkeys(pool.detect_layers(), True) | {"landlock": False}
    monkeypatch.setattr(pool, "detect_layers", lambda: found)
    says(judge_layers(), "bad", "landlock missing", "refuse to judge", "coral doctor")


def test_the_last_line_says_what_was_looked_at_and_no_more() -> None:
    checks = [Check(name=f"c{n}", state=state, found="x") for n, state in enumerate(("ok", "note", "bad"))]  # type: ignore[arg-type]
    assert summary(checks[:1], "the installation") == "None of the 1 checks of the installation is bad."
    assert summary(checks[:2], "this machine") == "None of the 2 checks of this machine is bad; 1 worth a look: c1."
    assert summary(checks, "this machine") == "1 of 3 checks of this machine are bad: c2; 1 worth a look: c1."
