"""Examines one commit: does it fix functions, do its tests show it, and can the fix become problems?

A fix becomes a problem when the changed function stands alone in both versions, calls that passing tests of the commit make
on the code after tell the two versions apart under the judge, and tests fail on the code before that pass on the code after.
Calls that do so are kept first; where the tests make too few, `cases_of` adds calls that the code after answers.
"""

import json
import logging
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pydantic import Field

from coral_core.errors import ConfigError, JudgeError, ProblemError
from coral_core.frozen import Frozen
from coral_core.judge.judge import Judge
from coral_core.problem_sources.history.changed_functions import (
    ChangedFunctions,
    FileVersions,
    accepts,
    compare,
    is_code,
    is_stub,
)
from coral_core.problem_sources.history.repository import Change, Commit, Repository, UnreadableError
from coral_core.problem_sources.history.scratch_copy import FixFiles
from coral_core.problem_sources.package.cache import with_classes
from coral_core.problem_sources.package.cases import CASES, FEWEST, Bug, UsableFunction, cases_of, replay
from coral_core.problem_sources.package.discovery import Refused, SourceFunction, discover, project_of
from coral_core.problem_sources.package.modules import Project
from coral_core.problem_sources.package.recording import TEST_SECONDS, Call, Calls, record
from coral_core.problems.problem import Case, Problem
from coral_core.scoring.objectives import bugfix

log = logging.getLogger("coral.history")

MOST_NAMED = 5
"""Tests that failed before a fix and are named."""
TELLING = CASES // 2
"""Recorded calls that tell the versions apart and are kept; the rest shows what must stay as it is."""


class Reason(StrEnum):
    """Why a commit gives no problem."""

    MERGE = "a merge commit"
    FIRST = "the first commit: there is nothing before it"
    SHALLOW = "its parent is not in this shallow clone"
    UNREADABLE = "objects are missing, damaged or too large"
    NO_CODE = "changes no code of the package"
    UNPARSABLE = "a changed file does not parse, before or after"
    RENAMED = "renames functions"
    NO_FUNCTION = "changes nothing inside a function"
    NO_TESTS_RUN = "its tests cannot be run"
    NONE_PASSES = "no test passes at this commit (the package may not be importable)"
    PASSES_BEFORE = "its tests pass without the fix, too"
    NO_CALL = "no passing test makes a call of a changed function that can be recorded"
    UNUSABLE = "its functions cannot become problems"
    ALIKE = "no recorded call tells the versions apart"
    FEATURE = "only calls with parameters that it did not have tell the versions apart"
    TIME = "the time limit of a commit"
    FAILED = "its examination failed"


RETRIED = frozenset({Reason.NO_TESTS_RUN, Reason.NONE_PASSES, Reason.TIME, Reason.FAILED})
"""Reasons that may not hold on another machine, with other packages installed or with more time."""


class Fix(Frozen):
    """A function that a commit fixed."""

    function: UsableFunction = Field(description="After the commit, with its cases; its only bug is the text before.")
    before: str = Field(description="The function's own text before.")
    before_key: str = Field(description="file:name before.")


class CommitOutcome(Frozen):
    """What one commit gives."""

    commit: str
    author_time: int = Field(description="Seconds since 1970.")
    message: str
    reason: Reason | None = Field(None, description="Why it gives no problem; None: it does.")
    detail: str = ""
    failing: tuple[str, ...] = Field((), description="Tests that fail before and pass after; at most five.")
    fixes: tuple[Fix, ...] = ()
    refused: tuple[str, ...] = Field((), description="Changed functions that give no problem, each with its reason.")
    renames: tuple[tuple[str, str], ...] = Field((), description="Files of code that were renamed: before, after.")
    left_out: tuple[str, ...] = Field((), description="Submodules, links and large files that its copy lacks.")
    seconds: float = Field(0.0, description="Time limit that it was examined under.")

    @property
    def subject(self) -> str:
        """First line of the message."""
        return self.message.partition("\n")[0]


