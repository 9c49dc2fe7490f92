"""`coral init --from DIR --why NAME`: everything that is known of a function of a directory, and why it cannot be used."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from coral_core.errors import ConfigError
from coral_core.problem_sources.package.cache import Recording, recording_of
from coral_core.problem_sources.package.cases import UsableFunction, shown_case
from coral_core.problem_sources.package.discovery import SourceFunction
from flows.cli.markup import echo, listing, words
from flows.cli.recording_progress import RecordingProgress

SHOWN_CASES = 5


def explain(directory: Path, python: str | None, name: str) -> None:
    """Print all that is known of the functions called `name`.

    Args:
        directory: Contains the functions and their tests, which are run unless a recording of them is kept.
        python: Interpreter that runs the tests; None: this one.
        name: A function's name, Class.name, file:name, or a pattern with * of one of these.

    Raises:
        ConfigError: there is no such directory or function.
    """
    with RecordingProgress() as progress:
        recording = recording_of(str(directory), python, progress)
    every: Sequence[UsableFunction | SourceFunction] = (*recording.usable, *recording.refused)
    found = [item for item in every if _is_meant(_definition(item), name)]
    if not found:
        close = sorted(
            {_definition(item).name for item in every if name.casefold() in _definition(item).name.casefold()}
        )
        hint = f"Near it: {', '.join(close[:8])}." if close else "Those of it are listed by coral init --from."
        raise ConfigError(f"--why {name}: {directory}: no function of this name", remedy=hint)
    for item in found:
        for line in _account(item, recording):
            echo(words(line))
        if isinstance(item, UsableFunction):
            echo(listing(item.definition.source, "python"))


def _definition(item: UsableFunction | SourceFunction) -> SourceFunction:
    return item.definition if isinstance(item, UsableFunction) else item


def _is_meant(function: SourceFunction, name: str) -> bool:
    names = (function.name, function.name.rpartition(".")[2], function.key, f"{function.file}:{function.line}")
    return any(fnmatchcase(known, name) for known in names)


def _account(item: UsableFunction | SourceFunction, recording: Recording) -> Iterator[str]:
    function = _definition(item)
    yield f"{function.file}:{function.line} {function.name}"
    if isinstance(item, UsableFunction):
        yield f"  usable: {len(item.cases)} cases, {item.recorded} of them calls of tests; {len(item.bugs)} bugs"
        yield from (f"    {shown_case(case)}" for case in item.cases[:SHOWN_CASES])
        if item.differing:
            yield f"  {item.differing} calls of tests are no cases, since they acted differently in the package: {item.difference}"
    else:
        yield f"  cannot be used: {function.reason}"
    yield f"  calls of passing tests that were recorded: {recording.calls.get(function.key, 0)}"
    unrecorded = recording.unrecorded.get(function.key, {})
    for reason in sorted(unrecorded, key=lambda text: (-unrecorded[text], text)):
        yield f"  {unrecorded[reason]} calls could not be recorded: {re.sub(chr(10), ' ', reason)}"
