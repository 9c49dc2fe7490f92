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

import contextlib
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

from pydantic import ValidationError

from coral_core.atomic_write import write_atomic
from coral_core.bounded_read import LINES, LONGEST_LINE, SMALL, OddFileError, kind_of, list_folder, look_at, read_file
from coral_core.config import RunConfig, dump_yaml, read_frozen
from coral_core.digest import digest, seed_from
from coral_core.errors import ConfigError, StoreError
from coral_core.json_object import json_object
from coral_core.runs.records import (
    SCHEMA_VERSION,
    JobFailure,
    JobTiming,
    Record,
    RunIdentity,
    SessionTiming,
    parse_record,
)
from coral_core.runs.run_lock import is_held


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


BEAT_SECONDS = 5.0
FACT_TYPES: dict[str, type] = {
    "identity": dict,
    "set": list,
    "versions": dict,
    "host": str,
    "flow_run_id": str,
    "flow_run_ids": list,
    "api": str,
    "scheduled": str,
}
"""What run.json may say; of another type it says nothing."""

CONFIG_BYTES = 2**20
"""Bytes of a frozen configuration."""
SILENT_SECONDS = 30.0
"""A run of another machine that has not beaten for so long is dead; clocks may differ by some seconds."""


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
        earlier = [known for known in folder.flow_run_ids() if known != flow_run_id]
        facts = {
            "schema_version": SCHEMA_VERSION,
            "identity": identity.model_dump(),
            "set": list(overrides),
            "versions": versions(),
            "pid": os.getpid(),
            "host": platform.node(),
            "flow_run_id": flow_run_id,
            "flow_run_ids": [*earlier, flow_run_id] if flow_run_id else earlier,
            "api": api,
        }
        if first := folder.facts().get("scheduled") or scheduled:
            facts["scheduled"] = first
        try:
            write_atomic(folder.path / "config.yaml", dump_yaml(config).encode())
            write_atomic(folder.path / "run.json", json.dumps(facts, indent=1).encode())
        except OSError as error:
            raise StoreError(
                f"runs: {folder.path}: cannot be written ({error.strerror}). Choose another with --set runs=DIR"
            ) from error
        return folder

    def sound_facts(self) -> dict[str, Any]:
        """What run.json says. Raises `StoreError` when it is broken: who needs the edition cannot do without."""
        facts = self.facts()
        identity = facts.get("identity")
        if not isinstance(identity, dict) or not isinstance(identity.get("edition"), int):
            edition = self.run_id.rpartition("-e")[2]
            number = f" --edition {edition}" if edition.isdigit() and edition != "1" else ""
            raise StoreError(
                f"{self.path / 'run.json'}: is broken or says no edition. Write it anew with: "
                f"coral evolve {self.path / 'config.yaml'}{number} (finished work is not done again)"
            )
        return facts

    def facts(self) -> dict[str, Any]:
        """What run.json says, without what is of another type than it should be; empty when it cannot be read."""
        try:
            found = json_object(read_file(self.path / "run.json", SMALL))
        except (OSError, ValueError):
            return {}
        return {name: value for name, value in found.items() if isinstance(value, FACT_TYPES.get(name, object))}

    def made(self) -> float:
        """Unix time at which run.json was written last; 0 when there is none."""
        found = look_at(self.path / "run.json")
        return found.st_mtime if found is not None else 0.0

    def flow_run_ids(self) -> list[str]:
        """Prefect flow runs of all sessions of this run, oldest first."""
        facts = self.facts()
        latest = [facts["flow_run_id"]] if facts.get("flow_run_id") else []
        return list(map(str, facts.get("flow_run_ids", latest)))

    def beat(self) -> None:
        """The evolution lives: to be called every `BEAT_SECONDS` while it does."""
        (self.path / "beat").touch()

    def lives(self) -> bool | None:
        """Does a session work on this run? Told by the lock that it holds, where file systems have locks.

        Elsewhere, and for sessions of other machines that may not share their locks: by the process that `run.json`
        names, and by its beats. None when nobody can tell: another machine's run, made before there were beats.
        """
        held = is_held(self.path)
        if held:
            return True
        try:
            facts = json_object(read_file(self.path / "run.json", SMALL))
            pid, host = int(facts["pid"]), str(facts["host"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if host != platform.node():
            return self._beats()
        if held is False:
            return False
        try:
            there = b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        return there and self._beats() is not False  # the number of a dead process may be another's by now

    def _beats(self) -> bool | None:
        """Was there a beat lately? None: there is none."""
        try:
            return time.time() - (self.path / "beat").stat().st_mtime < SILENT_SECONDS
        except OSError:
            return None

    def config(self) -> RunConfig:
        """The configuration that it froze. Raises `ConfigError` when that cannot be read."""
        return read_frozen(self.path / "config.yaml")

    def write_history(self, records: Iterable[Record]) -> None:
        """Replace the history; a replay that is still behind what is on disk leaves it alone."""
        data = _lines(records)
        path = self.path / "history.jsonl"
        old = read_file(path, LINES) if path.exists() else b""
        if not old.startswith(data):
            write_atomic(path, data)

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

    def append_timing(self, timing: JobTiming | JobFailure | SessionTiming) -> None:
        """Add a line to timings.jsonl. Raises `StoreError`: it cannot be written."""
        path = self.path / "timings.jsonl"
        try:
            with _open_to_write(path, os.O_WRONLY | os.O_APPEND, "ab") as file:
                file.write((timing.model_dump_json() + "\n").encode())
        except OSError as error:
            raise StoreError(
                f"{path}: cannot be written ({error.strerror}). Free space, or move it away, and run the same command again; finished work is kept"
            ) from error

    def timings(self) -> list[JobTiming | SessionTiming]:
        """Jobs and sessions, in order; failed tries are left out, and a line cut by a kill is skipped.

        Raises:
            StoreError: a line is whole and no timing, or it cannot be read.
        """
        path = self.path / "timings.jsonl"
        result: list[JobTiming | SessionTiming] = []
        for number, line in enumerate(_lines_of(path), 1):
            if b'"type":"failure"' in line or not line.strip():
                continue
            kind = SessionTiming if b'"type":"session"' in line else JobTiming
            try:
                row = json_object(_bounded(line))
            except ValueError:
                continue  # cut by a kill, perhaps with the next session's first line behind it
            try:
                result.append(kind.model_validate(row))
            except ValidationError as error:
                raise StoreError(
                    f"{path}, line {number}: is no timing ({_why(error)}). Take this line out; it counts time and cost only"
                ) from error
        return result

    def failures(self) -> list[JobFailure]:
        """Tries of jobs that failed, in order; what cannot be read is skipped."""
        result = []
        for line in _lines_of(self.path / "timings.jsonl"):
            if b'"type":"failure"' in line:
                with contextlib.suppress(ValueError):
                    result.append(JobFailure.model_validate(json_object(_bounded(line))))
        return result


def _lines_of(path: Path) -> list[bytes]:
    """Lines of a file, none where there is none. Raises `StoreError`: it cannot be read."""
    try:
        return read_file(path, LINES).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        use = "counts time and cost only" if path.name == "timings.jsonl" else "is written anew from the store"
        raise StoreError(
            f"{path}: cannot be read ({error.strerror}). Move it away; coral resume {path.parent.name} goes on without it, and it {use}"
        ) from None


def _bounded(line: bytes) -> bytes:
    if len(line) > LONGEST_LINE:
        raise ValueError(f"a line of {len(line)} bytes")
    return line


def _open_to_write(path: Path, flags: int, mode: str) -> IO[bytes]:
    """Open a regular file of ours, made when it is not there. Raises `OSError`: also for what is no regular file."""
    handle = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise OddFileError(path, f"{kind_of(found.st_mode)}, not a file")
    return os.fdopen(handle, mode)


def _whole_lines(path: Path) -> list[bytes]:
    """Lines that end; what a kill cut off is not there yet."""
    return _lines_of(path)[:-1]


def _record(path: Path, number: int, line: bytes) -> Any:
    try:
        return parse_record(json_object(_bounded(line)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path}, line {number}: is no record of a run ({_why(error)}). Take out this line and all after it; "
            f"coral resume {path.parent.name} then writes them anew from the store"
        ) from error


def _why(error: Exception) -> str:
    """What is wrong with a line, in a few words."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__}: {error}"[:500]


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
        try:
            with _open_to_write(self._path, os.O_RDWR, "r+b") as file:
                file.seek(self._at)
                there = file.read(len(data))
                if there != data and data.startswith(there):
                    file.write(data[len(there) :])
                    file.flush()
                    os.fsync(file.fileno())
                elif there != data:
                    file.seek(0)
                    write_atomic(self._path, file.read(self._at) + data)
        except OSError as error:
            raise StoreError(
                f"{self._path}: cannot be written ({error.strerror}). Free space and run the same command again; finished work is kept"
            ) from error
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


def now() -> float:
    return time.time()
