"""The one check of a run's base model against its configuration, by the model's files alone: no torch, no weights, no network.

`coral config check`, `--dry-run` and the pre-flight of an evolution call it (coral_core/evolution/preflight.py), so that
problems visible in the files are refused before a server or a lane starts. Notes name what cannot be checked on this
machine. Not covered: whether weights and tokenizer belong together, and errors that only loading shows (the engine checks
for those: coral_core/lm/loaded_model.py).
"""

from pathlib import Path

from coral_core.config import RunConfig
from coral_core.config.text_fields import BUILT_IN_PROMPTS
from coral_core.config.yaml_document import shown
from coral_core.errors import BaseModelError, ConfigError
from coral_core.jobs.jobs import BaseModelIdentity
from coral_core.lm.architecture import EXPERTS, Architecture, describe, end_tokens, positions, table
from coral_core.lm.base_model import (
    cached_snapshot,
    check_quantization,
    identify,
    implementation,
    is_on_hub,
    is_rehearsal,
    local_path,
)
from coral_core.lm.model_files import ModelFolder, missing_weights, read_folder
from coral_core.lm.targets import check_targets, resolve
from coral_core.lm.tokenizer_files import chat_of, read_tokenizer
from coral_core.prompting.choice import named_template, resolve_prompt
from coral_core.prompting.own_template import read_own_template
from coral_core.prompting.templates import TINY, PromptTemplate

PAD_MULTIPLE = 8
"""Training pads its batches to a multiple of this (coral_core/lm/training.py)."""
FUSED = "expert weights that the loaded model keeps as one fused parameter, no linear module"
REFUSED = "PEFT cannot adapt it in a model of this type, which does not use it as an ordinary linear module"


def check_base_model(config: RunConfig) -> tuple[str, ...]:
    """Check that the base model of a configuration can be used with it.

    Args:
        config: The configuration.

    Returns:
        Notes on what could not be checked on this machine.

    Raises:
        BaseModelError: the model cannot be used, whatever the configuration.
        ConfigError: the configuration asks for what this model does not have.
    """
    base = config.base_model
    if base.revision is not None and not is_on_hub(base):
        raise ConfigError(
            f"base_model.revision: {base.revision}: {base.name} is not on the hub, so nothing would read it",
            ("base_model", "revision"),
            remedy="Take it out.",
        )
    if base.prompt not in BUILT_IN_PROMPTS:
        read_own_template(base.prompt)
    if is_rehearsal(base) and base.quantization != "none":
        raise ConfigError(
            f"base_model.quantization: {base.quantization}: {base.name} has no weights, so nothing would read it",
            ("base_model", "quantization"),
            remedy="Take it out.",
        )
    if config.infra.executor != "work-pools":
        check_quantization(base)
    if is_rehearsal(base):
        resolve_prompt(base, None)
        check_targets(config, identify(base))
        return ()
    path = model_folder(config)
    if path is None:
        return (
            f"base model {base.name}: it is not on this machine, or not whole. What is wrong with it, or with genes.heavy.target_modules for it, "
            "is told when the hub or the first lane has been asked",
        )
    prompt_seen(config)
    folder = read_folder(path)
    architecture = describe(folder)
    implementation(base, architecture)
    _check_genes(config, architecture)
    _check_lengths(config, folder)
    return _check_tokenizer(config, folder)


def model_folder(config: RunConfig) -> Path | None:
    """The folder on this machine that holds all files of the base model.

    Returns:
        None when the files are only on the hub or on the lanes' machines, or are incomplete.

    Raises:
        BaseModelError: the lanes run on this machine, and the folder does not exist.
    """
    base = config.base_model
    if is_on_hub(base):
        snapshot = cached_snapshot(base.name, base.revision)
        return None if snapshot is None or missing_weights(snapshot) else snapshot
    try:
        return local_path(base)
    except BaseModelError:
        if config.infra.executor == "work-pools":
            return None
        raise


def seen(config: RunConfig) -> BaseModelIdentity | None:
    """The base model as described by its files on this machine, without content id and numerics class.

    Returns:
        None when the files are not on this machine.

    Raises:
        BaseModelError: as `check_base_model`.
    """
    if is_rehearsal(config.base_model):
        return identify(config.base_model)
    path = model_folder(config)
    return None if path is None else _base(config, describe(read_folder(path)))


def prompt_seen(config: RunConfig) -> PromptTemplate | None:
    """The prompt template, where files on this machine tell it.

    Returns:
        None when it depends on a chat template that is not on this machine.

    Raises:
        BaseModelError: as `check_base_model`, or the chat template cannot be used.
        ConfigError: ``base_model.prompt`` does not fit the model, or names a file that cannot be used.
    """
    base = config.base_model
    if (named := named_template(base)) is not None:
        return named
    path = None if is_rehearsal(base) else model_folder(config)
    if path is None and not is_rehearsal(base):
        return None
    return resolve_prompt(base, chat_of(path) if path is not None else None)


def _base(config: RunConfig, architecture: Architecture) -> BaseModelIdentity:
    return BaseModelIdentity(
        name=config.base_model.name,
        content_id="",
        parameters=architecture.parameters,
        modules=architecture.modules,
        sets=architecture.sets,
        numerics_class="",
    )


