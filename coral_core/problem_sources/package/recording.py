"""Runs the tests of a directory in a process of their own and reads the calls that they made.

The process has a time limit and a short environment without secrets. Its answer, one JSON file, is checked as untrusted
input. Not covered: tests that need services, credentials or another interpreter.
"""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from coral_core.errors import ProblemError
from coral_core.frozen import Frozen
from coral_core.problem_sources.package.discovery import SourceFunction
from coral_core.problems import values

SECONDS = 600
"""Wall clock of all tests together."""
MOST_CALLS = 64
"""Distinct calls kept per function."""
LARGEST_RESULT = 256 * 1024 * 1024
ENVIRONMENT = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
"""Variables that are passed to the tests, with LC_*: no tokens or passwords."""


class Call(Frozen):
    """One call that a passing test made."""

    arguments: tuple[Any, ...]
    outcome: dict[str, Any] | None = Field(
        None,
        description="``value`` or ``exception``, and the arguments after the call as ``mutated``; None: what a generator yields was not read.",
    )


class Calls(Frozen):
    """The calls that the tests made, and how the tests ended."""

    calls: dict[str, tuple[Call, ...]] = Field(description="By function (file:name), in the order of the tests.")
    refused: dict[str, dict[str, int]] = Field(description="By function: why calls could not be recorded, how many.")
    passed: int = Field(ge=0, description="Tests and examples that passed.")
    failed: tuple[str, ...] = Field(description="Those that did not; their calls do not count.")


def pytest_installed() -> bool:
    """True when pytest is installed for this interpreter, which runs the tests."""
    return importlib.util.find_spec("pytest") is not None


def record(root: Path, functions: Sequence[SourceFunction], seconds: float = SECONDS) -> Calls:
    """Run the tests below a directory and record their calls.

    Args:
        root: The directory.
        functions: Its functions; those with a reason are not recorded.
        seconds: Wall-clock limit for all tests together.

    Raises:
        ProblemError: the tests took longer than `seconds`, or their process ended without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="coral-recording-") as folder:
        request, result, output_file = (Path(folder) / name for name in ("request.json", "result.json", "output.txt"))
        request.write_text(json.dumps(_request(root, functions)), encoding="utf-8")
        with output_file.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("recorder.py")), str(request), str(result)],
                cwd=root,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                raise ProblemError(
                    f"problems.path: {root}: its tests took longer than {seconds:g} s and were ended",
                    remedy="Give a smaller directory, or one whose tests are quick.",
                ) from None
            finally:
                with contextlib.suppress(OSError):  # also processes that the tests started
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if not result.exists():
            raise ProblemError(
                f"problems.path: {root}: its tests ended without a recording (exit code {code}): {_tail(output_file)}",
                remedy=f"See what they do with: cd {root} && {sys.executable} -m pytest",
            )
        return read_calls(result, root)


def read_calls(path: Path, root: Path) -> Calls:
    """Read and check the answer of a recording process.

    A function with a call outside the value language is refused; the others are kept.

    Args:
        path: The answer.
        root: The directory, for errors.

    Raises:
        ProblemError: the answer is too large, or is not of the form that the recorder writes.
    """
    try:
        if path.stat().st_size > LARGEST_RESULT:
            raise ValueError(f"it holds more than {LARGEST_RESULT} bytes")
        calls = Calls.model_validate_json(path.read_bytes())
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise ProblemError(
            f"problems.path: {root}: the recording of its tests cannot be read: {reason}",
            remedy="Do the tests write to it?",
        ) from None
    kept, refused = {}, dict(calls.refused)
    for key, found in calls.calls.items():
        try:
            for call in found:
                for argument in call.arguments:
                    values.decode(argument)
        except (values.ValueOutside, RecursionError) as error:
            refused[key] = {f"its recorded calls cannot be read: {error}": len(found)}
        else:
            kept[key] = found
    return calls.model_copy(update={"calls": kept, "refused": refused})


def _request(root: Path, functions: Sequence[SourceFunction]) -> dict[str, Any]:
    targets: dict[str, list[str]] = {}
    for item in functions:
        if not item.reason:
            targets.setdefault(item.file, []).append(item.name)
    paths = [str(root), *([str(root / "src")] if (root / "src").is_dir() else [])]
    doctests = []
    for file in targets:
        path = (root / file).resolve()
        if ">>>" in path.read_text(encoding="utf-8", errors="replace"):
            folder, name = module_name(path)
            doctests.append([name, str(path), file])
            if folder not in paths:
                paths.append(folder)
    return {
        "root": str(root),
        "targets": [[str((root / file).resolve()), file, names] for file, names in targets.items()],
        "doctests": doctests,
        "paths": paths,
        "pytest": pytest_installed(),
        "values": values.__file__,
        "most": MOST_CALLS,
    }


def module_name(path: Path) -> tuple[str, str]:
    """The folder from which the module at `path` is imported, and its name there."""
    parts = [] if path.name == "__init__.py" else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    return str(folder), ".".join(parts)


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key in ENVIRONMENT or key.startswith("LC_")}
    return kept | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


def _tail(path: Path) -> str:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 4_000))
        lines = stream.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no output"
