"""Cache of recordings: cases and bugs of a directory's functions, by the content of the directory.

A recording holds data only: cases, and bugs by number. Code is read from the directory each time. A recording that does
not match the directory, or is not valid, is made anew.
"""

import hashlib
import logging
import os
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from coral_core.atomic_write import write_atomic
from coral_core.digest import digest
from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from coral_core.judge.judge import JUDGE_VERSION, ORACLE_VERSION
from coral_core.problem_sources.package.bugs import Bug, find_bugs
from coral_core.problem_sources.package.cases import FEWEST, Cased, Refused, cases_of
from coral_core.problem_sources.package.discovery import Found, discover, walk
from coral_core.problem_sources.package.recording import Call, Calls, pytest_installed, record
from coral_core.problems.mutation import mutation_classes
from coral_core.problems.problem import Case

log = logging.getLogger("coral.package")

VERSION = 2
"""Goes up when the same directory gives other cases or bugs."""
CONTENT = (".py", ".toml", ".cfg", ".ini", ".json", ".csv", ".txt", ".yaml", ".yml")
"""Files whose content identifies the directory."""
LARGEST = 256 * 1024 * 1024


class Usable(Frozen):
    """A function with cases and bugs."""

    function: str = Field(description="file:name.")
    text: str = Field(description="Digest of its standalone module.")
    recorded: int = Field(ge=1, description="Cases that a test called; the others were made from these.")
    cases: tuple[Case, ...] = Field(min_length=FEWEST)
    bugs: tuple[Bug, ...] = Field(min_length=1)


class Refusal(Frozen):
    """A function that cannot become problems."""

    function: str
    file: str
    line: int
    reason: str


class Recording(Frozen):
    """Everything recorded from the tests of a directory."""

    schema_version: Literal[1] = 1
    content: str = Field(description="Digest of the directory, the interpreter and the versions of recorder and judge.")
    passed: int = Field(ge=0, description="Tests and examples that passed.")
    failed: tuple[str, ...] = Field(description="Those that did not; their calls do not count.")
    notes: tuple[str, ...]
    usable: tuple[Usable, ...]
    refused: tuple[Refusal, ...]


@dataclass(frozen=True)
class Ready:
    """A recording and its functions, as they are in the directory."""

    recording: Recording
    functions: dict[str, Found]


def missing(path: str | None) -> list[str]:
    """At most one complaint about ``problems.path``."""
    if path is None:
        return ["problems.path: nothing given, and the source package reads a directory of functions and their tests."]
    if not Path(path).expanduser().is_dir():
        return [f"problems.path: {path}: no such directory. Give a directory of functions and their tests."]
    return []


def ready(path: str | None) -> Ready:
    """The usable functions of the directory at `path`; runs its tests unless this content was recorded before.

    Raises:
        ConfigError: there is no such directory, or no Python file in it.
        ProblemError: the tests cannot be run.
        JudgeError: the sandbox failed.
    """
    for complaint in missing(path):
        raise ConfigError(complaint)
    root = Path(path or "").expanduser().resolve()
    found = discover(root)
    functions = {item.key: item for item in found}
    content = content_digest(root)
    kept = cache_folder() / f"{content}.json"
    recording = read_recording(kept, content, functions)
    if recording is None:
        recording = _made(root, content, found)
        try:
            write_atomic(kept, recording.model_dump_json().encode())
        except OSError as error:
            log.warning(
                "%s: the recording cannot be kept (%s), so the tests of %s run again next time. Set CORAL_HOME to a folder that can be written.",
                kept, error.strerror, root,
            )  # fmt: skip
    return Ready(recording, functions)


