"""The one check of a run's base model against its configuration, by the model's files alone: no torch, no weights, no network.

`coral config check`, `--dry-run` and the pre-flight of an evolution call it (coral_core/evolution/preflight.py), so that what files can
tell is refused before a server starts or a lane is asked. What cannot be looked at here is said in notes. Not covered: whether weights and
tokenizer belong together, and what only loading shows (the engine checks that: coral_core/lm/loading.py).
"""

from pathlib import Path

from coral_core.config import RunConfig
from coral_core.config.tree import BaseModelConfig
from coral_core.errors import BaseModelError, ConfigError
from coral_core.jobs.jobs import BaseModelIdentity
from coral_core.lm.architecture import Architecture, describe, end_tokens, positions, table
from coral_core.lm.base_model import cached_snapshot, identify, implementation, is_rehearsal, local_path
from coral_core.lm.model_files import ModelFolder, missing_weights, read_folder
from coral_core.lm.targets import check_targets, resolve
from coral_core.lm.tokenizer_files import VOCABULARIES, TokenizerFiles, read_tokenizer
from coral_core.prompting.templates import TINY, template_for

PAD_MULTIPLE = 8
"""Training pads its batches to a multiple of this (coral_core/lm/training.py)."""
FUSED = (
    "expert weights that the loaded model keeps as one fused parameter: no linear module, so LoRA cannot be put on it"
)


def check_base_model(config: RunConfig) -> tuple[str, ...]:
    """Refuse what cannot work with the base model of `config`.

    Returns:
        Notes on what could not be looked at on this machine.

    Raises:
        BaseModelError: the model cannot be used, whatever the configuration.
        ConfigError: the configuration asks for what this model does not have.
    """
    base = config.base_model
    _check_revision(base)
    if is_rehearsal(base):
        check_targets(config, identify(base))
        return ()
    try:
        path = local_path(base)
    except BaseModelError as error:
        if config.infra.executor != "work-pools":
            raise
        return (f"base model {base.name}: it is not on this machine ({_first(error)}). The lanes look at its files",)
    notes: list[str] = []
    whole = True
    if path is None:
        path = cached_snapshot(base.name, base.revision)
        if path is None:
            return (
                f"base model {base.name}: it is not on this machine. What is wrong with it, or with genes.heavy.target_modules for it, "
                "is told when the hub or the first lane has been asked",
            )
        if missing := missing_weights(path):
            whole = False
            notes.append(
                f"modules of base model {base.name}: its weights are not all on this machine ({missing[0]} is missing)"
            )
    folder = read_folder(path, weights=whole)
    found = describe(folder)
    implementation(base, found)
    if whole:
        _check_genes(config, found)
    _check_lengths(config, folder)
    if whole or any((path / name).is_file() for name in VOCABULARIES):
        notes += _check_tokenizer(config, folder)
    else:
        notes.append(f"tokenizer of base model {base.name}: it is not on this machine")
    return tuple(notes)


def _check_revision(base: BaseModelConfig) -> None:
    """Only the hub has revisions. Raises `ConfigError`: another one than what is in the folder would be believed to be used."""
    if base.revision is None:
        return
    try:
        elsewhere = not is_rehearsal(base) and local_path(base) is None
    except BaseModelError:  # a folder that is not here
        elsewhere = False
    if not elsewhere:
        raise ConfigError(
            f"base_model.revision: {base.revision}: {base.name} is not on the hub, so nothing would read it. Take it out.",
            ("base_model", "revision"),
        )


def seen(config: RunConfig) -> BaseModelIdentity | None:
    """The base model as its files on this machine show it, without content id; None where they are not here.

    Raises:
        BaseModelError: as `check_base_model`.
    """
    if is_rehearsal(config.base_model):
        return identify(config.base_model)
    path = tokenizer_folder(config)
    return None if path is None or missing_weights(path) else _base(config, describe(read_folder(path)))


def _base(config: RunConfig, found: Architecture) -> BaseModelIdentity:
    return BaseModelIdentity(
        name=config.base_model.name,
        content_id="",
        parameters=found.parameters,
        modules=found.modules,
        sets=found.sets,
        numerics_class="",
    )


def _first(error: Exception) -> str:
    return str(error).splitlines()[0]


def _check_genes(config: RunConfig, found: Architecture) -> None:
    base = _base(config, found)
    if not found.modules:
        raise BaseModelError(
            f"base_model.name: {base.name}: a {found.model_type} without linear modules that LoRA could be put on. Give another model."
        )
    why_not = dict.fromkeys(found.fused, FUSED)
    if found.fused and not found.mlp:
        why_not["mlp"] = f"the MLP is {FUSED}"
    check_targets(config, base, why_not)
    highest = max(config.genes.heavy.rank)
    for candidate in config.genes.heavy.target_modules:
        sides = [found.widths[name] for name in resolve(candidate, base) if name in found.widths]
        if sides and highest > max(sides):
            raise ConfigError(
                f"genes.heavy.rank: {highest}: the matrices of {candidate} in {base.name} have {max(sides)} rows or columns, and no rank above that "
                f"is a low-rank update. Keep ranks up to {max(sides)}.",
                ("genes", "heavy", "rank"),
            )


