"""Executors of this machine and a ledger that lets nothing start: the job waits, says why, and is done when it may."""

import os
from pathlib import Path
from typing import Any

import pytest

from coral_core.config import BudgetConfig, RunConfig
from coral_core.errors import EngineError
from coral_core.jobs.job_content import job_for_patch, problem_set
from coral_core.jobs.jobs import TestJob
from coral_core.ledger import Ledger
from coral_core.store.store import Store
from flows.work_pools import Executor, make_executor
from tests.waiting import until

LIMITED = BudgetConfig.model_validate({"evolution": {"gpu_hours": 1}})


def config(folder: Path, executor: str) -> RunConfig:
    return RunConfig.model_validate(
        {
            "base_model": {"name": "rehearsal"},
            "problems": {"fitness": 4, "retention": 2, "monitor": 2, "held_out": 4, "pairs": 8},
            "infra": {"executor": executor, "local_lanes": 1},
            "budget": LIMITED.model_dump(),
            "store": {"path": str(folder / "store")},
        }
    )


def right_patch(made: RunConfig) -> TestJob:
    problem = problem_set(made.problems).fitness[0]
    return job_for_patch(made, problem.problem_id, problem.reference)


def held(executor: Executor) -> str:
    """Why it waits, once it says so."""
    return str(until(executor.held, 10, "it never said that it waits"))


@pytest.mark.parametrize("name", ["local", "inline"])
def test_accounts_that_cannot_be_listed_hold_jobs_and_end_no_lane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made = config(tmp_path, name)
    job, real, away = right_patch(made), os.scandir, [True]

    def scandir(path: Any = ".") -> Any:
        if away and str(path).endswith("accounts"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with make_executor(made, run_id="run") as executor:
        future = executor.submit_test(job)
        why = held(executor)
        assert "ledger/accounts cannot be read (Permission denied)" in why and not future.done()
        away.clear()
        assert future.result(timeout=120).passed
        assert not executor.held()
    assert Ledger(Store(made.store.path)).accounts()[0].ended


@pytest.mark.parametrize("name", ["local", "inline"])
def test_a_closed_budget_holds_without_blocking_and_a_raised_one_lets_go(tmp_path: Path, name: str) -> None:
    """Whoever submits from an event loop goes on, sees why it waits, and can be cancelled."""
    made = config(tmp_path, name)
    none = BudgetConfig.model_validate({"evolution": {"gpu_hours": 0}})
    store = Store(made.store.path)
    with make_executor(made.model_copy(update={"budget": none}), store, run_id="run") as executor:
        first, second = executor.submit_test(right_patch(made)), executor.submit_test(right_patch(made))
        assert "the limit of the evolution, 0 GPU hours" in held(executor)
        assert first.cancel() and not second.done()
        Ledger(store).set_budget("run", LIMITED)
        assert second.result(timeout=120).passed and not executor.held()
    (account,) = Ledger(store).accounts()
    assert account.ended and account.work["run"]["evaluation"].jobs == 1


@pytest.mark.parametrize("name", ["local", "inline"])
def test_closing_ends_a_wait_for_the_budget(tmp_path: Path, name: str) -> None:
    made = config(tmp_path, name)
    none = BudgetConfig.model_validate({"evolution": {"gpu_hours": 0}})
    with make_executor(made.model_copy(update={"budget": none}), run_id="run") as executor:
        future = executor.submit_test(right_patch(made))
        held(executor)
    assert future.cancelled()


def test_inline_errors_are_for_who_waits(tmp_path: Path) -> None:
    made = config(tmp_path, "inline")
    wrong = right_patch(made).model_copy(update={"problem_digest": "another"})
    with make_executor(made, run_id="run") as executor:
        with pytest.raises(EngineError, match="another problem of that name"):
            executor.submit_test(wrong).result(timeout=60)
        assert executor.submit_test(right_patch(made)).result(timeout=120).passed
