"""The files of a base model's folder: its identity, the headers of its weights, its JSON. Loads nothing, imports no torch.

Everything read here is untrusted: sizes are limited, only regular files are opened, and errors name the file. Not
covered: what the files mean for an architecture (coral_core/lm/architecture.py).
"""

import errno
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from coral_core.bounded_read import open_file, read_file
from coral_core.errors import BaseModelError, CoralError, EngineError
from coral_core.json_object import json_object

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
JSON_BYTES = 64 * 2**20
HEADER_BYTES = 100_000_000
LARGEST_FILE = 1 << 50
MOST_FILES = 20_000
_SAVED = "Give the folder that save_pretrained wrote, with its safetensors."
_FETCHED = "Fetch it again or save the model with save_pretrained."

_HARMLESS_NAMES = {"pretraining.json"}
"""`pretraining.json` records how coral-tiny was made; no program reads it."""
_HARMLESS_STEMS = {"readme", "license", "licence", "notice", "use_policy", "changelog", "citation"}
_TEXT = {"", ".md", ".txt", ".rst", ".cff"}
_HARMLESS_SUFFIXES = {".md", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".pdf"}

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Types of weights that can be loaded as they are -> bytes."""
_SIZES = FLOATS | {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "U16": 2, "U32": 4, "U64": 8, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip

_OF_THE_FILE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO}  # fmt: skip
"""Error numbers that mean a wrong file or path; any other means a fault of the system."""
_OS_ERROR = re.compile(r"\bos error ([0-9]{1,3})\b")
_LONGEST_CHAIN = 10


class Tensor(NamedTuple):
    """One tensor as a safetensors header lists it."""

    dtype: str
    shape: tuple[int, ...]


class ModelFolder(NamedTuple):
    """The content of one folder: configurations and the tensors listed in the headers of its weights."""

    path: Path
    config: dict[str, Any]
    generation: dict[str, Any]
    tensors: dict[str, Tensor]


def changes_nothing(name: str) -> bool:
    """True when a file of this name is known not to affect the model, so that it is no part of its identity.

    >>> [changes_nothing(name) for name in ("README.md", ".gitattributes", "merges.txt", "chat_template.jinja", "code.py")]
    [True, True, False, False, False]
    """
    path = Path(name)
    if name.startswith(".") or name in _HARMLESS_NAMES or path.suffix.lower() in _HARMLESS_SUFFIXES:
        return True
    return path.stem.lower() in _HARMLESS_STEMS and path.suffix.lower() in _TEXT


def files_of(folder: Path) -> dict[str, tuple[Path, os.stat_result]]:
    """The files that identify a model, those in subfolders and behind links included.

    Args:
        folder: The model's folder.

    Returns:
        Relative name -> path and `stat` result.

    Raises:
        BaseModelError: a folder cannot be read, a file is not a regular one, or there are too many.
        EngineError: the disk or the mount failed.
    """
    by_name: dict[str, tuple[Path, os.stat_result]] = {}
    for path in _walked(folder, set()):
        name = path.relative_to(folder).as_posix()
        try:
            state = path.stat()
        except FileNotFoundError:  # a broken link, which the libraries ignore too
            continue
        except OSError as error:
            raise _unreadable(path, error) from None
        if not stat.S_ISREG(state.st_mode):
            raise BaseModelError(f"base model file {path}: no regular file", remedy="Take it out of the folder.")
        if "\n" in name or len(by_name) >= MOST_FILES:
            raise BaseModelError(
                f"base model {folder}: a file name with a line break, or more than {MOST_FILES} files", remedy=_SAVED
            )
        by_name[name] = (path, state)
    return by_name


def _walked(folder: Path, above: set[tuple[int, int]]) -> Iterator[Path]:
    """Files below `folder`; links are followed, but not into a folder that is being walked already."""
    try:
        state = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from None
    here = (state.st_dev, state.st_ino)
    if here in above:
        return
    for entry in entries:
        if changes_nothing(entry.name):
            continue
        if entry.is_dir():
            yield from _walked(Path(entry.path), above | {here})
        else:
            yield Path(entry.path)


def is_passing(error: BaseException) -> bool:
    """True for an error of the system (disk, network, table of open files), which may pass; False for one of the file itself.

    Looks through the causes of an error, and at the texts of libraries that keep only the system's message.

    >>> is_passing(OSError(errno.EIO, "Input/output error")), is_passing(OSError(errno.ENOENT, "no such file"))
    (True, False)
    """
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen and len(seen) < _LONGEST_CHAIN:
        seen.append(current)
        kinds = {kind.__name__ for kind in type(current).__mro__}
        if "OfflineModeIsEnabled" in kinds:
            return False
        if kinds & {"TimeoutError", "ConnectionError", "TransportError"}:  # of the system or of an HTTP client
            return True
        code = _code(current)
        if code is not None and code not in _OF_THE_FILE:
            return True
        current = current.__cause__ or current.__context__
    return False


def disk_is_full(error: BaseException) -> bool:
    """True for ENOSPC and EDQUOT, also where safetensors keeps only the text of the system's error."""
    return _code(error) in (errno.ENOSPC, errno.EDQUOT)


def _code(error: BaseException) -> int | None:
    """The system's error number (errno) in `error`, or in its text; None when there is none."""
    number = getattr(error, "errno", None) or next(map(int, _OS_ERROR.findall(str(error)[:1000])), None)
    return number if type(number) is int else None


