"""An evolution with a budget: it stops in time, says why, goes on with more, also after a kill."""

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import State

from coral_core.ledger import Ledger
from coral_core.store.store import Store
from tests.rehearsal_runs import Coral
from tests.waiting import still, until

pytestmark = pytest.mark.server

SLOW = "rehearsal:train=1,evaluate=0.2"
HOUR = 3600
FLYING = 2 * 2.5
"""Seconds of two jobs in flight, the start of an engine in each included."""


def limit(seconds: float) -> str:
    return str(seconds / HOUR)


def lines_until(process: "subprocess.Popen[str]", word: str) -> list[str]:
    """Lines of a run up to the first one with `word`. A run that does not print it within five minutes is ended."""
    lines: list[str] = []
    assert process.stdout is not None
    end = threading.Timer(300, process.kill)
    end.start()
    try:
        for line in process.stdout:
            lines.append(line)
            if word in line:
                return lines
    finally:
        end.cancel()
    raise AssertionError("".join(lines))


def status(coral: Coral) -> str:
    return str(json.loads(coral.call("progress", "latest", "--runs", str(coral.runs), "--json").stdout)["status"])


def spent(coral: Coral) -> float:
    """Lane seconds of the run so far."""
    facts = json.loads(coral.call("budget", "latest", "--runs", str(coral.runs), "--json").stdout)
    return float(facts["spent"]["gpu_hours"]) * HOUR


def prefect_state(coral: Coral) -> State[Any]:
    facts = json.loads((coral.run / "run.json").read_text())
    with temporary_settings({PREFECT_API_URL: facts["api"]}), get_client(sync_client=True) as client:
        state = client.read_flow_run(facts["flow_run_id"]).state
    assert state is not None
    return state


@pytest.mark.slow(reason="two runs; tests/evolution/test_api.py waits for a budget, tests/execution for each executor")
@pytest.mark.parametrize("executor", ["local", "inline"])
def test_at_the_limit_it_pauses_and_goes_on_with_a_raised_one(coral: Coral, finished: Coral, executor: str) -> None:
    run = coral.start(base_model__name=SLOW, infra__executor=executor, budget__evolution__gpu_hours=limit(4))
    lines = lines_until(run, "paused: the limit of the evolution")
    assert "GPU hours, leaves no room for another job" in lines[-1]
    until(lambda: status(coral) == "paused", why="a job in flight at the limit still ends")
    done = coral.done()
    still(lambda: coral.done() == done, 3, "no new job starts")
    assert spent(coral) <= 4 + FLYING, "what was in flight at the limit, and no more"
    state = prefect_state(coral)
    assert state.name == "Paused" and "GPU hours" in (state.message or "")
    shown = coral.call("budget", "latest", "--runs", str(coral.runs)).stdout
    assert "held:" in shown and "GPU hours" in shown
    raised = coral.call("resume", "latest", "--runs", str(coral.runs), "--set", "budget.evolution.gpu_hours=1")
    assert raised.returncode == 0 and "it goes on" in raised.stdout, raised.stderr
    out, _ = run.communicate(timeout=400)
    assert run.returncode == 0 and "the budget has room again" in out, out
    assert len(coral.done()) == len(set(coral.done()))
    assert prefect_state(coral).name == "Completed"


@pytest.mark.slow(reason="two runs at the pace of a real engine; tests/ledger holds the sums")
def test_a_kill_forgets_nothing_that_was_spent(coral: Coral) -> None:
    settings = {"base_model__name": SLOW, "budget__evolution__gpu_hours": limit(10), "budget__price__training": "3600"}
    run = coral.start(**settings)
    until(lambda: list(coral.runs.glob("*/timings.jsonl")) and len(coral.done()) >= 2)
    run.kill()
    run.communicate()
    before = spent(coral)
    assert before > 0.5
    again = coral.start(**settings)
    lines_until(again, "paused: the limit of the evolution")
    assert before <= spent(coral) <= 10 + FLYING
    again.terminate()
    again.communicate(timeout=200)
    store = Store(coral.runs / "store")
    assert Ledger(store).standing(coral.run.name).spent.money == pytest.approx(
        Ledger(store).standing(coral.run.name).spent.training_hours * HOUR
    )


@pytest.mark.slow(reason="a run; tests/ledger and tests/execution hold it without one")
def test_a_ledger_that_cannot_be_read_stops_work(coral: Coral) -> None:
    coral.runs.mkdir()
    broken = coral.runs / "store" / "ledger" / "accounts" / "old.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    run = coral.start(budget__day__gpu_hours="5")
    lines = lines_until(run, "paused: ledger")
    assert str(broken) in lines[-1] and "no job starts" in lines[-1]
    broken.unlink()
    out, _ = run.communicate(timeout=400)
    assert run.returncode == 0, out


@pytest.mark.slow(reason="a run that waits for its budget; tests/ledger holds the sums of a day")
def test_the_day_turns(coral: Coral, tmp_path: Path) -> None:
    """The limit of a day holds until its end, and the run goes on by itself (a clock that we move for lanes and evolution)."""
    clock = tmp_path / "sitecustomize.py"
    mark = tmp_path / "tomorrow"
    clock.write_text(
        "import os, time\n_real = time.strftime\n"
        "def strftime(form, t=None):\n"
        f"    moved = os.path.exists({str(mark)!r}) and form == '%Y-%m-%d'\n"
        "    return '2999-01-01' if moved else (_real(form, t) if t is not None else _real(form))\n"
        "time.strftime = strftime\n"
    )
    coral.environment["PYTHONPATH"] = f"{tmp_path}:{coral.environment.get('PYTHONPATH', '')}"
    run = coral.start(base_model__name="rehearsal:train=2,evaluate=0.5", budget__day__gpu_hours=limit(12))
    # of the evolution itself: the board prints its own line, and may do so before the evolution has noticed
    lines_until(run, "WARNING: paused: the limit of the day")
    mark.touch()
    lines_until(run, "the budget has room again")
    run.terminate()
    run.communicate(timeout=200)
