"""The source `quixbugs`: a clone of jkoppel/QuixBugs, or a directory of the same layout, at `problems.path`.

A program needs python_programs/NAME.py, correct_python_programs/NAME.py and python_testcases/test_NAME.py. With
json_testcases/NAME.json, the cases are the lines of that file. Its test file is parsed, not run, for a tolerance
(``pytest.approx(…, abs=…)``) and for the inputs that it skips (slow with ``pytest.run_slow``, else excluded). Without one,
the reference runs under the test file once and its calls are recorded (`quixbugs_recorder`). No code of the clone runs
against a patch.

The model sees the buggy code without the specification that follows it as a string. Adapters train on functions without
such a string, so a prompt with one would measure the change of form. The reference is reduced to code in the same way
(some files hold alternatives in a string).

There are deliberately no training pairs here: `coral_core.problem_sources` takes them from another source, and
`coral_core.problem_sources.leak_guard` refuses the benchmark's own answers.
"""

import ast
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from coral_core.config.tree import ProblemsConfig
from coral_core.digest import digest
from coral_core.errors import ConfigError, ProblemError
from coral_core.problem_sources.quixbugs_table import EXCLUDED, PROGRAMS, SLOW, Known
from coral_core.problem_sources.script_process import run_script
from coral_core.problems.problem import Case, Problem, ProblemSet, Split
from coral_core.problems.values import encode
from coral_core.syntax import UNPARSABLE, parse

RECORDING_SECONDS = 60.0
LARGEST = 2**16
"""Bytes of a file of the clone; the largest has 10 kB."""
_BUGGY, _RIGHT, _TESTS, _JSON = "python_programs", "correct_python_programs", "python_testcases", "json_testcases"


def load_quixbugs(config: ProblemsConfig) -> ProblemSet:
    """The problems of the clone at ``config.path``, in the committed split.

    Raises:
        ConfigError: there is no clone, it is incomplete, or a file in it cannot be read.
        ProblemError: a reference fails its own tests.
    """
    for complaint in missing(config.path):
        raise ConfigError(complaint)
    root = Path(config.path or "").expanduser()
    names = _programs(root)
    recorded = _record(root, [name for name in names if not _json_file(root, name).exists()])
    chosen: dict[str, list[Problem]] = {"fitness": [], "monitor": [], "held_out": []}
    for name, split in _splits(names).items():
        chosen[split].append(_problem(root, name, recorded.get(name)))
    chosen["fitness"] += [_right(problem) for problem in chosen["fitness"][: config.retention]]
    splits = {split: tuple(problems) for split, problems in chosen.items()}
    return ProblemSet(source="quixbugs", pairs=(), benchmark=True, **splits)


def functions(config: ProblemsConfig) -> list[tuple[str, str]]:
    """Problem ids and buggy functions of the clone at ``config.path``; parses them and runs nothing.

    Raises:
        ConfigError: a file in it cannot be read.
    """
    root = Path(config.path or "").expanduser()
    splits = _splits(_programs(root))
    listed = [(f"quixbugs/{name}", _code(root, _BUGGY, name)) for name in splits]
    rights = [name for name, split in splits.items() if split == "fitness"][: config.retention]
    return listed + [(f"quixbugs/right/{name}", _code(root, _RIGHT, name)) for name in rights]


def missing(path: str | None) -> Iterator[str]:
    """At most one complaint: the files of a clone that are missing at `path`, and how to get them."""
    if path is None:
        yield (
            "problems.path: nothing given, and the source quixbugs reads a clone of QuixBugs. Get one with "
            "`coral problems fetch quixbugs`, then set problems.path to it."
        )
        return
    root = Path(path).expanduser()
    if not root.is_dir():
        yield f"problems.path: {path}: no such directory. {_fetch(path)}"
        return
    lost = [f"{folder}/" for folder in (_BUGGY, _RIGHT, _TESTS) if not (root / folder).is_dir()]
    if not lost:
        names = _programs(root)
        lost = [file for name in names for file in _files(name) if not (root / file).is_file()]
        lost = lost if names else [f"{_BUGGY}/*.py"]
    if lost:
        shown = ", ".join(lost[:6]) + (f" and {len(lost) - 6} more" if len(lost) > 6 else "")
        yield f"problems.path: {path}: half a clone of QuixBugs, {shown} missing. {_fetch(path)}"


