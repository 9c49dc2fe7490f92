"""The tokenizer of a model folder as its files describe it: vocabulary and special tokens. Needs no tokenizer library."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from coral_core.errors import BaseModelError
from coral_core.lm.model_files import read_json, read_text
from coral_core.prompting.chat import MOST_CHARACTERS, ChatTemplate, ChatTurn, chat_turn

FAST = "tokenizer.json"
"""The only vocabulary that is read here."""
VOCABULARIES = (FAST, "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "tekken.json", "tiktoken.model", "qwen.tiktoken")  # fmt: skip
"""Files that hold a tokenizer's vocabulary; one of them must be there."""
PLAIN = (None, "PreTrainedTokenizerFast", "TokenizersBackend")
"""Tokenizer classes without special tokens of their own: what the files do not name is not there."""


class TokenizerFiles(NamedTuple):
    """Settings and vocabulary, as the files give them."""

    settings: Mapping[str, Any]
    """Special tokens and class: of special_tokens_map.json, then of tokenizer_config.json."""
    ids: Mapping[str, int]
    """Token -> id; empty where the vocabulary is in a form that is not read here."""
    added: frozenset[str]
    """Tokens that are cut out of a text before it is split into others; only such a one can end an answer."""

    @property
    def is_plain(self) -> bool:
        """True when the special tokens are exactly those that the files name."""
        return self.settings.get("tokenizer_class") in PLAIN

    def special(self, name: str) -> str | None:
        """Text of a special token; None where the files name none.

        Args:
            name: ``bos_token``, ``eos_token`` or ``pad_token``.
        """
        return _text(self.settings.get(name))


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """Read the tokenizer in a model's folder.

    Raises:
        BaseModelError: there is none, or it needs code of its own.
    """
    settings = read_json(folder / "tokenizer_config.json") or {}
    own_code = settings.get("auto_map")
    needs_code = isinstance(own_code, dict) and own_code.get("AutoTokenizer") and not (folder / FAST).is_file()
    if needs_code or not any((folder / name).is_file() for name in VOCABULARIES):
        problem = "its tokenizer needs Python code of its own (auto_map), which is never run here" if needs_code else f"no tokenizer: none of {', '.join(VOCABULARIES)} is there"  # fmt: skip
        raise BaseModelError(
            f"base model {folder}: {problem}",
            remedy=f"Save a fast tokenizer ({FAST}) into the folder with save_pretrained.",
        )
    named = (read_json(folder / "special_tokens_map.json") or {}) | settings
    listed = [*_listed(named.get("additional_special_tokens")), *_listed(named.get("extra_special_tokens"))]
    added = _added(folder, named) | _texts((read_json(folder / FAST) or {}).get("added_tokens")) | _texts(listed)
    return TokenizerFiles(named, _ids(folder), added | set(_special(named).values()))


CHAT_FILES = ("tokenizer_config.json", "special_tokens_map.json", FAST, "chat_template.jinja")
"""Files that tell a model's chat template and the tokens that end its answers."""
_DEFAULT = "default"


def chat_of(folder: Path) -> ChatTurn | None:
    """What the chat template in a model's folder writes around question and answer.

    Returns:
        None when there is no chat template.

    Raises:
        BaseModelError: the chat template cannot be used (`coral_core.prompting.chat.chat_turn`).
    """
    found = _chat_template(folder)
    return None if found is None else chat_turn(found)


def _chat_template(folder: Path) -> ChatTemplate | None:
    """The default chat template, from where transformers takes it: chat_template.jinja, else tokenizer_config.json."""
    settings = (read_json(folder / "special_tokens_map.json") or {}) | (
        read_json(folder / "tokenizer_config.json") or {}
    )
    file = folder / "chat_template.jinja"
    given: object = read_text(file, 4 * MOST_CHARACTERS)
    if given is None:
        file, given = folder / "tokenizer_config.json", settings.get("chat_template")
    if isinstance(given, list):  # several, with names
        named = {str(each.get("name")): each.get("template") for each in given if isinstance(each, dict)}
        if _DEFAULT not in named:
            raise BaseModelError(
                f"base_model.prompt: chat template ({file}): it has {', '.join(named)[:100]} and none called default",
                remedy="Name one of them default, or choose base_model.prompt: instruct.",
            )
        given = named[_DEFAULT]
    if not isinstance(given, str) or not given.strip():
        return None
    tokens = _special(settings)
    return ChatTemplate(
        given, tuple(sorted(tokens.items())), _added(folder, settings) | set(tokens.values()), str(file)
    )


def _special(settings: Mapping[str, Any]) -> dict[str, str]:
    """Name of a special token -> its text."""
    return {name: text for name in settings if name.endswith("_token") and (text := _text(settings[name]))}


def _added(folder: Path, settings: Mapping[str, Any]) -> frozenset[str]:
    """Texts of the added tokens, those of white space left out: they end no answer."""
    listed = settings.get("added_tokens_decoder")
    if isinstance(listed, dict):
        return _texts(list(listed.values()))
    try:
        state = (folder / FAST).stat()
    except OSError:  # a vocabulary in another form
        return frozenset()
    return _added_to(folder / FAST, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _added_to(file: Path, modified: int, size: int) -> frozenset[str]:
    """The added tokens of a tokenizer.json of tens of megabytes, read once per change of the file."""
    return _texts((read_json(file) or {}).get("added_tokens"))


def _listed(tokens: object) -> list[object]:
    """Tokens that a file names in a list, or under names of its own."""
    return list(tokens.values()) if isinstance(tokens, dict) else tokens if isinstance(tokens, list) else []


def _texts(tokens: object) -> frozenset[str]:
    texts = [_text(token) for token in tokens] if isinstance(tokens, list) else []
    return frozenset(text for text in texts if text and text.strip())


def _text(token: object) -> str | None:
    """The text of a token that a file names as text or as an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _ids(folder: Path) -> dict[str, int]:
    document = read_json(folder / FAST) or {}
    model, added = document.get("model"), document.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # Unigram: pairs of token and score
        vocabulary = {item[0]: number for number, item in enumerate(vocabulary) if isinstance(item, list) and item}
    pairs = list(vocabulary.items()) if isinstance(vocabulary, dict) else []
    pairs += [(token.get("content"), token.get("id")) for token in added if isinstance(token, dict)] if isinstance(added, list) else []  # fmt: skip
    return {str(token): number for token, number in pairs if type(number) is int}
