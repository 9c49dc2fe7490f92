"""The store: adapters and evaluations by digest, published atomically, checked on every read.

Layout (any PEFT or vLLM user can load an adapter folder)::

    adapters/<digest>/adapter_config.json, adapter_model.safetensors, training.json, manifest.json
    evaluations/<digest>.json

An entry is written under a temporary name, fsynced and renamed; the manifest holds size and checksum of each file and
is read first. Nothing in a store is trusted: only regular files of bounded size below its root are read
(bounded_read.py), links are not followed, and content is validated against its model and its own verdicts. A reader
that finds a broken entry logs a warning and treats it as absent; the next publication replaces it. The store is the only
copy of results: Prefect's cache holds pointers into it. Not covered: deletion by age or size.
"""

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from coral_core.atomic_write import finish, sync, write_synced
from coral_core.bounded_read import (
    RECORD,
    SMALL,
    OddFileError,
    kind_of,
    list_folder,
    look_at,
    open_file,
    read_model,
    sha256_of,
)
from coral_core.errors import StoreError
from coral_core.frozen import Frozen
from coral_core.jobs.jobs import Evaluation, TrainedAdapter
from coral_core.json_object import json_value
from coral_core.lm.versions import ENGINE_VERSION, RECIPE_VERSION
from coral_core.untrusted import on_one_line, visible

log = logging.getLogger("coral.store")

Kind = Literal["adapter", "evaluation"]
FOLDERS: dict[Kind, str] = {"adapter": "adapters", "evaluation": "evaluations"}
WEIGHTS_BYTES = 32 * 2**30
"""Most bytes of one file of an adapter; a full-rank adapter of a 7B model in float32 has fewer."""
EVALUATION_BYTES = 256 * 2**20
"""Most bytes of an evaluation with all its completions, patches and verdicts."""
_MANIFEST = "manifest.json"
_RECORD = "training.json"
_WEIGHTS = "adapter_model.safetensors"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{1,64}")
_HEAD = re.compile(rb'\{"schema_version": \d+, "engine_version": "([^"\\]{1,32})"')
_DESKTOP = re.compile(r"\..*|Thumbs\.db|desktop\.ini|Icon\r|@eaDir", re.IGNORECASE)
"""Files that file managers and file systems leave in any folder; they neither belong to an adapter nor damage it."""
_ROUNDING = 1e-9
_ASIDE = re.compile(r"(broken|removed)-[0-9a-f]{32}")
T = TypeVar("T")


class Manifest(Frozen):
    """manifest.json: size and checksum of each file of an adapter."""

    schema_version: int = 1
    digest: str
    engine_version: str
    recipe_version: str
    files: dict[str, str] = Field(description="Name -> SHA-256.")
    bytes: dict[str, int] = Field(description="Name -> size.")


class Envelope(Frozen):
    """The content of an evaluation's file: the evaluation as JSON, and its checksum."""

    schema_version: int = 1
    engine_version: str
    sha256: str
    evaluation: str


class Entry(Frozen):
    """One line of a listing."""

    kind: Kind
    digest: str
    bytes: int
    modified: float
    version: str = Field("", description="Of the recipe (adapter) or of the engine (evaluation) that made it; empty when it cannot be read.")  # fmt: skip
    current: bool = Field(True, description="False: it was made by another version than this one, which does not use it.")  # fmt: skip
    sound: bool
    problem: str = ""


class ForeignItem(Frozen):
    """A file in a folder of entries whose name is no digest, and which therefore is no entry."""

    folder: Literal["adapters", "evaluations"]
    name: str = Field(description="Control characters, and bytes that are no UTF-8, spelt out.")
    what: str = Field(description="a file, a folder, a symbolic link, a FIFO, ...")


class StoreSize(Frozen):
    """How much a store holds."""

    adapters: int
    evaluations: int
    bytes: int
    exact: bool = Field(description="False: `bytes` is reckoned from a part of the entries.")