def _fetch(path: object) -> str:
    return f"Get a whole one with: coral problems fetch quixbugs --into {path}"


def _programs(root: Path) -> list[str]:
    """Names of the programs: all 40 as soon as one of them is there, and any others in the folders."""
    found = {file.stem for folder in (_BUGGY, _RIGHT) for file in (root / folder).glob("*.py")}
    found = {name for name in found if name not in ("node", "__init__") and not name.endswith("_test")}
    return sorted(found | set(PROGRAMS) if found & set(PROGRAMS) else found)


def _files(name: str) -> list[str]:
    known = PROGRAMS.get(name)
    cases = [f"{_JSON}/{name}.json"] if known and not known.graph else []
    return [f"{_BUGGY}/{name}.py", f"{_RIGHT}/{name}.py", f"{_TESTS}/test_{name}.py", *cases]


def _json_file(root: Path, name: str) -> Path:
    return root / _JSON / f"{name}.json"


def _splits(names: Sequence[str]) -> dict[str, Split]:
    """The committed split; programs other than the 40 are distributed by the digest of their names."""
    turns: tuple[Split, ...] = ("fitness", "held_out", "monitor", "fitness", "held_out")
    others = sorted((name for name in names if name not in PROGRAMS), key=digest)
    dealt = {name: turns[place % len(turns)] for place, name in enumerate(others)}
    return {name: PROGRAMS[name].split if name in PROGRAMS else dealt[name] for name in names}


def _problem(root: Path, name: str, recorded: list[Case] | None) -> Problem:
    known = PROGRAMS.get(name, Known("fitness", "unknown", "medium"))
    file = _json_file(root, name) if recorded is None else _test_file(root, name)
    cases, excluded = _json_cases(root, name) if recorded is None else (recorded, [])
    if not cases:
        raise _unusable(root, file, "no test case in it, so nothing could be judged")
    return Problem(
        problem_id=f"quixbugs/{name}",
        source="quixbugs",
        family=name,
        variant="json" if recorded is None else "graph",
        entry_point=name,
        bug_class=known.bug_class,
        difficulty=known.difficulty,
        buggy=_code(root, _BUGGY, name),
        reference=_code(root, _RIGHT, name),
        cases=tuple(sorted(cases, key=lambda case: case.slow)),  # a time-out ends a patch: slow cases come last
        excluded=tuple(excluded),
    )


def _right(problem: Problem) -> Problem:
    """The reference as a problem of its own: a right function that must stay right."""
    return problem.model_copy(
        update={
            "problem_id": problem.problem_id.replace("quixbugs/", "quixbugs/right/"),
            "bug_class": "none",
            "difficulty": "easy",
            "buggy": problem.reference,
        }
    )


def _unusable(root: Path, where: object, what: str) -> ConfigError:
    return ConfigError(f"{where}: {what}", remedy=_fetch(root))


def _test_file(root: Path, name: str) -> Path:
    return root / _TESTS / f"test_{name}.py"


def _read(root: Path, file: Path) -> str:
    try:
        if file.stat().st_size > LARGEST:
            raise _unusable(root, file, f"more than {LARGEST} bytes")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(root, file, f"cannot be read: {error}") from None


def _parse(root: Path, file: Path) -> tuple[str, ast.Module]:
    text = _read(root, file)
    try:
        return text, parse(text)
    except UNPARSABLE as error:
        raise _unusable(root, f"{file}:{getattr(error, 'lineno', 1) or 1}", f"not Python: {error}") from None


def _code(root: Path, folder: str, name: str) -> str:
    """The code of a program without strings that stand alone at its top level."""
    file = root / folder / f"{name}.py"
    text, tree = _parse(root, file)
    if not any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body):
        raise _unusable(root, file, f"does not define {name}")
    lines = text.splitlines()
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[number] = ""
    return "\n".join(line.rstrip() for line in "\n".join(lines).strip("\n").splitlines())


# -- programs with JSON cases ----------------------------------------------------------------


@dataclass
class _Rules:
    """Rules for the JSON cases of a program, from its test file."""

    tolerance: float | Literal["last argument"] | None = None
    relative: float | None = None
    slow: list[Any] = field(default_factory=list)
    excluded: list[Any] = field(default_factory=list)


