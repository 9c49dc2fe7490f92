"""The Prometheus endpoint: the seed's five metrics by name, everything that dashboard and alerts name, bounded labels."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from coral_core.errors import ConfigError
from coral_core.jobs.jobs import DeviceTime
from coral_core.queue.lane_board import DoneJob, LaneNote, Recent
from coral_core.queue.queue import JobQueue
from coral_core.store.store import Store
from flows.cli.health import find_api
from flows.monitoring.metrics import EVOLUTION, OTHER, POOL, InstallationCollector
from tests.monitoring.fake_api import FakeApi

MONITORING = Path(__file__).parents[2] / "deployments" / "monitoring"
SEED = {
    "queue depth": "coral_queue_depth",
    "job completion rate": "coral_job_completion_rate",
    "worker utilization": "coral_worker_utilization",
    "result collection errors": "coral_result_collection_errors",
    "average job latency": "coral_average_job_latency_seconds",
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    import time

    store = Store(tmp_path / "store")
    store.prepare()
    for name in ("training", "evaluation"):
        queue = JobQueue(store, name)  # type: ignore[arg-type]
        queue.prepare()
        recent = Recent().with_job(DoneJob(ended=time.time(), waited=2, seconds=4))
        device = DeviceTime(computing=6, loading=1, judging=2, idle=1)
        note = LaneNote(lane=f"{name}-1", queue=name, started=0, state="idle", recent=recent, device=device)  # type: ignore[arg-type]
        queue.lanes.write(note)
    return store


def scrape(store: Store, runs: Path, url: str | None) -> str:
    registry = CollectorRegistry()
    registry.register(InstallationCollector(str(store.root), str(runs), lambda: (url, ConfigError("nothing is up"))))
    return generate_latest(registry).decode()


@pytest.fixture
def exposition(fake: FakeApi, url: str, store: Store, tmp_path: Path) -> str:
    return scrape(store, tmp_path / "runs", url)


def values(text: str) -> dict[str, dict[str, float]]:
    """Metric -> label value -> value."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[next(iter(sample.labels.values()), "")] = sample.value
    return found


def test_the_seeds_five_metrics(exposition: str) -> None:
    found = values(exposition)
    for name in SEED.values():
        assert set(found[name]) >= {"coral-a100", "coral-a10g"}, name
    assert found["coral_average_job_latency_seconds"]["coral-a100"] == 6
    assert found["coral_job_completion_rate"]["coral-a10g"] == 1
    assert found["coral_worker_utilization"]["coral-a100"] == 0
    assert found["coral_check_ok"]["worker responsiveness"] == found["coral_check_ok"]["ledger"] == 1


def test_what_devices_do(exposition: str) -> None:
    found = values(exposition)
    shares = [found[f"coral_device_{name}"] for name in ("busy", "loading", "waiting")]
    assert [share["coral-a100"] for share in shares] == [share["coral-a10g"] for share in shares] == [0.6, 0.1, 0.3]


def test_every_metric_says_what_it_is_and_its_unit(exposition: str) -> None:
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", exposition, re.M))
    assert {name.removesuffix("_total") for name in helps} == set(POOL) | set(EVOLUTION) | set(OTHER)
    for name, text in helps.items():
        assert len(text) > 15 and text.endswith("."), name
        if "seconds" in name:
            assert "econds" in text, name


def test_what_is_not_known_is_left_out(store: Store, tmp_path: Path) -> None:
    found = values(scrape(store, tmp_path / "runs", "http://127.0.0.1:9/api"))
    assert found["coral_api_up"][""] == 0 and found["coral_check_ok"]["api"] == 0
    assert "coral_workers_online" not in found and "coral_worker_utilization" not in found
    assert found["coral_queue_depth"] == {"coral-a100": 0, "coral-a10g": 0}  # files tell this


def test_without_a_store_and_an_api_nothing_is_zero(tmp_path: Path) -> None:
    """A counter that falls to 0 and comes back would look like an hour's work in a moment."""
    found = values(scrape(Store(tmp_path / "none"), tmp_path / "runs", None))
    assert set(found) == {"coral_api_up", "coral_check_ok", "coral_evolutions_unreadable"}