class Store:
    """Content-addressed adapters and evaluations under one directory that all lanes share.

    Args:
        path: The directory, local or mounted, as a path or a `file://` URL; ``~`` is expanded. It need not exist yet.

    Raises:
        StoreError: `path` is a URL of another kind, or no path.
    """

    def __init__(self, path: str | Path) -> None:
        remedy, text = "Give a directory, local or mounted.", str(path)
        if "://" in text and not text.startswith("file://"):
            raise StoreError(f"store.path: {text[:200]!r}: only directories are supported", remedy=remedy)
        try:
            self.root = Path(text.removeprefix("file://")).expanduser().absolute()
            if b"\0" in os.fsencode(self.root):
                raise ValueError("it holds a NUL byte")
        except (RuntimeError, ValueError) as error:  # ~ of an unknown user; characters that no file name can have
            raise StoreError(f"store.path: {text[:200]!r}: is no path ({error})", remedy=remedy) from None
        self._warned: set[tuple[Kind, str, str]] = set()

    # -- set-up ----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Create the folders and check that they are writable. Raises `StoreError`."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for name in ("adapters", "evaluations", "tmp"):
                self.make_folder(self.root / name)
        except OSError as error:
            raise self.unwritable(error) from error
        for name in FOLDERS.values():
            if (status := look_at(self.root / name)) is not None and not stat.S_ISDIR(status.st_mode):
                raise StoreError(
                    f"store {self.root}: {name} is {kind_of(status.st_mode)}, not a folder; links within a store are not followed",
                    remedy="Move what it leads to here, or link the whole store (store.path may be a link).",
                )
        self.probe()

    def probe(self) -> None:
        """Check that a prepared store is writable; never creates one. Raises `StoreError`."""
        try:
            self._must_be_prepared()
            probe = self.root / "tmp" / f"probe-{uuid.uuid4().hex}"
            write_synced(probe, b"probe")
            probe.unlink()
        except OSError as error:
            raise self.unwritable(error) from error

    def scratch(self) -> Path:
        """Create an empty folder on the store's file system, for a result under construction. Raises `StoreError`."""
        path = self.root / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            self._must_be_prepared()
            self.make_folder(path)
        except OSError as error:
            raise self.unwritable(error) from error
        return path

    @property
    def is_prepared(self) -> bool:
        """Whether the directory is a store; one without the store's folders is new, or an unmounted mount point."""
        return (self.root / "adapters").is_dir()

    def _must_be_prepared(self) -> None:
        """Raise `FileNotFoundError` on an unmounted mount point: files written there are hidden by the next mount."""
        if not self.is_prepared:
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(self.root / "adapters"))

    def make_folder(self, path: Path) -> None:
        """Create the folder `path` within the store, with the permissions of the root.

        Lanes and evolution may run as different users: after ``chmod 2775`` of the root, its group can write in all
        folders that are created later.

        Raises:
            FileNotFoundError: the root is gone; no store is created on an unmounted mount point.
        """
        shared = self.root.stat().st_mode & 0o2777
        for folder in [p for p in (*reversed(path.parents), path) if self.root in p.parents and not p.exists()]:
            folder.mkdir(exist_ok=True)
            folder.chmod(shared | folder.stat().st_mode & 0o7777)

    def discard(self, scratch: Path) -> None:
        """Remove a folder made by `scratch`."""
        shutil.rmtree(scratch, ignore_errors=True)

    # -- adapters --------------------------------------------------------------------------

    def adapter_path(self, digest: str) -> Path:
        """Folder of an adapter, which need not exist. Raises `StoreError` if `digest` is none."""
        return self.root / "adapters" / _checked(digest)

    def publish_adapter(self, digest: str, scratch: Path, record: TrainedAdapter) -> None:
        """Publish an adapter. A broken entry is replaced; a sound one is kept, since equal digests mean equal content.

        Args:
            digest: Training digest.
            scratch: Folder made by `scratch`, with the files of the adapter, or empty if it is infeasible. It is moved
                or removed, also on errors.
            record: What is written to training.json.

        Raises:
            StoreError: the store cannot be written, or a broken entry cannot be moved away.
        """
        target = self.adapter_path(digest)
        try:
            write_synced(scratch / _RECORD, record.model_dump_json(indent=1).encode())
            names = [name for name in list_folder(scratch) if name != _MANIFEST]
            for name in names:
                finish(scratch / name)
            manifest = Manifest(
                digest=digest,
                engine_version=ENGINE_VERSION,
                recipe_version=RECIPE_VERSION,
                files={name: sha256_of(scratch / name, WEIGHTS_BYTES) for name in names},
                bytes={name: (scratch / name).stat().st_size for name in names},
            )
            write_synced(scratch / _MANIFEST, manifest.model_dump_json(indent=1).encode())
            sync(scratch)
            if look_at(target) is not None:
                if self.read_adapter(digest) is not None:
                    return
                self.set_aside("adapter", digest)
            self._must_be_prepared()
            os.rename(scratch, target)
            sync(target.parent)
            self._forget("adapter", digest)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and self.read_adapter(digest) is not None:
                return  # another lane published the same digest first: same content by definition
            raise self.unwritable(error) from error
        finally:
            self.discard(scratch)

    def read_adapter(self, digest: str) -> TrainedAdapter | None:
        """The record of an adapter, after a check of every byte. None if it is absent or broken (logged once)."""
        return self._read("adapter", digest, self._check_adapter)

    def _read(self, kind: Kind, digest: str, check: Callable[[str], T]) -> T | None:
        if not _is_digest(digest) or not self.holds(kind, digest):
            return None
        try:
            return check(digest)
        except (OSError, ValueError) as error:
            warning = (kind, digest, first_line(error))
            if warning not in self._warned:
                self._warned.add(warning)
                text = "store: %s %s is broken (%s); it counts as absent and will be made again"
                log.warning(text, kind, digest[:12], warning[2])
            return None

    def _check_adapter(self, digest: str) -> TrainedAdapter:
        """Read and check every byte of an adapter. Raises `OSError` or `ValueError` if it is broken."""
        path = self.adapter_path(digest)
        listed = list_folder(path, self.root)
        manifest = self._manifest(digest)
        files, sizes = manifest.files, manifest.bytes
        if manifest.digest != digest or _RECORD not in files or set(sizes) != set(files):
            raise ValueError("its manifest belongs to something else")
        extra = sorted(
            name for name in listed if name != _MANIFEST and name not in files and not _DESKTOP.fullmatch(name)
        )
        if extra:
            raise ValueError(f"{extra[0]} is not in its manifest. Take it away, and the entry is sound again")
        for name, checksum in files.items():
            if name not in listed:  # true also of `..` and of names with a slash, which no folder lists
                raise ValueError(f"{name} is missing")
            if sizes[name] != listed[name].st_size or sha256_of(path / name, WEIGHTS_BYTES, self.root) != checksum:
                raise ValueError(f"{name} does not match its checksum")
        record = read_model(path / _RECORD, TrainedAdapter, RECORD, self.root)
        if record.training_digest != digest:
            raise ValueError("its record belongs to another digest")
        if not record.infeasible and _WEIGHTS not in files:
            raise ValueError("it holds no weights")
        return record

    def _manifest(self, digest: str) -> Manifest:
        return read_model(self.adapter_path(digest) / _MANIFEST, Manifest, SMALL, self.root)

    # -- evaluations -----------------------------------------------------------------------

    def evaluation_path(self, digest: str) -> Path:
        """File of an evaluation, which need not exist. Raises `StoreError` if `digest` is none."""
        return self.root / "evaluations" / f"{_checked(digest)}.json"

    def publish_evaluation(self, digest: str, evaluation: Evaluation) -> None:
        """Publish an evaluation, replacing an existing one.

        Args:
            digest: Evaluation digest.
            evaluation: Its scores, verdicts and completions.

        Raises:
            StoreError: the store cannot be written; `evaluation` is inconsistent (`check_consistency`) or larger than
                `EVALUATION_BYTES`; or something in its place is no file and cannot be moved away.
        """
        target = self.evaluation_path(digest)
        try:
            check_consistency(evaluation)
        except ValueError as error:
            raise StoreError(
                f"evaluation {digest[:12]}: is not published, because {error}",
                remedy="Run it again, and report it if it comes again.",
            ) from None
        body = evaluation.model_dump_json()
        checksum = hashlib.sha256(body.encode()).hexdigest()
        envelope = Envelope(engine_version=ENGINE_VERSION, sha256=checksum, evaluation=body)
        data = json.dumps(envelope.model_dump()).encode()
        if len(data) > EVALUATION_BYTES:
            raise StoreError(
                f"evaluation {digest[:12]}: has {len(data)} bytes, {EVALUATION_BYTES} at most are stored",
                remedy="Choose fewer problems or fewer samples for each (generation.samples).",
            )
        scratch = self.scratch()
        try:
            self.make_folder(target.parent)
            write_synced(scratch / target.name, data)
            if (status := look_at(target)) is not None and not stat.S_ISREG(status.st_mode):
                self.set_aside("evaluation", digest)
            os.replace(scratch / target.name, target)
            sync(target.parent)
            self._forget("evaluation", digest)
        except OSError as error:
            raise self.unwritable(error) from error
        finally:
            self.discard(scratch)

    def read_evaluation(self, digest: str) -> Evaluation | None:
        """An evaluation, after a check of checksum and consistency. None if it is absent or broken (logged once)."""
        return self._read("evaluation", digest, self._check_evaluation)

    def _check_evaluation(self, digest: str) -> Evaluation:
        """Read and check an evaluation. Raises `OSError` or `ValueError` if it is broken."""
        envelope = read_model(self.evaluation_path(digest), Envelope, EVALUATION_BYTES, self.root)
        if hashlib.sha256(envelope.evaluation.encode()).hexdigest() != envelope.sha256:
            raise ValueError("its content does not match its checksum")
        evaluation = Evaluation.model_validate(json_value(envelope.evaluation))
        if evaluation.evaluation_digest != digest:
            raise ValueError("its record belongs to another digest")
        check_consistency(evaluation)
        return evaluation

    def is_published(self, kind: Kind, digest: str) -> bool:
        """Whether there is a result. Only file names are looked at; the reader of the result checks its content.

        Args:
            kind: Adapter or evaluation.
            digest: Its digest; any other text gives False.
        """
        inner = _MANIFEST if kind == "adapter" else ""
        return _is_digest(digest) and look_at(self._path(kind, digest) / inner) is not None

    def holds(self, kind: Kind, digest: str) -> bool:
        """Whether anything exists at the path of an entry, sound or broken.

        Args:
            kind: Adapter or evaluation.
            digest: Its digest.

        Raises:
            StoreError: `digest` is none.
        """
        return look_at(self._path(kind, digest)) is not None

    def _path(self, kind: Kind, digest: str) -> Path:
        return self.adapter_path(digest) if kind == "adapter" else self.evaluation_path(digest)

    def set_aside(self, kind: Kind, digest: str) -> None:
        """Move a broken entry to ``tmp``, so that a sound one can take its place. Nothing is done if it is absent.

        Args:
            kind: Adapter or evaluation.
            digest: Its digest.

        Raises:
            StoreError: it cannot be moved.
        """
        path = self._path(kind, digest)
        try:
            os.rename(path, self.root / "tmp" / f"broken-{uuid.uuid4().hex}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(
                f"store {self.root}: {FOLDERS[kind]}/{path.name} is broken and cannot be moved away ({error.strerror or error})",
                remedy="Remove it, as its owner or as root, and run the same command again; finished work is kept.",
            ) from error

    # -- maintenance -----------------------------------------------------------------------

    def entries(self, check: bool = False) -> Iterator[Entry]:
        """All entries, ordered by kind and digest.

        Args:
            check: Whether to read and check every byte. Without it only type, size and version of an entry are read.

        Raises:
            StoreError: a folder of entries exists and cannot be listed.
        """
        for kind, digest, status in self._digests():
            yield self._entry(kind, digest, status, check)

    def _digests(self) -> Iterator[tuple[Kind, str, os.stat_result]]:
        for kind in FOLDERS:
            for name, status in self._listed(kind).items():
                if (digest := _digest_of(kind, name)) is not None:
                    yield kind, digest, status

    def foreign_items(self) -> list[ForeignItem]:
        """Files beside the entries: desktop files, links, folders with other names. Raises `StoreError`."""
        return [
            ForeignItem(folder=folder, name=on_one_line(name), what=kind_of(status.st_mode))
            for kind, folder in FOLDERS.items()
            for name, status in self._listed(kind).items()
            if _digest_of(kind, name) is None
        ]

    def _listed(self, kind: Kind) -> dict[str, os.stat_result]:
        try:
            return list_folder(self.root / FOLDERS[kind], self.root)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StoreError(
                f"store {self.root}: {FOLDERS[kind]} cannot be listed ({error.strerror or error})",
                remedy="Look at its permissions and its mount; links within a store are not followed.",
            ) from None

    def _entry(self, kind: Kind, digest: str, status: os.stat_result, check: bool) -> Entry:
        folder = kind == "adapter"
        problem, size, version = "", status.st_size, ""
        try:
            if not (stat.S_ISDIR if folder else stat.S_ISREG)(status.st_mode):
                raise OddFileError(digest, f"{kind_of(status.st_mode)}, not a {'folder' if folder else 'file'}")
            if folder:
                size = sum(inner.st_size for inner in list_folder(self.adapter_path(digest), self.root).values())
            if check:
                self._check_adapter(digest) if folder else self._check_evaluation(digest)
            version = self._version(kind, digest)
        except (OSError, ValueError) as error:
            problem = first_line(error)
        return Entry(
            kind=kind,
            digest=digest,
            bytes=size,
            modified=status.st_mtime,
            version=version,
            current=not version or version == (RECIPE_VERSION if folder else ENGINE_VERSION),
            sound=not problem,
            problem=problem,
        )

    def _version(self, kind: Kind, digest: str) -> str:
        """Version of the recipe or engine that made an entry. Raises `OSError` or `ValueError` if it cannot be read."""
        if kind == "adapter":
            return self._manifest(digest).recipe_version[:32]
        with open_file(self.evaluation_path(digest), EVALUATION_BYTES, self.root) as file:
            head = _HEAD.match(file.read(256))
        return head[1].decode("utf-8", "backslashreplace") if head else ""

    def remove(self, kind: Kind, digest: str) -> None:
        """Remove an entry, sound or broken. Nothing is done if it is absent.

        Args:
            kind: Adapter or evaluation.
            digest: Its digest.

        Raises:
            StoreError: the store cannot be written.
        """
        path = self._path(kind, digest)
        removed = self.root / "tmp" / f"removed-{uuid.uuid4().hex}"
        try:
            os.rename(path, removed)  # first, so that readers find the whole entry or none
            _remove(removed)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self.unwritable(error) from error

    def set_aside_before(self) -> list[str]:
        """Names, in ``tmp``, of broken entries that were set aside, and of entries whose removal was interrupted."""
        return [name for name in _names(self.root / "tmp") if _ASIDE.fullmatch(name)]

    def forget_set_aside(self, names: list[str]) -> None:
        """Remove the files that `set_aside_before` listed. Raises `StoreError`."""
        for name in names:
            if _ASIDE.fullmatch(name):
                try:
                    _remove(self.root / "tmp" / name)
                except OSError as error:
                    raise self.unwritable(error) from error

    def size(self, seconds: float = 1.0) -> StoreSize:
        """Count entries and bytes without opening a file.

        Args:
            seconds: Time limit for each kind; sizes of entries not reached by then are estimated from the mean.
        """
        adapters, evaluations = (
            [name for name in _names(self.root / folder) if _digest_of(kind, name) is not None]
            for kind, folder in FOLDERS.items()
        )
        of_adapters, all_adapters = _bytes_of([self.root / "adapters" / name for name in adapters], seconds)
        of_evaluations, all_evaluations = _bytes_of([self.root / "evaluations" / name for name in evaluations], seconds)
        return StoreSize(
            adapters=len(adapters),
            evaluations=len(evaluations),
            bytes=of_adapters + of_evaluations,
            exact=all_adapters and all_evaluations,
        )

    def find(self, prefix: str) -> list[tuple[Kind, str]]:
        """Entries whose digest starts with `prefix`. Raises `StoreError` if no digest can."""
        if not _PREFIX.fullmatch(prefix):
            raise StoreError(
                f"{prefix[:100]!r}: is no digest, nor the beginning of one (1 to 64 of 0-9 and a-f)",
                remedy="See: coral store ls",
            )
        return [(kind, digest) for kind, digest, _ in self._digests() if digest.startswith(prefix)]

    def _forget(self, kind: Kind, digest: str) -> None:
        self._warned = {warning for warning in self._warned if warning[:2] != (kind, digest)}

    def unwritable(self, error: OSError) -> StoreError:
        """The `StoreError`, with its remedy, for a write that failed with `error`."""
        name = errno.errorcode.get(error.errno or 0, "error")
        what, remedy = UNWRITABLE.get(name, (error.strerror or str(error), "Check the path with: coral config check"))
        return StoreError(f"store {self.root}: {what} ({name})", remedy=remedy)


