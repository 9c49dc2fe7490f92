"""`coral status`, `coral health`, `coral doctor`, `coral logs` as a person meets them: widths, exit codes, no API, nothing heavy."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from coral_core.queue.queue import JobQueue
from coral_core.store.store import Store
from flows.cli.status import screen
from flows.installation.figures import figures
from tests import warm_commands
from tests.monitoring.fake_api import FakeApi, ago, serving
from tests.report.synthetic_run import make_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_run(tmp_path, finished=False)
    (tmp_path / "store").rename(tmp_path / "runs" / "store")
    store = Store(tmp_path / "runs" / "store")
    for name in ("training", "evaluation"):
        JobQueue(store, name).prepare()  # type: ignore[arg-type]
    JobQueue(store, "training").installation()
    return tmp_path


@pytest.fixture
def api() -> Iterator[tuple[FakeApi, str]]:
    fake = FakeApi()
    with serving(fake) as url:
        yield fake, url


def coral(*arguments: str, cwd: Path, url: str | None, weigh: bool = False) -> "subprocess.CompletedProcess[str]":
    """The command; `weigh`: in an interpreter of its own, on whose stderr stand the heavy packages that it imported."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "CORAL_"))}
    environment |= {"PYTHONPATH": str(ROOT), "COLUMNS": "100", "CORAL_HOME": str(cwd / "home"), "HOME": str(cwd)}
    if url is not None:
        environment["PREFECT_API_URL"] = url
    if not weigh:
        return warm_commands.run([*arguments], cwd=cwd, environment=environment)
    code = (
        "import sys\nfrom flows.cli import main\nsys.argv = ['coral', *sys.argv[1:]]\n"
        "try:\n    main()\nfinally:\n"
        "    print('heavy:', [n for n in ('torch', 'prefect', 'matplotlib', 'transformers') if n in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400)


def test_status_shows_everything_and_imports_nothing_heavy(place: Path, api: tuple[FakeApi, str]) -> None:
    done = coral("status", cwd=place, url=api[1], weigh=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "heavy: []"
    for word in ("coral-a100", "coral-a10g", "coral-control", "(95%)", "adapters", "synthetic-"):
        assert word in done.stdout
    data = json.loads(coral("status", "--json", cwd=place, url=api[1]).stdout)
    assert data["api"] == {"url": api[1], "reachable": True, "problem": "", "remedy": ""}
    assert [pool["workers_online"] for pool in data["pools"]] == [1, 1, 1]
    assert data["evolutions"][0]["paused"] == ""


def test_progress_in_full_imports_nothing_heavy(place: Path) -> None:
    done = coral("progress", "latest", "--json", cwd=place, url=None, weigh=True)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "heavy: []", done.stderr
    data = json.loads(done.stdout)
    assert len(data["by_generation"]) == 1 and data["leaders"][0]["genome_id"] == "g000-001"


def test_status_without_an_api_shows_what_files_tell(place: Path) -> None:
    away = coral("status", cwd=place, url="http://127.0.0.1:9/api")
    assert away.returncode == 6
    assert "error: http://127.0.0.1:9/api cannot be reached" in away.stderr and "coral up" in away.stderr
    assert "what the store's files tell" in away.stdout and "adapters" in away.stdout and "synthetic-" in away.stdout
    none = coral("status", cwd=place, url=None)
    assert none.returncode == 0 and "no Prefect API is configured" in none.stdout and "synthetic-" in none.stdout
    data = json.loads(coral("status", "--json", cwd=place, url=None).stdout)
    assert not data["api"]["reachable"] and data["pools"][0]["workers_online"] is None
    assert data["pools"][1]["queued"] == 0


def test_status_fits_80_columns_and_160(place: Path, api: tuple[FakeApi, str]) -> None:
    fake, url = api
    fake.pools["coral-a10g"]["is_paused"] = True
    fake.workers["coral-a100"] = [fake.worker("w", 3), fake.worker("v", 900)]
    found = figures(str(place / "runs" / "store"), str(place / "runs"), url)
    for width in (80, 160):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(screen(found))
        text = console.export_text()
        lines = text.splitlines()
        assert max(map(len, lines)) <= width and "…" not in text, text
        assert sum(line.startswith("coral-a100") for line in lines) == 2
        assert "(paused)" in text and "1 silent" in text


def test_health_for_a_monitor(place: Path, api: tuple[FakeApi, str]) -> None:
    fake, url = api
    well = coral("health", cwd=place, url=url, weigh=True)
    assert well.returncode == 0, well.stdout + well.stderr
    assert (
        "None of the 17 checks of the installation is bad" in well.stdout
        and well.stderr.splitlines()[-1] == "heavy: []"
    )
    fake.workers["coral-a100"] = [fake.worker("gpu-1", 75)]
    ill = coral("health", "--json", cwd=place, url=url)
    assert ill.returncode == 1
    data = json.loads(ill.stdout)
    bad = [check for check in data["checks"] if check["state"] == "bad"]
    assert not data["healthy"] and [check["name"] for check in bad] == ["worker responsiveness"]
    assert "gpu-1 silent for 7" in bad[0]["found"] and bad[0]["todo"]
    text = coral("health", cwd=place, url=url).stdout
    assert "\nbad  worker responsiveness    coral-a100: no worker" in text and "→ restart it" in text


def test_doctor_looks_at_the_installation_where_there_is_one(place: Path, api: tuple[FakeApi, str]) -> None:
    fake, url = api
    fake.automations = []
    done = coral("doctor", "--json", cwd=place, url=url)
    assert done.returncode == 1
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["automations"]["state"] == "bad" and checks["python"]["state"] == "ok"
    alone = coral("doctor", "--json", cwd=place, url=None)
    assert "automations" not in {check["name"] for check in json.loads(alone.stdout)["checks"]}
    asked = coral("doctor", "--installation", cwd=place, url=None)
    assert asked.returncode == 1 and "no Prefect API is configured" in asked.stdout


def test_logs_of_a_run_and_of_a_genome(place: Path, api: tuple[FakeApi, str]) -> None:
    from coral_core.queue.lane_board import LaneNote
    from coral_core.queue.queue import Claim, Failure, Ticket
    from coral_core.runs.records import GenomeRecord
    from coral_core.runs.run_folder import find_run

    fake, url = api
    folder = find_run(place / "runs", "latest")
    facts = json.loads((folder.path / "run.json").read_text())
    facts |= {"flow_run_id": "f2", "flow_run_ids": ["f1", "f2"], "api": url}
    (folder.path / "run.json").write_text(json.dumps(facts))
    record = next(r for r in folder.history() if isinstance(r, GenomeRecord) and r.genome.genome_id == "g000-001")
    short = record.training_digest[:12]
    fake.flow_runs = [
        {"id": "f1", "name": "synthetic", "state_type": "CRASHED"},
        {"id": "f2", "name": "synthetic", "state_type": "COMPLETED"},
        {"id": "g0", "name": "generation 0", "parent": "f2"},
        {"id": "l1", "name": "training lane 0"},
    ]

    def say(number: int, run: str, message: str, level: int = 20) -> None:
        row = {
            "id": f"log{number}",
            "flow_run_id": run,
            "level": level,
            "message": message,
            "timestamp": ago(100 - number),
        }
        fake.logs.append(row)

    say(0, "f1", "the first session begins")
    say(1, "f2", f"training {short} of g000-001 submitted")
    say(2, "l1", f"training {short} for {folder.run_id} begins, try 1")
    say(3, "l1", f"training {short} failed: it exploded", 30)
    say(4, "l1", "training ffffffffffff of somebody else done")
    say(5, "g0", "Finished in state Completed()")
    say(6, "f2", "training 000000000000 of g000-0012 submitted")
    store = Store(place / "runs" / "store")
    queue = JobQueue(store, "training")
    queue.lanes.write(LaneNote(lane="training-l1", queue="training", flow_run_id="l1", started=0))
    ticket = Ticket(kind="training", digest=record.training_digest, run_id=folder.run_id, job={}, seconds=60)
    claim = Claim(digest=ticket.digest, token="t", lane="training-l1", run_id=folder.run_id, since=0)
    (queue.root / "claims" / f"{claim.digest}.json").write_text(claim.model_dump_json())
    failure = Failure(lane="training-l1", host="gpu-3", error="EngineError", message="it exploded")
    queue.fail(claim, ticket, failure, "Traceback (most recent call last):\n  boom")
    config = folder.path / "config.yaml"
    config.write_text(config.read_text().replace(str(place / "store"), str(store.root)))

    whole = coral("logs", "latest", cwd=place, url=url, weigh=True)
    assert whole.returncode == 0, whole.stderr
    assert "the first session begins" in whole.stdout and "generation 0" in whole.stdout
    assert "begins, try 1" not in whole.stdout and whole.stderr.splitlines()[-1] == "heavy: []"
    one = coral("logs", "latest", "--genome", "g000-001", cwd=place, url=url).stdout
    assert f"training lane 0    training {short} for" in one and "warning: " in one
    assert "somebody else" not in one and "g000-0012" not in one
    assert "failed try 1" in one and "lane training-l1 on gpu-3" in one and "boom" in one
    assert one.index("submitted") < one.index("begins, try 1") < one.index("it exploded")
    quiet = coral("logs", "latest", "--genome", "g000-001", "--level", "warning", "--json", cwd=place, url=url)
    data = json.loads(quiet.stdout)
    assert data["digests"][0] == record.training_digest and data["failures"][0]["traceback"].endswith("boom")
    assert [line["level"] for line in data["lines"]] == ["warning"]
    strange = coral("logs", "latest", "--genome", "g009-000", cwd=place, url=url)
    assert strange.returncode == 2 and "g009-000: " in strange.stderr and "It has g000-000 to" in strange.stderr
