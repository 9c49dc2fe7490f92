"""The source `quixbugs`: a clone of jkoppel/QuixBugs, or a directory of the same layout, at `problems.path`.

A program needs python_programs/NAME.py, correct_python_programs/NAME.py and
python_testcases/test_NAME.py; with json_testcases/NAME.json the cases are its lines,
without one the reference runs under the test file once and its calls are recorded (`quixbugs_recorder`). No code of the
clone runs against a patch. A test file with JSON cases is parsed, not run: for a tolerance (``pytest.approx(…, abs=…)``)
and for the inputs that it skips (slow with ``pytest.run_slow``, else excluded).

The model sees the buggy code without the specification that follows it as a string: adapters train on functions without
one, and a prompt of another form in training than in test would measure the form. The reference is code only, too (some
files hold alternatives in a string).

There are deliberately no training pairs here: `coral_core.problem_sources` takes them from another source, and
`coral_core.problem_sources.leak_guard` refuses the benchmark's own answers.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coral_core.config.tree import ProblemsConfig
from coral_core.digest import digest
from coral_core.errors import ConfigError, ProblemError
from coral_core.problem_sources.quixbugs_table import EXCLUDED, PROGRAMS, SLOW, Known
from coral_core.problems import values
from coral_core.problems.problem import Case, Problem, ProblemSet, Split
from coral_core.syntax import parse

RECORDING_SECONDS = 60.0
LARGEST = 2**20
"""Bytes of a file of the clone."""
_BUGGY, _RIGHT, _TESTS, _JSON = "python_programs", "correct_python_programs", "python_testcases", "json_testcases"


def load_quixbugs(config: ProblemsConfig) -> ProblemSet:
    """The problems of the clone at ``config.path``, in the committed split.

    Raises:
        ConfigError: no clone, half a clone, or a file in it that cannot be read as what it should be.
        ProblemError: a reference fails its own tests.
    """
    for complaint in missing(config.path):
        raise ConfigError(complaint)
    root = Path(config.path or "").expanduser()
    names = _programs(root)
    recorded = _record(root, [name for name in names if not _json_file(root, name).exists()])
    splits = _splits(names)
    problems = {name: _problem(root, name, recorded.get(name)) for name in names}
    chosen: dict[str, list[Problem]] = {"fitness": [], "monitor": [], "held_out": []}
    for name, problem in problems.items():
        chosen[splits[name]].append(problem)
    rights = [_right(problem) for problem in chosen["fitness"][: config.retention]]
    return ProblemSet(
        source="quixbugs",
        pairs=(),
        fitness=(*chosen["fitness"], *rights),
        monitor=tuple(chosen["monitor"]),
        held_out=tuple(chosen["held_out"]),
        benchmark=True,
    )


def functions(config: ProblemsConfig) -> list[tuple[str, str]]:
    """Problem ids and buggy functions of the clone at ``config.path``; parses them and runs nothing.

    Raises:
        ConfigError: a file in it cannot be read as what it should be.
    """
    root = Path(config.path or "").expanduser()
    names = _programs(root)
    splits = _splits(names)
    found = [(f"quixbugs/{name}", _code(root / _BUGGY / f"{name}.py", name)) for name in names]
    rights = [name for name in names if splits[name] == "fitness"][: config.retention]
    return found + [(f"quixbugs/right/{name}", _code(root / _RIGHT / f"{name}.py", name)) for name in rights]


def size(config: ProblemsConfig) -> int:
    """Bytes of what `functions` reads."""
    root = Path(config.path or "").expanduser()
    files = (root / folder / f"{name}.py" for name in _programs(root) for folder in (_BUGGY, _RIGHT))
    return sum(file.stat().st_size for file in files)


def missing(path: str | None) -> Iterator[str]:
    """At most one complaint: what of a clone is not at `path`, and how to get it."""
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
        lost = [file for name in names for file in _files(root, name) if not (root / file).is_file()]
        if not names:
            lost = [f"{_BUGGY}/*.py"]
    if lost:
        shown = ", ".join(lost[:6]) + (f" and {len(lost) - 6} more" if len(lost) > 6 else "")
        yield f"problems.path: {path}: half a clone of QuixBugs, {shown} missing. {_fetch(path)}"


def _fetch(path: str) -> str:
    return f"Get a whole one with: coral problems fetch quixbugs --into {path}"


def _programs(root: Path) -> list[str]:
    """Names of the programs: all 40 as soon as one of them is there, and whatever else lies beside them."""
    found = {file.stem for folder in (_BUGGY, _RIGHT) for file in (root / folder).glob("*.py")}
    found = {name for name in found if name not in ("node", "__init__") and not name.endswith("_test")}
    return sorted(found | set(PROGRAMS) if found & set(PROGRAMS) else found)


def _files(root: Path, name: str) -> list[str]:
    known = PROGRAMS.get(name)
    cases = [f"{_JSON}/{name}.json"] if known and not known.graph else []
    return [f"{_BUGGY}/{name}.py", f"{_RIGHT}/{name}.py", f"{_TESTS}/test_{name}.py", *cases]


def _json_file(root: Path, name: str) -> Path:
    return root / _JSON / f"{name}.json"


def _splits(names: Sequence[str]) -> dict[str, Split]:
    """The committed split; programs that are not of the 40 are dealt out by the digest of their names."""
    turns: tuple[Split, ...] = ("fitness", "held_out", "monitor", "fitness", "held_out")
    others = sorted((name for name in names if name not in PROGRAMS), key=digest)
    dealt = {name: turns[place % len(turns)] for place, name in enumerate(others)}
    return {name: PROGRAMS[name].split if name in PROGRAMS else dealt[name] for name in names}


def _problem(root: Path, name: str, calls: list[dict[str, Any]] | None) -> Problem:
    known = PROGRAMS.get(name, Known("fitness", "unknown", "medium"))
    cases, excluded = _json_cases(root, name) if calls is None else ([Case(**call) for call in calls], [])
    if not cases:
        where = _json_file(root, name) if calls is None else root / _TESTS / f"test_{name}.py"
        raise ConfigError(f"{where}: no test case in it, so nothing could be judged", remedy=_fetch(str(root)))
    return Problem(
        problem_id=f"quixbugs/{name}",
        source="quixbugs",
        family=name,
        variant="graph" if calls is not None else "json",
        entry_point=name,
        bug_class=known.bug_class,
        difficulty=known.difficulty,
        buggy=_code(root / _BUGGY / f"{name}.py", name),
        reference=_code(root / _RIGHT / f"{name}.py", name),
        cases=tuple(sorted(cases, key=lambda case: case.slow)),  # a time-out ends a patch: slow cases come last
        excluded=tuple(excluded),
    )


def _right(problem: Problem) -> Problem:
    """The reference as a problem of its own: what is right must stay right."""
    return problem.model_copy(
        update={
            "problem_id": problem.problem_id.replace("quixbugs/", "quixbugs/right/"),
            "bug_class": "none",
            "difficulty": "easy",
            "buggy": problem.reference,
        }
    )


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > LARGEST:
            raise ConfigError(f"{file}: more than {LARGEST} bytes", remedy=_fetch(str(file.parents[1])))
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}", remedy=_fetch(str(file.parents[1]))) from None


def _parse(file: Path, text: str) -> ast.Module:
    try:
        return parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", 1) or 1
        raise ConfigError(f"{file}:{line}: not Python: {error}", remedy=_fetch(str(file.parents[1]))) from None


def _code(file: Path, name: str) -> str:
    """The code of `file` without strings that stand alone at its top level."""
    text = _read(file)
    tree = _parse(file, text)
    if not any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body):
        raise ConfigError(f"{file}: does not define {name}", remedy=_fetch(str(file.parents[1])))
    lines = text.splitlines()
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[number] = ""
    return "\n".join(line.rstrip() for line in "\n".join(lines).strip("\n").splitlines())


# -- programs with JSON cases ----------------------------------------------------------------


@dataclass(frozen=True)
class _Rules:
    """What a test file says about its JSON cases."""

    tolerance: float | None
    relative: float | None
    tolerance_is_last_argument: bool
    slow: tuple[Any, ...]
    excluded: tuple[Any, ...]


def _json_cases(root: Path, name: str) -> tuple[list[Case], list[str]]:
    file = _json_file(root, name)
    rules = _rules(root / _TESTS / f"test_{name}.py")
    cases: list[Case] = []
    excluded: list[str] = []
    number = 0
    for line, text in enumerate(_read(file).splitlines(), 1):
        if not text.strip():
            continue
        number += 1
        try:
            inputs, expected = json.loads(text)
            arguments = inputs if isinstance(inputs, list) else [inputs]
            encoded, value = [values.encode(item) for item in arguments], values.encode(expected)
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"{file}:{line}: not [inputs, expected] as JSON: {error}", remedy=_fetch(str(root))
            ) from None
        why = EXCLUDED.get(name, {}).get(number) or ("its test file skips it" if inputs in rules.excluded else "")
        if why:
            excluded.append(f"case {number}: {why}")
            continue
        tolerance = float(arguments[-1]) if rules.tolerance_is_last_argument else rules.tolerance
        if (
            rules.relative is not None and type(expected) is int and abs(expected) < 2**53
        ):  # approx takes floats near it
            value = values.encode(float(expected))
        slow = number in SLOW.get(name, ()) or inputs in rules.slow
        cases.append(
            Case(
                arguments=tuple(encoded),
                value=value,
                tolerance=tolerance,
                relative_tolerance=rules.relative,
                slow=slow,
            )
        )
    return cases, excluded


def _rules(file: Path) -> _Rules:
    """Read tolerance and skipped inputs off a test file. It is parsed, not run."""
    tree = _parse(file, _read(file))
    tolerance: float | None = None
    relative: float | None = None
    last = False
    skipped: dict[bool, list[Any]] = {True: [], False: []}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) == "approx":
            given = {keyword.arg: keyword.value for keyword in node.keywords} | dict(
                zip(("rel", "abs"), node.args[1:], strict=False)
            )
            absolute, share = given.get("abs"), given.get("rel")
            if absolute is not None and ast.unparse(absolute).endswith("[-1]"):
                last = True
            elif (margin := _number(absolute)) is not None:
                tolerance = margin
            relative = _number(share)
            if absolute is None:  # the defaults of pytest
                tolerance, relative = 1e-12, 1e-6 if share is None else relative
            if relative is not None and relative >= 1:
                raise ConfigError(
                    f"{file}:{node.lineno}: a relative tolerance of {relative:g} accepts nearly every value",
                    remedy="Give one below 1.",
                )
        if isinstance(node, ast.If) and any(
            isinstance(part, ast.Call) and _called(part) == "skip" for step in node.body for part in ast.walk(step)
        ):
            slow = any(isinstance(part, ast.Attribute) and part.attr == "run_slow" for part in ast.walk(node.test))
            skipped[slow] += _literals(node.test)
    return _Rules(tolerance, relative, last, tuple(skipped[True]), tuple(skipped[False]))


def _number(written: ast.expr | None) -> float | None:
    """A tolerance that is written as a number."""
    value = written.value if isinstance(written, ast.Constant) else None
    return float(value) if isinstance(value, (int, float)) and 0 <= value < float("inf") else None


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _literals(test: ast.expr) -> Iterator[Any]:
    """Inputs that a condition compares with, as in ``input_data == [100, 3]``."""
    for node in ast.walk(test):
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                try:
                    yield ast.literal_eval(side)
                except ValueError:
                    continue


# -- programs whose calls are recorded -------------------------------------------------------


def _record(root: Path, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Calls that the tests of each program make of its reference, from one process for all of them."""
    if not names:
        return {}
    request = [
        {
            "name": name,
            "reference": _read(root / _RIGHT / f"{name}.py"),
            "reference_file": f"{_RIGHT}/{name}.py",
            "tests": _read(root / _TESTS / f"test_{name}.py"),
            "test_file": f"{_TESTS}/test_{name}.py",
        }
        for name in names
    ]
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-s",
                "-S",
                "-P",
                str(Path(__file__).with_name("quixbugs_recorder.py")),
                str(values.__file__),
            ],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=RECORDING_SECONDS,
            env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"},
            cwd="/",
            check=False,
        )
        output, ended = done.stdout, f"ended with exit code {done.returncode}: {done.stderr.strip()[-200:]}"
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        ended = f"did not end within {RECORDING_SECONDS:.0f} s"
    answers = [json.loads(line) for line in output.splitlines()]
    for answer in answers:
        if "error" in answer:
            raise ProblemError(
                f"{root}: the reference of {answer['name']} fails its own tests: {answer['error']}",
                remedy=_fetch(str(root)),
            )
    if len(answers) < len(names):
        raise ProblemError(
            f"{root}: recording the reference of {names[len(answers)]} under its tests {ended}",
            remedy=_fetch(str(root)),
        )
    return {answer["name"]: answer["calls"] for answer in answers}
