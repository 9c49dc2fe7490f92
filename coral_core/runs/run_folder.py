"""A run on disk: its identity, its frozen configuration, its history and its timings.

`history.jsonl` holds results without times, so that the histories of two runs of one configuration can be compared byte
for byte; `timings.jsonl` holds the times. Layout of ``runs/<run id>/``::

    config.yaml    the frozen configuration (defaults included)
    run.json       identity, --set differences, versions, the scheduled start of a run of a schedule
    base_model.json  identity of the base model on the lanes (coral_core/runs/identities.py)
    start.json     origin of the first population (coral_core/evolution/start_from.py)
    history.jsonl  RunRecord, BaselineRecord, then per generation GenomeRecords and a GenerationRecord, FinalRecord
    timings.jsonl  JobTiming and JobFailure lines, and a SessionTiming line per session (append only)
    lock           held by the session that works on the run (coral_core/runs/run_lock.py)
    report.md, pictures/, champion/ (a PEFT adapter with a model card)
"""

import json
import os
import platform
import stat
import sys
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import TypeAdapter, ValidationError

from coral_core.atomic_write import refused_writes, write_atomic
from coral_core.bounded_read import (
    LINES,
    LONGEST_LINE,
    OddFileError,
    kind_of,
    list_folder,
    look_at,
    read_file,
    read_model,
)
from coral_core.config import RunConfig, dump_yaml, read_frozen
from coral_core.digest import digest, seed_from
from coral_core.errors import ConfigError, StoreError
from coral_core.jobs.jobs import recipe_content
from coral_core.json_object import json_object
from coral_core.runs.records import (
    RECORD_LINE,
    TIMING_LINE,
    JobFailure,
    Record,
    RunFacts,
    RunIdentity,
    Timing,
)
from coral_core.runs.run_lock import is_held

BEAT_SECONDS = 5.0
"""Time between two beats of a running evolution."""
CONFIG_BYTES = 2**20
"""Largest size of a frozen configuration in bytes."""
SILENT_SECONDS = 30.0
"""Age of the latest beat from which a run without a usable lock counts as dead; clocks may differ by some seconds."""


ADDED_LATER = (
    "search.start_from",
    "search.baselines",
    "search.trainings",
    "search.gpu_seconds",
    "search.money",
    "search.variation.warm_start_rate",
    "search.variation.warm_start_best",
    "search.usual_loras",
    "genes.heavy.scaling",
    "base_model.attention",
    "base_model.quantization",
    "problems.python",
    "problems.history",
    "problems.include",
    "problems.exclude",
    "problems.longest",
    "generation.engine",
)
"""Keys whose defaults are left out of the digest of a configuration, so that earlier runs keep their ids."""


def identify_run(config: RunConfig, edition: int = 1) -> RunIdentity:
    """Identity of a run.

    Keys that change no result are left out of the digest: infra, folders, workers of the judge and of the walk over commits, and the budget.

    Args:
        config: Configuration of the run.
        edition: Number of the edition, from 1; each edition is a run of its own with its own seed.

    Example:
        >>> identify_run(RunConfig(), 2).run_id == identify_run(RunConfig()).run_id.replace("-e1", "-e2")
        True
    """
    data = config.model_dump(mode="json", exclude={"infra": True, "budget": True, "runs": True, "store": {"path"}})
    del data["scoring"]["judge"]["workers"]
    del data["problems"]["history"]["workers"]
    usual = RunConfig().model_dump(mode="json", exclude={"problems": {"history": {"workers"}}})
    for key in ADDED_LATER:
        *sections, name = key.split(".")
        here, there = data, usual
        for section in sections:
            here, there = here[section], there[section]
        if here[name] == there[name]:
            del here[name]
    data["training"] = recipe_content(config.training)
    identity = digest(data)
    return RunIdentity(
        run_id=f"{config.name}-{identity[:10]}-e{edition}",
        config_digest=identity,
        edition=edition,
        run_seed=seed_from("run", config.seed, edition) % 2**53,
    )


