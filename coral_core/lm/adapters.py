"""Puts an adapter on a loaded base model: a new one for training, or one from a folder, which must load exactly.

PEFT ignores unknown tensor names, initialises missing ones at random and falls back to pickle files. An adapter folder
comes from a store that others may write to. Here the configuration is therefore compared field by field, all tensors must
have the names, shapes and types that the configuration implies, and every number must be finite.
"""

from pathlib import Path
from typing import Any, TypeGuard

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open

from coral_core.bounded_read import OddFileError, open_file, read_file
from coral_core.errors import AdapterError, Infeasible
from coral_core.genome import HeavyGenes
from coral_core.json_object import json_object
from coral_core.lm.architecture import EXPERTS
from coral_core.lm.requests import AdapterFolder

CONFIG_BYTES = 1 << 20
SPARE_BYTES = 1 << 20
"""Bytes that a file of tensors may hold beyond the tensors: its header."""
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_WIDENED = (torch.float16, torch.bfloat16)
"""Types in which an adapter that was not trained here may hold its weights: no bit is lost in float32."""
_FREE = {
    "base_model_name_or_path",
    "revision",
    "peft_version",
    "inference_mode",
    "lora_dropout",
    "fan_in_fan_out",  # set by PEFT itself, from the kind of module
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
}
"""Fields of an adapter's configuration that do not affect its output."""


def lora_config(heavy: HeavyGenes) -> LoraConfig:
    """The PEFT configuration for these genes; training and loading use the same one.

    Raises:
        Infeasible: DoRA or dropout on fused expert weights, which PEFT supports on linear modules only.
    """
    experts = [name for name in heavy.target_modules if name.startswith(f"{EXPERTS}.")]
    if experts and (heavy.adapter == "dora" or heavy.dropout):
        raise Infeasible(
            "module-missing", f"{experts[0]} is no linear module: PEFT puts LoRA without dropout on it only"
        )
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=heavy.rank,
        lora_alpha=heavy.alpha,
        lora_dropout=heavy.dropout,
        target_modules=[name for name in heavy.target_modules if name not in experts],
        target_parameters=experts or None,
        use_dora=heavy.adapter == "dora",
        use_rslora=heavy.scaling == "rslora",
        bias="none",
    )


def attach(model: Any, adapter: AdapterFolder) -> PeftModel:
    """Put an adapter on a model. Use it within `LoadedModel.kept`, which removes the adapter again.

    Args:
        model: The loaded base model; it is changed in place.
        adapter: A PEFT folder, and the genes that it was trained with.

    Returns:
        The model wrapped by PEFT, in inference mode and without dropout.

    Raises:
        AdapterError: the folder does not fit its genes on this model: an option or a module differs, a tensor is missing or
            has another name, shape or type, or a number is not finite.
    """
    config = lora_config(adapter.heavy)
    config.lora_dropout = 0.0
    config.inference_mode = True
    adapted: PeftModel = get_peft_model(model, config)
    fill(adapted, adapter)
    return adapted


def fill(adapted: PeftModel, adapter: AdapterFolder) -> None:
    """Copy the weights of an adapter folder into a model that has an adapter of its shape.

    Args:
        adapted: The model wrapped by PEFT with `lora_config` of these genes; its adapter's weights are overwritten.
        adapter: As for `attach`.

    Raises:
        AdapterError: as `attach`.
    """
    options = _options(adapter.folder / CONFIG)
    config = lora_config(adapter.heavy)
    wanted = config.to_dict() | {"peft_type": "LORA"}
    experts = set(config.target_parameters or ())
    # PEFT may shorten a long list of names, so both forms are accepted
    modules = (set(adapted.peft_config["default"].target_modules), set(adapter.heavy.target_modules) - experts)
    for key in sorted(
        (options.keys() | {"r", "lora_alpha", "use_dora", "use_rslora", "target_modules", "target_parameters"}) - _FREE
    ):
        value, expected = options.get(key), wanted.get(key)
        if key == "target_modules":
            expected = sorted(modules[0])
            is_right = _is_names(value) and set(value) in modules
        elif key == "target_parameters" and experts:
            is_right = _is_names(value) and set(value) == experts
        else:
            is_right = (type(value), value) == (type(expected), expected) or not (value or expected)
        if not is_right:
            raise _refused(
                adapter.folder / CONFIG, f"{_short(key)} is {_short(value)}, and {_short(expected)} was trained"
            )
    _load(adapted, adapter.folder / WEIGHTS, adapter.is_given)


def _is_names(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _options(path: Path) -> dict[str, Any]:
    """The fields of an adapter's configuration."""
    try:
        return json_object(read_file(path, CONFIG_BYTES))
    except (FileNotFoundError, NotADirectoryError, OddFileError, ValueError) as error:
        raise _refused(path, f"cannot be read ({_short(error)})") from None


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


def _load(adapted: PeftModel, path: Path, is_given: bool) -> None:
    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    size = sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
    try:
        with open_file(path, size + SPARE_BYTES + 1024 * len(expected)):
            pass
        with safe_open(path, framework="pt", device="cpu") as file:
            names = set(file.keys())
            for name in sorted(names ^ expected.keys()):
                raise _refused(
                    path, f"tensor {_short(name)} {'belongs to no module' if name in names else 'is missing'}"
                )
            for name in sorted(names):
                tensor, wanted = file.get_tensor(name), expected[name]
                is_widened = is_given and tensor.dtype in _WIDENED and wanted.dtype == torch.float32
                if tensor.shape != wanted.shape or not (tensor.dtype == wanted.dtype or is_widened):
                    raise _refused(
                        path,
                        f"tensor {name} is {tensor.dtype} {list(tensor.shape)}, and {wanted.dtype} {list(wanted.shape)} fits",
                    )
                if not bool(torch.isfinite(tensor).all()):
                    raise _refused(path, f"tensor {name} holds NaN or infinity")
                with torch.no_grad():
                    wanted.copy_(tensor)
    except (FileNotFoundError, NotADirectoryError, OddFileError, SafetensorError) as error:
        raise _refused(path, f"is no safetensors file of this adapter ({_short(error)})") from None


def _refused(path: Path, problem: str) -> AdapterError:
    return AdapterError(
        f"{path}: {problem}",
        remedy=f"The adapter cannot be used. Move {path.parent} away and run the same command again: it is trained anew",
    )


def _short(value: object) -> str:
    return ascii(str(value).replace("\n", " ")[:120])[1:-1]
