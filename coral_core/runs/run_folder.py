"""A run on disk: its identity, its frozen configuration, its history and its timings.

`history.jsonl` holds what was found and no times, so that two runs of one configuration
compare byte for byte; `timings.jsonl` holds the times. Layout of ``runs/<run id>/``::

    config.yaml    the frozen configuration (defaults included)
    run.json       identity, --set differences, versions, the scheduled start of a run of a schedule
    base_model.json  what lanes said the base model is (coral_core/runs/identities.py)
    start.json     what the first population comes from (coral_core/evolution/warm_start.py)
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
CONFIG_BYTES = 2**20
"""Bytes of a frozen configuration."""
SILENT_SECONDS = 30.0
"""Without a lock to tell by, a run that has not beaten for so long is dead; clocks may differ by some seconds."""


def identify_run(config: RunConfig, edition: int = 1) -> RunIdentity:
    """Identity of `config`. Where it runs (infra, folders, judge workers) and what it may spend change no result and are left out."""
    data = config.model_dump(mode="json", exclude={"infra": True, "budget": True, "runs": True, "store": {"path"}})
    del data["scoring"]["judge"]["workers"]
    # runs made before there was a choice keep their ids
    if config.search.start_from == "nothing":
        del data["search"]["start_from"]
    if config.base_model.attention == "auto":
        del data["base_model"]["attention"]
    identity = digest(data)
    return RunIdentity(
        run_id=f"{config.name}-{identity[:10]}-e{edition}",
        config_digest=identity,
        edition=edition,
        run_seed=seed_from("run", config.seed, edition) % 2**53,
    )


class RunFolder:
    """Reads and writes ``runs/<run id>/``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run_id(self) -> str:
        return self.path.name

    @classmethod
    def of(cls, config: RunConfig, identity: RunIdentity) -> "RunFolder":
        """The folder of a run, whether it is there or not."""
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
        """Make (or reopen) the folder of a run and freeze its configuration; note where it runs now.

        `scheduled`: the start that a schedule made it for (coral_core/runs/editions.py); the first one stays.
        """
        folder = cls.of(config, identity)
        before = folder.facts()
        earlier = [known for known in folder.flow_run_ids() if known != flow_run_id]
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
        """Unix time at which the latest of these files was written; 0 when there is none."""
        found = (look_at(self.path / name) for name in names)
        return max((status.st_mtime for status in found if status is not None), default=0.0)

    def made(self) -> float:
        """Unix time at which the latest session began (run.json)."""
        return self.changed("run.json")

    def flow_run_ids(self) -> tuple[str, ...]:
        """Prefect flow runs of all sessions of this run, oldest first."""
        facts = self.facts()
        return facts.flow_run_ids if facts else ()

    def beat(self) -> None:
        """Show that the evolution lives: called every `BEAT_SECONDS` while it does."""
        (self.path / "beat").touch()

    def lives(self) -> bool:
        """Whether a session works on this run.

        The lock tells, where file systems have locks. A free lock is no proof for a session of another machine, which may
        not share its locks; such a session, and any without locks, is known by its beats.
        """
        held, facts = is_held(self.path), self.facts()
        if held or (held is False and facts is not None and facts.host == platform.node()):
            return held
        return time.time() - self.changed("beat") < SILENT_SECONDS

    def config(self) -> RunConfig:
        """The configuration that it froze. Raises `ConfigError` when that cannot be read."""
        return read_frozen(self.path / "config.yaml")

    def history(self) -> list[Any]:
        """The records, typed (`Record`); empty when the run has not got that far.

        Raises:
            StoreError: a line is no record (the last one, when a kill cut it, is passed over), or it cannot be read.
        """
        path = self.path / "history.jsonl"
        return [_record(path, number, line) for number, line in enumerate(_whole_lines(path), 1)]

    def last(self, *types: Literal["generation", "final"]) -> Any:
        """The last record of one of `types`, or None; parses no other, so that a long history costs nothing.

        Raises:
            StoreError: that line is no record, or the history cannot be read.
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
        """Add a line to timings.jsonl. Raises `StoreError`: it cannot be written."""
        path = self.path / "timings.jsonl"
        with refused_writes(path), _open_to_write(path, os.O_WRONLY | os.O_APPEND, "ab") as file:
            file.write((timing.model_dump_json() + "\n").encode())

    def timings(self) -> list[Timing]:
        """Jobs, failed tries and sessions, in order; a line that a kill cut is skipped.

        Raises:
            StoreError: a line is whole and no timing, or it cannot be read.
        """
        path = self.path / "timings.jsonl"
        found = (
            _parsed(
                path, number, line, TIMING_LINE, "Take this line out; it counts time and cost only.", may_be_cut=True
            )
            for number, line in enumerate(_whole_lines(path), 1)
        )
        return [timing for timing in found if timing is not None]

    def failures(self) -> list[JobFailure]:
        """Tries of jobs that failed, in order. Raises `StoreError` as `timings`."""
        return [timing for timing in self.timings() if isinstance(timing, JobFailure)]


def _whole_lines(path: Path) -> list[bytes]:
    """Lines that end: what a kill cut off is not there yet. Raises `StoreError`: the file cannot be read."""
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
    """A line as its record; None for one that is no JSON and `may_be_cut`. Raises `StoreError`: it is no such record."""
    try:
        if len(line) > LONGEST_LINE:
            raise ValueError(f"a line of {len(line)} bytes")
        row = json_object(line)
        may_be_cut = False
        return adapter.validate_python(row)
    except ValueError as error:
        if may_be_cut:  # by a kill, perhaps with the next session's first line behind it
            return None
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)[:500]}
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise StoreError(f"{path}, line {number}: is no record of a run ({why})", remedy=remedy) from error


def _open_to_write(path: Path, flags: int, mode: str) -> IO[bytes]:
    """Open a regular file of ours, made when it is not there. Raises `OSError`: also for what is no regular file."""
    handle = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise OddFileError(path, f"{kind_of(found.st_mode)}, not a file")
    return os.fdopen(handle, mode)


class HistoryWriter:
    """Adds to a run's history. A replay finds its records there already and leaves them alone, byte for byte.

    What a kill cut off is completed; what differs from what the replay finds (other code, a store that was lost) is
    dropped from there on. The cost of adding does not grow with the history.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / "history.jsonl"
        self._at = 0

    def add(self, *records: Record) -> None:
        """Put `records` at the end. Raises `StoreError`: the run's folder cannot be written."""
        data = _lines(records)
        with refused_writes(self._path), _open_to_write(self._path, os.O_RDWR, "r+b") as file:
            file.seek(self._at)
            there = file.read(len(data))
            if there != data and data.startswith(there):
                file.write(data[len(there) :])
                file.flush()
                os.fsync(file.fileno())
            elif there != data:
                file.seek(0)
                write_atomic(self._path, file.read(self._at) + data)
        self._at += len(data)


