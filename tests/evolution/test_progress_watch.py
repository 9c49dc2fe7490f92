"""What listeners are told of progress and budget; marks once, also by an evolution that was started again."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coral_core.config import BudgetConfig, RunConfig, dump_yaml
from coral_core.evolution import progress_watch
from coral_core.evolution.listener import Listener
from coral_core.evolution.progress_watch import ProgressWatch, new_marks
from coral_core.ledger import Closure, Ledger, Meter, Standing
from coral_core.ledger.closure import Reason, Scope
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store
from tests.waiting import until_in_loop


class Heard(Listener):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def paused(self, why: str) -> None:
        self.events.append(("paused", why))

    def resumed(self) -> None:
        self.events.append("resumed")

    def budget_reached(self, percent: int, standing: Standing) -> None:
        self.events.append(percent)


def spent(tmp_path: Path) -> Ledger:
    store = Store(tmp_path / "store")
    store.prepare()
    (tmp_path / "run").mkdir()
    with Meter(store, "lane", "training") as meter:
        meter.work("run", "training", "d" * 64)
        meter.rest()
    return Ledger(store)


def limit(gpu_hours: float) -> BudgetConfig:
    return BudgetConfig.model_validate({"evolution": {"gpu_hours": gpu_hours}})


def closure(scope: Scope) -> Closure:
    return Closure(reason=Reason.LIMIT_REACHED, scope=scope, unit="gpu_hours", limit=1, spent=1)


def test_each_mark_is_told_once_and_again_for_a_raised_limit(tmp_path: Path) -> None:
    ledger, folder = spent(tmp_path), RunFolder(tmp_path / "run")
    ledger.set_budget("run", limit(1e-9))
    assert [mark for mark, _ in new_marks(folder, ledger, None)] == [80, 100]
    assert new_marks(folder, ledger, None) == []
    assert new_marks(folder, Ledger(Store(tmp_path / "store")), None) == [], "a restart told it again"
    ledger.set_budget("run", limit(2e-9))
    assert [mark for mark, _ in new_marks(folder, ledger, None)] == [80, 100]


def test_who_watches_survives_what_it_did_not_expect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, heard = spent(tmp_path), Heard()
    ledger.set_budget("run", limit(1e-9))
    (tmp_path / "run" / "config.yaml").write_text(dump_yaml(RunConfig()))
    answers: list[Exception | Closure | None] = [
        OSError("stale file handle"),
        OSError("stale file handle"),
        closure("day"),
        closure("evolution"),
        None,
    ]

    def held() -> Closure | None:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def until_resumed() -> None:
        executor: Any = SimpleNamespace(held=held)
        watcher = ProgressWatch(RunFolder(tmp_path / "run"), Store(tmp_path / "store"), executor, [heard])
        watch = asyncio.create_task(watcher.run())
        await until_in_loop(lambda: "resumed" in heard.events)
        watch.cancel()

    monkeypatch.setattr(progress_watch, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(progress_watch, "SHORTEST_SECONDS", 0.0)
    asyncio.run(until_resumed())
    assert heard.events == [("paused", str(closure("day"))), 80, 100, "resumed"]
    assert "room again" in caplog.text
    assert sum("stale file handle" in message for message in caplog.messages) == 1
