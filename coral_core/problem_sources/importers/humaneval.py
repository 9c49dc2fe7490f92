"""The layout of HumanEval: task_id, prompt, canonical_solution, entry_point, and test with ``def check(candidate)``.

Rows of HumanEvalPack (HumanEvalFix) have buggy_solution besides: their own bug. Then the function begins with the row's
declaration, which has no docstring, as in HumanEvalFix.
"""

from typing import Any

from coral_core.problem_sources.importers.material import Material, RefusedRowError, readable
from coral_core.problems.problem import BugClass

BUG_TYPES: dict[str, BugClass] = {
    "missing logic": "missing-step",
    "value misuse": "constant",
    "variable misuse": "variable",
    "function misuse": "called-name",
}
"""Bug types of HumanEvalPack that are one of our classes; the others are unknown."""


def field(row: dict[str, Any], name: str, default: str | None = None) -> str:
    """A text of a row.

    Raises:
        RefusedRowError: it is missing, or no text.
    """
    value = row.get(name, default)
    if not isinstance(value, str):
        raise RefusedRowError("not of this layout", f"{name} is {'missing' if name not in row else 'no text'}")
    return readable(value)


def material(row: dict[str, Any]) -> Material:
    """What a row of HumanEval holds.

    Raises:
        RefusedRowError: it is not of this layout, or not Python.
    """
    task, entry_point, test = field(row, "task_id"), field(row, "entry_point"), field(row, "test")
    if not entry_point.isidentifier():
        raise RefusedRowError("not of this layout", f"entry_point {entry_point[:60]!r} is no name")
    language = task.partition("/")[0]
    if language not in ("HumanEval", "Python") and "buggy_solution" in row:
        raise RefusedRowError("not Python 3", f"{task[:60]}")
    own_bug = row.get("buggy_solution") is not None
    head = field(row, "declaration", "") if own_bug else ""
    head = head or field(row, "prompt")
    imports = "\n".join(text for text in (field(row, "import", ""), field(row, "test_setup", "")) if text.strip())
    before = f"{imports}\n" if imports else ""
    units = [("code", "test", f"{before}{test}"), ("code", "check", f"check({entry_point})")]
    kind = row.get("bug_type")
    return Material(
        name=task,
        entry_point=entry_point,
        program=f"{before}{head}{field(row, 'canonical_solution')}",
        units=tuple(units),
        buggy=f"{before}{head}{field(row, 'buggy_solution')}" if own_bug else None,
        bug_class=BUG_TYPES.get(kind, "unknown") if isinstance(kind, str) else "unknown",
    )
