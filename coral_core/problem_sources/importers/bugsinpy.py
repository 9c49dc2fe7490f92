"""The layout of BugsInPy: a folder of bugs, each with bug.info and bug_patch.txt.

Its scripts (run_test.sh, setup.sh) are neither executed nor needed: bug.info names the file of tests. The tests
themselves are in the project, so without a clone of it there is no problem, only a training pair when the patch shows
the function whole.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from coral_core.bounded_read import MEBIBYTE, list_folder, read_file
from coral_core.errors import ConfigError
from coral_core.problem_sources.importers.fixes import Change, Clone, change_in_hunk, material_of_fix, python_files
from coral_core.problem_sources.importers.material import Material, RefusedRowError, readable
from coral_core.problem_sources.importers.unified_diff import FileDiff, parse_diff

MOST_BUGS = 5_000
_INFO = re.compile(r'^\s*(\w+)\s*=\s*"?([^"\n]*)"?\s*$', re.MULTILINE)


def bug_folders(path: Path) -> Iterator[tuple[str, Path]]:
    """Name and folder of each bug at or below a folder: of one bug, of a project's bugs, of a project, or of all projects.

    Raises:
        ConfigError: there is none.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: no folder", remedy="Give a folder of BugsInPy: projects, a project, or its bugs.")
    found = list(_bugs(path, 4))[: MOST_BUGS + 1]
    if not found:
        raise ConfigError(
            f"{path}: no bug.info in it", remedy="Give a folder of BugsInPy: projects, a project, or its bugs."
        )
    if len(found) > MOST_BUGS:
        raise ConfigError(f"{path}: more than {MOST_BUGS} bugs", remedy="Give the folder of one project.")
    for folder in found:
        parts = [part for part in folder.absolute().parts if part != "bugs"][-2:]
        yield "/".join(parts), folder


def _bugs(path: Path, levels: int) -> Iterator[Path]:
    try:
        names = list_folder(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", remedy="Check its permissions.") from None
    if "bug.info" in names:
        yield path
    elif levels:
        order = sorted(names, key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name))
        for name in order:
            if (path / name).is_dir() and not (path / name).is_symlink():
                yield from _bugs(path / name, levels - 1)


def material(name: str, folder: Path, clone: Clone | None) -> Material:
    """What a bug holds, with a clone of its project.

    Raises:
        RefusedRowError: it cannot become a problem.
    """
    info = dict(_INFO.findall(_text(folder, "bug.info")))
    [file] = python_files(_patch(folder))
    if clone is None:
        raise RefusedRowError("needs a checkout", "its tests are in the project, not in these files: give --repo DIR")
    missing = [key for key in ("buggy_commit_id", "fixed_commit_id", "test_file") if not info.get(key)]
    if missing:
        raise RefusedRowError("not of this layout", f"bug.info has no {missing[0]}")
    old = clone.text(info["buggy_commit_id"], file.old)
    new = clone.text(info["fixed_commit_id"], file.new)
    paths = [path.strip() for path in info["test_file"].split(";") if path.strip()]
    tests = [clone.text(info["fixed_commit_id"], path) for path in paths]
    return material_of_fix(name, old, new, tests)


def change(folder: Path) -> Change:
    """The function of a bug that its patch shows whole.

    Raises:
        RefusedRowError: it shows none.
    """
    [file] = python_files(_patch(folder))
    if len(file.hunks) != 1:
        raise RefusedRowError("the diff shows only a part of the function", f"{len(file.hunks)} hunks")
    return change_in_hunk(file.hunks[0])


def _patch(folder: Path) -> list[FileDiff]:
    return parse_diff(_text(folder, "bug_patch.txt"))


def _text(folder: Path, name: str) -> str:
    try:
        return readable(read_file(folder / name, MEBIBYTE, folder).decode())
    except OSError as error:
        raise RefusedRowError("not of this layout", f"{name}: {error.strerror}") from None
    except ValueError:
        raise RefusedRowError("not UTF-8", name) from None
