"""Flow runs that somebody starts with hostile parameters, and hostile tickets in a store's queue, against real workers."""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectHTTPStatusError

from coral_core.config import RunConfig
from coral_core.jobs.job_content import job_for_patch
from coral_core.ledger import Ledger
from coral_core.lm.base_model import TINY
from coral_core.queue.queue import Ticket
from tests.pools.conftest import Pools, connected
from tests.waiting import until

pytestmark = pytest.mark.server
PATCH = [{"problem": "builtin/fitness/first-index/0000", "patch": "def nothing(): pass"}]


def ended(pools: Pools, deployment: str, parameters: dict[str, Any]) -> State[Any]:
    """The final state of a flow run that was asked for through the API."""
    with connected(pools.url) as client:
        found = client.read_deployment_by_name(deployment)
        run = client.create_flow_run_from_deployment(found.id, parameters=parameters)

        def final() -> State[Any] | None:
            state = client.read_flow_run(UUID(str(run.id))).state
            return state if state is not None and state.is_final() else None

        state: State[Any] = until(final, 120, f"{deployment} must end")
        return state


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A directory whose tests leave a trace when they run."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "code.py").write_text("def double(x):\n    return 2 * x\n")
    trace = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    (folder / "test_code.py").write_text(
        f"{trace}from code import double\n\ndef test_it():\n    assert double(2) == 4\n"
    )
    return folder


@pytest.fixture
def outside() -> Path:
    """A folder that no root of the installation holds (they are below the directory for temporary files)."""
    folder = Path("/nowhere") / f"doors-{time.time_ns()}"
    assert not folder.exists()
    return folder


@pytest.fixture
def model() -> Iterator[Path]:
    """A base model that no root of the installation holds; a checkout may lie below one."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(shutil.copytree(TINY, Path(folder) / "tiny"))


@pytest.mark.parametrize("deployment", ["train-adapters/train-adapters", "evaluate-genomes/evaluate-genomes"])
def test_the_server_refuses_a_lane_that_would_wait_for_ever(pools: Pools, deployment: str) -> None:
    with connected(pools.url) as client, pytest.raises(PrefectHTTPStatusError, match=r"422|409"):
        found = client.read_deployment_by_name(deployment)
        client.create_flow_run_from_deployment(found.id, parameters={"store": str(pools.store.root), "linger": 1e300})


@pytest.mark.slow(reason="a flow run; tests/prefect_api/test_served.py calls the same flows without a server")
def test_a_lane_opens_no_store_outside_the_roots(pools: Pools, outside: Path) -> None:
    state = ended(pools, "train-adapters/train-adapters", {"store": str(outside), "linger": 1})
    assert state.is_failed() and "CORAL_ROOTS_STORE" in str(state.message)
    assert not outside.exists() and not outside.parent.exists()


@pytest.mark.slow(reason="two flow runs; tests/prefect_api/test_served.py calls the same flow without a server")
def test_an_evolution_makes_no_folder_outside_them(pools: Pools, outside: Path) -> None:
    for places in ({"runs": str(outside)}, {"store": {"path": str(outside)}}):
        config = {
            "runs": str(pools.runs),
            "store": {"path": str(pools.runs / "store")},
            "base_model": {"name": "rehearsal"},
        }
        state = ended(pools, "evolve/evolve", {"config": config | places})
        assert state.is_failed() and "is not below" in str(state.message), state.message
    assert not outside.exists() and not outside.parent.exists() and not pools.runs.exists()


@pytest.mark.slow(reason="a flow run; tests/prefect_api/test_served.py calls the same flow without a server")
def test_a_judging_of_patches_runs_no_tests_of_a_folder_that_nobody_named(pools: Pools, package: Path) -> None:
    config = {
        "runs": str(pools.runs),
        "store": {"path": str(pools.runs / "store")},
        "problems": {"source": "package", "path": str(package)},
    }
    state = ended(pools, "test-patches/test-patches", {"patches": PATCH, "config": config})
    assert state.is_failed() and "CORAL_ROOTS_CODE" in str(state.message), state.message
    assert not (package.parent / "ran").exists() and not pools.runs.exists()


@pytest.mark.slow(reason="a flow run; tests/lanes/test_hostile_jobs.py has such tickets without a server")
def test_a_ticket_that_somebody_put_into_the_queue_is_held_to_them(pools: Pools, package: Path) -> None:
    """Who can write in the store has a lane judge a patch against problems of a folder: it must not run that folder's tests."""
    pools.store.prepare()
    queue = pools.queue("evaluation")
    queue.prepare()
    Ledger(pools.store).set_budget("somebody", RunConfig().budget)  # a writer of the store can do that, too
    good = job_for_patch(RunConfig(), PATCH[0]["problem"], PATCH[0]["patch"])
    named = good.problems.model_copy(update={"source": "package", "path": str(package)})
    bad = good.model_copy(update={"problems": named, "patch": "def other(): pass"})
    for job in (good, bad):
        queue.submit(
            Ticket(kind="test", digest=job.digest(), run_id="somebody", job=job.model_dump(mode="json"), seconds=60)
        )
    state = ended(pools, "evaluate-genomes/evaluate-genomes", {"store": str(pools.store.root), "linger": 1})
    assert state.is_completed(), state.message
    assert queue.is_done(good.digest(), "0-"), "the honest one beside it is done"
    (failed,) = queue.all_failed()
    last = failed.ticket.failures[-1]
    assert failed.ticket.digest == bad.digest() and last.error == "ConfigError" and "CORAL_ROOTS_CODE" in last.message
    assert not (package.parent / "ran").exists() and json.dumps(last.message)


@pytest.mark.slow(reason="a refused run")
def test_an_evolution_at_a_terminal_hears_at_once_what_its_lanes_would_refuse(pools: Pools, model: Path) -> None:
    """Its own rights are those of its person, its lanes' are those of `coral up`."""
    refused = pools.evolve(base_model__name=str(model), base_model__prompt="tiny")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert f"base_model.name: {model}: is not below" in refused.stderr and "CORAL_ROOTS_MODELS" in refused.stderr
    assert not pools.lanes() and not pools.queue().runs(), "no lane was asked"