class RunFolder:
    """Reads and writes ``runs/<run id>/``.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run_id(self) -> str:
        return self.path.name

    @classmethod
    def of(cls, config: RunConfig, identity: RunIdentity) -> "RunFolder":
        """The folder of a run, which need not exist.

        Args:
            config: ``config.runs`` is the folder of all runs.
            identity: Identity of the run.
        """
        return cls(Path(config.runs).expanduser().absolute() / identity.run_id)

    @classmethod
    def create(
        cls,
        config: RunConfig,
        identity: RunIdentity,
        overrides: Iterable[str],
        flow_run_id: str = "",
        api: str = "",
        scheduled: str = "",
    ) -> "RunFolder":
        """Make or reopen the folder of a run: freeze its configuration, and write ``run.json`` for the new session.

        Args:
            config: Configuration of the run.
            identity: Identity of the run.
            overrides: Differences from the configuration file (``--set``).
            flow_run_id: Prefect's flow run of this session; empty without Prefect.
            api: Address of the Prefect server; empty without Prefect.
            scheduled: Scheduled start of the run (`coral_core.runs.editions.stamp`); empty for a run by hand. An earlier
                session's value is kept.

        Raises:
            StoreError: the folder cannot be written.
        """
        folder = cls.of(config, identity)
        before = folder.facts()
        earlier = [other for other in folder.flow_run_ids() if other != flow_run_id]
        facts = RunFacts(
            identity=identity,
            set=tuple(overrides),
            versions=versions(),
            pid=os.getpid(),
            host=platform.node(),
            flow_run_id=flow_run_id,
            flow_run_ids=(*earlier, flow_run_id) if flow_run_id else tuple(earlier),
            api=api,
            scheduled=before.scheduled if before and before.scheduled else scheduled,
        )
        with refused_writes(folder.path, "Choose another with --set runs=DIR."):
            write_atomic(folder.path / "config.yaml", dump_yaml(config).encode())
            write_atomic(folder.path / "run.json", facts.model_dump_json(indent=1).encode())
            folder.beat()
        return folder

    def facts(self) -> RunFacts | None:
        """Content of run.json; None when it cannot be read."""
        try:
            return read_model(self.path / "run.json", RunFacts)
        except (OSError, ValueError):
            return None

    def sound_facts(self) -> RunFacts:
        """Content of run.json. Raises `StoreError` when it cannot be read."""
        if (facts := self.facts()) is not None:
            return facts
        edition = self.run_id.rpartition("-e")[2]
        number = f" --edition {edition}" if edition.isdigit() and edition != "1" else ""
        raise StoreError(
            f"{self.path / 'run.json'}: is missing or broken",
            remedy=f"Write it anew with: coral evolve {self.path / 'config.yaml'}{number} (finished work is not done again)",
        )

    def changed(self, *names: str) -> float:
        """Latest modification time (Unix) of the files `names` in the folder; 0 when none exists."""
        statuses = (look_at(self.path / name) for name in names)
        return max((status.st_mtime for status in statuses if status is not None), default=0.0)

    def latest_start(self) -> float:
        """Unix time at which the latest session began: when run.json was written; 0 without one."""
        return self.changed("run.json")

    def flow_run_ids(self) -> tuple[str, ...]:
        """Prefect flow runs of all sessions of this run, oldest first."""
        facts = self.facts()
        return facts.flow_run_ids if facts else ()

    def beat(self) -> None:
        """Touch the file ``beat``; a running evolution does so every `BEAT_SECONDS`."""
        (self.path / "beat").touch()

    def lives(self) -> bool:
        """Whether a session works on this run.

        A held lock proves it. A free lock disproves it for a session of this machine only, since machines may not share
        locks. For a session of another machine, and on a file system without locks, the latest beat decides.
        """
        held, facts = is_held(self.path), self.facts()
        if held or (held is False and facts is not None and facts.host == platform.node()):
            return held
        return time.time() - self.changed("beat") < SILENT_SECONDS

    def config(self) -> RunConfig:
        """The frozen configuration. Raises `ConfigError` when it cannot be read."""
        return read_frozen(self.path / "config.yaml")

    def history(self) -> list[Any]:
        """All records (`Record`) of history.jsonl, in order; empty before the first. An incomplete last line is skipped.

        Raises:
            StoreError: a line is no record, or the file cannot be read.
        """
        path = self.path / "history.jsonl"
        return [_record(path, number, line) for number, line in enumerate(_whole_lines(path), 1)]

    def last(self, *types: Literal["generation", "final"]) -> Any:
        """The last record of one of `types`, or None. Other records are not parsed, which saves time for a long history.

        Raises:
            StoreError: the line found is no record, or the history cannot be read.
        """
        path = self.path / "history.jsonl"
        marks = [f'"type": "{name}"'.encode() for name in types]
        lines = _whole_lines(path)
        for number in range(len(lines), 0, -1):
            line = lines[number - 1]
            if any(mark in line for mark in marks) and (record := _record(path, number, line)).type in types:
                return record
        return None

    def append_timing(self, timing: Timing) -> None:
        """Append a line to timings.jsonl. Raises `StoreError` when it cannot be written."""
        path = self.path / "timings.jsonl"
        with refused_writes(path), _open_to_write(path, os.O_WRONLY | os.O_APPEND, "ab") as file:
            file.write((timing.model_dump_json() + "\n").encode())

    def timings(self) -> list[Timing]:
        """All lines of timings.jsonl in order: jobs, failed attempts and sessions. Lines cut by a kill are skipped.

        Raises:
            StoreError: a line is JSON but no timing, or the file cannot be read.
        """
        path = self.path / "timings.jsonl"
        lines = (
            _parsed(
                path, number, line, TIMING_LINE, "Take this line out; it counts time and cost only.", may_be_cut=True
            )
            for number, line in enumerate(_whole_lines(path), 1)
        )
        return [timing for timing in lines if timing is not None]

    def failures(self) -> list[JobFailure]:
        """Failed attempts of jobs, in order. Raises `StoreError` as `timings` does."""
        return [timing for timing in self.timings() if isinstance(timing, JobFailure)]


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that end with a newline; none if it does not exist. Raises `StoreError` if it cannot be read."""
    try:
        return read_file(path, LINES).split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        use = "counts time and cost only" if path.name == "timings.jsonl" else "is written anew from the store"
        raise StoreError(
            f"{path}: cannot be read ({error.strerror})",
            remedy=f"Move it away; coral resume {path.parent.name} goes on without it, and it {use}.",
        ) from None


