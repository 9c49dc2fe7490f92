"""Identifies a base model by its name: files, content id, modules, numerics class. Imports no torch.

The control process must identify a base model without loading it, so names, shapes and sizes are read from
safetensors headers. `coral_core.lm.loaded_model` loads the model; `coral_core.lm.model_check` checks it against a
configuration.
"""

import os
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from coral_core.config.cache_folder import cache_folder
from coral_core.config.tree import BaseModelConfig
from coral_core.devices import compute_capabilities, visible_gpus
from coral_core.errors import BaseModelError
from coral_core.jobs.jobs import BaseModelIdentity, VllmSettings
from coral_core.lm.architecture import Architecture, Implementation, describe
from coral_core.lm.engine_environment import without_credentials
from coral_core.lm.model_files import ModelFolder, Tensor, content_id, files_of, read_folder, read_json
from coral_core.lm.tokenizer_files import CHAT_FILES, chat_of
from coral_core.lm.versions import ENGINE_VERSION, VLLM_ENGINE_VERSION
from coral_core.lm.vllm_interpreter import VllmVersions, look
from coral_core.prompting.chat import ChatTurn
from coral_core.prompting.choice import may_chat

TINY = Path(__file__).parent / "tiny"
TINY_NAME = "coral-tiny"
SMOLLM2_NAME = "smollm2"
"""SmolLM2-135M-Instruct in the user's cache, where `coral model fetch smollm2` puts it."""
REHEARSAL = "rehearsal"
REHEARSAL_MODULES = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
HUB_SECONDS = 15.0
Dtype = Literal["float32", "bfloat16", "float16"]
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
AMPERE = 8.0
"""Compute capability from which on GPUs multiply bfloat16."""


def is_rehearsal(config: BaseModelConfig) -> bool:
    """True for the simulated base model of `coral_core.lm.rehearsal`."""
    return config.name.split(":")[0] == REHEARSAL


def is_on_hub(config: BaseModelConfig) -> bool:
    """True when the name is that of a model on the Hugging Face hub; nothing is looked up."""
    name = config.name
    is_folder = name.startswith(("/", "./", "../", "~")) or Path(name).is_dir()
    return not is_folder and name not in (TINY_NAME, SMOLLM2_NAME) and not is_rehearsal(config)


def local_path(config: BaseModelConfig) -> Path | None:
    """The directory of a base model that is not on the hub, or None.

    Raises:
        BaseModelError: it is not there.
    """
    if config.name == TINY_NAME:
        return TINY
    if is_on_hub(config) or is_rehearsal(config):
        return None
    if config.name == SMOLLM2_NAME:
        folder = smollm2_folder()
        if not folder.is_dir():
            raise BaseModelError(
                f"base_model.name: {config.name}: not fetched yet (it would be {folder})",
                remedy="Run: coral model fetch smollm2.",
            )
        return folder
    path = Path(config.name).expanduser()
    if not path.is_dir():
        raise BaseModelError(
            f"base_model.name: {config.name}: no such directory",
            remedy="Give a directory, a Hugging Face name, smollm2 or coral-tiny.",
        )
    return path


def smollm2_folder() -> Path:
    """The folder of the base model called smollm2, whether it was fetched or not."""
    return cache_folder("models") / SMOLLM2_NAME


def lasting_name(config: BaseModelConfig) -> str:
    """The name of the base model that is valid in any working directory: an absolute path, a hub name or coral-tiny."""
    path = None if config.name == TINY_NAME or is_rehearsal(config) else local_path(config)
    return config.name if path is None else str(path.absolute())


def identify(config: BaseModelConfig, vllm: VllmSettings | None = None) -> BaseModelIdentity:
    """Content id, size, modules and numerics class of the base model, without loading it.

    Args:
        config: The base model.
        vllm: How vLLM is started, for the numerics class of its evaluations; None: that of torch.

    Raises:
        BaseModelError: it cannot be found or used, or the device is not there.
        ConfigError: the interpreter in `vllm` cannot be used.
    """
    if vllm is not None:
        return find(config)[0].model_copy(update={"numerics_class": vllm_numerics_class(config, look(vllm.python))})
    if is_rehearsal(config):
        return BaseModelIdentity(
            name=config.name,
            content_id="rehearsal-1",
            parameters=900_000,
            modules=REHEARSAL_MODULES,
            numerics_class=numerics_class(config, "sdpa"),
        )
    return find(config)[0]


