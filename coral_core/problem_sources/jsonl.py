"""The source `jsonl`: problems and training pairs from a file of JSON lines at `problems.path`.

docs/problems.md describes the schema with examples. One object per line; `type` says
which:

    {"type": "problem", "id": "mine/clamp", "split": "fitness", "entry_point": "clamp",
     "buggy": "def clamp…", "reference": "def clamp…",
     "cases": [{"arguments": [5, 0, 3], "value": 3}]}
    {"type": "pair", "buggy": "def f…", "fixed": "def f…"}

`setup` of a line is code around the function (imports, constants, helpers). It stands above the function in prompts and answers, and
the judge runs it before a patch.

Arguments and values are plain JSON (an array is a list, an object a dict with string keys); a case with ``"encoded": true`` writes them in the language of
`coral_core.problems.values` instead, which also has tuples, sets, bytes and nodes.
Everything is checked when it is read, and refused with file and line; code is parsed,
never run (`coral problems check jsonl` runs it, in the judge's sandbox).
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError, ProblemError
from coral_core.frozen import Frozen
from coral_core.json_object import json_object
from coral_core.problems.problem import BugClass, Case, Difficulty, Problem, ProblemSet, RepairPair
from coral_core.problems.values import ValueOutside, encode
from coral_core.syntax import UNPARSABLE, bound_names, depth, parse

DEEPEST = 120
"""Levels of a function's syntax tree; no function that people write comes near."""


def _check_code(text: str) -> str:
    try:
        levels = depth(parse(text))
    except UNPARSABLE as error:
        raise ValueError(f"is not Python: {error}") from None
    if levels > DEEPEST:
        raise ValueError(f"is nested more than {DEEPEST} levels deep (long sums count too)")
    return text


Code = Annotated[str, AfterValidator(_check_code)]
"""Text that parses."""


class CaseLine(Frozen):
    """One call and its expected outcome: exactly one of `value` and `exception`, with `mutated` beside either."""

    arguments: list[Any]
    keywords: dict[str, Any] = Field(default_factory=dict)
    value: Any = None
    exception: str | None = None
    mutated: list[Any] | None = None
    mutated_keywords: dict[str, Any] = Field(default_factory=dict)
    tolerance: float | None = Field(None, ge=0)
    relative_tolerance: float | None = Field(None, ge=0, lt=1)
    slow: bool = False
    encoded: bool = False
    nodes: list[Any] = Field(default_factory=list)
    nodes_after: list[Any] = Field(default_factory=list)

    def case(self) -> Case:
        """The case of this line.

        Raises:
            ValueOutside: a value cannot be encoded.
        """
        fields = self.model_dump(exclude={"encoded", "mutated_keywords"})
        if self.mutated is not None:
            fields["mutated"] = [*self.mutated, *(self.mutated_keywords[name] for name in sorted(self.keywords))]
        if not self.encoded:
            fields |= {name: [encode(item) for item in fields[name] or ()] for name in ("arguments", "mutated")}
            fields |= {"keywords": {name: encode(item) for name, item in self.keywords.items()}}
            fields |= {"value": encode(self.value)} | ({"mutated": None} if self.mutated is None else {})
        return Case.model_validate(fields)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if ("value" in self.model_fields_set) == (self.exception is not None):
            raise ValueError("give either value or exception (its class name)")
        if set(self.mutated_keywords) != (set() if self.mutated is None else set(self.keywords)):
            raise ValueError(
                "give mutated_keywords exactly if there are keywords and mutated, with a value for each keyword"
            )
        if self.exception is not None and not self.exception.isidentifier():
            raise ValueError(f"exception {self.exception[:60]!r} is no name of a class (without module and message)")
        try:
            if (self.nodes or self.nodes_after) and not self.encoded:
                raise ValueOutside("nodes need `encoded`: true")
            self.case().check()
        except ValueOutside as error:
            raise ValueError(f"outside the value language: {error}") from None
        return self


def _with_setup(setup: str, function: str) -> str:
    return f"{setup.strip()}\n\n\n{function.strip()}" if setup.strip() else function