def _record(path: Path, number: int, line: bytes) -> Any:
    remedy = (
        f"Take out this line and all after it; coral resume {path.parent.name} then writes them anew from the store."
    )
    return _parsed(path, number, line, RECORD_LINE, remedy)


def _parsed(
    path: Path, number: int, line: bytes, adapter: TypeAdapter[Any], remedy: str, may_be_cut: bool = False
) -> Any:
    """Parse a line with `adapter`.

    Returns:
        The record; None for a line that is no JSON, if it `may_be_cut`.

    Raises:
        StoreError: the line is no such record.
    """
    try:
        if len(line) > LONGEST_LINE:
            raise ValueError(f"a line of {len(line)} bytes")
        row = json_object(line)
        may_be_cut = False
        return adapter.validate_python(row)
    except ValueError as error:
        if may_be_cut:  # by a kill; the first line of the next session may follow on the same line
            return None
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)[:500]}
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise StoreError(f"{path}, line {number}: is no record of a run ({why})", remedy=remedy) from error


def _open_to_write(path: Path, flags: int, mode: str) -> IO[bytes]:
    """Open a regular file, created if missing. Raises `OSError`, also when the path is not a regular file."""
    handle = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise OddFileError(path, f"{kind_of(status.st_mode)}, not a file")
    return os.fdopen(handle, mode)


