"""The source `jsonl`: what it reads, and that everything else is refused with file and line."""

import json
from pathlib import Path
from typing import Any

import pytest

from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError, ProblemError
from coral_core.judge.judge import Judge
from coral_core.problem_sources import load_problems
from coral_core.problem_sources.jsonl import load_jsonl
from coral_core.scoring.objectives import bugfix

CLAMP: dict[str, Any] = {
    "type": "problem",
    "id": "clamp",
    "split": "fitness",
    "entry_point": "clamp",
    "buggy": "def clamp(n, low, high):\n    return max(low, max(n, high))",
    "reference": "def clamp(n, low, high):\n    return max(low, min(n, high))",
    "cases": [{"arguments": [5, 0, 3], "value": 3}, {"arguments": [-1, 0, 3], "value": 0}],
}
PAIR = {"type": "pair", "buggy": "def f(a):\n    return a - 1", "fixed": "def f(a):\n    return a + 1"}


def write(folder: Path, *lines: object) -> ProblemsConfig:
    file = folder / "bugs.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return ProblemsConfig(source="jsonl", path=str(file))


def test_problems_and_pairs_are_read(tmp_path: Path) -> None:
    held_out = {**CLAMP, "id": "other", "split": "held_out", "difficulty": "hard", "bug_class": "called-name"}
    problems = load_jsonl(write(tmp_path, CLAMP, "", PAIR, held_out))
    assert [p.problem_id for p in problems.fitness] == ["jsonl/clamp"]
    assert [p.difficulty for p in problems.held_out] == ["hard"]
    assert [pair.fixed for pair in problems.pairs] == [PAIR["fixed"]]
    with Judge() as judge:
        problem = problems.fitness[0]
        right, wrong = judge.judge_batch([(problem, problem.reference), (problem, problem.buggy)])
    assert (bugfix(right), bugfix(wrong) < 1) == (1.0, True)


def test_the_value_language_reaches_beyond_json(tmp_path: Path) -> None:
    line = {
        **CLAMP,
        "entry_point": "f",
        "buggy": "def f(s):\n    return s",
        "reference": "def f(s):\n    return s | {9}",
        "cases": [{"arguments": [["s", [1, 2]]], "value": ["s", [1, 2, 9]], "encoded": True}],
    }
    problem = load_jsonl(write(tmp_path, line)).fitness[0]
    with Judge() as judge:
        right, wrong = judge.judge_batch([(problem, problem.reference), (problem, problem.buggy)])
    assert (bugfix(right), bugfix(wrong) < 1) == (1.0, True)


def test_without_pairs_adapters_train_on_mutants(tmp_path: Path) -> None:
    config = write(tmp_path, CLAMP).model_copy(update={"pairs": 12})
    assert len(load_problems(config).pairs) == 12


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "an object was expected"),
        ({"type": "bug"}, "does not match any of the expected tags"),
        ({**CLAMP, "cases": []}, "cases List should have at least 1 item"),
        ({k: v for k, v in CLAMP.items() if k != "cases"}, "cases is missing"),
        ({k: v for k, v in CLAMP.items() if k != "reference"}, "reference is missing"),
        ({**CLAMP, "colour": "red"}, "colour is no field"),
        ({**CLAMP, "split": "training"}, "split"),
        ({**CLAMP, "buggy": "def clamp(:"}, "buggy is not Python"),
        ({**CLAMP, "buggy": "x = 1"}, "buggy does not define clamp"),
        ({**CLAMP, "buggy": CLAMP["reference"]}, "bug_class is none"),
        ({**CLAMP, "cases": [{"arguments": [1]}]}, "either value or exception"),
        ({**CLAMP, "cases": [{"arguments": [1], "value": ["q", 1], "encoded": True}]}, "outside the value language"),
        ({**CLAMP, "cases": [{"arguments": [1], "value": 1, "nodes": [[1]]}]}, "outside the value language"),
        ({**PAIR, "fixed": "def f(:"}, "fixed is not Python"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_line(tmp_path: Path, line: object, words: str) -> None:
    with pytest.raises(ProblemError) as caught:
        load_jsonl(write(tmp_path, PAIR, line))
    assert f"{tmp_path}/bugs.jsonl:2" in str(caught.value)
    assert words in str(caught.value)


def test_an_id_given_twice_names_both_lines(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"bugs\.jsonl:3: id jsonl/clamp is given twice, first on line 1"):
        load_jsonl(write(tmp_path, CLAMP, PAIR, CLAMP))


def test_a_missing_file_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_jsonl(ProblemsConfig(source="jsonl", path=str(tmp_path / "no.jsonl")))
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProblemError, match="not JSON"):
        load_jsonl(ProblemsConfig(source="jsonl", path=str(tmp_path / "bytes.jsonl")))


