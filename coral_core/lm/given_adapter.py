"""Reads an adapter folder that CORAL-X may not have made, and says why one cannot be evaluated. Imports no torch.

The folder is hostile until it is checked: regular files of limited size, safetensors only (a pickle is never opened), a
configuration whose every field is known, and tensors that are exactly a LoRA or DoRA on kinds of modules in all layers. What
the configuration names is compared with what the weights hold; patterns in it are never executed. The engine checks names,
shapes and numbers again when it loads the adapter (coral_core/lm/adapters.py).
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from coral_core.bounded_read import read_file, sha256_of
from coral_core.config.tree import BaseModelConfig
from coral_core.digest import digest
from coral_core.errors import BaseModelError, ConfigError
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.json_object import json_object
from coral_core.lm.base_model import cached_snapshot, is_on_hub, is_rehearsal, lasting_name, local_path
from coral_core.lm.model_files import Tensor, content_id, header, read_folder
from coral_core.lm.rehearsal import SKILL
from coral_core.untrusted import on_one_line, visible

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CONFIG_BYTES = 1 << 20
WEIGHTS_BYTES = 32 * 2**30
_PICKLED = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin")
_READ = {"peft_type", "task_type", "r", "lora_alpha", "use_dora", "use_rslora", "target_modules", "bias", "init_lora_weights"}  # fmt: skip
_FREE = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out", "inference_mode", "lora_dropout",
    "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config", "eva_config",
}  # fmt: skip
"""Fields that change no output of a trained adapter, or that its tensors tell."""
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base model's weights as they are."""
_NAME = re.compile(
    r"base_model\.model\.([\w.]{1,300})\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector)", re.ASCII
)
_FLOATS = ("F32", "F16", "BF16")
_CHECK = "See docs/after-the-search.md for the adapters that can be evaluated."
_FIELDS = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "repetition_penalty": "repetition_penalty",
    "token_limit": "max_new_tokens", "sampling": "do_sample",
}  # fmt: skip
"""Light gene -> its field in generation_config.json."""
_DECODING = frozenset(_FIELDS.values())
_NO_DECODING = {
    "_from_model_config", "bos_token_id", "cache_implementation", "eos_token_id", "max_length", "pad_token_id",
    "transformers_version", "use_cache",
}  # fmt: skip
"""Fields of generation_config.json that change no text here: the end of an answer is that of the prompt."""
_NEUTRAL = {
    "assistant_confidence_threshold": 0.4, "diversity_penalty": 0.0, "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0,
    "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "guidance_scale": 1.0, "length_penalty": 1.0, "min_length": 0, "min_new_tokens": 0, "min_p": 0.0,
    "no_repeat_ngram_size": 0, "num_assistant_tokens": 20, "num_assistant_tokens_schedule": "constant", "num_beam_groups": 1, "num_beams": 1,
    "num_return_sequences": 1, "penalty_alpha": 0.0, "target_lookbehind": 10, "assistant_lookbehind": 10, "typical_p": 1.0,
}  # fmt: skip
"""Other fields -> their value without an effect, beside null, false and empty ones, which have none in any field."""
TOP_K = 50
"""What transformers takes where a sampled decoding names no top_k."""
UNKNOWN_RATE = 1.0
"""Stands for the learning rate of an adapter that does not tell how it was trained."""


class AdapterOnDisk(NamedTuple):
    """A checked adapter folder."""

    folder: Path
    heavy: HeavyGenes
    """Its shape; dropout and learning rate are unknown and have no effect."""
    base_name: str
    """The base model that its configuration names; empty when it names none."""
    revision: str | None
    modules: dict[str, tuple[int, int]]
    """Name of each adapted module -> its inputs and outputs. Empty for an adapter of the rehearsal."""
    weights: str
    """SHA-256 of the weights."""
    config: bytes
    """adapter_config.json, as it is."""

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        dora = self.heavy.adapter == "dora"
        return sum(self.heavy.rank * (ins + outs) + dora * outs for ins, outs in self.modules.values())

    def digest(self, content: str) -> str:
        """Name of the adapter in the store.

        Args:
            content: Content id of the base model that it is used with.
        """
        shape = self.heavy.model_dump(mode="json")
        return digest({"kind": "given-adapter", "schema": 1, "weights": self.weights, "shape": shape, "base": content})

    def canonical_config(self) -> bytes:
        """The configuration with only those fields that the engine compares, in the form that it writes itself."""
        if not self.modules:
            return self.config
        heavy = self.heavy
        fields = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": self.base_name, "bias": "none",
            "r": heavy.rank, "lora_alpha": heavy.alpha, "use_dora": heavy.adapter == "dora",
            "use_rslora": heavy.scaling == "rslora", "target_modules": list(heavy.target_modules), "inference_mode": True,
            "init_lora_weights": True,
        }  # fmt: skip
        return json.dumps(fields, indent=1).encode()


