"""Properties of an architecture: its modules, attention implementations, positions, end and padding tokens.

`architectures.json` holds what transformers and PEFT know of each causal language model (made by
benchmarks/architectures.py), so that a machine without torch knows it too. The modules of a given model are read from its
safetensors headers. Not covered: models that need code of their own, which is never run.
"""

import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from coral_core.config.gene_space import MODULE_SETS
from coral_core.errors import BaseModelError
from coral_core.lm.model_files import FLOATS, ModelFolder, Tensor

Implementation = Literal["sdpa", "eager"]
HEAD = ("lm_head",)
"""Name of the output head of nearly every model."""
USUAL_SETS = {"default": MODULE_SETS["attention"], "attention": MODULE_SETS["attention"], "mlp": MODULE_SETS["mlp"], "head": HEAD}  # fmt: skip
"""Named sets of modules in Llama and its kin."""
EXPERTS = "experts"
"""Set of the fused expert weights of a mixture-of-experts model, and begin of their names: experts.gate_up_proj."""
REMEDY = "Give a causal language model that transformers knows, with bfloat16, float16 or float32 weights, as save_pretrained writes it."

_EMBEDDING = re.compile(r"emb|wte|wpe|norm|router|position", re.IGNORECASE)
_ATTENTION = re.compile(r"attn|attention|(^|\.)att(\.|$)", re.IGNORECASE)
_MIXER = re.compile(r"mixer|mamba|ssm|conv|recurrent|rglru", re.IGNORECASE)
_IN_LAYER = re.compile(r"(^|\.)\d+\.")
_EXPERTS = re.compile(r"(^|\.)experts(\.|$)")
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
"""Keys of config.json for the most positions that the model was made for."""
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
SIZES = (*LAYERS, "vocab_size", "hidden_size", "num_attention_heads", "n_embd", "n_head", "n_positions")
"""Keys of config.json that are numbers above 0 wherever they stand."""
_SCALED = ("linear", "dynamic", "yarn")
"""Kinds of rotary scaling whose factor multiplies the configured positions."""

COUNTED_OTHERWISE = frozenset({
    "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp", "pegasus", "plbart", "prophetnet", "trocr",
    "camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
    "cpmant", "minimax",
})  # fmt: skip
"""Types that take padding on the left, with which batches are generated, for tokens: their positions follow neither `position_ids` from 0
nor the mask, or a state that they hand on does not (minimax). The engine tries it with each model that it pads. Found by comparing a padded prompt with the bare one, for each type of the table that a small model could be made of."""


