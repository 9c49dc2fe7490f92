"""Every example in a docstring of coral_core and flows runs and gives what it shows."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def with_examples() -> list[str]:
    """Names of the modules whose docstrings hold examples, found without importing them."""
    found = []
    for path in sorted(path for package in ("coral_core", "flows") for path in (ROOT / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if ">>> " in text and any(
            ">>> " in (ast.get_docstring(node) or "")
            for node in ast.walk(ast.parse(text))
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        ):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


SLOW = {"coral_core.api": pytest.mark.slow(reason="several evolutions; tests/evolution/test_api.py has the same calls")}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in with_examples()])
def test_examples_run(name: str) -> None:
    if name.startswith("coral_core.lm."):
        pytest.importorskip("torch")
    outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert outcome.attempted > 0
    assert outcome.failed == 0
