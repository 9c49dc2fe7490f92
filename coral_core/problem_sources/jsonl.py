"""The source `jsonl`: problems and training pairs from a file of JSON lines at `problems.path`.

docs/problems.md describes the schema with examples. One object per line; `type` says
which:

    {"type": "problem", "id": "mine/clamp", "split": "fitness", "entry_point": "clamp",
     "buggy": "def clamp…", "reference": "def clamp…",
     "cases": [{"arguments": [5, 0, 3], "value": 3}]}
    {"type": "pair", "buggy": "def f…", "fixed": "def f…"}

Arguments and values are plain JSON (an array is a list, an object a dict with string
keys); a case with ``"encoded": true`` writes them in the language of
`coral_core.problems.values` instead, which also has tuples, sets, bytes and nodes.
Everything is checked when it is read, and refused with file and line; code is parsed,
never run (`coral problems check jsonl` runs it, in the judge's sandbox).
"""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError, ProblemError
from coral_core.frozen import Frozen
from coral_core.problems.problem import BugClass, Case, Difficulty, Problem, ProblemSet, RepairPair
from coral_core.problems.values import ValueOutside, encode
from coral_core.syntax import depth, parse

DEEPEST = 120
"""Levels of a function's syntax tree; no function that people write comes near."""


class CaseLine(Frozen):
    """One call and what must come of it: exactly one of `value` and `exception`, and `mutated` beside either."""

    arguments: list[Any]
    value: Any = None
    exception: str | None = None
    mutated: list[Any] | None = None
    tolerance: float | None = Field(None, ge=0)
    relative_tolerance: float | None = Field(None, ge=0, lt=1)
    slow: bool = False
    encoded: bool = False
    nodes: list[Any] = Field(default_factory=list)
    nodes_after: list[Any] = Field(default_factory=list)


class ProblemLine(Frozen):
    """A line of type `problem`."""

    type: Literal["problem"]
    id: str = Field(min_length=1)
    split: Literal["fitness", "monitor", "held_out"]
    entry_point: str
    buggy: str
    reference: str
    bug_class: BugClass = "unknown"
    difficulty: Difficulty = "medium"
    family: str = ""
    variant: str = ""
    cases: list[CaseLine] = Field(min_length=1)


class PairLine(Frozen):
    """A line of type `pair`."""

    type: Literal["pair"]
    buggy: str
    fixed: str
    bug_class: BugClass = "unknown"
    family: str = ""


def load_jsonl(config: ProblemsConfig) -> ProblemSet:
    """The problems and pairs of the file at ``config.path``, in its order and with its splits.

    Raises:
        ConfigError: there is no such file.
        ProblemError: a line cannot be used; named by file and line.
    """
    for complaint in missing(config.path):
        raise ConfigError(complaint)
    path = Path(config.path or "").expanduser()
    pairs: list[RepairPair] = []
    splits: dict[str, list[Problem]] = {"fitness": [], "monitor": [], "held_out": []}
    seen: dict[str, int] = {}
    for number, data in _objects(path):
        where = f"{path}:{number}"
        if data.get("type") == "pair":
            pairs.append(_pair(data, where))
        elif data.get("type") == "problem":
            problem, split = _problem(data, where)
            if problem.problem_id in seen:
                raise ProblemError(
                    f"{where}: id {problem.problem_id} is given twice, first on line {seen[problem.problem_id]}",
                    remedy="Give each problem its own id.",
                )
            seen[problem.problem_id] = number
            splits[split].append(problem)
        else:
            raise ProblemError(
                f"{where}: type {data.get('type')!r} is neither problem nor pair", remedy="See docs/problems.md."
            )
    return ProblemSet(
        source="jsonl", pairs=tuple(pairs), **{name: tuple(problems) for name, problems in splits.items()}
    )


def missing(path: str | None) -> Iterator[str]:
    """At most one complaint about the path."""
    if path is None:
        yield "problems.path: nothing given, and the source jsonl reads a file of JSON lines. See docs/problems.md."
    elif not Path(path).expanduser().is_file():
        yield f"problems.path: {path}: no such file. Give a file of JSON lines; docs/problems.md describes it."


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not empty."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}", remedy="Check problems.path.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line.decode("utf-8"), object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise ProblemError(f"{path}:{number}: not JSON: {error}", remedy="Write one object per line.") from None
        if not isinstance(data, dict):
            raise ProblemError(
                f"{path}:{number}: a line is an object, not {str(data)[:40]!r}", remedy="See docs/problems.md."
            )
        yield number, data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises `ValueError` for a key that is given twice: JSON would drop the first without a word."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:60]!r} is given twice in one object")
    return found