POP: dict[str, Any] = {
    **CLAMP,
    "id": "pop",
    "entry_point": "pop",
    "buggy": "def pop(xs):\n    if not xs:\n        raise KeyError\n    return xs.pop(0)",
    "reference": "def pop(xs):\n    if not xs:\n        xs.append(0)\n        raise IndexError\n    if xs[0] < 0:\n        raise ValueError\n    return xs.pop()",
    "cases": [
        {"arguments": [[]], "exception": "IndexError", "mutated": [[0]]},
        {"arguments": [[-1, 2]], "exception": "ValueError", "mutated": [[-1, 2]]},
        {"arguments": [[1, 2]], "value": 2, "mutated": [[1]]},
    ],
}


def test_arguments_after_an_exception_count(tmp_path: Path) -> None:
    problem = load_jsonl(write(tmp_path, POP)).fitness[0]
    assert [case.mutated is None for case in problem.cases] == [False, False, False]
    clears = POP["reference"].replace("raise ValueError", "xs.clear()\n        raise ValueError")
    keeps = POP["reference"].replace("xs.append(0)\n        ", "")
    with Judge() as judge:
        found = judge.judge_batch([(problem, patch) for patch in (POP["reference"], clears, keeps)])
    assert [verdict.cases for verdict in found] == [
        ("pass", "pass", "pass"),
        ("pass", "wrong", "pass"),
        ("wrong", "pass", "pass"),
    ]


def test_tolerances_are_of_each_float(tmp_path: Path) -> None:
    line = {
        **CLAMP,
        "entry_point": "f",
        "buggy": "def f(a, b):\n    return [a, b + 2]",
        "reference": "def f(a, b):\n    return [a, b]",
        "cases": [
            {"arguments": [1.8e12, 7], "value": [1.8e12, 7], "relative_tolerance": 1e-9},
            {"arguments": [1.8e12, 7], "value": [1.8e12, 7], "tolerance": 1800},
        ],
    }
    problem = load_jsonl(write(tmp_path, line)).fitness[0]
    near = "def f(a, b):\n    return (a + 1000, b)"
    with Judge() as judge:
        found = judge.judge_batch([(problem, text) for text in (problem.reference, near, problem.buggy)])
    assert [verdict.cases for verdict in found] == [("pass", "pass"), ("pass", "pass"), ("wrong", "wrong")]


def test_a_new_key_changes_no_digest_of_problems_without_it(tmp_path: Path) -> None:
    problem = load_jsonl(write(tmp_path, CLAMP)).fitness[0]
    assert "relative_tolerance" not in problem.model_dump_json()
    assert problem.digest() == "58c2388afb0a73c4e546abd61207915662b68bc0257ecc83c5298f9d8b751b6c"
    case = problem.cases[0].model_copy(update={"relative_tolerance": 1e-9})
    assert '"relative_tolerance":1e-9' in case.model_dump_json()
    assert type(case).model_validate_json(case.model_dump_json()) == case


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"arguments": [["s", [1, 1]]], "value": 1, "encoded": True}, "a set with two equal members"),
        ({"arguments": [1], "value": ["d", [[1, 2], [1, 3]]], "encoded": True}, "a dict with two equal keys"),
        ({"arguments": [1], "value": [["s", [["l", []]]]], "encoded": True}, "not in the value language"),
        ({"arguments": [1], "value": ["s", [["l", []]]], "encoded": True}, "a list as a key or as a member"),
        ({"arguments": [1], "value": ["f", "x"], "encoded": True}, "not in the value language"),
        ({"arguments": [1], "value": ["i", "9" * 5000], "encoded": True}, "not in the value language"),
        ({"arguments": [1], "value": "\ud800", "encoded": True}, "unexpected end of hex escape"),
        ({"arguments": [1, 2], "value": 1, "mutated": [1]}, "mutated has 1 values for 2 arguments"),
        ({"arguments": [1], "value": 1.5, "relative_tolerance": 1}, "relative_tolerance"),
        ({"arguments": [1], "value": 1.5, "tolerance": -1}, "tolerance"),
        ({"arguments": [1], "exception": "E", "value": 1}, "either value or exception"),
    ],
)
def test_cases_that_could_never_be_right_are_refused(tmp_path: Path, case: dict[str, Any], words: str) -> None:
    with pytest.raises(ProblemError) as caught:
        load_jsonl(write(tmp_path, {**CLAMP, "cases": [case]}))
    assert "bugs.jsonl:1" in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ('{"arguments": [1, 2, 3], "exception": "\\ud800"}', "unexpected end of hex escape"),
        ('{"arguments": [1, 2, 3], "exception": ""}', "is no name of a class"),
        ('{"arguments": [1, 2, 3], "exception": "ValueError: too large"}', "is no name of a class"),
        ('{"arguments": [1, 2, 3], "exception": "json.JSONDecodeError"}', "is no name of a class"),
        ('{"arguments": [1, 2, 3], "value": 1, "value": 2}', "the key 'value' stands there twice"),
        ('{"arguments": [1, 2, {"a": 1, "a": 2}], "value": 1}', "the key 'a' stands there twice"),
        ('{"arguments": [1, 2, 3], "value": 1.5, "tolerance": true}', "cases.0.tolerance"),
        ('{"arguments": [1, 2, 3], "value": 1.5, "tolerance": "0.1"}', "cases.0.tolerance"),
        ('{"arguments": [1, 2, 3], "value": 1.5, "tolerance": Infinity}', "expected value"),
        ('{"arguments": [1, 2, 3], "value": 1, "slow": "no"}', "cases.0.slow"),
        ('{"arguments": [1, 2, 3], "value": 1, "encoded": 0}', "cases.0.encoded"),
    ],
)
def test_nothing_is_dropped_or_turned_into_another_type(tmp_path: Path, case: str, words: str) -> None:
    line = json.dumps({**CLAMP, "cases": ["here"]}).replace('"here"', case)
    with pytest.raises(ProblemError) as error:
        load_jsonl(write(tmp_path, CLAMP | {"id": "first"}, line))
    assert words in str(error.value) and ":2: " in str(error.value)