def test_an_api_that_accepts_and_never_answers_costs_one_wait(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alert needs a scrape that answers: asked once, and not again for each check."""
    monkeypatch.setattr("flows.monitoring.metrics.API_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        registry = CollectorRegistry()
        registry.register(InstallationCollector(str(store.root), str(tmp_path / "runs"), lambda: (url, None)))
        found = values(generate_latest(registry).decode())
        silent.settimeout(0.2)
        connections = 0
        with contextlib.suppress(TimeoutError):
            while True:
                silent.accept()[0].close()
                connections += 1
    assert found["coral_api_up"][""] == 0 and found["coral_check_ok"]["api"] == 0
    assert connections == 1
    assert found["coral_queue_depth"] == {"coral-a100": 0, "coral-a10g": 0}


def test_a_run_that_cannot_be_read_is_counted(store: Store, tmp_path: Path) -> None:
    broken = tmp_path / "runs" / "broken-e1"
    broken.mkdir(parents=True)
    (broken / "run.json").write_text("{}")
    (broken / "config.yaml").write_text("name: [")
    assert values(scrape(store, tmp_path / "runs", None))["coral_evolutions_unreadable"][""] == 1


def test_labels_are_bounded(fake: FakeApi, url: str, store: Store, tmp_path: Path) -> None:
    from tests.report.synthetic_run import make_run

    folder, _ = make_run(tmp_path)
    (folder.path / "beat").unlink()  # none of them lives
    for number in range(30):
        shutil.copytree(folder.path, folder.path.with_name(f"other-{number:02d}"))
    found = values(scrape(store, tmp_path / "runs", url))
    assert all(len(rows) <= 20 for rows in found.values())
    assert len(found["coral_evolution_best_fitness"]) == 10


def test_a_scrape_is_kept_for_a_moment(fake: FakeApi, url: str, store: Store, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    registry.register(InstallationCollector(str(store.root), str(tmp_path), lambda: (url, None)))
    assert fake.asked == []  # nothing is asked before a scrape
    generate_latest(registry)
    asked = len(fake.asked)
    generate_latest(registry)
    assert len(fake.asked) == asked


def named_metrics() -> Iterator[tuple[str, str]]:
    """(where, metric) of the dashboard and the alert rules."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            for name in re.findall(r"\bcoral_\w+", target["expr"]):
                yield panel["title"], name
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            for name in re.findall(r"\bcoral_\w+", rule["expr"]):
                yield rule["alert"], name


def test_dashboard_and_alerts_name_only_what_there_is(exposition: str) -> None:
    there = {line.split()[2] for line in exposition.splitlines() if line.startswith("# HELP")}
    pairs = list(named_metrics())
    assert {name for _, name in pairs} <= there, [pair for pair in pairs if pair[1] not in there]
    assert set(SEED.values()) <= {name for _, name in pairs}
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) and all(panel["targets"] for panel in dashboard["panels"])
    assert {f"{title}".lower() for title, _ in pairs} >= set(SEED)  # panels have the seed's names


def test_alert_rules_are_well_formed() -> None:
    """By structure here, by promtool where it is installed."""
    rules = [r for g in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for r in g["rules"]]
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert re.fullmatch(r"[A-Za-z]+", rule["alert"]) and rule["labels"]["severity"] in (
            "critical",
            "warning",
            "info",
        )
        assert {"summary", "description"} == set(rule["annotations"])
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
    assert len({rule["alert"] for rule in rules}) == len(rules)


CASES = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
- interval: 1m
  input_series:
  - {{series: 'coral_api_up', values: '1x20'}}
  - {{series: 'coral_workers_online{{pool="coral-a100"}}', values: '1 1 0x18'}}
  - {{series: 'coral_pool_paused{{pool="coral-a100"}}', values: '0x20'}}
  - {{series: 'coral_workers_online{{pool="coral-a10g"}}', values: '0x20'}}
  - {{series: 'coral_pool_paused{{pool="coral-a10g"}}', values: '1x20'}}
  - {{series: 'coral_evolution_paused{{run="night"}}', values: '0 1x19'}}
  - {{series: 'coral_check_ok{{check="disk space"}}', values: '0x20'}}
  - {{series: 'coral_evolutions_unreadable', values: '1x20'}}
  - {{series: 'coral_result_collection_errors{{pool="cleaned"}}', values: '20x10 12x10'}}
  - {{series: 'coral_result_collection_errors{{pool="broken"}}', values: '0x5 12x15'}}
  alert_rule_test:
  - eval_time: 10m
    alertname: CoralWorkersSilent
    exp_alerts:
    - exp_labels: {{severity: critical, pool: coral-a100}}
      exp_annotations:
        summary: Pool coral-a100 has no worker that beats
        description: Start one with prefect worker start --pool coral-a100.
  - {{eval_time: 10m, alertname: CoralApiDown, exp_alerts: []}}
  - eval_time: 10m
    alertname: CoralEvolutionPaused
    exp_alerts:
    - exp_labels: {{severity: info, run: night}}
      exp_annotations:
        summary: Evolution night is paused by its budget
        description: coral budget says which limit closed, and how it goes on.
  - eval_time: 13m
    alertname: CoralResultCollectionErrors
    exp_alerts:
    - exp_labels: {{severity: warning, pool: broken}}
      exp_annotations:
        summary: Jobs of broken end without a result
        description: coral jobs lists them with their tracebacks.
  - eval_time: 10m
    alertname: CoralRunsUnreadable
    exp_alerts:
    - exp_labels: {{severity: warning}}
      exp_annotations:
        summary: Files of 1 runs cannot be read
        description: coral runs names them; what they spend and where they stand does not show here.
