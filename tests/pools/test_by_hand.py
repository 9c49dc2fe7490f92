"""Jobs by hand, from whatever folder, and lanes of deployments that people made themselves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from coral_core.lm.base_model import TINY
from tests.pools.conftest import Pools, connected
from tests.problem_sources.test_jsonl import CLAMP, PAIR

pytestmark = pytest.mark.server
QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def by_hand(pools: Pools, *arguments: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """`coral submit`, without PREFECT_API_URL: the API is that of `coral up`."""
    values = {"store.path": "store", "infra.linger": "2"} | {k.replace("__", "."): v for k, v in settings.items()}
    sets = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    environment = {name: value for name, value in pools.environment.items() if name != "PREFECT_API_URL"}
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "submit", *arguments, *sets],
        cwd=cwd,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow(reason="a real training; tests/work_pools/test_absolute_paths.py holds the paths")
def test_what_lies_in_this_folder_is_found_by_lanes_that_start_in_another(pools: Pools, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "tiny")
    small = {"problems__fitness": "8", "problems__pairs": "8", "training__steps": "2", "training__warmup": "1"}
    trained = by_hand(pools, "train", str(QUICKSTART), cwd=tmp_path, base_model__name="./tiny", **small)
    assert trained.returncode == 0 and json.loads(trained.stdout)["trainable_parameters"] > 0, trained.stderr
    (tmp_path / "bugs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (CLAMP, PAIR)))
    (tmp_path / "good.py").write_text(CLAMP["reference"])
    lines = {"problems__source": "jsonl", "problems__path": "bugs.jsonl"}
    judged = by_hand(pools, "test", str(QUICKSTART), "jsonl/clamp", "good.py", cwd=tmp_path, **lines)
    assert judged.returncode == 0 and json.loads(judged.stdout)["passed"], judged.stderr


@pytest.mark.slow(reason="a command that waits until its time is over")
def test_a_closed_budget_is_said_while_it_holds(pools: Pools, tmp_path: Path) -> None:
    settings = {"base_model__name": "rehearsal", "budget__evolution__gpu_hours": "0"}
    held = by_hand(pools, "train", str(QUICKSTART), "--timeout", "8", cwd=tmp_path, **settings)
    said, error = held.stderr.strip().splitlines()[-2:]
    why = "the limit of the evolution, 0 GPU hours, leaves no room"
    assert held.returncode != 0 and said.startswith(f"the budget holds it: {why}"), held.stderr
    assert error.startswith(f"error: --timeout 8: nothing was done within that time: {why}")


@pytest.fixture
def big(pools: Pools) -> Any:
    """A second deployment of the training lanes, as docs/work-pools.md has for two kinds of GPU."""
    with connected(pools.url) as client:
        first = client.read_deployment_by_name("train-adapters/train-adapters")
        name = f"big-{uuid4().hex[:6]}"
        made = client.create_deployment(
            flow_id=first.flow_id, name=name, work_pool_name="coral-a100", entrypoint=first.entrypoint, path=first.path
        )
        yield f"train-adapters/{name}"
        client.delete_deployment(made)


@pytest.mark.slow(reason="two lanes that end")
def test_a_second_deployment_of_lanes_has_lanes_of_its_own(pools: Pools, big: str, tmp_path: Path) -> None:
    """Both begin with slot 0 of one store; Prefect keeps keys for the flow and not for the deployment."""
    settings = {"base_model__name": "rehearsal", "infra__linger": "1"}
    first = by_hand(pools, "train", str(QUICKSTART), cwd=tmp_path, **settings)
    assert first.returncode == 0, first.stderr
    more = by_hand(
        pools,
        "train",
        str(QUICKSTART),
        "--timeout",
        "240",
        cwd=tmp_path,
        seed="5",
        infra__training__deployment=big,
        **settings,
    )
    assert more.returncode == 0, more.stderr
