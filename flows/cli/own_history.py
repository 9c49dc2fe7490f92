"""`coral init --from DIR --history`: the fixes in a repository's history, and the section `problems` that uses them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coral_core.config import RunConfig
from coral_core.config.text_fields import expanded
from coral_core.config.tree import HistoryConfig, ProblemsConfig
from coral_core.errors import ConfigError, ProblemError
from coral_core.problem_sources.history.fix import Reason
from coral_core.problem_sources.history.history_problems import (
    Selected,
    name_of,
    recorded,
    refuse_shortage,
    select_history,
    supply,
)
from coral_core.problem_sources.history.time_splits import HistorySplits, divide_by_time
from coral_core.problem_sources.history.walk import History, extent, walk
from coral_core.problem_sources.package.cache import Recording
from coral_core.problem_sources.package.package_problems import SMALLEST
from coral_core.report.paired import resolution
from flows.cli.fit_lengths import FunctionTexts, longest_usable
from flows.cli.history import print_history
from flows.cli.markup import echo, words
from flows.cli.recording_progress import RecordingProgress

OUTSIDE = frozenset(
    {
        Reason.MERGE, Reason.FIRST, Reason.SHALLOW, Reason.UNREADABLE,
        Reason.NO_CODE, Reason.UNPARSABLE, Reason.RENAMED, Reason.NO_FUNCTION,
    }
)  # fmt: skip
"""Reasons of commits that change no function, as far as can be seen."""
UNTESTED = frozenset({Reason.NO_TESTS_RUN, Reason.NONE_PASSES})
FURTHER = 5
"""How many times as many commits are proposed when there are too few fixes."""


@dataclass(frozen=True)
class HistorySection:
    """The section ``problems``, and a comment on each of its keys."""

    values: dict[str, object]
    comments: dict[str, str]


def history_section(directory: Path, model: RunConfig, python: str | None, commits: int | None) -> HistorySection:
    """Walk the history of a repository, print what is found, and choose sizes that fit it.

    Args:
        directory: A clone, a bare repository or a linked worktree.
        model: Names the base model.
        python: Interpreter that runs the tests; None: this one.
        commits: Commits to look at, newest first; None: the default of ``problems.history.max_commits``.

    Raises:
        ConfigError: there is no repository, its history or its tests cannot be used, or it has no fix or too few functions.
        JudgeError: the sandbox failed.
    """
    most = HistoryConfig().max_commits if commits is None else commits
    asked = _asked(directory, python, most)
    revision = asked.history.revision
    recording = _recording(directory, revision, python)
    echo(words(f"walks {asked.history.max_commits} commits at most, newest first; results are kept, so it may be ended and started again"))  # fmt: skip
    sys.stdout.flush()
    with RecordingProgress() as progress:
        found = walk(asked, lambda done, total, fixes: progress(f"{done} of {total} commits, {fixes} fixes"))
    print_history(found)
    advice = _advice(directory, found, most)
    _refuse_no_fix(directory, found, advice)
    selected, bound = _fitted(found, recording, model, asked)
    requested, divided = _divided(asked.model_copy(update={"longest": bound}), found, selected, advice)
    short = sum(len(outcome.fixes) for outcome in selected.outcomes)
    if short < found.problems:
        advice = f"Name a base model with room for longer functions (--base-model): {found.problems - short} of {found.problems} fixes were left out. {advice}"
    _note_few(divided, advice)
    return _section(requested, divided)


def _asked(directory: Path, python: str | None, commits: int) -> ProblemsConfig:
    """The configuration of the walk, which begins with the commit that HEAD names now. Raises `ConfigError`."""
    path = str(directory)
    if directory.is_dir() and not any((directory / name).exists() for name in (".git", "HEAD")):
        for parent in expanded(path).parents:
            if (parent / ".git").exists():
                raise ConfigError(
                    f"--from {path}: a folder of the repository {parent}, which has the history",
                    remedy=f"Give the repository: --from {parent}",
                )
        raise ConfigError(
            f"--from {path}: no git repository",
            remedy="Give the folder that contains .git, or a bare repository; without --history a plain directory is enough.",
        )
    history = HistoryConfig.model_validate({"max_commits": commits})
    asked = ProblemsConfig(source="git", path=path, python=python, history=history)
    there = extent(asked)
    if there.before_end is not None:
        fewer = f", or walk what is there: --commits {there.before_end}" if there.before_end else ""
        raise ConfigError(
            f"--from {path}: a shallow clone, whose history ends after {there.before_end} commits",
            remedy=f"Fetch the rest with git -C {path} fetch --unshallow{fewer}",
        )
    return asked.model_copy(update={"history": history.model_copy(update={"revision": there.revision})})


def _recording(directory: Path, revision: str, python: str | None) -> Recording:
    """What the tests of the newest commit record: a walk is in vain where none of them passes. Raises `ConfigError`."""
    remedy = (
        "A fix counts only if a test shows it: add tests, or give the interpreter that has the project's dependencies and plugins "
        "(--python path/to/.venv/bin/python)."
    )
    try:
        with RecordingProgress() as progress:
            recording = recorded(str(directory), revision, python, progress)
    except ProblemError as error:
        raise ConfigError(f"--from {directory}: {error.problem}", remedy=remedy) from None
    if not recording.passed:
        raise ConfigError(
            "\n".join([f"--from {directory}: no test passes at commit {revision[:12]}", *recording.notes[:5]]),
            remedy=remedy,
        )
    echo(
        f"{recording.passed} tests pass at commit {revision[:12]}; {len(recording.usable)} functions usable for mutants"
    )
    return recording


def _advice(directory: Path, found: History, commits: int) -> str:
    """What gives more fixes."""
    reasons = [outcome.reason for outcome in found.outcomes]
    untested = sum(reason in UNTESTED for reason in reasons)
    late = reasons.count(Reason.TIME)
    parts = []
    if len(found.outcomes) >= commits:
        parts.append(f"Walk further (--commits {FURTHER * commits})")
    if untested:
        parts.append(f"Give an interpreter that runs the tests of {untested} more commits (--python)")
    if late:
        parts.append(
            f"Give {late} commits more time (coral problems history {directory} --set problems.history.seconds=600, and the same "
            "in the file)"
        )
    parts.append("Learn from inserted bugs instead (leave out --history)")
    whole = "" if len(found.outcomes) >= commits else "The whole history was walked. "
    return whole + "; or ".join([parts[0], *(part[0].lower() + part[1:] for part in parts[1:])])


def _refuse_no_fix(directory: Path, found: History, advice: str) -> None:
    """Raise `ConfigError` when no commit gives a problem."""
    if found.problems:
        return
    total = len(found.outcomes)
    if all(outcome.reason in OUTSIDE for outcome in found.outcomes):
        raise ConfigError(
            f"--from {directory}: none of {total} commits changes the code of a function that exists before and after it",
            remedy=advice,
        )
    raise ConfigError(
        f"--from {directory}: none of {total} commits is a fix that its tests show (the reasons are listed above)",
        remedy=advice,
    )


def _fitted(
    found: History, recording: Recording, model: RunConfig, asked: ProblemsConfig
) -> tuple[Selected, int | None]:
    """The fixes and functions that the base model has room for, and ``problems.longest``. Raises `ConfigError`."""
    fixes = [
        FunctionTexts(f"{name_of(fix.function)}/{outcome.commit[:12]}", fix.function.definition.source, [fix.function.bugs[0].source])
        for outcome in found.outcomes
        for fix in outcome.fixes
    ]  # fmt: skip
    functions = [
        FunctionTexts(name_of(each), each.definition.source, [bug.source for bug in each.bugs])
        for each in recording.usable
    ]
    bound, notes, _ = longest_usable(model, [*fixes, *functions], leading=fixes)
    echo(*(words(f"note: {note}") for note in notes))
    selected = select_history(found.outcomes, recording.usable, asked.model_copy(update={"longest": bound}))
    if not any(outcome.fixes for outcome in selected.outcomes):
        raise ConfigError(
            f"--from {asked.path}: all {found.problems} fixes are of functions that are too long for the base model {model.base_model.name}",
            remedy="Name one with room for longer texts: --base-model",
        )
    return selected, bound


def _divided(
    asked: ProblemsConfig, found: History, selected: Selected, advice: str
) -> tuple[ProblemsConfig, HistorySplits]:
    """The configuration with sizes that can be supplied, and the splits. Raises `ConfigError`."""
    for monitor in (1, 0):  # without a monitor split where there are too few for one
        smallest = asked.model_copy(update={**SMALLEST, "monitor": monitor})
        divided = divide_by_time(selected.outcomes, selected.functions, smallest)
        try:
            refuse_shortage(smallest, found, divided, selected.notes)
            break
        except ConfigError as error:
            if not monitor:
                raise ConfigError(error.problem.replace("problems.path: ", "--from ", 1), remedy=advice) from None
    largest = supply(smallest, divided) | {"retention": len(divided.functions["fitness"])}
    sizes = {key: min(getattr(asked, key), count) for key, count in largest.items()}
    sizes = {key: max(count, SMALLEST.get(key, 0)) for key, count in sizes.items()}
    return asked.model_copy(update=sizes), divided


def _note_few(divided: HistorySplits, advice: str) -> None:
    """Say when no difference on the real bugs of the held-out split can be told from noise."""
    real = len(divided.fixes["held_out"])
    if resolution(real) is not None:
        return
    least = next(bugs for bugs in range(real, 100) if resolution(bugs) is not None)
    echo(
        words(
            f"note: few fixes: {real} of the held-out problems are real bugs; with fewer than {least} no difference on them can be told from "
            f"noise, and the mutants decide. {advice}",
            "yellow",
        )
    )


def _section(requested: ProblemsConfig, divided: HistorySplits) -> HistorySection:
    """The keys, in the order of the file."""
    keys: Sequence[str] = ("fitness", "retention", "monitor", "held_out", "pairs", "longest")
    walked = requested.history
    history = {"revision": walked.revision, "max_commits": walked.max_commits, "seconds": round(walked.seconds)}
    values = {"source": "git", "path": requested.path, "python": requested.python, "history": history}
    values |= {key: getattr(requested, key) for key in keys}

    def real(split: str, size: int) -> str:
        count = min(size, len(divided.fixes.get(split, ())))  # type: ignore[call-overload]
        return f"{count} fixes, then mutants"

    comments = {
        "source": "fixes from the history of the repository, then mutants of its functions",
        "python": "runs the tests",
        "revision": "the walk begins here; HEAD would follow new commits, and change the problems",
        "max_commits": "newest first; more may find more fixes",
        "seconds": "of the test runs of one commit",
        "fitness": real("fitness", requested.fitness),
        "retention": "functions as they are, which must stay right",
        "monitor": real("monitor", requested.monitor),
        "held_out": f"{real('held_out', requested.held_out)}; sealed, and newer than all other fixes",
        "pairs": f"{real('training', requested.pairs)}; adapters learn from them",
        "longest": "characters of a function at most",
    }
    return HistorySection({key: value for key, value in values.items() if value is not None}, comments)
