"""What the installed transformers and PEFT know of each causal language model: `coral_core/lm/architectures.json`.

    python benchmarks/architectures.py            # write the table anew (after an upgrade of transformers or PEFT)
    python benchmarks/architectures.py llama gpt2 # print some entries

Each model is built on the meta device with two layers, and its modules are looked at: no weights, no network. The
control process reads the table where it has no torch. Not covered: parts that only an unusual configuration builds.
"""

import contextlib
import inspect
import json
import sys
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TABLE = Path(__file__).parents[1] / "coral_core" / "lm" / "architectures.json"
SMALL = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
VARIANTS = ((True, False), (False, False), (True, True), (False, True))
"""Ways to build a model: with few layers, with sizes filled in. The first that works is taken."""


def entry(model_type: str, class_name: str, masked: bool) -> dict[str, Any]:
    """Facts of one architecture; without its modules where it cannot be built from its default configuration."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    found: dict[str, Any] = {"class": class_name, "sdpa": _supports_sdpa(class_name)}
    try:
        found |= modules(model_type, class_name)
    except Exception as error:
        print(f"{model_type}: not looked at: {type(error).__name__}: {str(error).splitlines()[:1]}", file=sys.stderr)
    if remapped := _remapped(model_type) & set(found.get("linear", ())):
        found["remapped"] = sorted(remapped)
    refused = {name for name in found.get("linear", ()) if _refuses(model_type, name)} | set(found.pop("refused", ()))
    if refused:
        found["refused"] = sorted(refused)
    if not _has_cache(class_name):
        found["cache"] = False
    if get_checkpoint_conversion_mapping(model_type):
        found["converted"] = True
    if masked:
        found["masked"] = True
    if isinstance(targets := TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type), list):
        found["lora"] = targets
    return found


def _remapped(model_type: str) -> set[str]:
    """Names of modules that PEFT takes for fused expert weights: adapters of earlier transformers had them as modules."""
    from peft.utils import transformers_weight_conversion as conversion

    like = conversion._MODEL_TO_CONVERSION_PATTERN.get(model_type)
    return set(conversion._MOE_TARGET_MODULE_MAPPING.get(like, {}))


def _refuses(model_type: str, name: str) -> bool:
    """Does PEFT refuse LoRA on modules of this name? Layers of state-space models use the weights of some without calling them."""
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba

    model = SimpleNamespace(config=SimpleNamespace(model_type=model_type))
    try:
        _check_lora_target_modules_mamba(SimpleNamespace(peft_type="LORA"), model, name)
    except ValueError:
        return True
    return False


def _supports_sdpa(class_name: str) -> bool:
    import transformers

    try:
        return bool(getattr(transformers, class_name)._supports_sdpa)
    except ImportError:  # parts of it need a package that is not here
        return False


def _has_cache(class_name: str) -> bool:
    """Does it take and return the key-value cache that our generation loop hands on? State-space models have states of their own."""
    import transformers

    try:
        signature = inspect.signature(getattr(transformers, class_name).forward)
    except ImportError:
        return False
    returned = typing.get_args(signature.return_annotation) or (signature.return_annotation,)
    return "past_key_values" in signature.parameters and any(
        "past_key_values" in getattr(kind, "__dataclass_fields__", ()) for kind in returned
    )


def modules(model_type: str, class_name: str) -> dict[str, Any]:
    """Names of the linear modules (`linear`), of those that PEFT cannot adapt (`refused`), of fused expert weights (`experts`), of other matrices (`other`), of output head and input embedding."""
    import torch
    from transformers.pytorch_utils import Conv1D

    found: dict[str, Any] = {}
    model = _built(model_type, class_name)
    head = model.get_output_embeddings()
    inputs = model.get_input_embeddings()
    linear, other, experts, refused = set(), set(), set(), set()
    for name, part in model.named_modules():
        leaf = name.rsplit(".", 1)[-1]
        if isinstance(part, (torch.nn.Linear, Conv1D)):
            if part is head:
                found["head"] = leaf
            else:
                linear.add(leaf)
                if not _is_linear(part):
                    refused.add(leaf)
        elif part is inputs:
            found["embedding"] = leaf
        for own, parameter in part.named_parameters(recurse=False):
            if leaf == "experts" and parameter.ndim == 3:
                experts.add(own)
            if not isinstance(part, (torch.nn.Linear, Conv1D, torch.nn.Embedding)) and parameter.ndim >= 2:
                other.add(own if own != "weight" else leaf)
    found["linear"] = sorted(linear)
    if refused:
        found["refused"] = sorted(refused)
    if experts:
        found["experts"] = sorted(experts)
    if other:
        found["other"] = sorted(other - linear)
    return found


def _is_linear(part: Any) -> bool:
    """Does the module give one tensor, as PEFT expects of a Linear? Some routers of experts, which are subclasses, do not."""
    import torch
    from transformers.pytorch_utils import Conv1D

    if type(part).forward in (torch.nn.Linear.forward, Conv1D.forward):
        return True
    width = part.weight.shape[1]
    try:
        return isinstance(part(torch.empty(2, width, device="meta", dtype=part.weight.dtype)), torch.Tensor)
    except Exception:
        return False


def _built(model_type: str, class_name: str) -> Any:
    """The model on the meta device, of few layers where it can have them.

    Raises:
        Exception: what it raises with its default configuration, where no change of `VARIANTS` helps.
    """
    import torch
    import transformers

    first: Exception | None = None
    for few_layers, filled in VARIANTS:
        config = transformers.CONFIG_MAPPING[model_type]()
        text = config.get_text_config()
        if few_layers:
            _shorten(text)
        if filled:
            _fill(text)
        try:
            with torch.device("meta"):
                return getattr(transformers, class_name)(config)
        except Exception as error:
            first = first or error
    assert first is not None
    raise first


def _shorten(text: Any) -> None:
    """Take away all layers but four."""
    for name in SMALL:
        with contextlib.suppress(Exception):
            if (getattr(text, name, None) or 0) > 4:
                setattr(text, name, 4)
                if getattr(text, "layer_types", None):
                    text.layer_types = text.layer_types[:4]


def _fill(text: Any) -> None:
    """Give numbers to the sizes that the default configuration leaves open, which every saved model has."""
    heads = getattr(text, "num_attention_heads", None) or 1
    sizes = {
        "num_key_value_heads": heads, "head_dim": (getattr(text, "hidden_size", None) or heads) // heads, "n_routed_experts": 4,
        "n_shared_experts": 1, "num_experts_per_tok": 2, "pad_token_id": 0,
    }  # fmt: skip
    for name, size in sizes.items():
        if getattr(text, name, None) is None:
            setattr(text, name, size)
    if getattr(text, "layer_types", ()) is None:
        text.layer_types = ["full_attention"] * text.num_hidden_layers


def main() -> None:
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    transformers.logging.set_verbosity_error()
    wanted = sys.argv[1:] or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    table: dict[str, Any] = {}
    for model_type in wanted:
        class_name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
        table[model_type] = entry(model_type, class_name, model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    if sys.argv[1:]:
        print(json.dumps(table, indent=1))
        return
    import peft

    facts = {"transformers": transformers.__version__, "peft": peft.__version__}
    lines = [f" {json.dumps(name)}: {json.dumps(facts_of)}" for name, facts_of in table.items()]
    TABLE.write_text(f'{{"made_by": {json.dumps(facts)}, "architectures": {{\n' + ",\n".join(lines) + "\n}}\n")
    print(f"{len(table)} architectures in {TABLE}")


if __name__ == "__main__":
    main()