def _lines(records: Iterable[Record]) -> bytes:
    return "".join(
        json.dumps(record.model_dump(mode="json"), sort_keys=True, ensure_ascii=False) + "\n" for record in records
    ).encode()


def run_folders(runs: str | Path) -> list[RunFolder]:
    """All runs under `runs`, oldest first."""
    root = _root(runs)
    try:
        names = list_folder(root)
    except OSError:
        return []
    facts = {name: look_at(root / name / "run.json") for name in names}
    made = sorted((fact.st_mtime, name) for name, fact in facts.items() if fact is not None)
    return [RunFolder(root / name) for _, name in made]


def _root(runs: str | Path) -> Path:
    """The folder of runs. Raises `ConfigError`: it is no path."""
    try:
        root = Path(runs).expanduser().absolute()
        os.fsencode(root)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"runs: {str(runs)[:200]!r}: is no path ({error}). Give a directory.") from None
    return root


def latest_runs(runs: str | Path, most: int) -> list[RunFolder]:
    """The `most` latest runs under `runs`, and as many older ones that live; oldest first."""
    folders = run_folders(runs)
    return [folder for folder in folders[:-most] if folder.lives()][-most:] + folders[-most:]


def find_run(runs: str | Path, name: str) -> RunFolder:
    """The run called `name`: an id, a unique beginning of one, ``latest``, or a path to its folder, wherever that is.

    Raises:
        ConfigError: there is none, or several.
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
    """The first edition of `config` that has no folder yet (for --again)."""
    edition = 1
    while (Path(runs).expanduser() / identify_run(config, edition).run_id).exists():
        edition += 1
    return edition


def versions() -> dict[str, str]:
    """Versions that a reader needs to reproduce a run."""
    found = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": f"{os.cpu_count()} x {platform.machine()}",
    }
    for package in ("coral-x", "torch", "transformers", "peft", "prefect", "ruff", "bandit", "numpy", "moocore"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
