"""Runs an importer over a file: rows in, lines of a `jsonl` file and a report out."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coral_core.errors import ConfigError
from coral_core.judge.judge import Judge
from coral_core.problem_sources.importers import assert_file, bugsinpy, humaneval, mbpp, swe_bench
from coral_core.problem_sources.importers.fixes import Change, Clone
from coral_core.problem_sources.importers.material import Material, RefusedRowError
from coral_core.problem_sources.importers.problem_lines import Line, MadeProblem, problems_of, with_splits
from coral_core.problem_sources.importers.recorded_cases import LIMITS
from coral_core.problem_sources.importers.untrusted_rows import rows_of
from coral_core.syntax import UNPARSABLE

LAYOUTS = ("humaneval", "mbpp", "bugsinpy", "swe", "asserts")
MOST_BUGS = 32
"""Mutants of a function at most, as in `package`."""
LONGEST_NAME = 200
"""Characters of an id."""
_FIXES = ("bugsinpy", "swe")


@dataclass(frozen=True)
class ImportedRow:
    """The fate of one row."""

    row: str
    """Its id, or its place in the file."""
    problems: tuple[str, ...] = ()
    """Ids of its problems in the file that is written."""
    cases: int = 0
    pair: bool = False
    """It became a training pair."""
    kind: str = ""
    """Why it is no problem, in a few words; "" when it is one."""
    detail: str = ""


@dataclass(frozen=True)
class Imported:
    """What an import gives."""

    layout: str
    lines: list[Line]
    rows: list[ImportedRow]
    mutants: int
    """Problems whose bug is a mutant of the reference."""
    own: int
    """Problems with the row's own bug."""

    @property
    def refused(self) -> list[ImportedRow]:
        """Rows that gave no problem."""
        return [row for row in self.rows if row.kind]

    def reasons(self) -> dict[str, int]:
        """Reason -> number of refused rows, most frequent first."""
        return dict(Counter(row.kind for row in self.refused).most_common())

    def splits(self) -> dict[str, int]:
        """Split -> number of problems."""
        return dict(Counter(line["split"] for line in self.lines if line["type"] == "problem"))


@dataclass
class _Row:
    name: str
    material: Callable[[], Material]
    change: Callable[[], Change] | None = None
    made: list[MadeProblem] = field(default_factory=list)


def import_problems(
    layout: str,
    path: Path,
    *,
    repo: Path | None = None,
    bugs: int = 1,
    split: str = "auto",
    pairs: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Imported:
    """Convert a file of a public layout.

    Args:
        layout: One of `LAYOUTS`.
        path: The file, or the folder of BugsInPy.
        repo: A local clone of the repository that the rows are about (bugsinpy, swe).
        bugs: Mutants per function at most, from 1 to 32, where a row has no bug of its own.
        split: fitness, monitor or held_out for all problems; auto divides them.
        pairs: Rows whose diff shows a function whole, and that are no problems, become training pairs (bugsinpy, swe).
        progress: Called with the number of rows done after each.

    Raises:
        ConfigError: an argument is wrong, or the file cannot be read.
        ProblemError: the file is not of the layout's format.
        JudgeError: the sandbox is missing or failed.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"problems import {layout[:60]}: no such layout", remedy=f"Known: {', '.join(LAYOUTS)}.")
    if not 1 <= bugs <= MOST_BUGS:
        raise ConfigError(f"--bugs {bugs}: not from 1 to {MOST_BUGS}", remedy="Give such a number.")
    if layout not in _FIXES and (repo is not None or pairs):
        raise ConfigError(f"--repo and --pairs: {layout} does not read them", remedy="They belong to bugsinpy and swe.")
    rows: list[ImportedRow] = []
    made: list[MadeProblem] = []
    lines: list[Line] = []
    workers = min(4, os.cpu_count() or 1)
    names: set[str] = set()
    with ExitStack() as stack:
        clone = stack.enter_context(Clone(repo)) if repo is not None else None
        first, second = (stack.enter_context(Judge(LIMITS, 1, hash_seed=seed)) for seed in (0, 1))
        judge = stack.enter_context(Judge(workers=workers))
        for done, (name, row) in enumerate(_rows(layout, path, clone), 1):
            try:
                if isinstance(row, RefusedRowError):
                    raise row
                material = row.material()
                if not material.name.isprintable() or len(material.name) > LONGEST_NAME:
                    raise RefusedRowError(
                        "not of this layout", f"an id of more than {LONGEST_NAME} printable characters"
                    )
                found = problems_of((first, second), judge, material, bugs)
                if repeated := names & {problem.name for problem in found}:
                    raise RefusedRowError("its id is given twice", min(repeated))
                names |= {problem.name for problem in found}
                made += found
                rows.append(ImportedRow(name, tuple(each.name for each in found), len(found[0].cases)))
            except (RefusedRowError, *UNPARSABLE) as error:
                if isinstance(error, RefusedRowError):
                    kind, detail = error.kind, error.detail
                else:
                    kind, detail = "cannot be read", f"{type(error).__name__}: {error}"[:200]
                pair = _pair(row, name) if pairs and not isinstance(row, RefusedRowError) else None
                lines += [pair] if pair else []
                rows.append(ImportedRow(name, pair=pair is not None, kind=kind, detail=detail))
            progress(done)
    mutants = sum(problem.mutant for problem in made)
    return Imported(layout, [*with_splits(made, split), *lines], rows, mutants, len(made) - mutants)


def _pair(row: _Row, name: str) -> Line | None:
    """The training pair of a row whose diff shows a function whole."""
    try:
        change = row.change() if row.change is not None else None
    except (RefusedRowError, *UNPARSABLE):
        return None
    return {"type": "pair", "buggy": change.buggy, "fixed": change.fixed, "family": name} if change else None


def _rows(layout: str, path: Path, clone: Clone | None) -> Iterator[tuple[str, _Row | RefusedRowError]]:
    if layout == "asserts":
        for name, found in assert_file.materials(path):
            yield name, found if isinstance(found, RefusedRowError) else _Row(name, lambda found=found: found)  # type: ignore[misc]
        return
    if layout == "bugsinpy":
        for name, folder in bugsinpy.bug_folders(path):
            yield (
                name,
                _Row(
                    name,
                    lambda name=name, folder=folder: bugsinpy.material(name, folder, clone),  # type: ignore[misc]
                    lambda folder=folder: bugsinpy.change(folder),  # type: ignore[misc]
                ),
            )
        return
    for where, row in rows_of(path):
        if isinstance(row, str):
            yield where, RefusedRowError("not a row", row)
            continue
        name = _id(row, where)
        yield name, _row(layout, name, row, clone)


def _row(layout: str, name: str, row: dict[str, Any], clone: Clone | None) -> _Row:
    if layout == "humaneval":
        return _Row(name, lambda: humaneval.material(row))
    if layout == "mbpp":
        return _Row(name, lambda: mbpp.material(row))
    return _Row(name, lambda: swe_bench.material(row, clone), lambda: swe_bench.change_of_row(row))


def _id(row: dict[str, Any], where: str) -> str:
    """The id of a row, or where it stands."""
    value = row.get("instance_id", row.get("task_id"))
    return str(value)[:100] if isinstance(value, (str, int)) and str(value).strip() else where