def named_base(path: Path) -> str:
    """The base model that the configuration of an adapter folder names; empty when it names none.

    Raises:
        ConfigError: there is no such folder, or no configuration of an adapter in it.
    """
    return _text(_config(path)[0], "base_model_name_or_path", path)


def read_given_adapter(path: Path, base: BaseModelConfig) -> AdapterOnDisk:
    """Read an adapter folder for use with a base model.

    Args:
        path: The folder, in the layout that PEFT's `save_pretrained` writes.
        base: The base model; for the rehearsal the adapters are those of the rehearsal, without tensors.

    Raises:
        ConfigError: it is no folder of one LoRA or DoRA adapter in safetensors, or uses something that the engine does not have.
    """
    fields, raw = _config(path)
    rehearsed = is_rehearsal(base)
    _check_fields(fields, path, {SKILL} if rehearsed else set())
    weights = _resolved(path / WEIGHTS)
    if not weights.exists():
        pickled = next((name for name in _PICKLED if (path / name).exists()), "")
        reason = (
            f"its weights are a pickle ({pickled}), which can run code and is never read"
            if pickled
            else "it holds no weights"
        )
        raise ConfigError(
            f"{path}: {reason}: {WEIGHTS} is not there", remedy="Save the adapter anew with PEFT: save_pretrained writes safetensors."
        )  # fmt: skip
    try:
        tensors = header(weights, "")
        checksum = sha256_of(weights, WEIGHTS_BYTES)
    except (OSError, BaseModelError) as error:
        why = (
            error.problem
            if isinstance(error, BaseModelError)
            else f"{path / WEIGHTS}: cannot be read: {error.strerror}"
        )
        raise ConfigError(visible(why), remedy="Copy the folder anew.") from None
    modules = {} if rehearsed else _modules(tensors, fields, path)
    names = tuple(sorted({name.rpartition(".")[2] for name in modules}))
    targets = fields.get("target_modules")
    if rehearsed:
        names = tuple(map(str, targets)) if isinstance(targets, list) and targets else ("q_proj",)
    try:
        heavy = HeavyGenes(
            rank=_number(fields, "r", path, whole=True), alpha=_number(fields, "lora_alpha", path), dropout=0.0,
            target_modules=names, adapter="dora" if fields.get("use_dora") else "lora", learning_rate=UNKNOWN_RATE,
            scaling="rslora" if fields.get("use_rslora") else "lora",
        )  # fmt: skip
    except ValueError as error:
        raise _refused(path, f"is no LoRA that the engine has ({str(error).splitlines()[0]})") from None
    return AdapterOnDisk(
        folder=path,
        heavy=heavy,
        base_name=_text(fields, "base_model_name_or_path", path),
        revision=_text(fields, "revision", path) or None,
        modules=modules,
        weights=checksum,
        config=raw,
    )


def check_base(adapter: AdapterOnDisk, base: BaseModelConfig, content: str, same_base: bool = False) -> None:
    """Check that an adapter belongs to a base model: by the name in its configuration, and by the shapes of its tensors.

    Args:
        adapter: The adapter.
        base: The base model.
        content: Content id of the base model here.
        same_base: The user says that both names mean the same weights; shapes are checked still.

    Raises:
        ConfigError: it is an adapter of another base model; names both.
    """
    here, named = lasting_name(base), adapter.base_name
    if not same_base and not _is_same(named, adapter.revision, here, content, is_on_hub(base)):
        what = (
            f"{visible(named)[:200]}{f' ({adapter.revision[:12]})' if adapter.revision else ''}"
            if named
            else "no base model"
        )
        raise ConfigError(
            f"{adapter.folder}: its configuration names {what}, and the base model here is {here} ({content[:12]}): an adapter fits no "
            "other weights",
            remedy="Set base_model.name to the adapter's base; if both names mean the same weights, add --same-base.",
        )
    tensors = _base_tensors(base, content)
    if not adapter.modules or tensors is None:
        return
    heads = _tied_heads(adapter.modules, tensors)
    for name, (ins, outs) in adapter.modules.items():
        there = tensors.get(f"{name}.weight")
        if there is not None and sorted(there.shape) != sorted((ins, outs)):
            raise ConfigError(
                f"{adapter.folder}: on {name} it is for a matrix of {outs} x {ins}, and {here} has {' x '.join(map(str, there.shape))} "
                f"there: it is an adapter of another base model (its configuration names {visible(named)[:200] or 'none'})",
                remedy="Set base_model.name to the adapter's base.",
            )
    kinds = set(adapter.heavy.target_modules)
    stored = {
        name[: -len(".weight")]
        for name, tensor in tensors.items()
        if name.endswith(".weight") and len(tensor.shape) == 2
    }
    stored |= heads
    unknown = sorted(kinds - {name.rpartition(".")[2] for name in stored})
    if unknown and not any(".experts." in name for name in tensors):  # whose names change when the model is loaded
        raise ConfigError(
            f"{adapter.folder}: is on {unknown[0]}, which {here} does not have (its configuration names "
            f"{visible(named)[:200] or 'no base model'})",
            remedy="Set base_model.name to the adapter's base.",
        )
    alike = {name for name in stored if name.rpartition(".")[2] in kinds}
    left_out = sorted(alike - adapter.modules.keys())
    if left_out and adapter.modules.keys() <= stored:
        raise _refused(
            adapter.folder,
            f"adapts {len(adapter.modules)} of the {len(alike)} modules of its kinds, for example not {left_out[0]}: the engine adapts a "
            "kind of module in every layer",
        )