_GONE = ("it is gone", "Mount it again and run the same command; finished work is kept.")
_FULL = ("the disk is full", "Free space and run the same command again; finished work is kept.")
_CLOSED = ("it cannot be written", "Make it writable, or choose another with --set store.path=DIR")
UNWRITABLE = {
    **dict.fromkeys(("ENOSPC", "EDQUOT"), _FULL),
    **dict.fromkeys(("ENOENT", "ESTALE", "ENOTCONN"), _GONE),
    **dict.fromkeys(("EROFS", "EACCES", "EPERM"), _CLOSED),
}
"""Name of an error number -> problem and remedy of a store that cannot be written."""


def check_consistency(evaluation: Evaluation) -> None:
    """Check that scores are shares in [0, 1], and that `passed` and pass@1 follow from the verdicts.

    Raises:
        ValueError: it contradicts itself.
    """
    for name, value in [*evaluation.scores.items(), *((f"pass@{k}", v) for k, v in evaluation.pass_at_k.items())]:
        if not -_ROUNDING <= value <= 1 + _ROUNDING:
            raise ValueError(f"its {visible(name)[:40]} is {value}, not a share between 0 and 1")
    if evaluation.infeasible is not None:
        if evaluation.scores or evaluation.passed or evaluation.pass_at_1:
            raise ValueError(f"it is infeasible ({evaluation.infeasible}) and has scores")
        return
    if not evaluation.records:
        raise ValueError("it holds no problem")
    ids = [record.problem_id for record in evaluation.records]
    if len(set(ids)) < len(ids):
        raise ValueError("it holds a problem twice")
    for record in evaluation.records:
        for sample in record.samples:
            _check_verdict(sample.verdict, record.problem_id)
    passed = tuple(record.problem_id for record in evaluation.records if record.samples and record.samples[0].passes)
    if passed != evaluation.passed:
        raise ValueError("its repaired problems are not those of its verdicts")
    flat = [float(sample.passes) for record in evaluation.records if not record.retention for sample in record.samples]
    share = math.fsum(flat) / len(flat) if flat else 0.0
    if abs(share - evaluation.pass_at_1) > _ROUNDING:
        raise ValueError(f"its pass@1 is {evaluation.pass_at_1}, and its verdicts give {share}")


