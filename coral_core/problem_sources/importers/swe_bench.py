"""The layout of SWE-bench: instance_id, base_commit, patch and test_patch.

FAIL_TO_PASS is not needed: all tests of the changed test files that call the function are run, and the judge sees
whether the bug fails one. A row is self-contained when its patches show the function and its tests whole; most are not,
and need a local clone (``--repo DIR``).
"""

from typing import Any

from coral_core.problem_sources.importers.fixes import Change, Clone, change_in_hunk, material_of_fix, python_files
from coral_core.problem_sources.importers.humaneval import field
from coral_core.problem_sources.importers.material import Material, RefusedRowError
from coral_core.problem_sources.importers.unified_diff import FileDiff, applied, parse_diff


def material(row: dict[str, Any], clone: Clone | None) -> Material:
    """What a row of SWE-bench holds.

    Raises:
        RefusedRowError: it cannot become a problem.
    """
    name, commit = field(row, "instance_id"), field(row, "base_commit")
    [file] = python_files(parse_diff(field(row, "patch")))
    tests = [each for each in parse_diff(field(row, "test_patch")) if each.new.endswith(".py")]
    if not tests:
        raise RefusedRowError("no Python in its tests", name)
    if clone is None:
        return _self_contained(name, file, tests)
    old = clone.text(commit, file.old)
    modules = [applied(each, clone.text(commit, each.old) if each.old else "") for each in tests]
    return material_of_fix(name, old, applied(file, old), modules)


def _self_contained(name: str, file: FileDiff, tests: list[FileDiff]) -> Material:
    """The material of a row whose patches show everything. Raises `RefusedRowError` for others."""
    change = change_of(file)
    texts = []
    for each in tests:
        whole = not each.old or (len(each.hunks) == 1 and each.hunks[0].start <= 1)
        if not whole:
            raise RefusedRowError("needs a checkout", "the patch shows only a part of its tests: give --repo DIR")
        texts.append("\n".join(line for hunk in each.hunks for line in hunk.side("+")))
    [hunk] = file.hunks
    if hunk.start <= 1 and hunk.ends_file():  # the whole file, with what stands around the function
        return material_of_fix(name, "\n".join(hunk.side("-")), "\n".join(hunk.side("+")), texts)
    return material_of_fix(name, change.buggy, change.fixed, texts)


def change_of_row(row: dict[str, Any]) -> Change:
    """The function that the patch of a row shows whole. Raises `RefusedRowError`."""
    [file] = python_files(parse_diff(field(row, "patch")))
    return change_of(file)


def change_of(file: FileDiff) -> Change:
    """The function that the patch of one file shows whole.

    Raises:
        RefusedRowError: it shows none.
    """
    if len(file.hunks) != 1:
        raise RefusedRowError("needs a checkout", f"the patch has {len(file.hunks)} hunks: give --repo DIR")
    try:
        return change_in_hunk(file.hunks[0])
    except RefusedRowError as error:
        if error.kind.startswith("the diff shows only"):
            raise RefusedRowError(
                "needs a checkout", "the patch shows only a part of the function: give --repo DIR"
            ) from None
        raise