def _tied_heads(modules: Mapping[str, tuple[int, int]], tensors: Mapping[str, Tensor]) -> set[str]:
    """Adapted modules whose weights are those of the embeddings, so that the base model's files hold none for them."""
    outside = {
        tensor.shape
        for name, tensor in tensors.items()
        if len(tensor.shape) == 2 and not any(map(str.isdigit, name.split(".")))
    }
    return {
        name
        for name, (ins, outs) in modules.items()
        if f"{name}.weight" not in tensors and not any(map(str.isdigit, name.split("."))) and (outs, ins) in outside
    }


def decoding_of(path: Path, token_limit: int) -> LightGenes | None:
    """The decoding beside an adapter in generation_config.json, as transformers would read it; None where there is none.

    Args:
        path: Folder of the adapter.
        token_limit: That of a decoding without max_new_tokens.

    Raises:
        ConfigError: the file is there and holds no decoding that the engine has.
    """
    try:
        fields = json_object(read_file(_resolved(path / "generation_config.json"), CONFIG_BYTES))
        sampled = fields.get("do_sample") is True
        if not sampled and fields.get("max_new_tokens") is None and fields.get("repetition_penalty") in (None, 1):
            return None  # greedy, as without a file
        for name in sorted(fields.keys() - _DECODING - _NO_DECODING):
            if not _has_no_effect(name, fields[name]):
                raise ValueError(f"{_shown(name)} {_shown(fields[name])}, which the engine does not have")
        neutral = {
            "temperature": 1.0, "top_p": 1.0, "top_k": TOP_K if sampled else 0, "repetition_penalty": 1.0, "sampling": False,
            "token_limit": token_limit,
        }  # fmt: skip
        given = {gene: fields[name] for gene, name in _FIELDS.items() if fields.get(name) is not None}
        if not sampled and given.get("temperature") == 0:  # as some write a greedy decoding
            del given["temperature"]
        return LightGenes.model_validate(neutral | given)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = (error.strerror or "") if isinstance(error, OSError) else on_one_line(str(error))[:200]
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{_FIELDS[str(first['loc'][0])]} {_shown(first['input'])}: {first['msg']}"
        raise ConfigError(
            f"{path / 'generation_config.json'}: is no decoding ({reason})",
            remedy="Repair it or take it away.",
        ) from None


def _has_no_effect(name: str, value: object) -> bool:
    if value is None or value is False or value in ([], {}, ""):
        return True
    neutral = _NEUTRAL.get(name)
    return neutral is not None and type(value) is not bool and value == neutral


def _config(path: Path) -> tuple[dict[str, Any], bytes]:
    """The fields of an adapter's configuration, and the file as it is."""
    if not path.is_dir():
        what = "is no folder" if path.exists() else "there is no such folder"
        raise ConfigError(f"{path}: {what}", remedy="Give the folder that PEFT's save_pretrained wrote.")
    try:
        raw = read_file(_resolved(path / CONFIG), CONFIG_BYTES)
        return json_object(raw), raw
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: holds no {CONFIG}, so it is no adapter",
            remedy="Give the folder that PEFT's save_pretrained wrote.",
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{path / CONFIG}: cannot be read ({visible(str(reason))[:200]})", remedy="Copy it anew."
        ) from None


