"""A budget on work pools: lanes keep it by themselves, also when the evolution is dead."""

import json

import pytest

from coral_core.ledger import Ledger
from tests.pools.conftest import SLOW, Pools, alive
from tests.rehearsal_runs import Coral
from tests.waiting import until

pytestmark = pytest.mark.server

LIMIT = 14.0
"""Lane seconds: some trainings of 1.5 s, not all."""


@pytest.mark.slow(reason="two runs at the pace of a real engine; tests/lanes and tests/flows hold the limit")
def test_lanes_keep_the_limit_of_a_dead_evolution(pools: Pools, undisturbed: Coral) -> None:
    run = pools.start(base_model__name=SLOW, budget__evolution__gpu_hours=str(LIMIT / 3600), infra__linger="4")
    until(lambda: pools.work_done() >= 1)
    run.kill()
    run.wait()
    until(lambda: not any(alive(note.pid) for note in pools.lanes()), 90, "lanes must end when they may do nothing")
    ended = {note.ended for note in pools.queue().lanes.notes()}
    spent = Ledger(pools.store).standing(pools.run.name).spent.gpu_hours * 3600
    held = Ledger(pools.store).closed(pools.run.name, "training")
    done = pools.work_done()
    if pools.queue().open_digests():  # it died with tickets on the queue: the limit is why they lie there
        assert "budget" in ended and held
    assert spent <= LIMIT + 5 * 3, "no more than five lanes with a job each in flight"

    again = pools.start(base_model__name=SLOW, budget__evolution__gpu_hours=str(LIMIT / 3600))
    assert again.stdout is not None
    lines = []
    for line in again.stdout:
        lines.append(line)
        if "paused: the limit of the evolution" in line:
            break
    assert "paused" in lines[-1], "".join(lines)
    assert pools.work_done() - done <= 4
    status = json.loads(pools.call("budget", "latest", "--runs", str(pools.runs), "--json").stdout)
    assert status["closed"] and status["used"] > 0.3
    raised = pools.call("resume", "latest", "--runs", str(pools.runs), "--set", "budget.evolution.gpu_hours=1")
    assert raised.returncode == 0, raised.stderr
    out, _ = again.communicate(timeout=600)
    assert again.returncode == 0, out
    assert pools.history() == undisturbed.history()
    assert len(pools.done()) == len(set(pools.done()))