- interval: 1m
  input_series:
  - {{series: 'coral_evolution_running{{run="young"}}', values: '_x30 1x50'}}
  - {{series: 'coral_evolution_paused{{run="young"}}', values: '_x30 0x50'}}
  - {{series: 'coral_evolution_evaluations{{run="young"}}', values: '_x30 0x50'}}
  - {{series: 'coral_evolution_trainings{{run="young"}}', values: '_x30 0x50'}}
  - {{series: 'coral_evolution_running{{run="stuck"}}', values: '1x80'}}
  - {{series: 'coral_evolution_paused{{run="stuck"}}', values: '0x80'}}
  - {{series: 'coral_evolution_evaluations{{run="stuck"}}', values: '7x80'}}
  - {{series: 'coral_evolution_trainings{{run="stuck"}}', values: '4x80'}}
  - {{series: 'coral_evolution_running{{run="well"}}', values: '1x80'}}
  - {{series: 'coral_evolution_paused{{run="well"}}', values: '0x80'}}
  - {{series: 'coral_evolution_evaluations{{run="well"}}', values: '7x40 8x40'}}
  - {{series: 'coral_evolution_trainings{{run="well"}}', values: '4x80'}}
  alert_rule_test:
  - eval_time: 75m
    alertname: CoralNoProgress
    exp_alerts:
    - exp_labels: {{severity: warning, run: stuck}}
      exp_annotations:
        summary: Evolution stuck has finished no job for an hour or more
        description: coral progress and coral logs of this run say what it waits for.
"""


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool_accepts_rules_metrics_and_cases(exposition: str, tmp_path: Path) -> None:
    def promtool(*arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, timeout=60)

    for command in (
        ("check", "rules", str(MONITORING / "alerts.yaml")),
        ("check", "config", str(MONITORING / "prometheus.yaml")),
    ):
        done: Any = promtool(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    done = promtool("check", "metrics", given=exposition)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = tmp_path / "cases.yaml"
    cases.write_text(CASES.format(rules=MONITORING / "alerts.yaml"))
    done = promtool("test", "rules", str(cases))
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_api_that_comes_later_is_found_and_a_folder_may_have_any_name(
    fake: FakeApi, url: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`coral metrics serve` runs for months, over `coral down` and `coral up`."""
    monkeypatch.setattr("flows.monitoring.metrics.KEPT_SECONDS", -1.0)
    odd = tmp_path / "runs" / "bad\udcff"
    odd.mkdir(parents=True)
    (odd / "run.json").write_text('{"identity": {}, "flow_run_id": ""}')
    (odd / "config.yaml").write_text("")
    known: list[str | None] = [None, url]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        InstallationCollector(str(store.root), str(tmp_path / "runs"), lambda: (known[0], ConfigError("nothing is up")))
    )
    assert "coral_api_up 0.0" in generate_latest(registry).decode()
    known.pop(0)
    assert "coral_api_up 1.0" in generate_latest(registry).decode()


def test_looking_sets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch that goes on must see another `coral up`, not what the first look found."""
    monkeypatch.setenv("CORAL_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for port in (9, 10):
        (tmp_path / "up.json").write_text(f'{{"url": "http://127.0.0.1:{port}/api"}}')
        assert find_api() == (f"http://127.0.0.1:{port}/api", None)
