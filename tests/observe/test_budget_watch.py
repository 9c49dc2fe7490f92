"""What a budget's notices are told of, once: also by an evolution that was started again."""

import asyncio
from pathlib import Path

import pytest

from coral_core.config import BudgetConfig, RunConfig
from coral_core.evolution.planner import Planner
from coral_core.execution.inline import InlineExecutor
from coral_core.ledger import Ledger, Meter, Standing
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store
from flows.observe import budget_watch as budget
from flows.session import Session
from tests.waiting import until_in_loop


def session(folder: Path, store: Store, heard: list[tuple[int, float]]) -> Session:
    def hear(percent: int, standing: Standing) -> None:
        heard.append((percent, standing.used))

    config = RunConfig()
    executor = InlineExecutor(config.infra, store)
    return Session(
        planner=Planner.of_config(config),
        store=store,
        executor=executor,
        folder=RunFolder(folder / "run"),
        on_budget=hear,
    )


def test_each_mark_is_told_once_and_again_for_a_raised_limit(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    (tmp_path / "run").mkdir()
    ledger, heard = Ledger(store), []  # type: ignore[var-annotated]
    ledger.set_budget("run", BudgetConfig.model_validate({"evolution": {"gpu_hours": 1e-9}}))
    with Meter(store, "lane", "training") as meter:
        meter.work("run", "training", "d" * 64)
        meter.rest()
    for _ in range(2):
        budget._tell(session(tmp_path, store, heard), ledger)
    assert [mark for mark, _ in heard] == [80, 100]
    budget._tell(session(tmp_path, store, heard), Ledger(store))
    assert len(heard) == 2, "a restart told it again"
    ledger.set_budget("run", BudgetConfig.model_validate({"evolution": {"gpu_hours": 2e-9}}))
    budget._tell(session(tmp_path, store, heard), ledger)
    assert [mark for mark, _ in heard[2:]] == [80, 100]


def test_who_watches_survives_what_it_did_not_expect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    watched = session(tmp_path, store, [])
    answers: list[Exception | str] = [
        OSError("stale file handle"),
        OSError("stale file handle"),
        "the limit of the day",
    ]

    def held() -> str:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def until_paused() -> None:
        async with budget.watched(watched, ""):
            await until_in_loop(lambda: watched.board.paused)

    monkeypatch.setattr(budget, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(watched.executor, "held", held)
    asyncio.run(until_paused())
    assert watched.board.paused == "the limit of the day"
    assert sum("stale file handle" in message for message in caplog.messages) == 1