def find(config: BaseModelConfig) -> tuple[BaseModelIdentity, Implementation]:
    """Identify a real base model, without loading it.

    Args:
        config: Names a folder, a model of the hub or coral-tiny, not the rehearsal.

    Returns:
        Its identity, and the attention implementation that the engine loads it with.

    Raises:
        BaseModelError: as `identify`.
    """
    check_quantization(config)
    path = local_path(config)
    if path is not None:
        described, content = describe(read_folder(path)), content_id(path)
    else:
        content, described = _on_hub(config.name, config.revision)
    attention = implementation(config, described)
    chat = None
    if may_chat(config):
        chat = chat_of(path) if path is not None else _chat_on_hub(config.name, content)
    identity = BaseModelIdentity(
        name=config.name,
        content_id=content,
        parameters=described.parameters,
        modules=described.modules,
        sets=described.sets,
        chat=chat,
        numerics_class=numerics_class(config, attention),
    )
    return identity, attention


def files_state(config: BaseModelConfig) -> tuple[object, ...]:
    """Device, inode, size and times of each file of a base model in a folder. Reads no file.

    Equal states mean that the files were not changed in between. A hub model and the rehearsal give ``()``.

    Raises:
        BaseModelError: as `identify`.
    """
    path = None if is_rehearsal(config) else local_path(config)
    if path is None:
        return ()
    states = files_of(path).items()
    return tuple((name, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, (_, s) in sorted(states))


def check_quantization(config: BaseModelConfig) -> None:
    """Check that this machine can quantise the base model as configured.

    Raises:
        BaseModelError: bitsandbytes is needed and not installed.
    """
    if config.quantization != "none" and find_spec("bitsandbytes") is None:
        raise BaseModelError(
            f"base_model.quantization: {config.quantization}: the package bitsandbytes is not installed on this machine",
            remedy="Install it (pip install 'coral-x[bnb]'), or set base_model.quantization to none.",
        )


def implementation(config: BaseModelConfig, architecture: Architecture) -> Implementation:
    """The attention implementation that the engine uses.

    Args:
        config: ``attention`` chooses: auto, sdpa or eager.
        architecture: The model's architecture; its own implementation is taken for auto.

    Raises:
        BaseModelError: sdpa is chosen, and the architecture does not support it.
    """
    if config.attention == "auto":
        return architecture.implementation
    if config.attention == "sdpa" and architecture.implementation != "sdpa":
        raise BaseModelError(
            f"base_model.attention: sdpa: {architecture.model_type} does not support it. Set base_model.attention to eager or auto."
        )
    return config.attention


@lru_cache(maxsize=8)
def _on_hub(name: str, revision: str | None) -> tuple[str, Architecture]:
    """Commit and architecture of a model on the hub; the local cache serves when there is no network.

    A name of a revision is resolved to its commit once. What is in the cache must be whole: a broken-off download is
    refused, since nothing could complete it.
    """
    try:
        from huggingface_hub import HfApi, get_safetensors_metadata, hf_hub_download

        commit = HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS).sha or ""
        files = get_safetensors_metadata(name, revision=commit).files_metadata
        tensors = {
            key: Tensor(str(info.dtype), tuple(info.shape))
            for part in files.values()
            for key, info in part.tensors.items()
        }
        folder = Path(hf_hub_download(name, "config.json", revision=commit, etag_timeout=HUB_SECONDS)).parent
    except Exception as online:
        snapshot = cached_snapshot(name, revision)
        if snapshot is None:
            reason = without_credentials((str(online).splitlines() or [type(online).__name__])[0])
            raise BaseModelError(
                f"base_model.name: {name} (revision {revision or 'default'}): neither on the hub nor in the local cache: {reason}. "
                "Check the name and the network, log in for gated models, or give a directory."
            ) from None
        return snapshot.name, describe(read_folder(snapshot))
    return commit, describe(ModelFolder(folder, read_json(folder / "config.json") or {}, {}, tensors))


