"""What the files of a base model say about it: identity, sizes, modules, template, special tokens. Loads no weights."""

from collections import Counter
from pathlib import Path

from coral_core.config import RunConfig
from coral_core.errors import BaseModelError
from coral_core.frozen import Frozen
from coral_core.lm.architecture import describe, end_tokens, positions
from coral_core.lm.base_model import identify
from coral_core.lm.model_check import model_folder
from coral_core.lm.model_fetch import read_origin
from coral_core.lm.model_files import files_of, read_folder, read_json
from coral_core.lm.targets import default_lora_of, sets_of
from coral_core.lm.tokenizer_files import read_tokenizer
from coral_core.prompting.choice import resolve_prompt

MARKS = ("bos_token", "eos_token", "pad_token", "unk_token")


class ModelFacts(Frozen):
    """A base model, by its files."""

    name: str
    folder: Path
    origin: str
    """Where `coral model fetch` took it from; empty for other folders."""
    content_id: str
    model_type: str
    parameters: int
    types: dict[str, int]
    """Type of weights in the files -> number of tensors."""
    bytes: int
    """Size of the files that identify it."""
    attention: str
    """The implementation that the engine uses by default: sdpa or eager."""
    tied_head: bool
    """The output head is the input embedding."""
    modules: tuple[str, ...]
    sets: dict[str, tuple[str, ...]]
    """Names of sets for ``genes.heavy.target_modules``, and their modules."""
    default_lora: tuple[str, ...]
    """Target modules of the default LoRA."""
    prompt: str
    """Prompt template that the configuration chooses."""
    chat_template: bool
    context: int | None
    """Most tokens of a sequence; None: no limit is known."""
    vocabulary: int
    """Tokens of the tokenizer; 0: in a form that only the engine reads."""
    special: dict[str, str]
    """bos_token, eos_token, pad_token, unk_token, as far as the files name them."""
    end_tokens: tuple[int, ...]
    """Ids that end an answer, of config.json and generation_config.json."""


def model_facts(config: RunConfig) -> ModelFacts:
    """Read the files of a base model on this machine.

    Args:
        config: Names the base model.

    Raises:
        BaseModelError: it is not on this machine, or cannot be used.
    """
    base = config.base_model
    path = model_folder(config)
    if path is None:
        raise BaseModelError(
            f"base_model.name: {base.name}: not on this machine, or not whole",
            remedy=f"Run: coral model fetch {base.name}.",
        )
    folder = read_folder(path)
    architecture = describe(folder)
    identity = identify(base)
    tokenizer = read_tokenizer(path)
    nested = folder.config.get("text_config")
    return ModelFacts(
        name=base.name,
        folder=path,
        origin=(read_origin(path) or {}).get("origin", ""),
        content_id=identity.content_id,
        model_type=architecture.model_type,
        parameters=architecture.parameters,
        types=dict(Counter(tensor.dtype for tensor in folder.tensors.values())),
        bytes=sum(state.st_size for _, state in files_of(path).values()),
        attention=architecture.implementation,
        tied_head=bool(folder.config.get("tie_word_embeddings", True)),
        modules=architecture.modules,
        sets=sets_of(identity),
        default_lora=default_lora_of(identity).target_modules,
        prompt=resolve_prompt(base, identity.chat).name,
        chat_template=_has_chat_template(path),
        context=positions(folder.config) or (positions(nested) if isinstance(nested, dict) else None),
        vocabulary=len(tokenizer.ids),
        special={mark: text for mark in MARKS if (text := tokenizer.special(mark)) is not None},
        end_tokens=end_tokens(folder.config, folder.generation),
    )


def _has_chat_template(folder: Path) -> bool:
    settings = read_json(folder / "tokenizer_config.json") or {}
    return bool(settings.get("chat_template")) or (folder / "chat_template.jinja").is_file()
