"""Weights for an engine of vLLM: those of the base model's files, with an adapter merged into them where there is one.

vLLM loads weights under the names of the files, so an adapter is merged tensor by tensor while the files are read: nothing is
written to disk, and the base model stays as it is on disk. The formulas are those with which PEFT merges.

Not covered: adapters on fused expert weights, on an output head that is tied to the embedding, and on Conv1D (GPT-2): their
weights stand under other names or shapes in the files.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from coral_core.config.tree import BaseModelConfig
from coral_core.errors import AdapterError, ConfigError, EngineError
from coral_core.lm.given_adapter import WEIGHTS, check_base, read_given_adapter
from coral_core.lm.model_files import read_folder, weight_files
from coral_core.lm.requests import AdapterFolder

Update = dict[str, Tensor]
"""Tensors of one adapted module: lora_A, lora_B and, of DoRA, lora_magnitude_vector."""


def base_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of each weight in the files of a base model, one at a time.

    Raises:
        EngineError: a file was changed or cannot be read any more.
    """
    for name in weight_files(folder):
        try:
            with safe_open(folder / name, framework="pt", device="cpu") as file:
                for key in file.keys():  # noqa: SIM118 (no mapping)
                    yield key, file.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise EngineError(f"base model {folder / name}: cannot be read any more ({error})") from None


def merged_weights(
    folder: Path, updates: dict[str, Update], scale: float, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """As `base_weights`, with an adapter merged.

    Args:
        folder: Files of the base model.
        updates: Module name -> its part of the adapter, as `read_updates` returns it.
        scale: Factor of B·A.
        dtype: Type in which vLLM computes; the sum is taken in float32 and rounded once.
    """
    for name, weight in base_weights(folder):
        update = updates.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        yield name, weight if update is None else merged(weight.to(dtype), update, scale)


def merged(weight: Tensor, update: Update, scale: float) -> Tensor:
    """One weight with its part of an adapter.

    LoRA (Hu et al. 2021): W + s·B·A. DoRA (Liu et al. 2024): each row of that sum, over its norm, times its magnitude.

    Args:
        weight: (outputs, inputs).
        update: ``lora_A`` (rank, inputs), ``lora_B`` (outputs, rank), and of DoRA ``lora_magnitude_vector`` (outputs,).
        scale: s.

    Example:
        >>> ones = torch.ones(1, 1)
        >>> merged(torch.tensor([[1.0]]), {"lora_A": ones, "lora_B": ones}, 2.0).item()
        3.0
    """
    total = weight.float() + scale * (update["lora_B"].float() @ update["lora_A"].float())
    if (magnitude := update.get("lora_magnitude_vector")) is not None:
        total *= (magnitude.float().flatten() / torch.linalg.norm(total, dim=1))[:, None]
    return total.to(weight.dtype)


def scale_of(adapter: AdapterFolder) -> float:
    """Factor of B·A."""
    heavy = adapter.heavy
    return heavy.alpha / (math.sqrt(heavy.rank) if heavy.scaling == "rslora" else heavy.rank)


def read_updates(adapter: AdapterFolder, base: BaseModelConfig, content: str, folder: Path) -> dict[str, Update]:
    """Read an adapter folder, which is hostile until it is checked.

    Args:
        adapter: The folder, and the genes that it was trained with.
        base: The base model.
        content: Its content id.
        folder: Its files.

    Returns:
        Module name -> its tensors.

    Raises:
        AdapterError: it is not what its genes say, does not fit the base model, or holds a number that is not finite.
        ConfigError: a module's weight stands under another name in the files of the base model.
    """
    try:
        found = read_given_adapter(adapter.folder, base)
        check_base(found, base, content, same_base=True)
    except ConfigError as error:
        raise AdapterError(error.problem, remedy=error.remedy) from None
    for key in ("rank", "alpha", "adapter", "scaling"):
        has, wanted = getattr(found.heavy, key), getattr(adapter.heavy, key)
        if has != wanted:
            raise _refused(adapter.folder, f"{key} is {has}, and {wanted} was trained")
    if set(found.heavy.target_modules) != set(adapter.heavy.target_modules):
        raise _refused(
            adapter.folder,
            f"is on {', '.join(found.heavy.target_modules)}, and {', '.join(adapter.heavy.target_modules)} were trained",
        )
    stored = read_folder(folder).tensors
    if absent := next((name for name in found.modules if f"{name}.weight" not in stored), None):
        raise ConfigError(
            f"generation.engine: vllm: the files of {base.name} have no {absent}.weight, into which the adapter would be merged",
            ("generation", "engine"),
            remedy="Set generation.engine to torch.",
        )
    return _tensors(adapter.folder, set(found.modules))


def _tensors(folder: Path, modules: set[str]) -> dict[str, Update]:
    updates: dict[str, Update] = {name: {} for name in modules}
    try:
        with safe_open(folder / WEIGHTS, framework="pt", device="cpu") as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                tensor = file.get_tensor(key)
                if not bool(torch.isfinite(tensor).all()):
                    raise _refused(folder, f"tensor {key} holds NaN or infinity")
                module, _, part = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
                updates[module][part] = tensor
    except (OSError, SafetensorError, KeyError) as error:
        raise _refused(folder, f"its weights changed while they were read ({error})") from None
    return updates


def _refused(folder: Path, problem: str) -> AdapterError:
    return AdapterError(
        f"{folder}: {problem}",
        remedy=f"The adapter cannot be used. Move {folder} away and run the same command again: it is trained anew",
    )
