"""`coral compare` on work pools: a flow whose runs are flows, and figures equal to those of lanes of this machine."""

import json
from typing import Any

import pytest

from tests.pools.conftest import FEW_LANES, Pools, connected
from tests.rehearsal_runs import SMALL

pytestmark = pytest.mark.server
STRATEGIES = ("evolution", "random", "no elites=evolution:search.elites=0")


def compared(pools: Pools, name: str, *options: str) -> dict[str, Any]:
    """The JSON of a comparison with stores and runs of its own below `name`."""
    folder = pools.folder / name
    own = {"runs": str(folder / "runs"), "store.path": str(folder / "store"), "name": name}
    values = SMALL | own | {key.replace("__", "."): value for key, value in FEW_LANES.items()}
    sets = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    shared = ("--strategies", *STRATEGIES, "--seeds", "2", "--budget", "trainings=6", "--json")
    done = pools.call("compare", "quickstart", *shared, *options, *sets)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow(reason="seven runs on pools; tests/comparison and tests/cli have those of this machine")
def test_a_comparison_on_pools_is_a_flow_and_says_what_local_lanes_say(pools: Pools) -> None:
    there = compared(pools, "on-pools", "--executor", "work-pools")
    with connected(pools.url) as client:
        flows = {flow.id: flow.name for flow in client.read_flows()}
        runs = [
            run for run in client.read_flow_runs() if "on-pools" in (run.name or "") or flows[run.flow_id] == "compare"
        ]
    names = [flows[run.flow_id] for run in runs]
    assert names.count("compare") == 1 and names.count("evolve") == 6
    assert all(run.state_type and run.state_type.value == "COMPLETED" for run in runs), runs
    again = compared(pools, "on-pools", "--executor", "work-pools")
    assert again["variants"] == there["variants"], "nothing is run twice"
    here = compared(pools, "here", "--executor", "inline")
    assert [variant["name"] for variant in there["variants"]] == ["evolution", "random", "no elites"]
    assert there["variants"] == here["variants"]