def _check_fields(fields: dict[str, Any], path: Path, known: set[str]) -> None:
    """Refuse everything but LoRA and DoRA, by name. A field that is neither ours nor `known` is something that the engine lacks."""
    kind = fields.get("peft_type")
    if kind != "LORA":
        raise _refused(path, f"is of the type {_shown(kind)}, and only LoRA and DoRA (peft_type LORA) are evaluated")
    if fields.get("task_type") not in ("CAUSAL_LM", None):
        raise _refused(path, f"is for the task {_shown(fields['task_type'])}, not for a causal language model")
    if fields.get("bias") not in ("none", None):
        raise _refused(path, f"trains biases too (bias {_shown(fields['bias'])})")
    start = fields.get("init_lora_weights", True)
    if not any(start is each or (isinstance(each, str) and start == each) for each in _HARMLESS_STARTS):
        raise _refused(
            path, f"begins as {_shown(start)} (init_lora_weights), which changes the weights of the base model"
        )
    for name in ("use_dora", "use_rslora"):
        if type(fields.get(name, False)) is not bool:
            raise _refused(path, f"has {name} {_shown(fields[name])}, which is neither true nor false")
    for name in sorted(fields.keys() - _READ - _FREE - known):
        if fields[name]:
            raise _refused(path, f"uses {_shown(name)} ({_shown(fields[name])}), which the engine does not have")


def _modules(tensors: Mapping[str, Tensor], fields: Mapping[str, Any], path: Path) -> dict[str, tuple[int, int]]:
    """Adapted modules, with inputs and outputs, from the headers of the weights."""
    rank, dora = _number(fields, "r", path, whole=True), bool(fields.get("use_dora"))
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise _refused(path, f"holds the tensor {_shown(name)}, which is no LoRA on a linear module")
        if tensor.dtype not in _FLOATS:
            raise _refused(path, f"holds {_shown(name)} as {tensor.dtype}; only {', '.join(_FLOATS)} are read")
        parts.setdefault(match[1], {})[match[2].removesuffix(".weight")] = tensor.shape
    wanted = {"lora_A", "lora_B", *(["lora_magnitude_vector"] if dora else [])}
    modules = {}
    for name, shapes in parts.items():
        if shapes.keys() != wanted:
            odd = sorted(shapes.keys() ^ wanted)[0]
            raise _refused(
                path, f"{'lacks' if odd in wanted else 'has'} {odd} on {_shown(name)} (use_dora is {str(dora).lower()})"
            )
        a, b = shapes["lora_A"], shapes["lora_B"]
        fits = (
            len(a) == len(b) == 2 and a[0] == b[1] and (not dora or math.prod(shapes["lora_magnitude_vector"]) == b[0])
        )
        if not fits or min(a[1], b[0]) < 1:
            raise _refused(path, f"has shapes {list(a)} and {list(b)} on {_shown(name)}, which are no LoRA of a matrix")
        if a[0] != rank:
            raise _refused(
                path,
                f"has rank {a[0]} on {_shown(name)} and {rank} in its configuration: the engine has one rank per adapter",
            )
        modules[name] = (a[1], b[0])
    targets = fields.get("target_modules")
    if not modules:
        raise _refused(path, "holds no tensor")
    if isinstance(targets, list):
        for name in modules:
            if not any(isinstance(each, str) and (name == each or name.endswith(f".{each}")) for each in targets):
                raise _refused(path, f"adapts {_shown(name)}, which its target_modules do not name")
    elif not isinstance(targets, str):
        raise _refused(path, f"names no target_modules ({_shown(targets)})")
    return modules


def _is_same(named: str, revision: str | None, here: str, content: str, on_hub: bool) -> bool:
    """Whether a name in an adapter's configuration is that of the base model here; a look at names, and at a folder's content."""
    if named == here or (on_hub and named.lower() == here.lower()):
        return not on_hub or revision in (None, "main", content)
    folder = Path(named)
    try:
        return bool(named) and folder.is_absolute() and folder.is_dir() and content_id(folder) == content
    except (BaseModelError, OSError, ValueError):
        return False


def _base_tensors(base: BaseModelConfig, content: str) -> dict[str, Tensor] | None:
    """Tensors of the base model; None where its files are not on this machine."""
    if is_rehearsal(base):
        return None
    path = local_path(base) or cached_snapshot(base.name, content)
    return read_folder(path).tensors if path is not None else None


def _number(fields: Mapping[str, Any], name: str, path: Path, whole: bool = False) -> Any:
    value: Any = fields.get(name)
    if type(value) not in ((int,) if whole else (int, float)) or not 0 < value < 1e6:
        raise _refused(path, f"has {name} {_shown(value)}, which is no positive {'whole ' if whole else ''}number")
    return value


def _text(fields: Mapping[str, Any], name: str, path: Path) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > 4096 or not value.isprintable():
        raise _refused(path, f"has {name} {_shown(value)}, which is no name")
    return value


def _refused(path: Path, problem: str) -> ConfigError:
    return ConfigError(f"{path}: this adapter {problem}", remedy=_CHECK)


def _shown(value: object) -> str:
    return on_one_line(ascii(value) if not isinstance(value, str) else value)[:80]


def _resolved(path: Path) -> Path:
    """The path with all links followed: in the hub's cache an adapter is a folder of links."""
    return Path(os.path.realpath(path))
