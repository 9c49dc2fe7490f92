"""The store: adapters and evaluations by digest, published atomically, checked on every read.

Layout (any PEFT or vLLM user can load an adapter folder)::

    adapters/<digest>/adapter_config.json, adapter_model.safetensors, training.json, manifest.json
    evaluations/<digest>.json

A publication is written under a temporary name, fsynced and renamed; the manifest holds
the checksum of each file and is read first. A reader that finds a broken entry says so
and treats it as absent. The store is the truth: Prefect's cache holds pointers into it.
Not covered here: deletion by age or size.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from coral_core.errors import StoreError
from coral_core.frozen import Frozen
from coral_core.jobs import Evaluation, TrainedAdapter
from coral_core.json_object import json_object

log = logging.getLogger("coral.store")

Kind = Literal["adapter", "evaluation"]
_MANIFEST = "manifest.json"
_RECORD = "training.json"


class Entry(Frozen):
    """One line of a listing."""

    kind: Kind
    digest: str
    bytes: int
    modified: float
    sound: bool
    problem: str = ""


class StoreSize(Frozen):
    """How much a store holds."""

    adapters: int
    evaluations: int
    bytes: int
    exact: bool = Field(description="False: `bytes` is reckoned from a part of the entries.")


class Store:
    """Content-addressed adapters and evaluations under one directory that all lanes share."""

    def __init__(self, path: str | Path) -> None:
        if "://" in str(path) and not str(path).startswith("file://"):
            raise StoreError(
                f"store.path: {path}: only directories (local or mounted) are supported. Mount it, or give a directory."
            )
        self.root = Path(str(path).removeprefix("file://")).expanduser().absolute()

    # -- set-up ----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Create the folders and prove that they can be written. Raises `StoreError`."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for name in ("adapters", "evaluations", "tmp"):
                self.make_folder(self.root / name)
        except OSError as error:
            raise self.unwritable(error) from error
        self.probe()

    def probe(self) -> None:
        """Prove that a store that was prepared can be written; makes nothing where there is none. Raises `StoreError`."""
        try:
            self._must_be_prepared()
            probe = self.root / "tmp" / f"probe-{uuid.uuid4().hex}"
            _write(probe, b"probe")
            probe.unlink()
        except OSError as error:
            raise self.unwritable(error) from error

    def scratch(self) -> Path:
        """A new empty folder on the store's file system, for a result under construction."""
        path = self.root / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            self._must_be_prepared()
            self.make_folder(path)
        except OSError as error:
            raise self.unwritable(error) from error
        return path

    @property
    def is_prepared(self) -> bool:
        """Is there a store? A directory without its folders is new, or a mount point with nothing mounted on it."""
        return (self.root / "adapters").is_dir()

    def _must_be_prepared(self) -> None:
        """Raise `FileNotFoundError` on a bare mount point: what is written there would lie below the store that is mounted again."""
        if not self.is_prepared:
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(self.root / "adapters"))

    def make_folder(self, path: Path) -> None:
        """Make `path` within the store, open to whom the root is open: lanes may be other users than the evolution.

        Somebody who opens the root to a group (``chmod 2775``) has opened all that is made in it later. Raises
        `FileNotFoundError` when the root is gone: an unmounted store must not come to life on the disk below.
        """
        shared = self.root.stat().st_mode & 0o2777
        for folder in [p for p in (*reversed(path.parents), path) if self.root in p.parents and not p.exists()]:
            folder.mkdir(exist_ok=True)
            folder.chmod(shared | folder.stat().st_mode & 0o7777)

    def discard(self, scratch: Path) -> None:
        shutil.rmtree(scratch, ignore_errors=True)

    # -- adapters --------------------------------------------------------------------------

    def adapter_path(self, digest: str) -> Path:
        return self.root / "adapters" / digest

    def publish_adapter(self, digest: str, scratch: Path, record: TrainedAdapter) -> None:
        """Move the finished folder `scratch` (weights in it, none when infeasible) to its place."""
        target = self.adapter_path(digest)
        try:
            _write(scratch / _RECORD, record.model_dump_json(indent=1).encode())
            for name in _files(scratch):
                _sync(scratch / name)
            manifest = {
                "schema_version": 1,
                "digest": digest,
                "files": {n: _sha256(scratch / n) for n in _files(scratch)},
            }
            _write(scratch / _MANIFEST, json.dumps(manifest, indent=1).encode())
            _sync(scratch)
            if target.exists():
                if self.read_adapter(digest) is not None:
                    self.discard(scratch)
                    return
                os.rename(target, self.root / "tmp" / f"broken-{uuid.uuid4().hex}")
            self._must_be_prepared()
            os.rename(scratch, target)
            _sync(target.parent)
        except OSError as error:
            self.discard(scratch)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and self.read_adapter(digest) is not None:
                return  # another lane published the same digest first: same content by definition
            raise self.unwritable(error) from error

    def read_adapter(self, digest: str) -> TrainedAdapter | None:
        """The record of a sound adapter, or None (absent, or broken: then a warning says why)."""
        path = self.adapter_path(digest)
        if not path.exists():
            return None
        try:
            self._check_adapter(digest)
            return TrainedAdapter.model_validate_json((path / _RECORD).read_bytes())
        except (OSError, ValueError, ValidationError) as error:
            self._say_broken("adapter", digest, error)
            return None

    def _check_adapter(self, digest: str) -> None:
        path = self.adapter_path(digest)
        manifest = json_object((path / _MANIFEST).read_bytes())
        files = manifest.get("files", {})
        if manifest.get("digest") != digest or not isinstance(files, dict) or _RECORD not in files:
            raise ValueError("its manifest belongs to something else")
        for name, checksum in files.items():
            if "/" in name or _sha256(path / name) != checksum:
                raise ValueError(f"{name} does not match its checksum")
        record = json_object((path / _RECORD).read_bytes())
        if record.get("training_digest") != digest:
            raise ValueError("its record belongs to another digest")
        if not record.get("infeasible") and "adapter_model.safetensors" not in files:
            raise ValueError("it holds no weights")

    # -- evaluations -----------------------------------------------------------------------

    def evaluation_path(self, digest: str) -> Path:
        return self.root / "evaluations" / f"{digest}.json"

    def publish_evaluation(self, digest: str, evaluation: Evaluation) -> None:
        body = evaluation.model_dump_json()
        text = json.dumps(
            {"schema_version": 1, "sha256": hashlib.sha256(body.encode()).hexdigest(), "evaluation": body}
        )
        target = self.evaluation_path(digest)
        scratch = self.root / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}.json"
        try:
            self._must_be_prepared()
            self.make_folder(scratch.parent)
            self.make_folder(target.parent)
            _write(scratch, text.encode())
            os.replace(scratch, target)
            _sync(target.parent)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise self.unwritable(error) from error

    def read_evaluation(self, digest: str) -> Evaluation | None:
        """A sound evaluation, or None (absent, or broken: then a warning says why)."""
        path = self.evaluation_path(digest)
        if not path.exists():
            return None
        try:
            return self._check_evaluation(digest)
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            self._say_broken("evaluation", digest, error)
            return None

    def _check_evaluation(self, digest: str) -> Evaluation:
        envelope = json_object(self.evaluation_path(digest).read_bytes())
        body: str = envelope["evaluation"]
        if hashlib.sha256(body.encode()).hexdigest() != envelope["sha256"]:
            raise ValueError("its content does not match its checksum")
        evaluation = Evaluation.model_validate_json(body)
        if evaluation.evaluation_digest != digest:
            raise ValueError("its record belongs to another digest")
        return evaluation

    def set_aside(self, kind: Kind, digest: str) -> None:
        """Move a broken entry out of the way, so that its name is free for a sound one."""
        path = self.adapter_path(digest) if kind == "adapter" else self.evaluation_path(digest)
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, self.root / "tmp" / f"broken-{uuid.uuid4().hex}")

    # -- looking after it ------------------------------------------------------------------

    def entries(self, check: bool = False) -> Iterator[Entry]:
        """All entries by kind and digest; `check` reads every byte and reports broken ones."""
        for path in sorted((self.root / "adapters").glob("*")):
            size = sum((path / name).stat().st_size for name in _files(path))
            problem = self._problem_of("adapter", path.name) if check else ""
            yield Entry(
                kind="adapter",
                digest=path.name,
                bytes=size,
                modified=path.stat().st_mtime,
                sound=not problem,
                problem=problem,
            )
        for path in sorted((self.root / "evaluations").glob("*.json")):
            problem = self._problem_of("evaluation", path.stem) if check else ""
            stat = path.stat()
            yield Entry(
                kind="evaluation",
                digest=path.stem,
                bytes=stat.st_size,
                modified=stat.st_mtime,
                sound=not problem,
                problem=problem,
            )

    def size(self, seconds: float = 1.0) -> StoreSize:
        """Entries and bytes without opening a file. What is left after `seconds` for each kind is reckoned from the mean."""
        adapters = _names(self.root / "adapters")
        evaluations = [name for name in _names(self.root / "evaluations") if name.endswith(".json")]
        of_adapters, all_adapters = _bytes_of([self.root / "adapters" / name for name in adapters], seconds)
        of_evaluations, all_evaluations = _bytes_of([self.root / "evaluations" / name for name in evaluations], seconds)
        return StoreSize(
            adapters=len(adapters),
            evaluations=len(evaluations),
            bytes=of_adapters + of_evaluations,
            exact=all_adapters and all_evaluations,
        )

    def _problem_of(self, kind: Kind, digest: str) -> str:
        try:
            if kind == "adapter":
                self._check_adapter(digest)
            else:
                self._check_evaluation(digest)
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{type(error).__name__}: {error}".splitlines()[0]
        return ""

    def find(self, prefix: str) -> list[tuple[Kind, str]]:
        """Entries whose digest starts with `prefix`."""
        adapters: list[tuple[Kind, str]] = [
            ("adapter", path.name) for path in (self.root / "adapters").glob(f"{prefix}*")
        ]
        return adapters + [("evaluation", path.stem) for path in (self.root / "evaluations").glob(f"{prefix}*.json")]

    def _say_broken(self, kind: Kind, digest: str, error: Exception) -> None:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning(
            "store: %s %s is broken (%s); it counts as absent and will be made again", kind, digest[:12], reason
        )

    def unwritable(self, error: OSError) -> StoreError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            way_out = "the disk is full. Free space and run the same command again; finished work is kept"
        elif error.errno in (errno.ENOENT, errno.ESTALE, errno.ENOTCONN):
            way_out = "it is gone. Mount it again and run the same command; finished work is kept"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            way_out = "it cannot be written. Make it writable, or choose another with --set store.path=DIR"
        else:
            way_out = f"{error.strerror or error}. Check the path with: coral config check"
        return StoreError(f"store {self.root}: {way_out} ({errno.errorcode.get(error.errno or 0, 'error')})")


def _names(folder: Path) -> list[str]:
    """Names in a folder, none where it is not there."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _bytes_of(paths: list[Path], seconds: float) -> tuple[int, bool]:
    """Bytes of files, or of the files in folders; and whether all were looked at. Names are digests: any order is a sample."""
    deadline, total, seen = time.monotonic() + seconds, 0, 0
    for path in paths:
        if time.monotonic() > deadline:
            break
        seen += 1
        with contextlib.suppress(OSError):  # gone in between
            if path.suffix == ".json":
                total += path.stat().st_size
            else:
                with os.scandir(path) as entries:
                    total += sum(entry.stat().st_size for entry in entries)
    return (total, True) if seen == len(paths) else (round(total / max(1, seen) * len(paths)), False)


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != _MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader sees the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write(scratch, data)
        os.replace(scratch, path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
