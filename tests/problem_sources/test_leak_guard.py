"""The guard: what would measure memory is refused with the list, unless accepted by name."""

from pathlib import Path

import pytest

from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError, ProblemError
from coral_core.problem_sources import load_problems
from coral_core.problem_sources.leak_guard import LeakError, guard, leaks
from coral_core.problems.problem import ProblemSet, RepairPair

LIKE = str(Path(__file__).parent / "quixbugs_like")
BENCHMARK = ProblemsConfig(source="quixbugs", path=LIKE, pairs=20)


def with_pairs(problems: ProblemSet, *texts: str) -> ProblemSet:
    pairs = tuple(
        RepairPair(buggy="def z(a):\n    return a", fixed=text, family="x", bug_class="none") for text in texts
    )
    return problems.model_copy(update={"pairs": pairs})


def test_a_clean_set_passes() -> None:
    assert guard(load_problems(BENCHMARK), BENCHMARK) == []
    builtin = ProblemsConfig(fitness=8, retention=2, monitor=4, held_out=8, pairs=40)
    assert guard(load_problems(builtin), builtin) == []


def test_training_on_a_benchmarks_own_answers_is_refused() -> None:
    config = ProblemsConfig.model_validate(
        {"source": "quixbugs", "path": LIKE, "pairs": 20, "training": {"source": "quixbugs"}}
    )
    with pytest.raises(LeakError) as caught:
        guard(load_problems(config), config)
    first = str(caught.value).splitlines()[0]
    assert "quixbugs" in first
    assert "accept_leaks: [quixbugs]" in first
    assert "trained on answers" in str(caught.value)


def test_a_leak_is_accepted_by_name_only() -> None:
    given = {"source": "quixbugs", "path": LIKE, "pairs": 20, "training": {"source": "quixbugs"}}
    accepted = ProblemsConfig.model_validate({**given, "accept_leaks": ["quixbugs"]})
    assert guard(load_problems(accepted), accepted)
    with pytest.raises(ValueError, match="accept_leaks names builtin, which this configuration does not use"):
        ProblemsConfig.model_validate({**given, "accept_leaks": ["builtin"]})


def test_a_renamed_answer_among_the_pairs_is_found() -> None:
    problems = load_problems(BENCHMARK)
    answer = problems.held_out[0].reference.replace("numbers", "xs").replace("gap", "best")
    found = leaks(with_pairs(problems, answer), near=True)
    assert [leak.kind for leak in found] == ["equal"]
    with pytest.raises(LeakError, match="equal"):
        guard(with_pairs(problems, answer), BENCHMARK)


def test_a_nearly_equal_answer_is_a_leak_of_a_benchmark_only() -> None:
    problems = load_problems(BENCHMARK)
    twin = problems.held_out[0].reference.replace("gap = 0", "gap = 2")
    assert [leak.kind for leak in leaks(with_pairs(problems, twin), near=True)] == ["near-duplicate"]
    assert leaks(with_pairs(problems, twin), near=False) == []
    with pytest.raises(LeakError, match="near-duplicate"):
        guard(with_pairs(problems, twin), BENCHMARK)


def test_the_list_is_cut_and_says_so() -> None:
    problems = load_problems(BENCHMARK)
    answers = [problem.reference for problem in (*problems.fitness, *problems.held_out)]
    many = with_pairs(problems, *answers * 8)
    assert len(leaks(many, near=True)) > 20
    with pytest.raises(ConfigError, match="more: coral problems leak-check lists them all"):
        guard(many, BENCHMARK)


@pytest.mark.parametrize("split", ["fitness", "monitor", "held_out"])
def test_a_split_without_problems_is_refused_before_anything_is_spent(split: str) -> None:
    config = ProblemsConfig(fitness=8, retention=2, monitor=4, held_out=8, pairs=40)
    problems = load_problems(config)
    with pytest.raises(ProblemError, match=f"problems.source: builtin: no problem in the split {split}"):
        guard(problems.model_copy(update={split: ()}), config)


def test_a_monitor_split_may_be_switched_off() -> None:
    config = ProblemsConfig(fitness=8, retention=2, monitor=0, held_out=8, pairs=40)
    assert guard(load_problems(config), config) == []
