"""Importing a module starts nothing and changes nothing that other code of the process sees."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import importlib, json, logging, os, signal, sys, threading

import prefect.main  # what Prefect does at its own import is not ours


def seen():
    handlers = {str(number): repr(signal.getsignal(number)) for number in signal.valid_signals()}
    loggers = [logging.root, *(found for found in logging.root.manager.loggerDict.values() if isinstance(found, logging.Logger))]
    ours = {found.name: (found.level, list(map(repr, found.handlers))) for found in loggers if found.name.split(".")[0] in ("root", "coral")}
    return {
        "environment": dict(os.environ),
        "signals": handlers,
        "loggers": {name: state for name, state in ours.items() if state != (0, [])},
        "threads": [thread.name for thread in threading.enumerate()],
        "children": open(f"/proc/self/task/{os.getpid()}/children").read(),
    }


before = seen()
for name in sys.argv[1:]:
    importlib.import_module(name)
    if (after := seen()) != before:
        print(json.dumps([name, {key: (before[key], after[key]) for key in after if before[key] != after[key]}]))
        break
"""


def test_imports_have_no_side_effects(tmp_path: Path) -> None:
    names = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "flows").rglob("*.py")
        if path.name != "__main__.py"
    )
    assert "flows.prefect_api.settings" in names and "flows.cli" in names
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", json.loads(done.stdout)
    assert list(tmp_path.iterdir()) == []
