"""Patches judged by hand on a pool cost what an evaluation lane costs, and a closed budget refuses them."""

from pathlib import Path

import pytest

from coral_core.config import RunConfig
from coral_core.errors import BudgetClosedError
from coral_core.jobs.job_content import problem_set
from coral_core.ledger import Ledger
from coral_core.store.store import Store
from flows import lane


def settings(folder: Path, **budget: object) -> RunConfig:
    small = {"fitness": 6, "retention": 2, "monitor": 2, "held_out": 6, "pairs": 8}
    return RunConfig.model_validate({"store": {"path": str(folder / "store")}, "problems": small, "budget": budget})


def test_the_seconds_are_on_the_account_by_hand(tmp_path: Path) -> None:
    config = settings(tmp_path)
    problem = problem_set(config.problems).fitness[0]
    patches = [lane.Patch(problem=problem.problem_id, patch=code) for code in (problem.reference, problem.buggy)]
    right, wrong = lane.test_patches.fn(patches, config)
    assert right["passed"] and not wrong["passed"]
    (account,) = Ledger(Store(config.store.path)).accounts()
    (seconds,) = (runs[lane.BY_HAND]["evaluation"] for runs in account.spent.values())
    assert seconds > 0 and account.ended and account.work[lane.BY_HAND]["evaluation"].jobs == 1


def test_a_closed_budget_refuses_before_anything_is_judged(tmp_path: Path) -> None:
    config = settings(tmp_path, evolution={"gpu_hours": 1e-9})
    problem = problem_set(config.problems).fitness[0]
    with pytest.raises(BudgetClosedError, match="1 were not judged"):
        for _ in range(2):  # the first one learns what such work takes
            lane.test_patches.fn([lane.Patch(problem=problem.problem_id, patch=problem.reference)], config)
