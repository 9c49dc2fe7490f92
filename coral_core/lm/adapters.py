"""Puts an adapter on a loaded base model: a new one to train, or one from a folder that must load exactly.

PEFT passes over names that it does not know, starts those that are missing at random, and falls back to pickles. An
adapter folder comes from a store that others may write, so here the configuration is compared field by field, names,
shapes and types of all tensors must be those that the configuration gives, and every number must be finite.
"""

import stat
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open

from coral_core.errors import AdapterError
from coral_core.genome import HeavyGenes
from coral_core.json_object import json_object

CONFIG_BYTES = 1 << 20
SPARE_BYTES = 1 << 20
"""What a file of tensors may hold beyond the tensors: its header."""
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_GENES = ("r", "lora_alpha", "target_modules", "use_dora")
_FREE = (
    "base_model_name_or_path",
    "revision",
    "peft_version",
    "inference_mode",
    "lora_dropout",
    "fan_in_fan_out",  # set by PEFT itself, from the kind of module
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
)
"""Fields of an adapter's configuration that change nothing of what it computes."""


def lora_config(heavy: HeavyGenes) -> LoraConfig:
    """What PEFT is told for these genes, in training and afterwards."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=heavy.rank,
        lora_alpha=heavy.alpha,
        lora_dropout=heavy.dropout,
        target_modules=list(heavy.target_modules),
        use_dora=heavy.adapter == "dora",
        bias="none",
    )


def read_genes(folder: Path, heavy: HeavyGenes | None = None) -> HeavyGenes:
    """The genes that the configuration of an adapter names.

    Args:
        folder: A PEFT folder.
        heavy: The genes that it must name; None: any.

    Raises:
        AdapterError: it cannot be read, has an option that is not ours, or names other genes.
    """
    path = folder / CONFIG
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise AdapterError(f"{path}: is no regular file. {_remedy(folder)}")
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES + 1)
        if len(text) > CONFIG_BYTES:
            raise AdapterError(f"{path}: is longer than {CONFIG_BYTES:,} bytes. {_remedy(folder)}")
        found = json_object(text)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise AdapterError(f"{path}: cannot be read ({_short(error)}). {_remedy(folder)}") from None
    plain = LoraConfig(task_type="CAUSAL_LM").to_dict()
    for key, value in found.items():
        if key in _GENES or key in _FREE:
            continue
        expected = plain[key].value if key == "peft_type" else plain.get(key)
        if value != expected and (value or expected):
            raise AdapterError(
                f"{path}: {_short(key)}: {_short(value)}: this option is not supported ({expected!r} is). {_remedy(folder)}"
            )
    names, dora = found.get("target_modules"), found.get("use_dora")
    try:
        if not isinstance(names, list) or not isinstance(dora, bool):
            raise ValueError("target_modules must be a list, and use_dora true or false")
        genes = HeavyGenes.model_validate(
            {
                "rank": found.get("r"),
                "alpha": found.get("lora_alpha"),
                "dropout": 0.0,
                "target_modules": tuple(names),
                "adapter": "dora" if dora else "lora",
                "learning_rate": 1.0,
            },
            strict=True,
        )
    except ValueError as error:
        raise AdapterError(f"{path}: names no genes ({_short(error)}). {_remedy(folder)}") from None
    for name in ("rank", "alpha", "adapter") if heavy else ():
        if getattr(genes, name) != getattr(heavy, name):
            raise AdapterError(
                f"{path}: {name} is {_short(getattr(genes, name))}, and {_short(getattr(heavy, name))} was trained. {_remedy(folder)}"
            )
    return genes


def attach(model: Any, folder: Path, named: HeavyGenes, heavy: HeavyGenes | None = None) -> PeftModel:
    """`model` with the adapter in `folder` on it. To be used within `LoadedModel.kept`, which takes it off again.

    Args:
        model: The base model.
        folder: A PEFT folder.
        named: The genes that it names (`read_genes`).
        heavy: The genes that it was trained with; None: those that it names.

    Raises:
        AdapterError: its tensors are not exactly those that the genes give on this model, or hold no number.
    """
    config = lora_config((heavy or named).model_copy(update={"dropout": 0.0}))
    config.inference_mode = True
    adapted: PeftModel = get_peft_model(model, config)
    # PEFT writes a long list of names in a shorter form, and so it does here
    wanted = set(adapted.peft_config["default"].target_modules)
    if heavy is not None and set(named.target_modules) not in (wanted, set(heavy.target_modules)):
        names = ", ".join(sorted(wanted))
        raise AdapterError(
            f"{folder / CONFIG}: target_modules is {_short(', '.join(named.target_modules))}, and {names} was trained. {_remedy(folder)}"
        )
    _load(adapted, folder)
    return adapted


def private_copies(adapted: PeftModel) -> None:
    """Give each module under an adapter parameters of its own, for the adapter to be merged into.

    The base model's tensors are then never written to, and a head that is tied to the embedding is untied: PEFT adds
    the update of an adapter on the head to the head alone, and so must the merged weights.
    """
    for layer in [part for part in adapted.modules() if isinstance(part, BaseTunerLayer)]:
        base = layer.get_base_layer()
        for name, parameter in base._parameters.items():
            if parameter is not None:
                base._parameters[name] = torch.nn.Parameter(parameter.detach().clone(), requires_grad=False)


def _load(adapted: PeftModel, folder: Path) -> None:
    path = folder / WEIGHTS
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    room = (
        sum(tensor.numel() * tensor.element_size() for tensor in expected.values()) + SPARE_BYTES + 1024 * len(expected)
    )
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise AdapterError(f"{path}: is not there. {_remedy(folder)}") from None
    if not stat.S_ISREG(status.st_mode) or status.st_size > room:
        raise AdapterError(f"{path}: is no regular file of at most {room:,} bytes. {_remedy(folder)}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = set(file.keys())
            for problem, group in (
                ("is missing", expected.keys() - names),
                ("belongs to no module", names - expected.keys()),
            ):
                if group:
                    more = f" (and {len(group) - 1} more)" if len(group) > 1 else ""
                    raise AdapterError(f"{path}: tensor {_short(min(group))}{more} {problem}. {_remedy(folder)}")
            loaded = {name: file.get_slice(name) for name in names}
            for name, part in loaded.items():
                if tuple(part.get_shape()) != tuple(expected[name].shape):
                    raise AdapterError(
                        f"{path}: tensor {name} has the shape {part.get_shape()}, and {list(expected[name].shape)} fits. {_remedy(folder)}"
                    )
            for name in sorted(names):
                tensor = file.get_tensor(name)
                if tensor.dtype != expected[name].dtype:
                    raise AdapterError(
                        f"{path}: tensor {name} is {tensor.dtype}, and {expected[name].dtype} was trained. {_remedy(folder)}"
                    )
                if not bool(torch.isfinite(tensor).all()):
                    raise AdapterError(f"{path}: tensor {name} holds NaN or infinity. {_remedy(folder)}")
                with torch.no_grad():
                    expected[name].copy_(tensor)
    except SafetensorError as error:
        raise AdapterError(f"{path}: is no safetensors file ({_short(error)}). {_remedy(folder)}") from None


def _remedy(folder: Path) -> str:
    return f"The adapter cannot be used. Move {folder} away and run the same command again: it is trained anew"


def _short(value: object) -> str:
    return ascii(str(value).replace("\n", " ")[:120])[1:-1]