@lru_cache(maxsize=8)
def _chat_on_hub(name: str, commit: str) -> ChatTurn | None:
    """The chat form of a model on the hub; without network the files in the local cache count."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    folder: Path | None = None
    for file in CHAT_FILES:
        try:
            folder = Path(hf_hub_download(name, file, revision=commit, etag_timeout=HUB_SECONDS)).parent
        except EntryNotFoundError:  # of the hub, or of the cache when there is no network
            continue
        except Exception as error:
            reason = without_credentials((str(error).splitlines() or [type(error).__name__])[0])
            raise BaseModelError(
                f"base_model.name: {name}: {file} could not be fetched: {reason}",
                remedy="Check the network, or give a directory.",
            ) from None
    return None if folder is None else chat_of(folder)


def cached_snapshot(name: str, revision: str | None) -> Path | None:
    """The folder of a hub model in the local cache.

    Args:
        name: Name on the hub, as OWNER/NAME.
        revision: Commit, tag or branch; None: the default branch.

    Returns:
        The folder, which is named for the commit. None when the cache holds no config.json of that revision, or when
        huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:  # huggingface_hub is optional on a machine that only plans
        return None
    try:
        config_file = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:  # not a valid name on the hub
        return None
    return Path(config_file).parent if isinstance(config_file, str) else None


def numerics_class(config: BaseModelConfig, attention: Implementation) -> str:
    """Name of the class of machines and settings inside which results repeat bit for bit.

    Args:
        config: Gives device and dtype; the device must be on this machine.
        attention: Attention implementation that the model is loaded with.

    Returns:
        Device model, dtype, torch version, threads, engine version and quantization, joined by "; ".

    Raises:
        BaseModelError: the device is not on this machine.
    """
    if is_rehearsal(config):
        machine = os.environ.get("CORAL_REHEARSAL_MACHINE", "")
        return f"rehearsal-{ENGINE_VERSION}" + (f" on {machine}" if machine else "")
    device = resolve_device(config.device)
    model = _gpu_name(device) if device.startswith("cuda") else _cpu_name()
    kind = (
        "" if attention == "sdpa" else f"; {attention} attention"
    )  # sdpa is left out: it was once the only one, and digests must not change
    if config.quantization != "none":
        kind += f"; {config.quantization} bitsandbytes {_installed_version('bitsandbytes')}"
    return f"{model}; {resolve_dtype(config)}; torch {_installed_version('torch')}; 1 thread; engine {ENGINE_VERSION}{kind}"


def vllm_numerics_class(config: BaseModelConfig, versions: VllmVersions) -> str:
    """The numerics class of vLLM: device model, dtype, versions of vLLM and torch, threads, versions of this code.

    Inside one class an evaluation repeats bit for bit as a whole: the rows of a request share forward passes, so other rows or
    another order may change the last bits of a row's logits.

    Args:
        config: Gives device and dtype; the device must be on this machine.
        versions: What the environment with vLLM holds.

    Raises:
        BaseModelError: the device is not on this machine.
    """
    device = resolve_device(config.device)
    model = _gpu_name(device) if device.startswith("cuda") else _cpu_name()
    return (
        f"{model}; {resolve_dtype(config)}; {versions.name}; torch {versions.torch}; 1 thread; engine {ENGINE_VERSION}; "
        f"vllm engine {VLLM_ENGINE_VERSION}"
    )


def _installed_version(package: str) -> str:
    """The installed version of a package. Without torch a machine can still plan and check a run."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def resolve_device(device: str) -> str:
    """``auto`` becomes cuda when `visible_gpus` lists a GPU, else cpu; other devices stay."""
    if device != "auto":
        return device
    return "cuda" if visible_gpus() else "cpu"


def resolve_dtype(config: BaseModelConfig) -> Dtype:
    """``auto`` becomes bfloat16 on a device that multiplies it in hardware, else float32; other types stay.

    Those devices are CPUs with AVX512-BF16, AMX-BF16 or Arm's bf16, and GPUs from compute capability 8.0 (Ampere) on.

    Args:
        config: Gives dtype and device; for auto the device must be on this machine.
    """
    if config.dtype != "auto":
        return config.dtype
    device = resolve_device(config.device)
    if device.startswith("cuda"):
        found = compute_capabilities()
        index = int(device.partition(":")[2] or 0)
        has_bfloat16 = index < len(found) and found[index] >= AMPERE
    else:
        has_bfloat16 = not _cpu_flags().isdisjoint(BFLOAT16_FLAGS)
    return "bfloat16" if has_bfloat16 else "float32"


@lru_cache(maxsize=1)
def _cpu_flags() -> frozenset[str]:
    """Features of the processor as the kernel names them; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())


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