def _check_genes(config: RunConfig, architecture: Architecture) -> None:
    base = _base(config, architecture)
    if not architecture.modules:
        raise BaseModelError(
            f"base_model.name: {base.name}: a {architecture.model_type} without linear modules that LoRA could be put on",
            remedy="Give another model.",
        )
    experts = architecture.sets.get(EXPERTS)
    fused = f"{FUSED}: " + (f"name it {' or '.join(experts)}" if experts else "LoRA cannot be put on it")
    why_not = dict.fromkeys(architecture.fused, fused) | dict.fromkeys(architecture.refused, REFUSED)
    if architecture.fused and architecture.sets.get("mlp") == ():
        why_not["mlp"] = f"the MLP is {fused}"
    check_targets(config, base, why_not)
    highest = max(config.genes.heavy.rank)
    for candidate in config.genes.heavy.target_modules:
        widest = max((architecture.widths.get(name, highest) for name in resolve(candidate, base)), default=highest)
        if highest > widest:
            raise ConfigError(
                f"genes.heavy.rank: {highest}: the matrices of {candidate} in {base.name} have {widest} rows or columns, and no rank above that "
                "is a low-rank update",
                ("genes", "heavy", "rank"),
                remedy=f"Keep ranks up to {widest}.",
            )


def _check_lengths(config: RunConfig, folder: ModelFolder) -> None:
    """Compare the configured lengths with the number of positions of the model."""
    nested = folder.config.get("text_config")
    most = positions(folder.config) or (positions(nested) if isinstance(nested, dict) else None)
    if most is None:
        return
    name, prompt, limit = config.base_model.name, config.generation.prompt_length, config.genes.light.token_limit.high
    if prompt + limit > most:
        raise ConfigError(
            f"generation.prompt_length: {prompt}, with genes.light.token_limit up to {limit}, makes {prompt + limit} tokens; {name} has {most} "
            "positions",
            ("generation", "prompt_length"),
            remedy="Lower one of them, or choose a model with a longer context.",
        )
    longest = config.training.sequence_length
    if longest + -longest % PAD_MULTIPLE > most:
        raise ConfigError(
            f"training.sequence_length: {longest}: {name} has {most} positions",
            ("training", "sequence_length"),
            remedy=f"Set training.sequence_length to at most {most - most % PAD_MULTIPLE}.",
        )


def _check_tokenizer(config: RunConfig, folder: ModelFolder) -> tuple[str, ...]:
    """Check that every token has an embedding and that there is an end token. Returns a note where the vocabulary is not read here."""
    tokenizer, name = read_tokenizer(folder.path), config.base_model.name
    if not tokenizer.ids:
        return (f"tokens of base model {name}: its vocabulary is in a form that only the engine reads",)
    rows = _embeddings(folder)
    special = [
        text for mark in ("pad_token", "bos_token", "eos_token") if (text := tokenizer.special(mark)) is not None
    ]
    added = dict.fromkeys(special, max(tokenizer.ids.values()) + 1)  # transformers adds missing tokens
    beyond = {token: number for token, number in (added | dict(tokenizer.ids)).items() if not 0 <= number < rows}
    if beyond:
        token = max(beyond, key=lambda token: (token in special, beyond[token]))
        raise BaseModelError(
            f"base_model.name: {name}: {len(beyond)} tokens are beyond the model's {rows} embeddings, such as {token[:40]!r} with id "
            f"{beyond[token]}{'' if token in tokenizer.ids else ' (it is not in the vocabulary and would be added)'}",
            remedy="Use the tokenizer that belongs to the model, name pad_token, bos_token and eos_token of its vocabulary in "
            "tokenizer_config.json, or resize the embeddings (resize_token_embeddings) and save the model.",
        )
    ends = [number for number in end_tokens(folder.config, folder.generation) if 0 <= number < rows]
    if tokenizer.is_plain and tokenizer.special("eos_token") is None and not ends:
        raise BaseModelError(
            f"base_model.name: {name}: neither tokenizer_config.json nor config.json names an end token of the vocabulary, so generation would "
            "never end",
            remedy="Set eos_token in tokenizer_config.json.",
        )
    if named_template(config.base_model) is TINY and "<sep>" not in tokenizer.ids:
        raise ConfigError(
            f"base_model.prompt: {config.base_model.prompt}: its separator <sep> is no token of {name}",
            ("base_model", "prompt"),
            remedy="Use base_model.prompt: instruct.",
        )
    prompt = prompt_seen(config)
    if prompt is not None and prompt.end and prompt.end not in tokenizer.added:
        raise not_a_token(prompt.end, name)
    return ()


def not_a_token(end: str, model: str) -> ConfigError:
    """The error for a text that should end answers and is no token that is cut out of texts as a whole."""
    return ConfigError(
        f"base_model.prompt: end {shown(repr(end))}: it is no special token of {model}",
        ("base_model", "prompt"),
        remedy="Give the text of an end token, or use stop for other texts.",
    )


def _embeddings(folder: ModelFolder) -> int:
    """Rows of the input embedding: from the weights, else from config.json."""
    leaf = table()[folder.config["model_type"]].get("embedding")
    for name, tensor in folder.tensors.items():
        if leaf and name.split(".")[-2:] == [leaf, "weight"] and len(tensor.shape) == 2:
            return tensor.shape[0]
    size = folder.config.get("vocab_size")
    return size if type(size) is int else 1 << 31