def _checked(kind: type[Frozen], data: dict[str, Any], where: str) -> Any:
    try:
        return kind.model_validate(data, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        what = {"missing": "is missing", "extra_forbidden": "is no field of a line of this type"}.get(
            first["type"], first["msg"]
        )
        if field == "cases" and first["type"] in ("missing", "too_short"):
            what = "holds no test, so nothing could be judged"
        raise ProblemError(f"{where}: {field} {what}", remedy="See docs/problems.md.") from None


def _pair(data: dict[str, Any], where: str) -> RepairPair:
    line: PairLine = _checked(PairLine, data, where)
    for name, text in (("buggy", line.buggy), ("fixed", line.fixed)):
        _parse(text, f"{where}: {name}")
    return RepairPair(buggy=line.buggy, fixed=line.fixed, family=line.family or "jsonl", bug_class=line.bug_class)


def _problem(data: dict[str, Any], where: str) -> tuple[Problem, str]:
    line: ProblemLine = _checked(ProblemLine, data, where)
    for name, text in (("buggy", line.buggy), ("reference", line.reference)):
        tree = _parse(text, f"{where}: {name}")
        if not any(isinstance(node, ast.FunctionDef) and node.name == line.entry_point for node in tree.body):
            raise ProblemError(
                f"{where}: {name} does not define {line.entry_point}", remedy="Name the function in entry_point."
            )
    if (line.buggy == line.reference) != (line.bug_class == "none"):
        raise ProblemError(
            f"{where}: {line.id}: buggy and reference are equal exactly when bug_class is none (a function that must stay right)."
        )
    raw = data["cases"]
    cases = (_case(case, raw[number], f"{where}: cases.{number}") for number, case in enumerate(line.cases))
    problem = Problem(
        problem_id=f"jsonl/{line.id}",
        source="jsonl",
        family=line.family or line.entry_point,
        variant=line.variant,
        entry_point=line.entry_point,
        bug_class=line.bug_class,
        difficulty=line.difficulty,
        buggy=line.buggy,
        reference=line.reference,
        cases=tuple(sorted(cases, key=lambda case: case.slow)),  # a time-out ends a patch: slow cases come last
    )
    return problem, line.split


def _parse(text: str, where: str) -> ast.Module:
    try:
        tree = parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ProblemError(f"{where} is not Python: {error}", remedy="Give the whole function as text.") from None
    if depth(tree) > DEEPEST:
        raise ProblemError(
            f"{where} is nested more than {DEEPEST} levels deep (long sums count too)", remedy="Give a simpler one."
        )
    return tree


def _case(line: CaseLine, raw: dict[str, Any], where: str) -> Case:
    if ("value" in raw) == (line.exception is not None):
        raise ProblemError(f"{where}: give either value or exception (its class name)", remedy="See docs/problems.md.")
    if line.exception is not None and not line.exception.isidentifier():
        raise ProblemError(
            f"{where}: exception {line.exception[:60]!r} is no name of a class",
            remedy="Give the name alone, without module and message: ValueError.",
        )
    try:
        if line.encoded:
            arguments, value, mutated = line.arguments, line.value, line.mutated
        else:
            if line.nodes or line.nodes_after:
                raise ValueOutside("nodes need `encoded`: true")
            arguments, value = [encode(item) for item in line.arguments], encode(line.value)
            mutated = None if line.mutated is None else [encode(item) for item in line.mutated]
        case = Case(
            arguments=tuple(arguments),
            value=value,
            exception=line.exception,
            mutated=None if mutated is None else tuple(mutated),
            tolerance=line.tolerance,
            relative_tolerance=line.relative_tolerance,
            slow=line.slow,
            nodes=tuple(line.nodes),
            nodes_after=tuple(line.nodes_after),
        )
        case.check()
    except (ValueOutside, RecursionError) as error:
        raise ProblemError(f"{where}: outside the value language: {error}", remedy="See docs/problems.md.") from None
    return case