def _check_lengths(config: RunConfig, folder: ModelFolder) -> None:
    """Tokens that a sequence may have against positions that the model was made for."""
    nested = folder.config.get("text_config")
    most = positions(folder.config) or (positions(nested) if isinstance(nested, dict) else None)
    if most is None:
        return
    name, prompt, limit = config.base_model.name, config.generation.prompt_length, config.genes.light.token_limit.high
    if prompt + limit > most:
        raise ConfigError(
            f"generation.prompt_length: {prompt}, with genes.light.token_limit up to {limit}, makes {prompt + limit} tokens; {name} has {most} "
            "positions. Lower one of them, or choose a model with a longer context.",
            ("generation", "prompt_length"),
        )
    longest = config.training.sequence_length
    if longest + -longest % PAD_MULTIPLE > most:
        raise ConfigError(
            f"training.sequence_length: {longest}: {name} has {most} positions. Set training.sequence_length to at most {most - most % PAD_MULTIPLE}.",
            ("training", "sequence_length"),
        )


def _check_tokenizer(config: RunConfig, folder: ModelFolder) -> list[str]:
    tokenizer, name = read_tokenizer(folder.path), config.base_model.name
    rows, size = _embeddings(folder), folder.config.get("vocab_size")
    if type(size) is int and rows is not None and rows != size:
        raise BaseModelError(
            f"base_model.name: {name}: config.json says vocab_size {size}, the weights have {rows} embeddings. Save model and configuration together."
        )
    if not tokenizer.ids:
        return [f"tokens of base model {name}: its vocabulary is in a form that only the engine reads"]
    if rows is not None:
        _check_range(tokenizer, rows, name)
    ends = [number for number in end_tokens(folder.config, folder.generation) if rows is None or 0 <= number < rows]
    end, pad = tokenizer.special("eos_token"), tokenizer.special("pad_token")
    if tokenizer.is_plain and end is None and not ends:
        raise BaseModelError(
            f"base_model.name: {name}: neither tokenizer_config.json nor config.json names an end token of the vocabulary, so generation would never end"
            f"{'' if pad else ' and nothing could be padded'}. Set eos_token in tokenizer_config.json."
        )
    number = folder.config.get("pad_token_id")
    if pad is None and end is None and rows is not None and type(number) is int and not 0 <= number < rows:
        raise BaseModelError(
            f"base_model.name: {name}: pad_token_id {number} of config.json is outside the {rows} embeddings. Set pad_token in tokenizer_config.json."
        )
    if template_for(name, config.base_model.prompt) is TINY and "<sep>" not in tokenizer.ids:
        raise ConfigError(
            f"base_model.prompt: {config.base_model.prompt}: its separator <sep> is no token of {name}. Use base_model.prompt: instruct.",
            ("base_model", "prompt"),
        )
    return []


def _embeddings(folder: ModelFolder) -> int | None:
    """Rows of the input embedding: by the weights, else by config.json."""
    leaf = table()[folder.config["model_type"]].get("embedding")
    for name, tensor in folder.tensors.items():
        parts = name.split(".")
        if leaf and parts[-2:] == [leaf, "weight"] and len(tensor.shape) == 2:
            return tensor.shape[0]
    size = folder.config.get("vocab_size")
    return size if type(size) is int and size > 0 else None


def _check_range(tokenizer: TokenizerFiles, rows: int, name: str) -> None:
    """Raises `BaseModelError`: a token has no embedding; its number would be outside the table."""
    ids = tokenizer.ids
    for mark in ("pad_token", "bos_token", "eos_token"):
        text = tokenizer.special(mark)
        if text is None:
            continue
        number = ids.get(text, max(ids.values()) + 1)  # transformers adds what is not there
        if not 0 <= number < rows:
            added = "" if text in ids else " (it is not in the vocabulary and would be added)"
            raise BaseModelError(
                f"base_model.name: {name}: {mark} {text!r} has id {number}{added}, the model has embeddings for 0 to {rows - 1}. "
                f"Set {mark} in tokenizer_config.json to a token of the vocabulary, or resize the embeddings (resize_token_embeddings) and save the model."
            )
    beyond = sorted((number, token) for token, number in ids.items() if not 0 <= number < rows)
    if beyond:
        number, token = beyond[-1]
        raise BaseModelError(
            f"base_model.name: {name}: the tokenizer has {len(beyond)} tokens beyond the model's {rows} embeddings, such as {token[:40]!r} with id {number}. "
            "Use the tokenizer that belongs to the model, or resize the embeddings (resize_token_embeddings) and save it."
        )


def tokenizer_folder(config: RunConfig) -> Path | None:
    """Where the base model's tokenizer is on this machine; None where it is on the lanes' machines or the hub alone."""
    try:
        path = local_path(config.base_model)
    except BaseModelError:
        if config.infra.executor == "work-pools":
            return None
        raise
    return cached_snapshot(config.base_model.name, config.base_model.revision) if path is None else path
