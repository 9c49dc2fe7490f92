"""A run that works is not started a second time: from a terminal, by Prefect, and not kept from going on when it was killed."""

import json
import subprocess
import sys

import pytest

from tests.rehearsal_runs import Coral
from tests.waiting import until

pytestmark = pytest.mark.server

BY_PREFECT = """
import sys
from pathlib import Path
from coral_core.config import load_config
from flows.evolve import evolve
import asyncio
state = asyncio.run(evolve(load_config(Path(sys.argv[1])), return_state=True))
print(state.type.value, state.message)
"""


@pytest.mark.slow(reason="two runs and a flow; tests/runs/test_liveness.py holds the lock")
def test_the_same_run_is_started_once(coral: Coral, finished: Coral) -> None:
    settings = {"base_model__name": "rehearsal:train=1,evaluate=0.2"}
    first = coral.start(**settings)
    until(lambda: list(coral.runs.glob("*/timings.jsonl")) and coral.done())
    facts = json.loads((coral.run / "run.json").read_text())
    assert facts["pid"] == first.pid
    second = coral.evolve(**settings)
    assert second.returncode == 2, second.stdout + second.stderr
    assert f"is running already: process {first.pid} on {facts['host']}" in second.stderr
    by_prefect = subprocess.run(
        [sys.executable, "-c", BY_PREFECT, str(coral.run / "config.yaml")],
        env=coral.environment | {"PREFECT_API_URL": facts["api"], "PREFECT_LOGGING_LEVEL": "CRITICAL"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert by_prefect.stdout.startswith("FAILED") and f"process {first.pid}" in by_prefect.stdout, by_prefect
    assert json.loads((coral.run / "run.json").read_text()) == facts, "the first is still who works on it"
    first.kill()
    first.communicate()
    again = coral.evolve(**settings)
    assert again.returncode == 0, again.stderr
    assert len(coral.done()) == len(set(coral.done()))
