"""Cache of recordings: cases and bugs of a directory's functions, by the content of the directory.

A recording that is invalid, or of another content, is made again.
"""

import hashlib
import logging
import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import Field

from coral_core.atomic_write import write_atomic
from coral_core.config.cache_folder import cache_folder
from coral_core.digest import digest
from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from coral_core.judge.judge import JUDGE_VERSION, ORACLE_VERSION
from coral_core.problem_sources.package.bugs import NO_BUG, find_bugs
from coral_core.problem_sources.package.cases import UsableFunction, cases_of
from coral_core.problem_sources.package.discovery import Refused, SourceFunction, completed, discover, project_of, walk
from coral_core.problem_sources.package.modules import Project
from coral_core.problem_sources.package.recording import Call, Calls, interpreter, lines, record

log = logging.getLogger("coral.package")

VERSION = 11
"""Goes up when the same directory gives other cases or bugs."""
COMPILED = (".pyc", ".pyo", ".so", ".o", ".a", ".pyd")
"""Files whose content does not matter; that of all others identifies the directory, since tests may read them."""
LARGEST = 256 * 1024 * 1024
UNCALLED = "no passing test calls it"


class Recording(Frozen):
    """Everything recorded from the tests of a directory."""

    content: str = Field(description="Digest of the directory, the interpreter and the versions of recorder and judge.")
    passed: int = Field(ge=0, description="Tests and examples that passed.")
    failed: tuple[str, ...] = Field(description="Those that did not; their calls do not count.")
    notes: tuple[str, ...]
    calls: dict[str, int] = Field(
        default_factory=dict, description="By function (file:name): how many of its calls were recorded."
    )
    unrecorded: dict[str, dict[str, int]] = Field(
        default_factory=dict, description="By function: why calls could not be recorded, how many."
    )
    tests: dict[str, str] = Field(default_factory=dict, description="Outcome of each test.")
    usable: tuple[UsableFunction, ...]
    refused: tuple[SourceFunction, ...]
    without_bugs: tuple[UsableFunction, ...] = Field(
        (), description="Of the refused ones those with cases that detect no bug: no problems, but cases of a repair."
    )


def missing(path: str | None) -> list[str]:
    """At most one complaint about ``problems.path``."""
    if path is None:
        return ["problems.path: nothing given, and the source package reads a directory of functions and their tests."]
    if not Path(path).expanduser().is_dir():
        return [f"problems.path: {path}: no such directory. Give a directory of functions and their tests."]
    return []


def recording_of(
    path: str | None, python: str | None = None, progress: Callable[[str], None] | None = None
) -> Recording:
    """The usable functions of a directory; runs its tests unless the same content was recorded before.

    Args:
        path: The directory; None is an error.
        python: Interpreter that runs its tests; None: this one.
        progress: Is called with a line of text now and then.

    Raises:
        ConfigError: there is no such directory, or no Python file in it.
        ProblemError: the tests cannot be run.
        JudgeError: the sandbox failed.
    """
    for complaint in missing(path):
        raise ConfigError(complaint)
    root = Path(path or "").expanduser().resolve()
    content = content_digest(root, python)
    cache_file = cache_folder("recordings") / f"{content}.json"
    recording = read_recording(cache_file, content)
    if recording is None:
        recording = _record_directory(root, content, python, progress)
        try:
            write_atomic(cache_file, recording.model_dump_json().encode())
        except OSError as error:
            log.warning(
                "%s: the recording cannot be kept (%s), so the tests of %s run again next time. Set CORAL_HOME to a folder that can be written.",
                cache_file, error.strerror, root,
            )  # fmt: skip
    return recording


def content_digest(root: Path, python: str | None = None) -> str:
    """Identity of a recording: digest of the files below `root` and of the versions of interpreter and tools.

    Args:
        root: The directory.
        python: Interpreter that runs its tests; None: this one.

    Raises:
        ConfigError: a file cannot be read, or the interpreter is none.
    """
    files: dict[str, str] = {}
    for here, names in walk(root):
        for name in names:
            if not name.endswith(COMPILED) and (here / name).is_file():
                relative = (here / name).relative_to(root).as_posix()
                try:
                    with (here / name).open("rb") as file:
                        files[relative] = hashlib.file_digest(file, "sha256").hexdigest()
                except OSError as error:
                    raise ConfigError(
                        f"problems.path: {root}: {relative} cannot be read ({error.strerror})",
                        remedy="Make it readable, or move it away.",
                    ) from None
    tools = [VERSION, JUDGE_VERSION, ORACLE_VERSION, platform.python_version(), *interpreter(python)[1:]]
    return digest({"files": files, "tools": tools})