def cache_folder() -> Path:
    """Where recordings are kept: under CORAL_HOME, or the user's cache."""
    home = os.environ.get("CORAL_HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    base = Path(home) if home else Path(cache) / "coral-x"
    return base.expanduser().absolute() / "recordings"


def content_digest(root: Path) -> str:
    """Identity of a recording: digest of the files below `root` and of the versions of the tools."""
    files: dict[str, str] = {}
    for here, names in walk(root):
        for name in names:
            if name.endswith(CONTENT) and (here / name).is_file():
                relative = (here / name).relative_to(root).as_posix()
                files[relative] = hashlib.sha256((here / name).read_bytes()).hexdigest()
    tools = [VERSION, JUDGE_VERSION, ORACLE_VERSION, platform.python_version(), pytest_installed()]
    return digest({"files": files, "tools": tools})


def read_recording(path: Path, content: str, functions: dict[str, Found]) -> Recording | None:
    """The recording at `path`, when it is valid and matches the directory; else None.

    Args:
        path: File of the cache.
        content: As `content_digest` of the directory.
        functions: The functions of the directory, by key.
    """
    if not path.exists():
        return None
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        recording = Recording.model_validate_json(path.read_bytes())
        if recording.content != content:
            raise ValueError("it is of another content")
        for usable in recording.usable:
            _check(usable, functions)
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        log.warning("%s: not a recording of ours (%s); the tests run again", path, str(error).splitlines()[0])
        return None
    return recording


def _check(usable: Usable, functions: dict[str, Found]) -> None:
    """Raises `ValueError` unless `usable` speaks of a function as it is in the directory, in the value language."""
    found = functions.get(usable.function)
    if found is None or found.reason or digest(found.source) != usable.text:
        raise ValueError(f"{usable.function} is not as recorded")
    for case in usable.cases:
        case.check()
    classes = mutation_classes(found.function)
    for bug in usable.bugs:
        if bug.place >= len(classes) or classes[bug.place] != bug.bug_class:
            raise ValueError(f"{usable.function} has no mutation {bug.place} of class {bug.bug_class}")


def _made(root: Path, content: str, found: Sequence[Found]) -> Recording:
    """Run the tests and make the cases and bugs."""
    refused = {item.key: item.reason for item in found if item.reason}
    calls = Calls(calls={}, refused={}, passed=0, failed=())
    if len(refused) < len(found):
        calls = record(root, found)
    cased: dict[str, Cased] = {}
    candidates = [item for item in found if not item.reason]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
        for item, outcome in zip(candidates, threads.map(lambda item: _cased(item, calls), candidates), strict=True):
            if isinstance(outcome, str):
                refused[item.key] = outcome
            else:
                cased[item.key] = outcome
    ours = [(item, cased[item.key]) for item in candidates if item.key in cased]
    bugs, without = find_bugs(ours) if ours else ({}, {})
    refused |= without
    usable: list[Usable] = []
    for item, case in ours:
        if item.key in bugs:
            try:
                usable.append(_usable(item, case, bugs[item.key]))
            except Exception as error:
                refused[item.key] = failure("its cases cannot be kept", error)
    return Recording(
        content=content,
        passed=calls.passed,
        failed=calls.failed,
        notes=_notes(calls),
        usable=tuple(usable),
        refused=tuple(
            Refusal(function=item.name, file=item.file, line=item.line, reason=_clean(refused[item.key]))
            for item in found
            if item.key in refused
        ),
    )


def _usable(found: Found, cased: Cased, bugs: tuple[Bug, ...]) -> Usable:
    """The function as it is kept; raises what cannot be written or read back."""
    made = Usable(function=found.key, text=digest(found.source), recorded=cased.recorded, cases=cased.cases, bugs=bugs)
    for case in Usable.model_validate_json(made.model_dump_json()).cases:
        case.check()
    return made


def failure(what: str, error: Exception) -> str:
    """A reason for an unexpected error, as text."""
    log.debug("%s", what, exc_info=error)
    return f"{what} ({type(error).__name__}: {error})"


def _clean(reason: str) -> str:
    """`reason` as one line of valid text: names in it are the user's, and may hold anything."""
    text = reason.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else " " for c in text)[:300]


def _cased(found: Found, calls: Calls) -> Cased | str:
    """The cases of `found`, or why there are none."""
    known: tuple[Call, ...] = calls.calls.get(found.key, ())
    reasons = calls.refused.get(found.key, {})
    if not known:
        if reasons:
            reason = max(sorted(reasons), key=lambda name: reasons[name])
            return f"{reason} ({sum(reasons.values())} calls)"
        return "no passing test calls it"
    try:
        return cases_of(found, known)
    except Refused as refused:
        return str(refused)
    except Exception as error:  # one function must not affect the others
        return failure("its calls cannot be made into cases", error)


def _notes(calls: Calls) -> tuple[str, ...]:
    notes = []
    if not pytest_installed():
        notes.append(
            "pytest is not installed here: only the examples in docstrings were run. Install pytest to use the tests too."
        )
    if calls.failed:
        shown = ", ".join(calls.failed[:3]) + (" and more" if len(calls.failed) > 3 else "")
        notes.append(f"{len(calls.failed)} tests did not pass, and their calls do not count: {shown}")
    return tuple(notes)
