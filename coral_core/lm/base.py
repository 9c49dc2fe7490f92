"""What a base model's name stands for: files, content id, modules, numerics class. No torch here.

The control process must identify a base model without loading it, so names, shapes and
sizes are read from safetensors headers. Loading is in `coral_core.lm.model`.
"""

import hashlib
import json
import os
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from coral_core.config.tree import BaseModelConfig
from coral_core.devices import visible_gpus
from coral_core.errors import BaseModelError
from coral_core.jobs import BaseModelIdentity
from coral_core.lm.versions import ENGINE_VERSION

TINY = Path(__file__).parent / "tiny"
TINY_NAME = "coral-tiny"
REHEARSAL = "rehearsal"
_HASHED = (".safetensors", ".json")


def is_rehearsal(config: BaseModelConfig) -> bool:
    return config.name.split(":")[0] == REHEARSAL


def local_path(config: BaseModelConfig) -> Path | None:
    """The directory of a base model that is not on the hub, or None. Raises `BaseModelError`."""
    if config.name == TINY_NAME:
        return TINY
    if config.name.startswith(("/", "./", "../", "~")) or Path(config.name).is_dir():
        path = Path(config.name).expanduser()
        if not path.is_dir():
            raise BaseModelError(
                f"base_model.name: {config.name}: no such directory. Give a directory, a Hugging Face name, or coral-tiny."
            )
        if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
            raise BaseModelError(
                f"base_model.name: {config.name}: this directory holds no config.json with *.safetensors weights. Save the model with save_pretrained."
            )
        return path
    return None


def identify(config: BaseModelConfig) -> BaseModelIdentity:
    """Content id, size, modules and numerics class of the base model, without loading it.

    Raises:
        BaseModelError: it cannot be found, or the device is not there.
    """
    numerics = numerics_class(config)
    if is_rehearsal(config):
        modules = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
        return BaseModelIdentity(
            name=config.name,
            content_id="rehearsal-1",
            parameters=900_000,
            modules=modules,
            numerics_class=numerics,
        )
    path = local_path(config)
    if path is not None:
        content, shapes = _content_of(str(path.resolve()), path.stat().st_mtime_ns)
        return _identity(config.name, content, shapes, numerics)
    commit, hub_shapes = _on_hub(config.name, config.revision)
    return _identity(config.name, commit, hub_shapes, numerics)


def _identity(name: str, content: str, shapes: dict[str, tuple[int, ...]], numerics: str) -> BaseModelIdentity:
    size = 0
    modules = set()
    for key, shape in shapes.items():
        count = 1
        for side in shape:
            count *= side
        size += count
        parts = key.split(".")
        if (
            parts[-1] == "weight"
            and len(shape) == 2
            and not any(word in key for word in ("embed", "lm_head", "wte", "wpe"))
        ):
            modules.add(parts[-2])
    return BaseModelIdentity(
        name=name, content_id=content, parameters=size, modules=tuple(sorted(modules)), numerics_class=numerics
    )


@lru_cache(maxsize=8)
def _content_of(path: str, modified: int) -> tuple[str, dict[str, tuple[int, ...]]]:
    """Digest of the weights', tokenizer's and configuration's bytes, and the tensors' shapes."""
    total = hashlib.sha256()
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(Path(path).iterdir()):
        if file.suffix not in _HASHED or file.name == "pretraining.json":
            continue
        with file.open("rb") as stream:
            total.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        if file.suffix == ".safetensors":
            shapes |= _shapes(file)
    return total.hexdigest(), shapes


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Tensor shapes from a safetensors header: 8 bytes of length, then JSON."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > 100_000_000:
                raise ValueError("its header is too long")
            header: dict[str, Any] = json.loads(stream.read(length))
        return {key: tuple(entry["shape"]) for key, entry in header.items() if key != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaseModelError(
            f"base model file {file}: not a safetensors file ({error}). Save the model with save_pretrained."
        ) from None


@lru_cache(maxsize=8)
def _on_hub(name: str, revision: str | None) -> tuple[str, dict[str, tuple[int, ...]]]:
    """Commit and tensor shapes of a model on the hub; the local cache serves when there is no network."""
    from huggingface_hub import HfApi, get_safetensors_metadata, snapshot_download

    try:
        commit = HfApi().model_info(name, revision=revision, timeout=15).sha or ""
        metadata = get_safetensors_metadata(name, revision=commit)
        shapes = {
            key: tuple(info.shape) for part in metadata.files_metadata.values() for key, info in part.tensors.items()
        }
        return commit, shapes
    except Exception as online:
        try:
            path = Path(snapshot_download(name, revision=revision, local_files_only=True))
        except Exception:
            reason = (str(online).splitlines() or [type(online).__name__])[0]
            raise BaseModelError(
                f"base_model.name: {name} (revision {revision or 'default'}): neither on the hub nor in the local cache: {reason}. "
                "Check the name and the network, log in for gated models, or give a directory."
            ) from None
        shapes = {}
        for file in sorted(path.glob("*.safetensors")):
            shapes |= _shapes(file)
        return path.name, shapes


def numerics_class(config: BaseModelConfig) -> str:
    """Device model, dtype, torch, threads and engine: inside one class results repeat bit for bit."""
    if is_rehearsal(config):
        machine = os.environ.get("CORAL_REHEARSAL_MACHINE", "")
        return f"rehearsal-{ENGINE_VERSION}" + (f" on {machine}" if machine else "")
    device = resolve_device(config.device)
    model = _gpu_name(device) if device.startswith("cuda") else _cpu_name()
    return f"{model}; {config.dtype}; torch {_torch_version()}; 1 thread; engine {ENGINE_VERSION}"


def _torch_version() -> str:
    """A machine without torch can plan and check a run; a lane there refuses jobs of any other numerics class."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return "not installed"


def resolve_device(device: str) -> str:
    """``auto`` becomes cuda where a GPU answers, else cpu."""
    if device != "auto":
        return device
    return "cuda" if visible_gpus() else "cpu"


def _gpu_name(device: str) -> str:
    names = [gpu.name for gpu in visible_gpus()]
    index = int(device.partition(":")[2] or 0)
    if index >= len(names):
        raise BaseModelError(
            f"base_model.device: {device}: this machine shows {len(names)} GPU(s) (nvidia-smi). Use device: cpu or auto, or start on a GPU machine."
        )
    return names[index]


@lru_cache(maxsize=1)
def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return name or os.uname().machine
