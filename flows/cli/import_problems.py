"""`coral problems import`: convert a public benchmark, or a file of tests, into a file of bugs (layout `jsonl`)."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from coral_core.atomic_write import write_atomic
from coral_core.errors import ConfigError, CoralError, StoreError
from coral_core.report.wording import plural
from flows.cli.markup import echo, print_json, table, words
from flows.cli.places import AsJson

Layout = Literal["humaneval", "mbpp", "bugsinpy", "swe", "asserts"]


class NothingImportedError(CoralError):
    """No row of the file could be used."""


def import_problems(
    layout: Layout,
    file: Path,
    /,
    *,
    out: Path | None = None,
    repo: Path | None = None,
    bugs: int = 1,
    split: Literal["auto", "fitness", "monitor", "held_out"] = "auto",
    pairs: Annotated[bool, Parameter(negative=())] = False,
    force: Annotated[bool, Parameter(negative=())] = False,
    as_json: AsJson = False,
) -> None:
    """Convert FILE into a file of bugs; exits with 1 when no row can be used.

    The tests of each row run on its reference in the judge's sandbox, and the calls that
    they make become cases. A row without a bug of its own gets mutants of its reference.

    Args:
        layout: humaneval (also HumanEvalPack), mbpp, bugsinpy, swe or asserts.
        file: JSON lines, also .gz; a folder for bugsinpy; a Python file with tests for asserts.
        out: The file to write; by default the name of FILE with the ending .coral.jsonl, in this folder.
        repo: A local clone of the repository that the rows are about (bugsinpy, swe).
        bugs: Mutants per function at most, where rows have no bug of their own.
        split: Put all problems into one split; auto divides them, functions that are alike together.
        pairs: Rows that cannot be judged, but show a function whole, become training pairs (bugsinpy, swe).
        force: Overwrite the file if there is one.
    """
    from coral_core.problem_sources import importers

    target = out or Path(f"{file.resolve().name.partition('.')[0] or layout}.coral.jsonl")
    if target.exists() and not force:
        raise ConfigError(
            f"{target}: the file exists", remedy="Choose another with --out, or overwrite it with --force."
        )

    def progress(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} rows", end="", file=sys.stderr, flush=True)

    found = importers.import_problems(layout, file, repo=repo, bugs=bugs, split=split, pairs=pairs, progress=progress)
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    if found.lines:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found.lines)
        try:
            write_atomic(target, text.encode())
        except OSError as error:
            raise StoreError(
                f"{target}: cannot be written ({error.strerror})", remedy="Choose another place."
            ) from None
    if as_json:
        print_json(_data(found, str(file), str(target) if found.lines else None))
    else:
        _print(found, target)
    if not found.lines:
        reasons = ", ".join(f"{count} {kind}" for kind, count in list(found.reasons().items())[:4])
        raise NothingImportedError(
            f"{file}: none of {plural(len(found.rows), 'row')} can be used: {reasons or 'there are none'}",
            remedy="See docs/problems.md for what each layout needs.",
        )


def _data(found: Any, file: str, out: str | None) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "layout": found.layout,
        "file": file,
        "out": out,
        "problems": found.own + found.mutants,
        "own_bugs": found.own,
        "mutants": found.mutants,
        "pairs": sum(row.pair for row in found.rows),
        "splits": found.splits(),
        "refused": len(found.refused),
        "reasons": found.reasons(),
        "rows": [
            {
                "row": row.row, "problems": row.problems, "cases": row.cases, "pair": row.pair,
                "refused": row.kind or None, "detail": row.detail,
            }
            for row in found.rows
        ],
    }  # fmt: skip


def _print(found: Any, target: Path) -> None:
    rows = [(each.row, each.kind, each.detail) for each in found.refused]
    if rows:
        echo(table(("<refused", "<reason", "<detail"), rows))
        echo(*(words(f"{count:>6}  {kind}", "dim") for kind, count in found.reasons().items()))
    problems = found.own + found.mutants
    pairs = sum(row.pair for row in found.rows)
    used = len(found.rows) - len(found.refused)
    splits = ", ".join(f"{count} {name}" for name, count in found.splits().items())
    echo(words(f"{used} of {plural(len(found.rows), 'row')} used: {plural(problems, 'problem')} ({splits})" if problems else f"{plural(len(found.rows), 'row')}, no problem"))  # fmt: skip
    if found.mutants:
        echo(
            words(f"{found.mutants} of the bugs are mutants of the reference, made here; {found.own} are the rows' own")
        )
    if pairs:
        echo(words(f"{plural(pairs, 'training pair')} of rows that cannot be judged"))
    if problems:
        echo(words(f"wrote {target}. Next: coral problems check jsonl --root {target}"))
    elif pairs:
        echo(words(f"wrote {target}, for problems.training (source jsonl, path {target})"))
