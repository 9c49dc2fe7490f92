"""Walks the history of a repository, newest commit first, on several cores, and caches what each commit gives.

The cache is by commit: a walk that was ended, also by kill -9, goes on where it was, and a longer walk repeats nothing. What
may differ elsewhere (missing packages, the time limit) is examined again when packages or the limit have changed.
"""

import contextlib
import logging
import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from coral_core.atomic_write import write_atomic
from coral_core.config.cache_folder import cache_folder
from coral_core.config.text_fields import expanded
from coral_core.config.tree import HistoryConfig, ProblemsConfig
from coral_core.digest import digest
from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from coral_core.judge.judge import JUDGE_VERSION, ORACLE_VERSION, Judge
from coral_core.problem_sources.history.fix import RETRIED, CommitOutcome, Limits, examine
from coral_core.problem_sources.history.repository import Commit, Repository, UnreadableError, git_directory
from coral_core.problem_sources.package.cache import VERSION as RECORDER_VERSION
from coral_core.problem_sources.package.recording import interpreter

log = logging.getLogger("coral.history")

VERSION = 2
"""Goes up when the same commit gives other problems."""
LARGEST = 64 << 20
"""Bytes of a cached outcome."""

Progress = Callable[[int, int, int], None]
"""Is called with the commits done, the commits there are, and the problems found so far."""


class History(Frozen):
    """What a walk found."""

    revision: str = Field(description="Hash of the commit that the walk began with.")
    outcomes: tuple[CommitOutcome, ...] = Field(description="Newest commit first.")

    @property
    def reasons(self) -> dict[str, int]:
        """Why commits give no problem -> how many, most frequent first."""
        counted = Counter(str(outcome.reason) for outcome in self.outcomes if outcome.reason)
        return dict(counted.most_common())

    @property
    def problems(self) -> int:
        """Fixed functions that became problems."""
        return sum(len(outcome.fixes) for outcome in self.outcomes)


class CachedOutcome(Frozen):
    """A file of the cache."""

    tools: str
    packages: str
    outcome: CommitOutcome


def walk(config: ProblemsConfig, progress: Progress | None = None) -> History:
    """Walk the history of the repository at ``problems.path``.

    Args:
        config: Names the repository and, in ``history``, the limits.
        progress: Is called after each commit, in this thread.

    Raises:
        ConfigError: there is no such repository or revision, or git is not installed.
        JudgeError: the sandbox failed.
    """
    for complaint in missing(config.path):
        raise ConfigError(complaint)
    limits = config.history
    workers = limits.workers or os.cpu_count() or 1
    with Repository(expanded(config.path or "")) as repository, Judge(workers=workers) as judge:
        revision, commits = _commits(repository, config)
        cache = Cache(config.python)
        found = {commit.name: cache.read(commit.name, limits.seconds) for commit in commits}
        waiting = [commit for commit in commits if found[commit.name] is None]
        report = _Reporter(len(commits), progress)
        for outcome in found.values():
            if outcome is not None:
                report.add(outcome)
        for outcome in _examined(repository, waiting, judge, Limits(limits.seconds, config.python), workers):
            cache.write(outcome)
            found[outcome.commit] = outcome
            report.add(outcome)
    return History(revision=revision, outcomes=tuple(each for each in found.values() if each is not None))


class Extent(NamedTuple):
    """The commits that a walk would examine."""

    revision: str
    """Hash of the commit to begin with."""
    commits: int
    before_end: int | None
    """Commits before the first whose parents a shallow clone leaves out; None: there is no such commit among them."""


def extent(config: ProblemsConfig) -> Extent:
    """Count the commits that a walk would examine; examines none.

    Raises:
        ConfigError: as `walk`.
    """
    for complaint in missing(config.path):
        raise ConfigError(complaint)
    with Repository(expanded(config.path or "")) as repository:
        revision, commits = _commits(repository, config)
        ends = (place for place, commit in enumerate(commits) if commit.name in repository.shallow)
        return Extent(revision, len(commits), next(ends, None))


def _commits(repository: Repository, config: ProblemsConfig) -> tuple[str, list[Commit]]:
    """Hash of the commit that the walk begins with, and the commits within its limits."""
    revision = repository.resolve(config.history.revision)
    try:
        newest = repository.newest(revision, config.history.max_commits)
    except UnreadableError as error:
        raise ConfigError(
            f"problems.path: {config.path}: its history cannot be read ({error.problem})",
            remedy="Clone it anew, or begin with another commit: problems.history.revision",
        ) from None
    return revision, [commit for commit in newest if _since(commit, config.history)]


