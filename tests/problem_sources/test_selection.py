"""Problems are selected by name and length; unset keys change no digest."""

import json
from pathlib import Path
from typing import Any

import pytest

from coral_core.config import RunConfig
from coral_core.config.config_file import parse_config
from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError
from coral_core.evolution.preflight import check
from coral_core.problem_sources import load_problems
from coral_core.problem_sources.package.cases import Bug, UsableFunction
from coral_core.problem_sources.package.discovery import SourceFunction
from coral_core.problem_sources.selection import longest_ordinary, select_functions
from coral_core.problems.problem import Case
from coral_core.runs.run_folder import identify_run


def bugs_file(folder: Path) -> str:
    lines: list[dict[str, Any]] = []
    for number, name in enumerate(("clamp", "merge", "merge_sort", "walk", "Clamp")):
        text = f"def f(a):\n    return a * {number}"
        body = "    a = a\n" * (100 if name == "walk" else 0)
        lines.append(
            {
                "type": "problem", "id": f"mine/{name}", "split": ("fitness", "held_out")[number % 2], "entry_point": "f",
                "buggy": f"def f(a):\n{body}    return a - {number + 1}", "reference": f"def f(a):\n{body}    return a + {number + 1}",
                "cases": [{"arguments": [1], "value": number + 2}],
            }
        )  # fmt: skip
        lines.append({"type": "pair", "buggy": text, "fixed": f"def f(a):\n{body}    return {number}"})
    file = folder / "bugs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def names(path: str, **keys: Any) -> set[str]:
    problems = load_problems(ProblemsConfig(source="jsonl", path=path, **keys))
    return {problem.problem_id.rpartition("/")[2] for problem in (*problems.fitness, *problems.held_out)}


ALL = {"clamp", "merge", "merge_sort", "walk", "Clamp"}


@pytest.mark.parametrize(
    ("keys", "left"),
    [
        ({}, ALL),
        ({"exclude": ["clamp"]}, ALL - {"clamp"}),
        ({"exclude": ["merge*"], "include": ["*"]}, ALL - {"merge", "merge_sort"}),
        ({"include": ["?lamp", "mine/merge", "jsonl/mine/walk"]}, ALL - {"merge_sort"}),
        ({"longest": 500}, ALL - {"walk"}),
        ({"longest": 500, "exclude": ["[cC]lamp"]}, {"merge", "merge_sort"}),
    ],
)
def test_names_and_lengths(tmp_path: Path, keys: dict[str, Any], left: set[str]) -> None:
    assert names(bugs_file(tmp_path), **keys) == left


def test_what_is_left_out_is_said_and_pairs_are_cut_by_length(tmp_path: Path) -> None:
    path = bugs_file(tmp_path)
    problems = load_problems(ProblemsConfig(source="jsonl", path=path, longest=500, exclude=["clamp"]))
    assert problems.notes == (
        "1 left out, by problems.include and problems.exclude: jsonl/mine/clamp",
        "1 left out, longer than problems.longest (500 characters): jsonl/mine/walk",
        "1 training pairs left out: longer than problems.longest",
    )
    assert len(problems.pairs) == 4


def test_nothing_left_is_refused_before_anything_starts(tmp_path: Path) -> None:
    path = bugs_file(tmp_path)
    with pytest.raises(ConfigError, match=r"problems.include: no problem of the split fitness is left of 3"):
        names(path, include=["nothing"])
    text = f"problems: {{source: jsonl, path: {path}, exclude: [merge, walk]}}\n"
    with pytest.raises(ConfigError, match=r"problems.exclude: no problem of the split held_out"):
        check(parse_config(text, "c.yaml"))


def test_prompts_that_are_left_out_are_not_too_long(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    text = f"problems: {{source: jsonl, path: {bugs_file(tmp_path)}, monitor: 0LONGEST}}\ngeneration: {{prompt_length: 100}}\n"
    with pytest.raises(ConfigError, match="prompts are longer"):
        check(parse_config(text.replace("LONGEST", ""), "c.yaml"))
    check(parse_config(text.replace("LONGEST", ", longest: 500"), "c.yaml"))


def function(name: str, length: int, *bugs: int) -> UsableFunction:
    case = Case.of(1, value=2)
    return UsableFunction(
        definition=SourceFunction(file="pkg/mod.py", name=name, line=1, text="x" * length),
        recorded=1,
        cases=(case,) * 6,
        bugs=tuple(Bug(bug_class="constant", source="y" * bug, failing=0.5) for bug in bugs),
    )


def test_functions_of_a_directory() -> None:
    functions = [
        function("short", 50, 50, 900),
        function("long", 900, 50),
        function("bugs", 50, 900),
        function("no", 50, 50),
    ]
    config = ProblemsConfig(source="package", path=".", longest=500, exclude=["pkg.mod.no"])
    kept, notes = select_functions(functions, config)
    assert [(each.definition.name, len(each.bugs)) for each in kept] == [("short", 1)]
    assert notes == (
        "1 left out, by problems.include and problems.exclude: pkg.mod.no",
        "2 left out, longer than problems.longest (500 characters): pkg.mod.long, pkg.mod.bugs",
    )


def test_unset_keys_are_in_no_digest() -> None:
    default = identify_run(RunConfig())
    for keys in ({"include": ["a"]}, {"exclude": ["a"]}, {"longest": 100}):
        assert identify_run(RunConfig.model_validate({"problems": keys})).run_id != default.run_id
    plain = RunConfig().model_dump(mode="json")
    for key in ("include", "exclude", "longest"):
        del plain["problems"][key]
    assert identify_run(RunConfig.model_validate(plain)) == default


@pytest.mark.parametrize(
    ("lengths", "bound"),
    [
        ([100] * 9, None),
        ([100, 110, 120], None),
        ([100, 120, 140, 160, 180, 200], None),
        ([100] * 9 + [199], None),
        ([100] * 9 + [201], 200),
        ([100, 200, 300, 400, 500, 5000], 850),
    ],
)
def test_outliers_by_length(lengths: list[int], bound: int | None) -> None:
    assert longest_ordinary(lengths) == bound