def read_recording(path: Path, content: str) -> Recording | None:
    """Read a recording from the cache.

    Args:
        path: File of the cache.
        content: As `content_digest` of the directory.

    Returns:
        None when there is no file, or it is invalid or of another content.
    """
    if not path.exists():
        return None
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        recording = Recording.model_validate_json(path.read_bytes())
        if recording.content != content:
            raise ValueError("it is of another content")
        for usable in (*recording.usable, *recording.without_bugs):
            for case in usable.cases:
                case.check()
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s: not a recording of ours (%s); the tests run again", path, str(error).splitlines()[0])
        return None
    return recording


def _record_directory(
    root: Path, content: str, python: str | None, progress: Callable[[str], None] | None
) -> Recording:
    """Run the tests and make the cases and bugs."""
    project = project_of(root)
    functions = discover(root, project)
    calls = Calls(calls={}, refused={}, passed=0, failed=())
    if any(item.first for item in functions):
        calls = record(root, functions, python=python, progress=progress)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
        outcomes = list(threads.map(lambda item: _with_cases(project, item, calls), functions))
    usable = [item for item in outcomes if isinstance(item, UsableFunction)]
    judged = iter(find_bugs(usable, progress) if usable else ())
    final = [next(judged) if isinstance(item, UsableFunction) else item for item in outcomes]
    pairs = zip(outcomes, final, strict=True)
    without = [one for one, two in pairs if isinstance(one, UsableFunction) and isinstance(two, SourceFunction) and two.reason == NO_BUG]  # fmt: skip
    return Recording(
        content=content,
        passed=calls.passed,
        failed=calls.failed,
        notes=tuple(lines(calls)),
        calls={key: len(found) for key, found in calls.calls.items()},
        unrecorded=calls.refused,
        tests=calls.tests,
        usable=tuple(item for item in final if isinstance(item, UsableFunction)),
        refused=tuple(item for item in final if isinstance(item, SourceFunction)),
        without_bugs=tuple(without),
    )


def _with_cases(project: Project, function: SourceFunction, calls: Calls) -> UsableFunction | SourceFunction:
    """The function with its cases, or refused."""
    if function.reason:
        return function
    recorded = calls.calls.get(function.key)
    if not recorded:
        reasons = calls.refused.get(function.key, {})
        reason = max(sorted(reasons), key=lambda name: reasons[name], default="")
        return function.refused(f"{reason} ({sum(reasons.values())} calls)" if reason else UNCALLED)
    try:
        return cases_of(with_classes(project, function, recorded), recorded)
    except Refused as refused:
        return function.refused(str(refused))
    except Exception as error:  # one function must not affect the others
        log.debug("%s", function.key, exc_info=error)
        return function.refused(f"its calls cannot be made into cases ({type(error).__name__}: {error})")


def with_classes(
    project: Project, function: SourceFunction, recorded: Sequence[Call], renamed: str = ""
) -> SourceFunction:
    """The function with the classes before it whose instances its calls take or give.

    Args:
        project: As `project_of` the directory.
        function: The function.
        recorded: Its recorded calls.
        renamed: The name that its file has where the calls were recorded, when it is another one.

    Raises:
        Refused: a class cannot be taken out of the project.
    """
    classes = dict(pair for call in recorded for pair in call.classes.items())
    if any(classes[name] != file for call in recorded for name, file in call.classes.items()):
        raise Refused(f"gets or gives instances of two classes of one name: {', '.join(classes)}")
    places = {name: function.file if file == renamed else file for name, file in classes.items()}
    complete = completed(project, function, places) if places else function
    if complete.reason:
        raise Refused(complete.reason)
    return complete