def test_a_whole_number_is_a_tolerance_too(tmp_path: Path) -> None:
    case = {"arguments": [1, 2, 3], "value": 1.5, "tolerance": 1, "relative_tolerance": 0}
    found = load_jsonl(write(tmp_path, {**CLAMP, "cases": [case]})).fitness[0].cases[0]
    assert (found.tolerance, found.relative_tolerance) == (1.0, 0.0)


SCALED: dict[str, Any] = {
    "type": "problem",
    "id": "scaled",
    "split": "fitness",
    "entry_point": "scaled",
    "setup": "import math\nFACTOR = 2\n\n\ndef root(n):\n    return math.isqrt(n) * FACTOR",
    "buggy": "def scaled(n, *, plus=0, into=None):\n    return root(n) - plus",
    "reference": "def scaled(n, *, plus=0, into=None):\n    if into is not None:\n        into.append(n)\n    return root(n) + plus",
    "cases": [
        {"arguments": [9], "keywords": {"plus": 4}, "value": 10},
        {"arguments": [], "keywords": {"n": 4, "into": [1]}, "value": 4, "mutated": [], "mutated_keywords": {"n": 4, "into": [1, 4]}},
        {"arguments": [1], "keywords": {"plus": ["t", [1]]}, "exception": "TypeError", "encoded": True},
    ],
}  # fmt: skip


def test_keywords_and_setup_reach_prompt_and_judge(tmp_path: Path) -> None:
    problem = load_jsonl(write(tmp_path, SCALED)).fitness[0]
    assert problem.buggy == f"{SCALED['setup']}\n\n\n{SCALED['buggy']}"
    assert problem.cases[1].mutated == (["l", [1, 4]], 4)
    again = type(problem).model_validate_json(problem.model_dump_json())
    assert again == problem and again.digest() == problem.digest()
    alone, echo = SCALED["reference"], SCALED["buggy"]
    keeps_list = alone.replace("into.append(n)", "into = [*into, n]")
    own_helper = "def root(n):\n    return 0\n\n\n" + alone
    with Judge() as judge:
        texts = (problem.reference, alone, problem.buggy, echo, keeps_list, own_helper)
        found = judge.judge_batch([(problem, text) for text in texts])
    outcomes = [verdict.outcome.value for verdict in found]
    assert outcomes == ["fixed", "fixed", "echo", "echo", "partial", "partial"]
    assert found[4].cases == ("pass", "wrong", "pass")
    assert found[5].cases[:2] == ("wrong", "wrong")


def test_setup_of_a_pair_stands_in_prompt_and_answer(tmp_path: Path) -> None:
    pair = load_jsonl(write(tmp_path, {**PAIR, "setup": "import math\n"})).pairs[0]
    assert pair.buggy == f"import math\n\n\n{PAIR['buggy']}" and pair.fixed == f"import math\n\n\n{PAIR['fixed']}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"setup": "import ("}, "setup is not Python"),
        ({"setup": "scaled = 1"}, "setup defines scaled"),
        ({"cases": [{"arguments": [1], "keywords": {"a b": 1}, "value": 1}]}, "'a b' is no name of a keyword argument"),
        ({"cases": [{"arguments": [1], "keywords": {"if": 1}, "value": 1}]}, "'if' is no name of a keyword argument"),
        ({"cases": [{"arguments": [1], "keywords": [1], "value": 1}]}, "cases.0.keywords"),
        ({"cases": [{"arguments": [], "keywords": {"n": 1}, "value": 1, "mutated": []}]}, "give mutated_keywords"),
        ({"cases": [{"arguments": [1], "mutated_keywords": {"n": 1}, "value": 1}]}, "give mutated_keywords"),
        ({"cases": [{"arguments": [1], "keywords": {"n": ["q", 1]}, "value": 1, "encoded": True}]}, "unknown tag"),
    ],
)
def test_keywords_and_setup_that_cannot_be_used_are_refused(tmp_path: Path, change: Any, words: str) -> None:
    with pytest.raises(ProblemError) as caught:
        load_jsonl(write(tmp_path, {**SCALED, **change}))
    assert "bugs.jsonl:1" in str(caught.value) and words in str(caught.value)
