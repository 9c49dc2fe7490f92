"""The layout of MBPP: code, test_list, and text or prompt; test_setup_code and challenge_test_list, or test_imports
(sanitized)."""

import ast
from collections import Counter
from collections.abc import Sequence
from typing import Any

from coral_core.problem_sources.importers.humaneval import field
from coral_core.problem_sources.importers.material import Material, RefusedRowError, readable, tree_of


def material(row: dict[str, Any]) -> Material:
    """What a row of MBPP holds. The function is the one that its tests call most.

    Raises:
        RefusedRowError: it is not of this layout.
    """
    number = row.get("task_id")
    if isinstance(number, bool) or not isinstance(number, (int, str)):
        raise RefusedRowError("not of this layout", "task_id is missing")
    code = field(row, "code")
    tests = [*_texts(row, "test_list"), *_texts(row, "challenge_test_list", ())]
    if not tests:
        raise RefusedRowError("not of this layout", "test_list is empty")
    setup = "\n".join([field(row, "test_setup_code", ""), *_texts(row, "test_imports", ())]).strip()
    units = [("code", "setup", setup)] if setup else []
    units += [("code", f"test {place}", test) for place, test in enumerate(tests)]
    return Material(name=f"MBPP/{number}", entry_point=_called(code, tests), program=code, units=tuple(units))


def _texts(row: dict[str, Any], name: str, default: Sequence[str] | None = None) -> list[str]:
    value = row.get(name, default)
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise RefusedRowError("not of this layout", f"{name} is no list of texts")
    return [readable(item) for item in value]


def _called(code: str, tests: Sequence[str]) -> str:
    """The function of the module that the tests call most, the last one in it among equals."""
    defined = [node.name for node in tree_of(code, "code").body if isinstance(node, ast.FunctionDef)]
    counts: Counter[str] = Counter()
    for test in tests:
        for part in ast.walk(tree_of(test, "a test")):
            if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in defined:
                counts[part.func.id] += 1
    if not counts:
        raise RefusedRowError("no such function", "its tests call no function of its code")
    return max(counts, key=lambda name: (counts[name], defined.index(name)))
