"""Every automation fired against a real server: `coral setup` installs it, a local HTTP server hears of it."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed
from pydantic import SecretStr

from coral_core.errors import ConfigError
from flows.installation.notices import Notices
from tests.pools.conftest import Pools, command, connected, kill
from tests.rehearsal_runs import Coral
from tests.waiting import until

pytestmark = pytest.mark.server

SECRET = "/hooks/s3cr3t-path"
NAMES = (
    "coral: budget at 100 %",
    "coral: budget at 80 %",
    "coral: champion found",
    "coral: lane crashed repeatedly",
    "coral: lost lanes",
    "coral: no progress",
)


class Receiver:
    """Takes what is posted, as a chat's incoming webhook would."""

    def __init__(self) -> None:
        heard = self.texts = []  # type: list[str]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == SECRET:
                    heard.append(json.loads(body)["text"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}{SECRET}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def about(self, *words: str) -> list[str]:
        return [text for text in self.texts if all(word in text for word in words)]

    def hears(self, *words: str, seconds: float = 90) -> str:
        found = until(lambda: self.about(*words), seconds, f"no notice with {words} in {self.texts}")
        return str(found[0])


def set_up(home: Path, *arguments: str) -> str:
    return command(home, "setup", "--only-notices", *arguments)


@pytest.fixture
def client(installation: tuple[Path, str]) -> Iterator[SyncPrefectClient]:
    with connected(installation[1]) as made:
        yield made


@pytest.fixture(scope="module")
def receiver(installation: tuple[Path, str]) -> Iterator[Receiver]:
    """Automations made anew (what other tests crashed is not counted), with their notices coming here."""
    made = Receiver()
    with connected(installation[1]) as client:
        for name in NAMES:
            for automation in client.read_automations_by_name(name):
                client.delete_automation(automation.id)
    out = set_up(installation[0], "--notify-url", made.url, "--no-progress-minutes", "0.2")
    assert SECRET not in out and all(f"automation {name}" in out for name in NAMES)
    yield made
    set_up(installation[0], "--notify-block", "none", "--no-progress-minutes", "45")
    made.server.shutdown()


PREPARED = (
    "from types import SimpleNamespace",
    "from coral_core.runs.progress import Event, Progress, Tally",
    "def state(**more): return Progress.model_construct(generations=2, best=None, **{name: Tally(done=more.get('jobs_done', 0), "
    "found=0, running=0, waiting=None, failed=0) for name in ('trainings', 'evaluations')}, **more)",
    "from coral_core.ledger import Closure",
    "from flows.observe.events import EventFeed",
    "def champion(genome_id): return SimpleNamespace(genome=SimpleNamespace(genome_id=genome_id), fitness=.5, pass_at_1=.4)",
    "def limits(hours): return SimpleNamespace(gpu_hours=hours, money=None)",
    "def standing(used, closed=None): return SimpleNamespace(limits=SimpleNamespace(evolution=limits(10), day=limits(None)), "
    "spent=limits(used), today=limits(used), currency='EUR', closed=closed)",
)


def told(pools: Pools, *calls: str) -> None:
    """Events of a process of its own, as an evolution's."""
    code = "\n".join([*PREPARED, *calls, "from prefect.events.worker import EventsWorker"])
    subprocess.run(
        [sys.executable, "-c", code + "\nEventsWorker.drain_all(timeout=20)"], env=pools.environment, check=True
    )


@pytest.mark.slow(reason="five set-ups")
def test_setup_is_idempotent_keeps_what_is_not_given_and_prints_no_secret(
    pools: Pools, receiver: Receiver, client: SyncPrefectClient
) -> None:
    home = Path(pools.environment["CORAL_HOME"])
    again = set_up(home, "--notify-url", receiver.url, "--no-progress-minutes", "0.2")
    assert again.count("is as it should be") == len(NAMES) + 1 and "s3cr3t" not in again
    assert set_up(home).count("is as it should be") == len(NAMES)
    plan = set_up(home, "--notify-url", "http://127.0.0.1:1/other-s3cr3t", "--dry-run")
    assert "would update" in plan and "s3cr3t" not in plan
    assert set_up(home).count("is as it should be") == len(NAMES), "--dry-run changed something"
    block = client.read_block_document_by_name("coral-notices", "custom-webhook", include_secrets=False)
    assert "s3cr3t" not in block.model_dump_json()
    quiet = client.read_automations_by_name("coral: champion found")[0]
    client.pause_automation(quiet.id)
    assert "is switched off" in set_up(home), "what an operator switched off stays off"
    client.resume_automation(quiet.id)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (Notices(no_progress_minutes=0.1), "10 seconds or more"),
        (Notices(url=SecretStr("http://a.example/s3cr3t"), block="slack-webhook/a"), "Give one of them"),
        (Notices(url=SecretStr("http://[s3cr3t")), "not an http or https URL"),
    ],
)
def test_what_prefect_would_refuse_later_is_refused_at_once(asked: Notices, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        asked.check()
    assert "s3cr3t" not in str(refused.value)


@pytest.mark.slow(reason="two commands on the whole installation")
def test_a_url_or_a_block_that_cannot_be_is_refused_without_showing_it(pools: Pools) -> None:
    for option, value, says in (
        ("--notify-url", "ftp://s3cr3t", "not an http or https URL"),
        ("--notify-block", "slack-webhook/nobody", "no such block"),
    ):
        result = pools.call("setup", "--only-notices", option, value)
        assert result.returncode == 2 and says in result.stderr and "s3cr3t" not in result.stdout + result.stderr


@pytest.mark.slow(reason="two runs")
def test_champion_found_by_a_real_run_and_not_again_by_its_replay(pools: Pools, receiver: Receiver) -> None:
    settings = {"infra__executor": "inline", "search__start_with_default": "false"}
    first = Coral.evolve(pools, **settings)
    assert first.returncode == 0, first.stdout + first.stderr
    heard = receiver.hears("champion found", pools.run.name, "after generation 0")
    assert "fitness" in heard and "/runs/flow-run/" in heard, "with a link to the run"
    count = len(receiver.about("champion found", pools.run.name))
    assert Coral.evolve(pools, **settings).returncode == 0
    told(pools, "EventFeed('after-the-replay').champion_found(champion('g000-001'), 0, None)")
    receiver.hears("after-the-replay")
    assert len(receiver.about("champion found", pools.run.name)) == count


@pytest.mark.slow(reason="automations made anew")
def test_budget_at_80_and_at_100_once_each(pools: Pools, receiver: Receiver) -> None:
    told(
        pools,
        "feed = EventFeed('spender')",
        "feed.budget_reached(80, standing(8))",
        "feed.budget_reached(100, standing(10, Closure(reason='limit-reached', scope='evolution', unit='gpu_hours')))",
    )
    assert "8 of 10 GPU hours" in receiver.hears("80 % of the budget is used", "spender")
    heard = receiver.hears("100 % of the budget is spent, or what is left has no room", "spender")
    assert "No new job starts" in heard and "coral resume spender --set budget.evolution.gpu_hours=..." in heard
    assert len(receiver.about("spender")) == 2


@pytest.mark.slow(reason="a run, and silence for 25 s")
def test_budget_of_a_real_run_which_then_is_paused_and_makes_no_progress_notice(
    pools: Pools, receiver: Receiver
) -> None:
    run = Coral.start(
        pools,
        base_model__name="rehearsal:train=1,evaluate=0.3",
        infra__local_lanes="1",
        budget__evolution__gpu_hours=str(6 / 3600),
    )
    try:
        until(lambda: list(pools.runs.glob("*/run.json")), 90)
        heard = receiver.hears("100 % of the budget", pools.run.name, seconds=150)
        assert "This evolution: " in heard and "GPU hours" in heard and "no budget left" in heard
        assert receiver.hears("80 % of the budget", pools.run.name)
        resource = f"coral.evolution.{pools.run.name}"
        until(lambda: "coral.evolution.paused" in dict(feed(pools, resource)), 60)
        time.sleep(25)  # subject: silence; 12 s without progress are told here, and the server looks every 5 s
        times = [when for _, when in feed(pools, resource)]
        silence = max((later - earlier).total_seconds() for earlier, later in itertools.pairwise(times))
        if silence < 11:  # on a busy machine the first job, or the pause, may rightly come later than the notice
            assert not receiver.about("no progress", pools.run.name), "a pause is no lack of progress"
    finally:
        run.terminate()
        run.communicate(timeout=200)
    until(lambda: "coral.evolution.ended" in dict(feed(pools, resource)), 60)


def feed(pools: Pools, resource: str) -> list[tuple[str, datetime]]:
    """Events about `resource`, oldest first: name and time."""
    import httpx

    body = {"filter": {"any_resource": {"id": [resource]}, "event": {"prefix": ["coral."]}}, "limit": 50}
    rows = httpx.post(f"{pools.url}/events/filter", json=body, timeout=20).json()["events"]
    return sorted(((row["event"], datetime.fromisoformat(row["occurred"])) for row in rows), key=lambda row: row[1])


@pytest.mark.slow(reason="automations made anew")
def test_lane_crashed_repeatedly_as_the_server_sees_it(
    pools: Pools, receiver: Receiver, client: SyncPrefectClient
) -> None:
    deployment = client.read_deployment_by_name("evaluate-genomes/evaluate-genomes")
    for slot in range(3):
        run = client.create_flow_run_from_deployment(
            deployment.id, name=f"evaluation lane {slot}", parameters={"store": "/nowhere"}
        )
        client.set_flow_run_state(run.id, Crashed(message="the machine went away"), force=True)
    assert "the machine went away" in receiver.hears("3 lanes of evaluate-genomes crashed")


@pytest.mark.slow(reason="a run whose lanes must crash")
def test_three_lanes_killed(pools: Pools, receiver: Receiver) -> None:
    run = pools.start(base_model__name="rehearsal:train=4,evaluate=0.1")
    killed: set[int] = set()
    while len(killed) < 3:
        lane = until(lambda: next((n for n in pools.lanes("training") if n.pid not in killed), None))
        kill(lane.pid)
        killed.add(lane.pid)
    assert "Crashed" in receiver.hears("3 lanes of train-adapters crashed")
    out, _ = run.communicate(timeout=600)
    assert run.returncode == 0, out


@pytest.mark.slow(reason="a run that is silent for a while")
def test_no_progress_of_a_real_run_and_none_of_one_that_paused_or_ended(pools: Pools, receiver: Receiver) -> None:
    told(
        pools,
        "paused = EventFeed('paused-run')",
        "paused.started(state(), '')",
        "paused.changed(state(jobs_done=1, jobs_expected=9, last_event=Event(text='x', when=1)))",
        "paused.paused('the budget of the day is used up')",
        "paused.changed(state(jobs_done=2, jobs_expected=9, last_event=Event(text='a job that was in flight', when=1)))",
        "ended = EventFeed('ended-run')",
        "ended.started(state(), '')",
        "ended.ended(state(), 'finished', '')",
        "resumed = EventFeed('resumed-run')",
        "resumed.started(state(), '')",
        "resumed.paused('the budget of the day is used up')",
        "resumed.resumed()",
    )
    run = Coral.start(pools, infra__local_lanes="1", base_model__name="rehearsal:train=25,evaluate=0.1")
    try:
        until(lambda: pools.runs.exists() and list(pools.runs.glob("*/run.json")), 90)
        heard = receiver.hears("no progress", pools.run.name, seconds=150)
        assert "0.2 minutes" in heard and "coral doctor" in heard
        receiver.hears("no progress", "resumed-run")
    finally:
        run.kill()
        run.communicate()
    assert not receiver.about("no progress", "paused-run") and not receiver.about("no progress", "ended-run")


@pytest.mark.slow(reason="two set-ups")
def test_without_a_place_the_firing_stands_in_the_event_feed(pools: Pools, receiver: Receiver) -> None:
    home = Path(pools.environment["CORAL_HOME"])
    assert "go nowhere" in set_up(home, "--notify-block", "none")
    try:
        told(pools, "EventFeed('unheard').champion_found(champion('g000-001'), 0, None)")
        until(lambda: "unheard" in fired(pools), 60)
        assert not receiver.about("unheard")
    finally:
        set_up(home, "--notify-url", receiver.url)


def fired(pools: Pools) -> str:
    """Firings of automations, as the API's event feed has them."""
    import httpx

    names = ["prefect.automation.triggered", "prefect.automation.action.executed"]
    body = {"filter": {"event": {"name": names}}, "limit": 50}
    rows = httpx.post(f"{pools.url}/events/filter", json=body, timeout=20).json()["events"]
    executed = [row for row in rows if row["event"] == "prefect.automation.action.executed"]
    return json.dumps([row for row in rows if row["event"] == "prefect.automation.triggered"]) if executed else ""


def test_nothing_is_sent_where_no_api_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect would start a server of its own; and what fails stays a warning."""
    from coral_core.runs.progress import Progress, Tally
    from flows.observe import events

    def refused(**_: Any) -> None:
        raise RuntimeError("no events today")

    none = Tally(done=0, found=0, running=0, waiting=None, failed=0)
    progress = Progress.model_construct(generations=1, trainings=none, evaluations=none, best=None)
    monkeypatch.setattr(events, "emit_event", refused)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        feed = events.EventFeed("r")
        feed.started(progress, "")
        feed.paused("x")
        feed.ended(progress, "failed", "")
    monkeypatch.setattr(events, "emit_event", lambda **_: pytest.fail("sent"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert os.environ.get("PREFECT_API_URL") is None
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        events.EventFeed("r").started(progress, "")