def _unreadable(path: Path, error: OSError) -> CoralError:
    problem = f"base model file {path}: cannot be read ({error.strerror})"
    if is_passing(error):
        return EngineError(problem, remedy="Look at its disk or mount, and run the same command again.")
    return BaseModelError(problem, remedy="Check what it is, and its permissions.")


def content_id(folder: Path) -> str:
    """Digest of the names and bytes of all files that affect the model.

    A file is read again only when its size, times or inode have changed since it was last read.

    Raises:
        BaseModelError: as `files_of`.
        EngineError: as `files_of`.
    """
    total = hashlib.sha256()
    for name, (path, state) in sorted(files_of(folder).items()):
        key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        total.update(f"{name} {_digest_of(str(path.resolve()), key)}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


@lru_cache(maxsize=4096)
def _digest_of(path: str, state: tuple[int, ...]) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(Path(path), error) from None


def read_folder(folder: Path) -> ModelFolder:
    """Configuration and headers of the weights of a model folder.

    Raises:
        BaseModelError: a file is missing, damaged or of a kind that cannot be loaded.
        EngineError: the disk or the mount failed.
    """
    config = read_json(folder / "config.json")
    if config is None:
        raise BaseModelError(f"base model {folder}: it holds no config.json", remedy=_SAVED)
    if (folder / "adapter_config.json").exists():
        raise BaseModelError(
            f"base model {folder}: beside config.json lies adapter_config.json, which transformers would load on top",
            remedy="Merge the adapter or take it out.",
        )
    return ModelFolder(folder, config, read_json(folder / "generation_config.json") or {}, _tensors(folder))


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None when there is no such file.

    Raises:
        BaseModelError: the file holds no JSON object, or cannot be read.
        EngineError: the disk or the mount failed.
    """
    try:
        return json_object(read_file(_resolved(path), JSON_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError as error:
        raise BaseModelError(f"base model file {path}: no JSON object ({error})", remedy=_FETCHED) from None


def read_text(path: Path, most: int) -> str | None:
    """The text of a file; None when there is no such file.

    Args:
        path: The file, in UTF-8.
        most: Largest size in bytes.

    Raises:
        BaseModelError: the file is no text, is too large, or cannot be read.
        EngineError: the disk or the mount failed.
    """
    try:
        return read_file(_resolved(path), most).decode()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnicodeDecodeError:
        raise BaseModelError(f"base model file {path}: not UTF-8", remedy=_FETCHED) from None


def _resolved(path: Path) -> Path:
    """The path with all links followed: in the hub's cache a model is a folder of links."""
    return Path(os.path.realpath(path))


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Tensors of the weights that transformers would load: model.safetensors, or the shards of the index."""
    if missing := missing_weights(folder):
        raise BaseModelError(
            f"base model {folder}: no weights: {', '.join(missing[:3])} {'is' if len(missing) == 1 else 'are'} not there (pickled weights "
            "can run code, and GGUF cannot be trained: neither is read)",
            remedy=_SAVED,
        )
    tensors: dict[str, Tensor] = {}
    for name in weight_files(folder):
        tensors |= header(folder / name)
    return tensors


def missing_weights(folder: Path) -> list[str]:
    """Names of the files of weights that are missing, as after an unfinished download.

    Raises:
        BaseModelError: the index of the shards is malformed.
    """
    return [name for name in weight_files(folder) if not (folder / name).exists()]


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights."""
    index = None if (folder / WEIGHTS).exists() else read_json(folder / INDEX)
    if index is None:
        return [WEIGHTS]
    places = index.get("weight_map")
    names = set(places.values()) if isinstance(places, dict) and all(map(_is_name, places.values())) else set()
    if not names:
        raise BaseModelError(
            f"base model file {folder / INDEX}: it has no weight_map of file names of this folder", remedy=_FETCHED
        )
    return sorted(names)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and Path(value).name == value


def header(file: Path, what: str = "base model file ") -> dict[str, Tensor]:
    """Tensors of a safetensors file (8 bytes of length, then JSON, then data); checks that its size fits.

    Args:
        file: The file.
        what: In front of its path in errors.

    Raises:
        BaseModelError: the file is damaged or cut off.
        EngineError: the disk or the mount failed.
    """
    try:
        with open_file(_resolved(file), LARGEST_FILE) as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(HEADER_BYTES, max(0, size - 8)):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            entries = json_object(stream.read(length))
        entries.pop("__metadata__", None)
        tensors = {name: _tensor(name, entry) for name, entry in entries.items()}
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if end != size:
            raise ValueError(f"its header asks for {end} bytes, it has {size}: it was cut off or damaged")
        return tensors
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and is_passing(error):
            raise _unreadable(file, error) from None
        reason = error.strerror if isinstance(error, OSError) else error
        raise BaseModelError(f"{what}{file}: not a safetensors file ({reason})", remedy=_FETCHED) from None


def _tensor(name: str, entry: Any) -> Tensor:
    """One tensor of a header. Raises `ValueError`, `KeyError`, `TypeError`: it is described wrongly."""
    dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not all(type(n) is int and n >= 0 for n in [*shape, first, last]):
        raise ValueError(f"tensor {name[:80]!r} is described by {json.dumps(entry)[:80]}")
    if dtype in _SIZES and last - first != math.prod(shape) * _SIZES[dtype]:
        raise ValueError(f"tensor {name[:80]!r} has {last - first} bytes for shape {shape}")
    return Tensor(dtype, tuple(shape))
