"""Runs a script of this package in isolation: standard library only, without an import path to installed packages.

The script gets the file of the value language as its argument and a JSON request on standard input. It answers with
lines of JSON. Not a sandbox: it keeps the side effects of trusted code out of this process.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from coral_core.problems import values


class Answers(NamedTuple):
    """The answers of a script."""

    lines: list[Any]
    """The lines up to the first that was cut off."""
    timed_out: bool
    ended: str
    """How the process ended, for an error message."""


def run_script(
    script: Path,
    request: Any,
    seconds: float,
    hash_seed: int = 0,
    environment: dict[str, str] | None = None,
    directory: str = "/",
) -> Answers:
    """Run a script to its end.

    Args:
        script: Its file.
        request: JSON data for its standard input.
        seconds: Wall-clock time after which it is killed.
        hash_seed: PYTHONHASHSEED of the process.
        environment: Its other variables; None: a short PATH.
        directory: Its working directory.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-s", "-S", "-P", str(script), values.__file__],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=seconds,
            env={**(environment or {"PATH": "/usr/bin:/bin"}), "PYTHONHASHSEED": str(hash_seed)},
            cwd=directory,
            check=False,
        )
        output, timed_out = done.stdout, False
        ended = f"ended with exit code {done.returncode}: {done.stderr.decode(errors='replace').strip()[-200:]}"
    except subprocess.TimeoutExpired as error:
        output, timed_out = error.stdout or b"", True
        ended = f"did not end within {seconds:g} s"
    lines = []
    for line in output.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return Answers(lines, timed_out, ended)