class ProblemLine(Frozen):
    """A line of type `problem`."""

    type: Literal["problem"]
    id: str = Field(min_length=1)
    split: Literal["fitness", "monitor", "held_out"]
    entry_point: str
    setup: Code = ""
    buggy: Code
    reference: Code
    bug_class: BugClass = "unknown"
    difficulty: Difficulty = "medium"
    family: str = ""
    variant: str = ""
    cases: list[CaseLine] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, text in (("buggy", self.buggy), ("reference", self.reference)):
            if not any(
                isinstance(node, ast.FunctionDef) and node.name == self.entry_point for node in parse(text).body
            ):
                raise ValueError(f"{name} does not define {self.entry_point}")
        if any(self.entry_point in bound_names(node) for node in parse(self.setup).body):
            raise ValueError(f"setup defines {self.entry_point}: a patch without it would count as one")
        if (self.buggy == self.reference) != (self.bug_class == "none"):
            raise ValueError(
                "buggy and reference are equal exactly when bug_class is none (a function that must stay right)"
            )
        return self

    def problem(self) -> Problem:
        """The problem of the line."""
        cases = sorted((case.case() for case in self.cases), key=lambda case: case.slow)  # a time-out ends a patch
        fields = self.model_dump(exclude={"type", "id", "split", "cases"})
        fields |= {name: _with_setup(self.setup, fields[name]) for name in ("buggy", "reference")}
        fields["family"] = self.family or self.entry_point
        return Problem(problem_id=f"jsonl/{self.id}", source="jsonl", cases=tuple(cases), **fields)


class PairLine(Frozen):
    """A line of type `pair`."""

    type: Literal["pair"]
    setup: Code = ""
    buggy: Code
    fixed: Code
    bug_class: BugClass = "unknown"
    family: str = ""

    def pair(self) -> RepairPair:
        """The training pair of the line."""
        return RepairPair(
            buggy=_with_setup(self.setup, self.buggy),
            fixed=_with_setup(self.setup, self.fixed),
            family=self.family or "jsonl",
            bug_class=self.bug_class,
        )


_LINE: TypeAdapter[ProblemLine | PairLine] = TypeAdapter(Annotated[ProblemLine | PairLine, Field(discriminator="type")])


def load_jsonl(config: ProblemsConfig) -> ProblemSet:
    """The problems and pairs of the file at ``config.path``, in its order and with its splits.

    Raises:
        ConfigError: there is no such file.
        ProblemError: a line cannot be used; the error names file and line.
    """
    for complaint in missing(config.path):
        raise ConfigError(complaint)
    path = Path(config.path or "").expanduser()
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}", remedy="Check problems.path.") from None
    pairs: list[RepairPair] = []
    splits: dict[str, list[Problem]] = {"fitness": [], "monitor": [], "held_out": []}
    seen: dict[str, int] = {}
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        where = f"{path}:{number}"
        line = _read_line(text, where)
        if isinstance(line, PairLine):
            pairs.append(line.pair())
            continue
        problem = line.problem()
        if (first := seen.setdefault(problem.problem_id, number)) != number:
            raise ProblemError(
                f"{where}: id {problem.problem_id} is given twice, first on line {first}",
                remedy="Give each problem its own id.",
            )
        splits[line.split].append(problem)
    return ProblemSet(
        source="jsonl", pairs=tuple(pairs), **{name: tuple(problems) for name, problems in splits.items()}
    )


def missing(path: str | None) -> Iterator[str]:
    """At most one complaint about the path."""
    if path is None:
        yield "problems.path: nothing given, and the source jsonl reads a file of JSON lines. See docs/problems.md."
    elif not Path(path).expanduser().is_file():
        yield f"problems.path: {path}: no such file. Give a file of JSON lines; docs/problems.md describes it."


def _read_line(text: bytes, where: str) -> ProblemLine | PairLine:
    try:
        return _LINE.validate_python(json_object(text), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        given = {"missing": "is missing", "extra_forbidden": "is no field of a line of this type"}
        given["value_error"] = str(first.get("ctx", {}).get("error"))
        field = ".".join(map(str, first["loc"][1:]))  # the type of the line comes first
        problem = f"{field} {given.get(first['type'], first['msg'])}".strip()
        raise ProblemError(f"{where}: {problem}", remedy="See docs/problems.md.") from None
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"{where}: not JSON: {error}", remedy="Write one object per line.") from None
