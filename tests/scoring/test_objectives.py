"""The objectives: their formulas at the edges, monotone where they should be, blind to the rest of the batch."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral_core.judge.judge import Judge, PatchLimits, Verdict
from coral_core.problems.problem import Case, Problem
from coral_core.scoring.judged import Judged
from coral_core.scoring.lint import findings
from coral_core.scoring.objectives import (
    bugfix,
    cost,
    pass_at_k,
    pass_at_more,
    retention,
    runtime,
    score,
    security,
    style,
    syntax,
)

REFERENCE = "def add(a, b):\n    return a + b\n"


def problem(name: str = "add", retention: bool = False) -> Problem:
    return Problem(
        problem_id=name,
        source="test",
        family="add",
        variant="0",
        bug_class="none" if retention else "arithmetic",
        entry_point="add",
        buggy=REFERENCE if retention else REFERENCE.replace("+", "-"),
        reference=REFERENCE,
        cases=(Case(arguments=(1, 2), value=3), Case(arguments=(1, 0), value=1)),
    )


def verdict(failing: int, fixed: int, passing: int, kept: int, **more: Any) -> Verdict:
    all_pass = fixed == failing and kept == passing
    return Verdict(
        problem_id="add",
        outcome="fixed" if all_pass else "partial",
        cases=("pass",) * (fixed + kept) + ("wrong",) * (failing + passing - fixed - kept),
        was_failing=failing,
        now_passing=fixed,
        was_passing=passing,
        still_passing=kept,
        **more,
    )


@given(st.integers(1, 9), st.integers(0, 9), st.data())
def test_bugfix_rises_with_what_is_repaired_and_falls_with_what_is_lost(
    failing: int, passing: int, data: st.DataObject
) -> None:
    fixed, kept = data.draw(st.integers(0, failing)), data.draw(st.integers(0, passing))
    value = bugfix(verdict(failing, fixed, passing, kept))
    assert 0 <= value <= 1
    assert (value == 1) == (fixed == failing and kept == passing)
    if fixed < failing:
        assert bugfix(verdict(failing, fixed + 1, passing, kept)) >= value
    if kept < passing:
        assert bugfix(verdict(failing, fixed, passing, kept + 1)) >= value
    assert bugfix(verdict(failing, 0, passing, passing)) == 0  # the buggy code unchanged
    assert bugfix(verdict(failing, 0, passing, 0)) == 0  # nothing runs


@given(st.integers(2, 10**9), st.integers(0, 10**9), st.integers(1, 10**6))
def test_cost_falls_with_trainable_parameters(base: int, trainable: int, more: int) -> None:
    assert 0 <= cost(trainable + more, base) <= cost(trainable, base) <= 1
    assert cost(0, base) == 1 and cost(base, base) == 0


def test_style_and_security_fall_with_every_finding() -> None:
    clean = REFERENCE
    worse = ["import os\n" + clean, "import os, sys\n" + clean]
    found = findings([clean, *worse])
    values = [style(patch, found) for patch in (clean, *worse)]
    assert values[0] == 1 and all(a > b for a, b in itertools.pairwise(values))
    risky = [clean, clean.replace("return", "assert a\n    return"), "def add(a, b):\n    return eval(f'{a}+{b}')\n"]
    found = findings(risky)
    values = [security(patch, found) for patch in risky]
    assert values[0] == 1 and all(a > b for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("mark", ["# noqa", "# ruff: noqa", "# flake8: noqa", "# nosec", "# type: ignore"])
def test_no_comment_switches_the_linters_off(mark: str) -> None:
    patch = "import os\ndef add(a, b):\n    return eval(f'{a}+{b}')\n"
    marked = "\n".join(f"{line}  {mark}" for line in [mark, *patch.splitlines()]) + "\n"
    found = findings([patch, marked])
    assert found[marked].style >= found[patch].style > 0
    assert found[marked].security_medium + found[marked].security_high > 0


@pytest.mark.parametrize("patch", ["", "   \n", "def add(", "\ud800", "(" * 5000])
def test_what_does_not_parse_or_is_empty_has_no_style_and_no_security(patch: str) -> None:
    found = findings([patch, REFERENCE])
    assert style(patch, found) == security(patch, found) == syntax(problem(), patch) == 0


def test_syntax_wants_the_function_by_def() -> None:
    assert [syntax(problem(), text) for text in (REFERENCE, "add = lambda a, b: a + b", "def other(): pass", "(")] == [
        1,
        0.5,
        0.5,
        0,
    ]


def test_runtime_compares_work_where_base_and_genome_both_pass() -> None:
    problems = [problem("one"), problem("two"), problem("three")]
    solved = verdict(2, 2, 0, 0)
    verdicts = [
        [solved.model_copy(update={"lines": 20})],
        [solved.model_copy(update={"lines": 5})],
        [verdict(2, 0, 0, 0, lines=1)],
    ]
    lines = [10, 10, 10]
    assert runtime(problems, verdicts, lines, {"one"}) == 0.5  # twice the work
    assert runtime(problems, verdicts, lines, {"two"}) == 1.0  # half the work earns no more than the reference's
    assert runtime(problems, verdicts, lines, {"three"}) == 0.75  # the genome fails it: over what it passes
    assert runtime(problems, verdicts[2:] * 3, lines, {"one"}) == 0


def test_retention_counts_right_functions_and_what_the_base_repairs() -> None:
    problems = [problem("right", retention=True), problem("base"), problem("other")]
    passed, failed = [verdict(1, 1, 1, 1)], [verdict(1, 0, 1, 1)]
    assert retention(problems, [passed, failed, failed], {"base"}) == 0.5
    assert retention(problems, [passed, passed, failed], {"base"}) == 1
    assert retention(problems[2:], [failed], set()) == 1


@given(st.integers(1, 12), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_passing_sample(samples: int, data: st.DataObject) -> None:
    passing, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, min(samples, 4)))
    subsets = list(itertools.combinations(range(samples), k))
    counted = sum(min(subset) < passing for subset in subsets) / len(subsets)
    assert pass_at_k(samples, passing, k) == pytest.approx(counted)


def test_pass_at_k_is_given_for_powers_of_two_and_for_all_samples() -> None:
    passed, failed = verdict(1, 1, 0, 0), verdict(1, 0, 0, 0)
    assert pass_at_more([[passed]]) == {}
    assert pass_at_more([[passed, *[failed] * 4]]) == pytest.approx({"2": 0.4, "4": 0.8, "5": 1.0})
    for bad in ((3, 1, 4), (3, 4, 1), (3, 1, 0)):
        with pytest.raises(ValueError, match="is not defined"):
            pass_at_k(*bad)


def test_scores_do_not_depend_on_what_else_is_in_the_batch() -> None:
    """Each patch alone, and all together in another order: the mean of the parts is the whole."""
    patches = [REFERENCE, REFERENCE.replace("+", "-"), "import os\n" + REFERENCE, "def add(", "add = max", ""]
    with Judge(PatchLimits(), workers=1) as judge:
        lines = judge.reference_lines([problem()])

        def scored(texts: list[str]) -> dict[str, float]:
            problems = tuple(problem() for _ in texts)
            verdicts = tuple((found,) for found in judge.judge_batch([(problem(), text) for text in texts]))
            judged = Judged(
                problems=problems,
                patches=tuple((text,) for text in texts),
                verdicts=verdicts,
                base_passes=frozenset(),
                trainable_parameters=10,
                base_parameters=1000,
            )
            return score(judged, lines * len(texts)).objectives()

        alone = [scored([patch]) for patch in patches]
        together = scored(patches[::-1])
    for name in ("bugfix", "style", "security", "syntax"):
        assert together[name] == pytest.approx(sum(found[name] for found in alone) / len(alone)), name


@pytest.mark.parametrize(("after", "cases"), [("stop", ("time-out", "not-run")), ("go-on", ("time-out", "pass"))])
def test_after_a_time_out_the_rest_is_run_or_not_and_the_verdict_says_which(after: Any, cases: tuple[str, ...]) -> None:
    patch = "def add(a, b):\n    while b == 2:\n        pass\n    return a + b\n"
    limits = PatchLimits().model_copy(update={"after_time_out": after})
    with Judge(limits, workers=1) as judge:
        found = judge.judge_batch([(problem(), patch)])[0]
    assert found.cases == cases and found.after_time_out == after
