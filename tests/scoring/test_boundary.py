"""From completion to score: hostile completions among honest ones change nothing but their own score, and end nothing."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coral_core.config import RunConfig
from coral_core.evolution.job_runner import Planner
from coral_core.jobs.job_content import problem_set
from coral_core.jobs.jobs import Cost, Evaluation, EvaluationJob
from coral_core.judge.judge import Judge, PatchLimits
from coral_core.lanes.lane import Lane
from coral_core.lm.engine_client import InlineEngine
from coral_core.lm.requests import Done, Generated, GenerationRequest, Written
from coral_core.problems.problem import Problem
from coral_core.prompting.extraction import LONGEST
from coral_core.scoring.boundary import CompletionScorer, Item, Items
from coral_core.scoring.judged import Judged
from coral_core.scoring.objectives import score
from coral_core.scoring.text_process import TextProcess
from coral_core.store.store import Store
from tests.scoring.hostile import COOKIES, FAMILIES, SWITCHES

SETTINGS: dict[str, Any] = {
    "base_model": {"name": "rehearsal"},
    "problems": {"fitness": 10, "retention": 2, "monitor": 0, "held_out": 4, "pairs": 8},
    "scoring": {"judge": {"cpu_seconds": 0.3, "wall_seconds": 2.0}},
}
CONFIG = RunConfig.model_validate(SETTINGS)
SECONDS = 600.0


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(PatchLimits(cpu_seconds=0.3, wall_seconds=2.0), workers=2) as judge:
        yield judge


@pytest.fixture(scope="module")
def process() -> Iterator[TextProcess]:
    process = TextProcess()
    yield process
    process.close()


@pytest.fixture(scope="module")
def problems() -> tuple[Problem, ...]:
    return problem_set(CONFIG.problems).split("fitness")


def honest(problem: Problem, number: int) -> str:
    """What an honest model writes: right, unchanged, wrong, broken, chatty."""
    name = problem.entry_point
    return (
        f"Here you are:\n```python\n{problem.reference}\n```",
        problem.buggy,
        f"import os\ndef {name}(*a):\n    assert a\n    return None\n",
        f"def {name}(*a):\n    return (",
        "I do not know.",
    )[number % 5]


def scored(
    problems: Sequence[Problem], groups: Sequence[Sequence[object]], judge: Judge, process: TextProcess
) -> Items:
    scorer = CompletionScorer(problems, judge, process, lambda: SECONDS)
    scorer.add(dict(enumerate(groups)))
    return scorer.items()


def items(problems: Sequence[Problem], texts: Sequence[object], judge: Judge, process: TextProcess) -> list[Item]:
    found = scored(problems, [[text] for text in texts], judge, process)
    return [group[0] for group in found.groups]


def check(
    problems: Sequence[Problem], hostile: dict[int, object], judge: Judge, process: TextProcess
) -> dict[int, Item]:
    """Items of the hostile texts; those of the honest ones beside them are what they are without."""
    plain = [honest(problem, number) for number, problem in enumerate(problems)]
    alone = items(problems, plain, judge, process)
    found = items(problems, [hostile.get(number, text) for number, text in enumerate(plain)], judge, process)
    for number, (before, after) in enumerate(zip(alone, found, strict=True)):
        if number not in hostile:
            assert after == before and not after.remark
            assert after.model_dump_json() == before.model_dump_json()
        else:
            assert Item.model_validate_json(after.model_dump_json()) == after
            assert len(after.completion) <= LONGEST and len(after.patch) <= LONGEST
            assert len(after.remark) <= 400 and after.remark.isprintable()
    return {number: found[number] for number in hostile}


@pytest.mark.parametrize(
    "size",
    [
        180,
        *(pytest.param(size, marks=pytest.mark.slow(reason="more sizes")) for size in (40, 3_000, 100_000)),
    ],
)
def test_every_family_among_honest_completions(
    problems: tuple[Problem, ...], judge: Judge, process: TextProcess, size: int
) -> None:
    names = list(FAMILIES)
    many = tuple(problems[number % len(problems)] for number in range(2 * len(names)))
    hostile: dict[int, object] = {
        2 * number: FAMILIES[name](many[2 * number].entry_point, size) for number, name in enumerate(names)
    }
    found = check(many, hostile, judge, process)
    assert not any(item.verdict.passed for item in found.values())


def test_ten_megabytes(problems: tuple[Problem, ...], judge: Judge, process: TextProcess) -> None:
    texts = [FAMILIES[name]("f", 3_000_000) for name in ("one letter", "lines", "NUL", "fences", "surrogates", "tabs")]
    found = check(problems, dict(enumerate(texts)), judge, process)
    assert not any(item.verdict.passed for item in found.values())


def test_every_byte_and_every_plane(problems: tuple[Problem, ...], judge: Judge, process: TextProcess) -> None:
    """Every character of the first 65,536, in a comment, a string, a name and bare."""
    hostile: dict[int, object] = {}
    many: list[Problem] = []
    blocks = ["".join(map(chr, range(start, start + 2048))) for start in range(0, 0x10000, 2048)]
    blocks += [bytes(range(256)).decode("latin-1"), "".join(map(chr, range(0x1F600, 0x1F700))), "\U0010ffff" * 9]
    for block in blocks:
        for form in (
            "{}",
            "def f(*a):\n    # {}\n    return 1",
            "def f(*a):\n    return '''{}'''",
            "def f(*a):\n    x{} = 1",
        ):
            hostile[len(many)] = form.replace("{}", block)
            many += [problems[len(many) % len(problems)]] * 2
    check(many, hostile, judge, process)


@pytest.mark.parametrize("what", [None, 7, b"bytes", ["list"], {"a": 1}, 1.5, float("nan"), True])
def test_what_is_no_text_is_an_empty_one(
    problems: tuple[Problem, ...], judge: Judge, process: TextProcess, what: object
) -> None:
    found = check(problems[:4], {1: what}, judge, process)
    assert found[1].completion == found[1].patch == "" and found[1].verdict.outcome == "no-function"


def hostile_texts(name: str) -> st.SearchStrategy[str]:
    """Texts of the families, of parts put together, with cookies and switches, cut anywhere."""
    families = st.tuples(st.sampled_from(sorted(FAMILIES)), st.integers(1, 400)).map(
        lambda t: FAMILIES[t[0]](name, t[1])
    )
    pieces = [
        "```",
        "```python",
        f"def {name}(*a):",
        "    return a",
        "'''",
        "(",
        "\x00",
        "\x0c",
        "\ud800",
        "\ufeff",
        "\u2028",
    ]
    pieces += [*COOKIES, *SWITCHES, f"{name} = max", "raise SystemExit", "if True:", "    while True: pass"]
    parts = st.lists(st.one_of(st.sampled_from(pieces), st.text(max_size=20)), max_size=12).map("\n".join)
    marked = st.tuples(st.sampled_from(COOKIES + SWITCHES), families).map("\n".join)
    cut = st.tuples(families, st.integers(0, 3_000)).map(lambda t: t[0][: t[1]])
    return st.one_of(families, parts, marked, cut, st.text(max_size=200))


class Stub(InlineEngine):
    """Writes what it is told to."""

    texts: Sequence[str] = ()

    def generate(self, request: GenerationRequest, deadline: float, done: Done = print) -> Generated:
        for number, text in enumerate(self.texts):
            done(0, number, (text,))
        completions = tuple((text,) for text in self.texts)
        return Generated.model_construct(entries=(Written.model_construct(completions=completions, cost=Cost()),))


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    store = Store(tmp_path_factory.mktemp("boundary") / "store")
    store.prepare()
    lane = Lane(store, Stub())
    yield lane
    lane.close()


def evaluated(lane: Lane, texts: Sequence[str], replicate: int) -> Evaluation:
    job: EvaluationJob = Planner.of_config(CONFIG).evaluation(None).model_copy(update={"replicate": replicate})
    assert isinstance(lane.engine, Stub)
    lane.engine.texts = texts
    found = lane.evaluate(job, SECONDS)
    stored = lane.store.read_evaluation(job.digest())
    assert stored == found and stored is not None
    return stored


_count = iter(range(1, 1_000_000))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_lane_ends_every_evaluation_with_the_honest_scores_unchanged(
    lane: Lane, problems: tuple[Problem, ...], data: st.DataObject
) -> None:
    plain = [honest(problem, number) for number, problem in enumerate(problems)]
    bad = data.draw(st.sets(st.integers(0, len(problems) - 1), min_size=1, max_size=6))
    texts = [
        data.draw(hostile_texts(problem.entry_point)) if number in bad else plain[number]
        for number, problem in enumerate(problems)
    ]
    alone, found = evaluated(lane, plain, 0), evaluated(lane, texts, next(_count))
    assert found.infeasible is None and len(found.records) == len(problems)
    for number, (before, after) in enumerate(zip(alone.records, found.records, strict=True)):
        if number not in bad:
            assert after == before
    assert all(0 <= value <= 1 for value in found.scores.values())


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_order_and_no_portions_change_an_item(
    problems: tuple[Problem, ...], judge: Judge, process: TextProcess, data: st.DataObject
) -> None:
    """Two samples of each problem, some hostile, in any order and cut into any portions."""
    many = [*problems, problems[0]]  # a problem may stand there twice
    groups = [(honest(problem, number), honest(problem, 2 * number + 1)) for number, problem in enumerate(many)]
    groups[2] = (FAMILIES["keyword arguments"](many[2].entry_point, 180), "\ud800")
    groups[5] = (groups[5][0], FAMILIES["sums"]("f", 99))
    order = data.draw(st.permutations(range(len(many))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(many) - 1))))
    scorer = CompletionScorer(many, judge, process, lambda: SECONDS)
    for start, end in zip([0, *cuts], [*cuts, len(many)], strict=True):
        scorer.add({number: groups[number] for number in order[start:end]})
    found, together = scorer.items(), scored(many, groups, judge, process)
    assert found == together and found.remarks() == together.remarks()
    assert list(found.findings()) == list(together.findings())


def test_scores_are_the_mean_of_the_items(problems: tuple[Problem, ...], judge: Judge, process: TextProcess) -> None:
    """With hostile items in it a score is what the honest ones earn, and nothing for the others."""
    hostile: dict[int, object] = {
        0: "\ud800" * 10,
        3: FAMILIES["keyword arguments"]("f", 5_000),
        5: FAMILIES["sums"]("f", 99),
    }
    plain = [honest(problem, number) for number, problem in enumerate(problems)]

    def scores(numbers: Sequence[int], texts: Sequence[object]) -> dict[str, float]:
        chosen = [problems[number] for number in numbers]
        found = scored(chosen, [[texts[n]] for n in numbers], judge, process)
        judged = Judged(tuple(chosen), found.patches(), found.verdicts(), frozenset(), 1, 1_000)
        return score(judged, [1] * len(chosen), found.findings()).objectives()

    every = range(len(problems))
    rest = [number for number in every if number not in hostile]
    mixed = scores(every, [hostile.get(number, plain[number]) for number in every])
    clean = scores(rest, plain)
    for name in ("style", "security"):
        assert mixed[name] == pytest.approx(clean[name] * len(rest) / len(problems))
    assert mixed["syntax"] == pytest.approx((clean["syntax"] * len(rest) + 0.5) / len(problems))


def test_remarks_name_problem_and_patch(problems: tuple[Problem, ...], judge: Judge, process: TextProcess) -> None:
    nests = FAMILIES["keyword arguments"](problems[1].entry_point, 180)
    found = scored(problems[:2], [["x = 1", "y = 2"], ["z = 3", nests]], judge, process)
    (line,) = found.remarks()
    assert line.startswith(f"problem {problems[1].problem_id}, patch 2: not linted: nested")


def test_a_job_without_time_left_says_so(problems: tuple[Problem, ...], judge: Judge, process: TextProcess) -> None:
    with pytest.raises(TimeoutError):
        CompletionScorer(problems, judge, process, lambda: 0.0).add({0: ["x"]})