def _check_verdict(verdict: dict[str, Any], problem: str) -> None:
    cases = verdict.get("cases")
    if not isinstance(verdict.get("outcome"), str) or not isinstance(cases, (list, tuple)):
        raise ValueError(f"the verdict on {visible(problem)[:80]} is none")
    if not all(isinstance(case, str) for case in cases):
        raise ValueError(f"the verdict on {visible(problem)[:80]} has cases that are none")
    for key, value in verdict.items():
        if isinstance(value, (int, float)) and not 0 <= value < math.inf:
            raise ValueError(f"the verdict on {visible(problem)[:80]} has {visible(key)[:40]} {value}")


def _is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def _checked(digest: str) -> str:
    if not _is_digest(digest):
        raise StoreError(f"{digest[:100]!r}: is no digest (64 of 0-9 and a-f)", remedy="See: coral store ls")
    return digest


def _digest_of(kind: Kind, name: str) -> str | None:
    """The digest of the entry with this file name; None if the name is of no entry."""
    digest = name if kind == "adapter" else name.removesuffix(".json")
    return digest if _is_digest(digest) and (kind == "adapter" or name.endswith(".json")) else None


def first_line(error: Exception) -> str:
    """An error as one line of at most 300 characters, without control characters."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        text = f"{'.'.join(map(str, first['loc'])) or 'its record'}: {first['msg']}"
    elif isinstance(error, OSError):
        name = Path(os.fsdecode(error.filename)).name if error.filename else ""
        text = f"{name[:80]}: {error.strerror or type(error).__name__}" if name else str(error)
    else:
        text = str(error) or type(error).__name__
    return visible(text.splitlines()[0] if text.splitlines() else type(error).__name__)[:300]


def _remove(path: Path) -> None:
    """Remove a file, a link or a whole folder. Links are not followed."""
    if stat.S_ISDIR(path.lstat().st_mode):
        shutil.rmtree(path)
    else:
        path.unlink()


def _names(folder: Path) -> list[str]:
    """Names in a folder; empty if it cannot be listed."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _bytes_of(paths: list[Path], seconds: float) -> tuple[int, bool]:
    """Bytes of files, or of the files in folders, and whether all were counted in `seconds`; else an estimate.

    Names are digests, so the entries counted first are a random sample.
    """
    deadline, total, seen = time.monotonic() + seconds, 0, 0
    for path in paths:
        if time.monotonic() > deadline:
            break
        seen += 1
        with contextlib.suppress(OSError):  # gone in between
            if path.suffix == ".json":
                total += path.lstat().st_size
            else:
                with os.scandir(path) as entries:
                    total += sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    return (total, True) if seen == len(paths) else (round(total / max(1, seen) * len(paths)), False)
