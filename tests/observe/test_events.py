"""What events say: the words that a notice shows."""

from types import SimpleNamespace
from typing import Any

import pytest

from coral_core.ledger import Closure
from coral_core.ledger.closure import Reason
from coral_core.runs.progress import Progress, Tally
from flows.observe.events import EventFeed


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, Any]]]:
    found: list[tuple[str, str, dict[str, Any]]] = []
    monkeypatch.setattr(EventFeed, "_emit", lambda _, name, text, *__, **payload: found.append((name, text, payload)))
    return found


def test_the_event_of_a_failure_says_why(sent: list[tuple[str, str, dict[str, Any]]]) -> None:
    progress = Progress.model_construct(best=SimpleNamespace(genome_id="g000-001", fitness=0.5))
    EventFeed("a-run").ended(progress, "failed", "StoreError: /data is full.")
    (name, text, payload) = sent[0]
    assert (name, text) == ("ended", "a-run failed: StoreError: /data is full. Best: g000-001, fitness 0.500.")
    assert payload["outcome"] == "failed" and payload["error"] == "StoreError: /data is full."


def test_what_is_spent_and_how_it_goes_on(sent: list[tuple[str, str, dict[str, Any]]]) -> None:
    def limits(hours: float | None) -> Any:
        return SimpleNamespace(gpu_hours=hours, money=None)

    standing: Any = SimpleNamespace(
        limits=SimpleNamespace(evolution=limits(10), day=limits(None)),
        spent=limits(10),
        today=limits(10),
        currency="EUR",
        closed=Closure(reason=Reason.LIMIT_REACHED, scope="evolution", unit="gpu_hours", limit=10, spent=10),
    )
    EventFeed("r").budget_reached(100, standing)
    (_, text, payload) = sent[0]
    assert "no budget left" in text and "10 of 10 GPU hours" in text
    assert payload["goes_on"].endswith("coral resume r --set budget.evolution.gpu_hours=...")


def test_progress_is_told_sparsely_and_not_during_a_pause(sent: list[tuple[str, str, dict[str, Any]]]) -> None:
    none, done = (Tally(done=done, found=0, running=0, waiting=None, failed=0) for done in (0, 3))
    last: dict[str, Any] = {"jobs_done": 3, "jobs_expected": 9, "last_event": SimpleNamespace(text="x")}
    feed, progress = EventFeed("r"), Progress.model_construct(trainings=done, evaluations=none, **last)
    feed.changed(Progress.model_construct(trainings=none, evaluations=none, **last))
    feed.paused("the limit of the day")
    feed.changed(progress)
    feed.resumed()
    feed.changed(progress)
    feed.changed(progress)
    assert [name for name, *_ in sent] == ["paused", "resumed", "job-finished"]
    assert sent[-1][1] == "r: 3 of 9 jobs; x."
