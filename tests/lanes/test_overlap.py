"""Generation and judging overlap: the result is what it is without, and whatever dies in the middle, nothing hangs."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coral_core.config import RunConfig
from coral_core.errors import BaseChangedError, EngineDiedError, EngineError, Infeasible, JudgeError
from coral_core.evolution.job_runner import Planner
from coral_core.jobs.jobs import Cost, Evaluation, EvaluationJob
from coral_core.judge.sandbox.parent import Zygote
from coral_core.lanes import judging as judging_module
from coral_core.lanes.lane import Lane
from coral_core.lm.engine_client import EngineProcess, InlineEngine
from coral_core.lm.rehearsal import Rehearsal
from coral_core.lm.requests import Done, Generated, GenerationRequest, Written
from coral_core.store.store import Store
from tests.waiting import until

SETTINGS: dict[str, Any] = {
    "base_model": {"name": "rehearsal"},
    "problems": {"fitness": 8, "retention": 2, "monitor": 0, "held_out": 4, "pairs": 8},
}
SECONDS = 600.0
SLEEPER = "import time\ndef {}(*arguments):\n    time.sleep(3600)\n"
PLAN = Planner.of_config(RunConfig.model_validate(SETTINGS))
COUNT = len(PLAN.problems("fitness"))
_numbers = iter(range(1, 1_000_000))


def job() -> EvaluationJob:
    """An evaluation of the bare base model whose result no store has yet."""
    return PLAN.evaluation(None).model_copy(update={"replicate": next(_numbers)})


class Script(InlineEngine):
    """Writes as the rehearsal does, the same for every job, and does what a test wants before some prompt is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[int] = []
        """Order of the prompts; empty: that of the request."""
        self.before: dict[int, Callable[[], object]] = {}
        """Number of prompts sent so far -> called then."""
        self.texts: dict[int, Callable[[str], str]] = {}
        """Prompt -> what is written instead."""

    def generate(self, request: GenerationRequest, deadline: float, done: Done = print) -> Generated:
        entries = tuple(entry.model_copy(update={"seed": 1}) for entry in request.entries)
        written = list(super().generate(request.model_copy(update={"entries": entries}), deadline).only().completions)
        for number, text in self.texts.items():
            written[number] = (text(request.prompts[number][1]),)
        for sent, number in enumerate(self.order or range(len(written))):
            self.before.get(sent, int)()
            done(0, number, written[number])
        self.before.get(len(written), int)()
        return Generated(entries=(Written(completions=tuple(written), cost=Cost(seconds=1.0)),))


@pytest.fixture
def lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lane]:
    monkeypatch.setattr(judging_module, "PATIENCE", 0.1)
    store = Store(tmp_path / "store")
    store.prepare()
    lane = Lane(store, Script())
    yield lane
    lane.close()


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set as soon as a patch that sleeps is handed to the sandbox."""
    reached, real = threading.Event(), Zygote.run

    def run(zygote: Zygote, request: dict[str, Any], *more: Any) -> Any:
        if "sleep(3600)" in str(request):
            reached.set()
        return real(zygote, request, *more)

    monkeypatch.setattr(Zygote, "run", run)
    return reached


def script(lane: Lane) -> Script:
    assert isinstance(lane.engine, Script)
    return lane.engine


def content(evaluation: Evaluation) -> str:
    """All of a result but its digest and cost."""
    return evaluation.model_dump_json(exclude={"evaluation_digest", "cost"})


def sleeper(prompt: str) -> str:
    return SLEEPER.format(prompt.split("def ")[1].split("(")[0])


def is_right_again(lane: Lane, right: str) -> None:
    """After a failure the lane's next evaluation is right, and no thread is left."""
    engine = script(lane)
    engine.before, engine.texts, engine.order = {}, {}, []
    assert content(lane.evaluate(job(), SECONDS)) == right
    assert not [thread for thread in threading.enumerate() if thread.name == "judging"]


@pytest.fixture
def right(lane: Lane) -> str:
    return content(lane.evaluate(job(), SECONDS))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_order_of_completions_changes_a_result(lane: Lane, right: str, data: st.DataObject) -> None:
    engine = script(lane)
    engine.order = data.draw(st.permutations(range(COUNT)))
    assert content(lane.evaluate(job(), SECONDS)) == right


def test_the_lane_judges_while_the_engine_writes(lane: Lane, judged: threading.Event) -> None:
    engine = script(lane)
    engine.texts = {0: lambda prompt: sleeper(prompt).replace("time.sleep(3600)", "return 'sleep(3600)'")}
    engine.before = {1: lambda: judged.wait(60)}  # the other prompts come once the first patch is being judged
    lane.evaluate(job(), SECONDS)
    assert judged.is_set()