class HistoryWriter:
    """Appends records to a run's history; a replay leaves records that are there already unchanged, byte for byte.

    A record that a kill has cut off is completed. If a record differs from that of the replay (changed code, a lost store),
    it is replaced, and everything after it is dropped. The cost of adding does not grow with the history.

    Args:
        folder: Folder of the run; the caller holds its lock.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / "history.jsonl"
        self._at = 0

    def add(self, *records: Record) -> None:
        """Add `records` after those added before. Raises `StoreError` when the history cannot be written."""
        data = _lines(records)
        with refused_writes(self._path), _open_to_write(self._path, os.O_RDWR, "r+b") as file:
            file.seek(self._at)
            existing = file.read(len(data))
            if existing != data and data.startswith(existing):
                file.write(data[len(existing) :])
                file.flush()
                os.fsync(file.fileno())
            elif existing != data:
                file.seek(0)
                write_atomic(self._path, file.read(self._at) + data)
        self._at += len(data)


def _lines(records: Iterable[Record]) -> bytes:
    return "".join(
        json.dumps(record.model_dump(mode="json"), sort_keys=True, ensure_ascii=False) + "\n" for record in records
    ).encode()


def run_folders(runs: str | Path) -> list[RunFolder]:
    """All runs in the folder `runs`, sorted by the start of their latest session, oldest first."""
    root = _root(runs)
    try:
        names = list_folder(root)
    except OSError:
        return []
    statuses = {name: look_at(root / name / "run.json") for name in names}
    by_start = sorted((status.st_mtime, name) for name, status in statuses.items() if status is not None)
    return [RunFolder(root / name) for _, name in by_start]


def _root(runs: str | Path) -> Path:
    """The folder of runs as an absolute path. Raises `ConfigError` when it is no path."""
    try:
        root = Path(runs).expanduser().absolute()
        os.fsencode(root)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"runs: {str(runs)[:200]!r}: is no path ({error}). Give a directory.") from None
    return root


def latest_runs(runs: str | Path, most: int) -> list[RunFolder]:
    """The latest runs, and older ones that are still running; oldest first.

    Args:
        runs: Folder of all runs.
        most: Number of latest runs, and of older running ones, at most.
    """
    folders = run_folders(runs)
    return [folder for folder in folders[:-most] if folder.lives()][-most:] + folders[-most:]


def find_run(runs: str | Path, name: str) -> RunFolder:
    """Look up a run.

    Args:
        runs: Folder of all runs.
        name: Id of a run, a unique beginning of one, ``latest``, or a path to a run's folder anywhere.

    Raises:
        ConfigError: no run matches, or several do.
    """
    if name and look_at(Path(name) / "run.json") is not None:
        return RunFolder(Path(name).absolute())
    folders = run_folders(runs)
    if name == "latest" and folders:
        return folders[-1]
    matches = [folder for folder in folders if folder.run_id == name] or [
        f for f in folders if name and f.run_id.startswith(name)
    ]
    if len(matches) == 1:
        return matches[0]
    known = ", ".join(folder.run_id for folder in folders[-5:]) or "none yet: start one with coral evolve CONFIG"
    problem = "no such run" if not matches else f"{len(matches)} runs begin so"
    raise ConfigError(f"{name}: {problem} in {runs}. Known: {known}.")


def next_edition(runs: str | Path, config: RunConfig) -> int:
    """The first edition of a configuration that has no folder yet (for ``--again``).

    Args:
        runs: Folder of all runs.
        config: The configuration.
    """
    edition = 1
    while (Path(runs).expanduser() / identify_run(config, edition).run_id).exists():
        edition += 1
    return edition


def versions() -> dict[str, str]:
    """Name -> version of Python, platform and packages, to reproduce a run; packages that are not installed are left out."""
    versions_by_name = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": f"{os.cpu_count()} x {platform.machine()}",
    }
    for package in ("coral-x", "torch", "transformers", "peft", "prefect", "ruff", "bandit", "numpy", "moocore"):
        try:
            versions_by_name[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions_by_name