class Architecture(NamedTuple):
    """One model, as its files and the table describe it."""

    model_type: str
    implementation: Implementation
    parameters: int
    modules: tuple[str, ...]
    """Last parts of the names of the linear modules that adapters can target, output head and embeddings left out."""
    sets: dict[str, tuple[str, ...]]
    """Named sets of modules (default, attention, mlp, head) where they are not those of Llama (`USUAL_SETS`), and `EXPERTS`."""
    fused: tuple[str, ...]
    """Names of expert weights that the loaded model keeps as one parameter, which is no linear module."""
    refused: tuple[str, ...]
    """Names of linear modules that PEFT cannot adapt: some of state-space layers, and routers with outputs of their own."""
    widths: Mapping[str, int]
    """Module or fused parameter -> smaller side of its largest matrix: a higher rank gains nothing."""


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    text = files("coral_core.lm").joinpath("architectures.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def table() -> dict[str, dict[str, Any]]:
    """model_type -> properties of that architecture, according to transformers and PEFT."""
    return _document()["architectures"]  # type: ignore[no-any-return]


def made_by() -> dict[str, str]:
    """Versions of transformers and PEFT from which the table was made."""
    return _document()["made_by"]  # type: ignore[no-any-return]


def describe(folder: ModelFolder) -> Architecture:
    """Describe the model in a folder.

    Args:
        folder: Its configuration and the headers of its weights.

    Raises:
        BaseModelError: it is not a causal language model that can be loaded and adapted here.
    """
    config, where = folder.config, f"base model {folder.path}"
    entry = _supported(config, where)
    _check_weights(folder, where)
    head, embedding = str(entry.get("head", "lm_head")), str(entry.get("embedding", ""))
    linear = set(entry.get("linear", ()))
    other = set(entry.get("other", ())) - linear
    remapped, refused = set(entry.get("remapped", ())), set(entry.get("refused", ()))
    places: dict[str, list[str]] = {}
    widths: dict[str, int] = {}
    fused: set[str] = set()
    # PEFT takes every module of a name: that of a Linear in a list, such as 0, is also the name of a layer
    holders = {part for name in folder.tensors for part in name.split(".")[:-2]}
    expert_width = 0
    for name, tensor in folder.tensors.items():
        path, _, last = name.rpartition(".")
        parent, _, leaf = path.rpartition(".")
        in_experts = _EXPERTS.search(path) is not None
        if in_experts and len(tensor.shape) in (2, 3):
            expert_width = max(expert_width, min(tensor.shape[-2:]))
        if last != "weight" or len(tensor.shape) != 2:
            if in_experts and len(tensor.shape) >= 2:
                fused.add(last if last not in ("weight", "bias") else leaf)
            continue
        if (in_experts and entry.get("converted")) or leaf in remapped:
            fused.add(leaf)  # PEFT would take a remapped name for the experts' weights, whatever module has it
        elif leaf in (head, embedding) or leaf in other | holders | refused or (leaf not in linear and (_EMBEDDING.search(leaf) or entry.get("converted"))):  # fmt: skip
            continue
        else:
            places.setdefault(leaf, []).append(parent)
            widths[leaf] = max(widths.get(leaf, 0), min(tensor.shape))
    modules = tuple(sorted(places))
    attention = tuple(leaf for leaf in modules if all(_ATTENTION.search(parent) for parent in places[leaf]))
    sets = {
        "default": _default(entry, modules, attention),
        "attention": attention,
        "mlp": tuple(leaf for leaf in modules if not any(_outside_mlp(parent, leaf) for parent in places[leaf])),
        "head": (head,),
    }
    sets = {name: names for name, names in sets.items() if set(names) != set(USUAL_SETS[name])}
    if expert_width and entry.get("experts"):
        sets[EXPERTS] = tuple(f"{EXPERTS}.{name}" for name in entry["experts"])
        widths |= dict.fromkeys(sets[EXPERTS], expert_width)
    return Architecture(
        model_type=str(config["model_type"]),
        implementation="sdpa" if entry.get("sdpa") else "eager",
        parameters=sum(math.prod(tensor.shape) for tensor in folder.tensors.values()),
        modules=modules,
        sets=sets,
        fused=tuple(sorted((fused | other) - set(modules))),
        refused=tuple(sorted(refused)),
        widths=widths,
    )


def _supported(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The table's entry for a model. Raises `BaseModelError` for one that cannot be trained, or that needs code of its own."""
    given, names, quantised = (config.get(key) for key in ("model_type", "architectures", "quantization_config"))
    model_type = given[:80] if isinstance(given, str) else ""
    entry = table().get(model_type, {})
    bad_size = next((key for key in SIZES if key in config and not (type(config[key]) is int and config[key] > 0)), "")
    endings = (str(entry.get("class")), "ForCausalLM", "LMHeadModel")
    has_head = not isinstance(names, list) or not names or any(str(name).endswith(endings) for name in names)
    needs_code = not entry and bool(config.get("auto_map"))
    one_way = not entry.get("masked") or bool(config.get("is_decoder"))
    what = f"model_type {model_type!r}"
    why_not = {
        "config.json names no model_type": not model_type,
        f"its weights are quantised ({str(quantised)[:80]}), which is not supported": quantised is not None,
        f"config.json says {bad_size} {str(config.get(bad_size))[:40]!r}, where a number above 0 belongs": bool(
            bad_size
        ),
        "config.json says return_dict false: the model would answer with bare tuples": config.get("return_dict")
        is False,
        f"{what} needs Python code of its own (auto_map), which is never run here": needs_code,
        f"{what} is no causal language model that transformers {made_by()['transformers']} knows": not entry,
        f"architectures {str(names)[:120]}: no causal language model; {endings[0]} was expected": not has_head,
        f"{what} without is_decoder reads in both directions, so it cannot generate": not one_way,
        f"{what} computes something else after padding on the left, with which batches are generated": model_type
        in COUNTED_OTHERWISE,
        f"{what} generates without a key-value cache, which is not supported": entry.get("cache") is False,
        f"{what} is an encoder with a decoder, no causal language model": bool(config.get("is_encoder_decoder")),
    }
    for reason in (reason for reason, applies in why_not.items() if applies):
        raise BaseModelError(f"{where}: {reason}", remedy=REMEDY)
    return entry


def _check_weights(folder: ModelFolder, where: str) -> None:
    """Raises `BaseModelError` for weights of a type that cannot be trained, and for layers without weights."""
    unsupported = sorted({tensor.dtype for tensor in folder.tensors.values() if tensor.dtype not in FLOATS and len(tensor.shape) > 1 and not _is_mask(tensor)})  # fmt: skip
    if unsupported:
        raise BaseModelError(f"{where}: it holds weights of type {', '.join(unsupported)}", remedy=REMEDY)
    layers = next((folder.config[key] for key in LAYERS if type(folder.config.get(key)) is int), 0)
    numbers = {int(part) for name in folder.tensors for part in name.split(".") if part.isdecimal() and len(part) < 6}
    missing = set(range(min(layers, 10_000))) - numbers
    if missing and folder.tensors:
        raise BaseModelError(
            f"{where}: config.json names {layers} layers, there are no weights of layer {min(missing)}",
            remedy="Fetch the model again.",
        )


def _is_mask(tensor: Tensor) -> bool:
    """GPT-2 and others keep their causal mask among the weights."""
    return tensor.dtype in ("BOOL", "U8") and len(tensor.shape) == 4


def _outside_mlp(parent: str, leaf: str) -> bool:
    inside = f"{parent}.{leaf}."
    return bool(_ATTENTION.search(parent) or _MIXER.search(parent)) or not _IN_LAYER.search(inside)


def _default(entry: Mapping[str, Any], modules: tuple[str, ...], attention: tuple[str, ...]) -> tuple[str, ...]:
    """Target modules of the default LoRA: q, k, v, o where there are all four, else PEFT's choice, else attention, else all."""
    if set(USUAL_SETS["default"]) <= set(modules):
        return USUAL_SETS["default"]
    preferred = tuple(name for name in entry.get("lora", ()) if name in modules)
    return preferred or attention or modules


def positions(config: Mapping[str, Any]) -> int | None:
    """The largest number of positions in a sequence, with rotary scaling.

    Args:
        config: Fields of config.json.

    Returns:
        None where the architecture has no limit or config.json does not give one.

    Example:
        >>> positions({"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 2.0}})
        4096
    """
    if config.get("alibi") is True:
        return None
    length = next((config[key] for key in POSITIONS if type(config.get(key)) is int and config[key] > 0), None)
    scaling = config.get("rope_parameters") or config.get("rope_scaling")
    if length is None or not isinstance(scaling, dict):
        return length
    kind, factor = scaling.get("rope_type", scaling.get("type")), scaling.get("factor")
    return int(length * factor) if kind in _SCALED and isinstance(factor, (int, float)) and 1 < factor < 1e6 else length


def end_tokens(*sources: Mapping[str, Any] | None) -> tuple[int, ...]:
    """Ids of all end tokens, sorted.

    Args:
        sources: Fields of config.json, generation_config.json and the like; each may give one ``eos_token_id`` or a list.

    Example:
        >>> end_tokens({"eos_token_id": 2}, None, {"eos_token_id": [7, 2]})
        (2, 7)
    """
    ids: set[int] = set()
    for source in sources:
        value = (source or {}).get("eos_token_id")
        ids |= {token for token in (value if isinstance(value, list) else [value]) if type(token) is int}
    return tuple(sorted(ids))