class Left(Exception):  # noqa: N818 (a finding about a commit)
    """A commit gives no problem."""

    def __init__(self, reason: Reason, detail: str = "", refused: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = _one_line(detail)
        self.refused = tuple(map(_one_line, refused))


class Limits(NamedTuple):
    """What the examination of a commit may use."""

    seconds: float
    """Wall-clock limit of all of its test runs together."""
    python: str | None = None
    """Interpreter that runs the tests; None: this one."""


def examine(repository: Repository, commit: Commit, judge: Judge, limits: Limits) -> CommitOutcome:
    """Examine a commit. A failure that the commit causes is its reason, never an exception.

    Args:
        repository: The repository.
        commit: The commit.
        judge: Verifies the problems.
        limits: What it may use.

    Raises:
        JudgeError: the sandbox failed, whatever the commit is.
    """
    found = CommitOutcome(
        commit=commit.name, author_time=commit.author_time, message=_printable(commit.message), seconds=limits.seconds
    )
    with TemporaryDirectory(prefix="coral-history-", ignore_cleanup_errors=True) as scratch:
        examination = _Examination(repository, commit, judge, limits, Path(scratch))
        update: dict[str, Any]
        try:
            update = examination.outcome()
        except Left as left:
            update = {"reason": left.reason, "detail": left.detail, "refused": left.refused}
        except UnreadableError as error:
            update = {"reason": Reason.UNREADABLE, "detail": _one_line(str(error))}
        except (JudgeError, ConfigError):
            raise
        except Exception as error:  # one commit must not end the walk
            log.debug("%s", commit.name, exc_info=error)
            update = {"reason": Reason.FAILED, "detail": _one_line(f"{type(error).__name__}: {error}")}
        left_out = tuple(map(_one_line, examination.left_out[:MOST_NAMED]))
        return found.model_copy(update=update | {"left_out": left_out, "renames": examination.renames})


class Candidate(NamedTuple):
    """A function that may have been fixed, before and after the commit."""

    before: SourceFunction
    after: SourceFunction
    changed: bool
    """Its own text changed; else that of a function that it needs."""


class _Examination:
    """One commit under examination."""

    def __init__(self, repository: Repository, commit: Commit, judge: Judge, limits: Limits, scratch: Path) -> None:
        self._repository, self._commit, self._judge, self._limits = repository, commit, judge, limits
        self._end = time.monotonic() + limits.seconds
        self._after, self._before = scratch / "after", scratch / "before"
        self.left_out: tuple[str, ...] = ()
        """What the copy lacks."""
        self.renames: tuple[tuple[str, str], ...] = ()
        """Files of code that the commit renames: before, after."""

    def outcome(self) -> dict[str, Any]:
        """Fields of the outcome of a commit that gives problems. Raises `Left`, `UnreadableError`."""
        changes, changed = self._changed()
        files = FixFiles(self._repository, self._commit, changes)
        self.left_out = files.tree.left_out
        files.keep_tests_of(changed.names)
        files.write_after(self._after)
        files.write_before(self._before)
        try:
            projects = project_of(self._before), project_of(self._after)
        except ConfigError as error:
            raise Left(Reason.UNUSABLE, self._plain(error.problem)) from None
        candidates = self._candidates(changed, *projects)
        calls = self._tests(self._after, [candidate.after for candidate in candidates])
        if not calls.passed:
            raise Left(Reason.NONE_PASSES, self._plain(_first_failure(calls)))
        if not any(candidate.after.key in calls.calls for candidate in candidates):
            refused = [f"{each.after.key}: {_why(calls, each.after.key)}" for each in candidates]
            raise Left(Reason.NO_CALL, refused=refused)
        fixes, refused = self._fixes(candidates, calls, *projects)
        if not fixes:
            common = [
                reason for reason in (Reason.ALIKE, Reason.FEATURE) if all(row.endswith(reason) for row in refused)
            ]
            raise Left(common[0] if common else Reason.UNUSABLE, refused=refused)
        without = self._tests(self._before, [])  # last, since few commits come so far
        failing = _failing_before(without, calls)
        if not failing:
            raise Left(Reason.PASSES_BEFORE, refused=refused)
        return {
            "failing": tuple(_one_line(name) for name in failing[:MOST_NAMED]),
            "fixes": tuple(fixes),
            "refused": tuple(map(_one_line, refused)),
        }

    def _plain(self, text: str) -> str:
        """`text` without the scratch directory."""
        for folder in (self._after, self._before):
            text = text.replace(f"{folder}/", "").replace(str(folder), "")
        return text

    def _changed(self) -> tuple[list[Change], ChangedFunctions]:
        """The files and functions that the commit changes. Raises `Left`."""
        commit = self._commit
        if commit.author_time < 0:
            raise Left(Reason.UNREADABLE, "its author date cannot be read")
        if len(commit.parents) > 1:
            raise Left(Reason.MERGE)
        if commit.name in self._repository.shallow:
            raise Left(Reason.SHALLOW)
        if not commit.parents:
            raise Left(Reason.FIRST)
        changes = self._repository.changes(commit)
        self.renames = tuple((change.before, change.after) for change in changes if _is_renamed(change))
        both = [change for change in changes if is_code(change.before) and is_code(change.after)]
        if not any(is_code(change.before) or is_code(change.after) for change in changes):
            raise Left(Reason.NO_CODE)
        texts = self._repository.contents([name for change in both for name in (change.old, change.new)])
        versions = (FileVersions(each.before, each.after, texts[each.old], texts[each.new]) for each in both)
        changed = compare(list(versions))
        if changed.changed:
            return changes, changed
        if changed.unparsable:
            raise Left(Reason.UNPARSABLE, changed.unparsable[0])
        if changed.renamed:
            raise Left(Reason.RENAMED, ", ".join(changed.renamed))
        raise Left(Reason.NO_FUNCTION)

    def _candidates(self, changed: ChangedFunctions, before: Project, after: Project) -> list[Candidate]:
        """Each changed function, then each that needs one. Raises `Left`."""
        moved = {new.partition(":")[0]: old.partition(":")[0] for new, old in changed.changed.items()}
        found = {each.key: each for each in discover(self._after, after, moved.keys())}
        previous = {each.key: each for each in discover(self._before, before, set(moved.values()))}
        keys = [key for key in found if key in changed.changed]
        touched = {part for key in changed.changed for part in (key, _class_of(key))}
        keys += [key for key, each in found.items() if set(each.needs) & touched and key not in keys]
        candidates, refused = [], []
        for key in keys:
            file, _, name = key.partition(":")
            new, old = found[key], previous.get(f"{moved.get(file, file)}:{name}")
            if new.reason or old is None or old.reason:
                before_it = f"before the commit: {old.reason}" if old else "is new"
                refused.append(f"{key}: {new.reason or before_it}")
            elif is_stub(old.text):
                refused.append(f"{key}: does nothing before the commit: there is no code to repair")
            elif new.entry_point != old.entry_point:
                refused.append(f"{key}: is called in another way before the commit")
            else:
                candidates.append(Candidate(old, new, key in changed.changed))
        refused += [
            f"{key}: cannot be found as a function of its module" for key in changed.changed if key not in found
        ]
        if not candidates:
            raise Left(Reason.UNUSABLE, refused=refused)
        return candidates

    def _tests(self, folder: Path, functions: Sequence[SourceFunction]) -> Calls:
        """Run the tests; without functions, only to see how they end. Raises `Left`."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise Left(Reason.TIME)
        try:
            calls = record(
                folder,
                functions,
                left,
                python=self._limits.python,
                test_seconds=min(TEST_SECONDS, self._limits.seconds / 4),
                observe=bool(functions),
            )
        except (ProblemError, ConfigError) as error:
            raise Left(Reason.NO_TESTS_RUN, self._plain(error.problem)) from None
        if time.monotonic() >= self._end:
            raise Left(Reason.TIME, f"with the code {'after' if functions else 'before'} it")
        if not calls.tests:
            raise Left(Reason.NO_TESTS_RUN, self._plain("; ".join(calls.trouble)))
        return calls

    def _fixes(
        self, candidates: Sequence[Candidate], calls: Calls, before: Project, after: Project
    ) -> tuple[list[Fix], list[str]]:
        """The fixes among the candidates, and the others with their reasons.

        A function that only needs a changed one counts when that one gives no problem itself.
        """
        fixes: list[Fix] = []
        refused: list[str] = []
        fixed: set[str] = set()
        for candidate in candidates:
            key = candidate.after.key
            if not candidate.changed and set(candidate.after.needs) & fixed:
                continue
            if time.monotonic() > self._end:
                refused.append(f"{key}: {Reason.TIME}")
                continue
            try:
                fixes.append(self._fix(candidate, calls, before, after))
                fixed |= {key, _class_of(key)}
            except Refused as reason:
                refused.append(f"{key}: {reason}")
            except JudgeError as error:
                self._refuse_a_broken_judge(error)
                refused.append(f"{key}: cannot be judged ({error.problem})")
            except Exception as error:  # one function must not affect the others
                log.debug("%s", key, exc_info=error)
                refused.append(f"{key}: cannot be made into a problem ({type(error).__name__}: {error})")
        return fixes, refused

    def _refuse_a_broken_judge(self, error: JudgeError) -> None:
        """Raise `error` when the judge cannot judge a plain function either: then it is not the fault of the commit."""
        text = "def plain(n):\n    return n"
        case = Case(arguments=(1,), value=1)
        plain = Problem(problem_id="plain", entry_point="plain", buggy=text, reference=text, cases=(case,))
        if not self._judge.judge(plain, text).passed:
            raise error

    def _fix(self, candidate: Candidate, calls: Calls, before: Project, after: Project) -> Fix:
        """The fix of one function. Raises `Refused`."""
        recorded = calls.calls.get(candidate.after.key)
        if not recorded:
            raise Refused(_why(calls, candidate.after.key))
        new = with_classes(after, candidate.after, recorded)
        old = with_classes(before, candidate.before, recorded, candidate.after.file)
        usable = cases_of(new, _telling_first(old, new, recorded))
        if usable.recorded >= FEWEST:  # recorded calls are enough: what the code after does elsewhere proves nothing
            usable = usable.model_copy(update={"cases": usable.cases[: usable.recorded]})
        problem = Problem(
            problem_id=f"git/{self._commit.name[:12]}/{new.key}",
            entry_point=new.entry_point,
            buggy=old.source,
            reference=new.source,
            cases=usable.cases,
        )
        right, wrong = self._judge.judge_batch([(problem, problem.reference), (problem, problem.buggy)])
        if not right.passed or bugfix(right) < 1.0:
            raise Refused(f"the judge's own run of it does not give what the tests saw ({right.message or 'not all'})")
        failing = sum(case != "pass" for case in wrong.cases) / len(wrong.cases)
        if not failing or bugfix(wrong) >= 1.0:
            raise Refused(Reason.ALIKE)
        bug = Bug(bug_class="unknown", source=old.source, failing=failing)
        return Fix(function=usable.model_copy(update={"bugs": (bug,)}), before=old.text, before_key=old.key)


def _failing_before(before: Calls, after: Calls) -> list[str]:
    """Tests that fail on the code before and pass on the code after; modules of tests that cannot be imported before, too."""
    passed = {name for name, outcome in after.tests.items() if outcome == "passed"}
    modules = {name.partition("::")[0] for name in passed}
    wrong = [name for name, outcome in before.tests.items() if outcome in ("failed", "left out")]
    return [name for name in wrong if name in passed or (name in modules and name not in after.tests)]


def _first_failure(calls: Calls) -> str:
    """The first reason why no test passed."""
    return next((f"{name}: {reason}" for name, reason in calls.reasons.items()), "; ".join(calls.trouble))


def _telling_first(before: SourceFunction, after: SourceFunction, calls: Sequence[Call]) -> list[Call]:
    """At most `CASES` of the calls, in their order: half of them those whose outcome the commit changes, as far as there are.

    Calls that the function before could not take, since the commit adds a parameter, are left out: they show a feature.

    Raises:
        Refused: there is no such call, or a version cannot be run alone.
    """
    possible = [call for call in calls if accepts(before.text, call.arguments, call.keywords)]
    if not possible:
        raise Refused(Reason.FEATURE)
    dropped, calls = len(calls) - len(possible), possible
    arguments, keywords = [list(call.arguments) for call in calls], [call.keywords for call in calls]
    outcomes = zip(replay(before, arguments, 1, keywords), replay(after, arguments, 1, keywords), strict=True)
    differs = [_outcome(old) != _outcome(new) for old, new in outcomes]
    telling, others = ([place for place, one in enumerate(differs) if one is kind] for kind in (True, False))
    if not telling:
        raise Refused(Reason.FEATURE if dropped else Reason.ALIKE)
    chosen = _spread(telling, max(TELLING, CASES - len(others)))
    chosen += _spread(others, CASES - len(chosen))
    return [calls[place] for place in sorted(chosen)]


def _outcome(record: dict[str, object]) -> str:
    return json.dumps({key: value for key, value in record.items() if key != "lines"}, sort_keys=True)


def _spread(places: list[int], most: int) -> list[int]:
    """`most` of `places`, evenly over their order."""
    return places if len(places) <= most else [places[number * len(places) // most] for number in range(most)]


def _why(calls: Calls, key: str) -> str:
    """Why there is no recorded call of a function."""
    reasons = calls.refused.get(key, {})
    return max(sorted(reasons), key=lambda name: reasons[name], default="no passing test calls it")


def _class_of(key: str) -> str:
    """The key of the class of a method; of a function its own."""
    file, _, name = key.partition(":")
    return f"{file}:{name.rpartition('.')[0] or name}"


def _is_renamed(change: Change) -> bool:
    return is_code(change.before) and is_code(change.after) and change.before != change.after


def _printable(text: str) -> str:
    plain = text.encode("utf-8", "backslashreplace").decode()
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in plain)


def _one_line(text: str) -> str:
    return " ".join(_printable(str(text)).split())[:300]