@pytest.mark.parametrize("error", [EngineError("no"), MemoryError("no"), KeyboardInterrupt("no")])
def test_an_error_of_the_engine_drops_what_was_judged(
    lane: Lane, right: str, judged: threading.Event, error: BaseException
) -> None:
    engine, asked = script(lane), job()

    def fail() -> None:
        assert judged.wait(60)
        raise error

    engine.texts, engine.before = {0: sleeper}, {3: fail}
    with pytest.raises(type(error), match="no"):
        lane.evaluate(asked, SECONDS)
    assert lane.store.read_evaluation(asked.digest()) is None
    is_right_again(lane, right)


def test_a_genome_that_turns_out_infeasible_has_no_records(lane: Lane, right: str) -> None:
    engine, asked = script(lane), job()

    def fail() -> None:
        raise Infeasible("diverged", "not finite at token 9")

    engine.before = {5: fail}
    found = lane.evaluate(asked, SECONDS)
    assert (found.infeasible, found.records, found.scores) == ("diverged", (), {})
    assert lane.store.read_evaluation(asked.digest()) == found
    is_right_again(lane, right)


def test_a_changed_base_drops_the_whole_result(lane: Lane, right: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = job()
    with monkeypatch.context() as patch:
        patch.setattr(Rehearsal, "check", lambda self: "another")
        with pytest.raises(BaseChangedError):
            lane.evaluate(asked, SECONDS)
    assert lane.store.read_evaluation(asked.digest()) is None
    is_right_again(lane, right)


@pytest.mark.parametrize("then", ["the engine goes on", "the engine fails"])
def test_a_judge_that_dies_does_not_end_the_generation(lane: Lane, right: str, then: str) -> None:
    engine, asked, reached = script(lane), job(), threading.Event()

    def end_the_judge() -> None:
        assert lane._judge is not None
        lane._judge.kill()

    def last() -> None:
        reached.set()
        if then == "the engine fails":
            raise EngineError("the engine's own")

    engine.before = {1: end_the_judge, COUNT: last}
    with pytest.raises(EngineError if then == "the engine fails" else JudgeError) as caught:
        lane.evaluate(asked, SECONDS)
    assert reached.is_set() and ("own" in str(caught.value)) == (then == "the engine fails")
    assert lane.store.read_evaluation(asked.digest()) is None
    is_right_again(lane, right)


def test_processes_killed_in_the_middle_change_nothing(lane: Lane, right: str) -> None:
    engine = script(lane)

    def end_a_text_process() -> None:
        assert lane._texts.pid is not None
        os.kill(lane._texts.pid, signal.SIGKILL)

    def end_the_zygotes() -> None:
        assert lane._judge is not None
        for zygote in list(lane._judge._pool._zygotes):
            zygote.kill()

    engine.before = {1: end_a_text_process, 3: end_the_zygotes, 5: end_a_text_process, COUNT: end_a_text_process}
    assert content(lane.evaluate(job(), SECONDS)) == right


def test_a_lane_that_is_stopped_ends_engine_and_judging(lane: Lane, judged: threading.Event) -> None:
    engine = script(lane)

    def stopped() -> None:
        assert judged.wait(60)
        threading.Thread(target=lane.stop).start()
        until(lambda: lane.stopped)
        raise EngineError("the engine was ended")  # as an engine process does

    engine.texts, engine.before = {0: sleeper}, {2: stopped}
    with pytest.raises(EngineError, match="was ended"):
        lane.evaluate(job(), SECONDS)
    assert not [thread for thread in threading.enumerate() if thread.name == "judging"]
    with pytest.raises((EngineError, JudgeError), match="ended"):
        lane.evaluate(job(), SECONDS)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_an_engine_process_that_dies_in_the_middle(store: Store, judged: threading.Event, how: str) -> None:
    slow = Planner.of_config(RunConfig.model_validate(SETTINGS | {"base_model": {"name": "rehearsal:evaluate=600"}}))
    lane = Lane(store, EngineProcess())
    caught: list[BaseException] = []

    def evaluate() -> None:
        try:
            lane.evaluate(slow.evaluation(None), SECONDS)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=evaluate)
    thread.start()
    until(lambda: lane.limit is not None and lane.limit.left() < SECONDS)
    if how == "stopped":
        lane.stop()
    else:
        assert isinstance(lane.engine, EngineProcess) and lane.engine.pid is not None
        os.kill(lane.engine.pid, signal.SIGKILL)
    thread.join(60)
    assert not thread.is_alive() and isinstance(caught[0], EngineDiedError if how == "killed" else EngineError)
    lane.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store