def missing(path: str | None) -> list[str]:
    """At most one complaint about ``problems.path``."""
    if path is None:
        return ["problems.path: nothing given, and the source git reads a repository with its history."]
    if not expanded(path).is_dir():
        return [f"problems.path: {path}: no such directory. Give a git repository."]
    try:
        git_directory(expanded(path))
    except ConfigError as error:
        return [str(error)]
    return []


def _since(commit: Commit, limits: HistoryConfig) -> bool:
    return limits.since is None or commit.author_time < 0 or day(commit.author_time) >= limits.since


def day(seconds: int) -> str:
    """Date of a time since 1970, in UTC.

    >>> day(86_400)
    '1970-01-02'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _examined(
    repository: Repository, commits: Sequence[Commit], judge: Judge, limits: Limits, workers: int
) -> Iterator[CommitOutcome]:
    """Outcomes as they come. A walk that ends early waits for the commits at work only."""
    waiting = iter(commits)
    running: set[Future[CommitOutcome]] = set()
    with ThreadPoolExecutor(workers, thread_name_prefix="history") as threads:
        while True:
            while len(running) < workers and (commit := next(waiting, None)) is not None:
                running.add(threads.submit(examine, repository, commit, judge, limits))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


class _Reporter:
    """Counts commits and problems, and logs them about every ten seconds."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress = total, progress
        self._done = self._problems = 0
        self._logged = time.monotonic()

    def add(self, outcome: CommitOutcome) -> None:
        self._done += 1
        self._problems += len(outcome.fixes)
        if self._progress is not None:
            self._progress(self._done, self._total, self._problems)
        elif time.monotonic() - self._logged > 10:
            self._logged = time.monotonic()
            log.info("history: %d of %d commits, %d problems", self._done, self._total, self._problems)


def installed_packages(python: str | None) -> str:
    """Digest of the names and versions of what is installed for an interpreter; None: this one."""
    if python is None:
        names = sorted({f"{each.name} {each.version}" for each in distributions()})
        return digest(names)
    code = "from importlib.metadata import distributions as d; print(sorted({f'{e.metadata[\"Name\"]} {e.version}' for e in d()}))"
    command = [str(expanded(python)), "-c", code]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            command, capture_output=True, timeout=60, check=False, cwd="/", env={"PATH": "/usr/bin:/bin"}
        )
        return digest([python, done.stdout.decode(errors="replace")])
    return digest([python])


class Cache:
    """Outcomes of commits on this machine, by the hash of the commit.

    Args:
        python: Interpreter that runs the tests; None: this one.

    Raises:
        ConfigError: it is none.
    """

    def __init__(self, python: str | None = None) -> None:
        self._folder = cache_folder("history")
        versions = [VERSION, RECORDER_VERSION, JUDGE_VERSION, ORACLE_VERSION, platform.python_version()]
        self._tools = digest([*versions, *interpreter(python)[1:]])
        self._packages = installed_packages(python)
        self._writable = True

    def _file(self, commit: str) -> Path:
        return self._folder / f"{commit}-{self._tools[:16]}.json"

    def find(self, beginning: str) -> CommitOutcome | None:
        """The cached outcome of the only commit whose hash begins so."""
        if not beginning.isalnum():
            return None
        names = [path.name.partition("-")[0] for path in self._folder.glob(f"{beginning}*-{self._tools[:16]}.json")]
        return self.read(names[0], 0) if len(names) == 1 else None

    def read(self, commit: str, seconds: float) -> CommitOutcome | None:
        """The outcome of a commit; None: it must be examined.

        Args:
            commit: Hash.
            seconds: Time limit of a commit now.
        """
        path = self._file(commit)
        try:
            if path.stat().st_size > LARGEST:
                raise ValueError(f"more than {LARGEST} bytes")
            cached = CachedOutcome.model_validate_json(path.read_bytes())
            if cached.tools != self._tools or cached.outcome.commit != commit:
                raise ValueError("it is of another commit")
            for fix in cached.outcome.fixes:
                for case in fix.function.cases:
                    case.check()
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            log.warning(
                "%s: not an outcome of ours (%s); the commit is examined again", path, str(error).splitlines()[0]
            )
            return None
        outcome = cached.outcome
        changed = cached.packages != self._packages or outcome.seconds < seconds
        return None if outcome.reason in RETRIED and changed else outcome

    def write(self, outcome: CommitOutcome) -> None:
        """Keep an outcome; a folder that cannot be written is warned about once."""
        cached = CachedOutcome(tools=self._tools, packages=self._packages, outcome=outcome)
        try:
            write_atomic(self._file(outcome.commit), cached.model_dump_json().encode())
        except OSError as error:
            if self._writable:
                log.warning(
                    "%s: outcomes of commits cannot be kept (%s), so the walk begins anew next time. Set CORAL_HOME to a folder that can be written.",
                    self._folder, error.strerror,
                )  # fmt: skip
            self._writable = False