def _json_cases(root: Path, name: str) -> tuple[list[Case], list[str]]:
    """The cases of a program, and those left out, with the reason."""
    file, rules = _json_file(root, name), _rules(root, _test_file(root, name))
    cases: list[Case] = []
    excluded: list[str] = []
    written = [(line, text) for line, text in enumerate(_read(root, file).splitlines(), 1) if text.strip()]
    for number, (line, text) in enumerate(written, 1):
        try:
            inputs, expected = json.loads(text)
            why = EXCLUDED.get(name, {}).get(number) or ("its test file skips it" if inputs in rules.excluded else "")
            if why:
                excluded.append(f"case {number}: {why}")
                continue
            arguments = inputs if isinstance(inputs, list) else [inputs]
            if rules.relative is not None and type(expected) is int and abs(expected) < 2**53:
                expected = float(expected)  # approx takes floats near it
            case = Case(
                arguments=tuple(map(encode, arguments)),
                value=encode(expected),
                tolerance=float(arguments[-1]) if rules.tolerance == "last argument" else rules.tolerance,
                relative_tolerance=rules.relative,
                slow=number in SLOW.get(name, ()) or inputs in rules.slow,
            )
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            what = f"not [inputs, expected] as JSON under the tolerance of its test file: {error}"
            raise _unusable(root, f"{file}:{line}", what) from None
        cases.append(case)
    return cases, excluded


def _rules(root: Path, file: Path) -> _Rules:
    """Read tolerance and skipped inputs off a test file. It is parsed, not run."""
    rules = _Rules()
    for node in ast.walk(_parse(root, file)[1]):
        try:
            match node:
                case ast.Call(func=ast.Attribute(attr="approx") | ast.Name(id="approx"), args=args, keywords=keywords):
                    given = dict(zip(("rel", "abs"), args[1:], strict=False))
                    given |= {keyword.arg: keyword.value for keyword in keywords if keyword.arg}
                    _set_tolerance(rules, given.get("rel"), given.get("abs"))
                case ast.If(test=test, body=[*_, ast.Expr(value=ast.Call(func=ast.Attribute(attr="skip")))]):
                    compared = [part for part in ast.walk(test) if isinstance(part, ast.Compare)]
                    inputs = rules.slow if "run_slow" in ast.unparse(test) else rules.excluded
                    inputs += [ast.literal_eval(part.comparators[0]) for part in compared]
        except ValueError:
            raise _unusable(
                root, f"{file}:{getattr(node, 'lineno', 1)}", "a tolerance or condition that is no constant"
            ) from None
    return rules


def _set_tolerance(rules: _Rules, relative: ast.expr | None, absolute: ast.expr | None) -> None:
    """What ``pytest.approx`` does with its arguments. Raises `ValueError` for one that is no constant."""
    rules.relative = None if relative is None else ast.literal_eval(relative)
    if absolute is None:  # the defaults of pytest
        rules.tolerance, rules.relative = 1e-12, 1e-6 if relative is None else rules.relative
    elif ast.unparse(absolute).endswith("[-1]"):
        rules.tolerance = "last argument"
    else:
        rules.tolerance = ast.literal_eval(absolute)


# -- programs whose calls are recorded -------------------------------------------------------


def _record(root: Path, names: Sequence[str]) -> dict[str, list[Case]]:
    """Calls that the tests of each program make of its reference, from one process for all of them."""
    if not names:
        return {}
    request = [[name, _read(root, root / _RIGHT / f"{name}.py"), _read(root, _test_file(root, name))] for name in names]
    answers = run_script(Path(__file__).with_name("quixbugs_recorder.py"), request, RECORDING_SECONDS)
    for answer in answers.lines:
        if "error" in answer:
            what = f"the reference of {answer['name']} fails its own tests: {answer['error']}"
            raise ProblemError(f"{root}: {what}", remedy=_fetch(root))
    if len(answers.lines) < len(names):
        what = f"recording the reference of {names[len(answers.lines)]} under its tests {answers.ended}"
        raise ProblemError(f"{root}: {what}", remedy=_fetch(root))
    return {answer["name"]: [Case(**call) for call in answer["calls"]] for answer in answers.lines}
