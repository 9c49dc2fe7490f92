"""The tokenizer of a model folder as its files describe it: vocabulary, special tokens. No tokenizer library needed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from coral_core.errors import BaseModelError
from coral_core.lm.model_files import read_json

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "tekken.json", "tiktoken.model", "qwen.tiktoken")  # fmt: skip
"""Files that hold a tokenizer's vocabulary; one of them must be there."""
PLAIN = (None, "PreTrainedTokenizerFast", "TokenizersBackend")
"""Tokenizer classes without special tokens of their own: what the files do not name is not there."""
OWN = {
    "GPT2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "CodeGen": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "GPTNeoX": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "Llama": {"bos_token": "<s>", "eos_token": "</s>"},
    "CodeLlama": {"bos_token": "<s>", "eos_token": "</s>"},
    "Bloom": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    "Gemma": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    "Qwen2": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
}
"""Special tokens that a tokenizer class has where the files name none."""


class TokenizerFiles(NamedTuple):
    """What the files say."""

    folder: Path
    settings: Mapping[str, Any]
    ids: Mapping[str, int]
    """Token -> id; empty where the vocabulary is in a form that is not read here."""

    @property
    def kind(self) -> str | None:
        """Name of the tokenizer's class."""
        found = self.settings.get("tokenizer_class")
        return found if isinstance(found, str) else None

    @property
    def is_plain(self) -> bool:
        """Are the special tokens those that the files name, and no others?"""
        return self.kind in PLAIN

    def special(self, name: str) -> str | None:
        """Text of a special token (`bos_token`, `eos_token`, `pad_token`); None where there is none."""
        for source in (self.settings, read_json(self.folder / "special_tokens_map.json") or {}):
            if name in source:
                mark = source[name]
                text = mark.get("content") if isinstance(mark, dict) else mark
                return text if isinstance(text, str) else None
        stem = (self.kind or "").removesuffix("Fast").removesuffix("Tokenizer")
        return OWN.get(stem, {}).get(name)


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """The tokenizer in a model's folder.

    Raises:
        BaseModelError: there is none, or it needs code of its own.
    """
    settings = read_json(folder / "tokenizer_config.json") or {}
    there = [name for name in VOCABULARIES if (folder / name).is_file()]
    own_code = settings.get("auto_map")
    if isinstance(own_code, dict) and own_code.get("AutoTokenizer") and "tokenizer.json" not in there:
        raise BaseModelError(
            f"base model {folder}: its tokenizer needs Python code of its own (auto_map), which is never run here. Save a fast tokenizer (tokenizer.json) with it."
        )
    if not there:
        raise BaseModelError(
            f"base model {folder}: no tokenizer: none of {', '.join(VOCABULARIES[:6])} is there. Save the tokenizer into the folder with save_pretrained."
        )
    return TokenizerFiles(folder, settings, _ids(folder, settings))


def _ids(folder: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    ids: dict[str, int] = {}
    whole = read_json(folder / "tokenizer.json")
    if whole is not None:
        model = whole.get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocabulary, dict):
            ids |= _numbers(vocabulary)
        elif isinstance(vocabulary, list):  # Unigram: pairs of token and score
            ids |= {str(item[0]): number for number, item in enumerate(vocabulary) if isinstance(item, list) and item}
        added = whole.get("added_tokens")
        for token in added if isinstance(added, list) else []:
            if isinstance(token, dict) and type(token.get("id")) is int:
                ids[str(token.get("content"))] = token["id"]
    else:
        ids |= _numbers(read_json(folder / "vocab.json") or {})
        ids |= _numbers(read_json(folder / "added_tokens.json") or {})
    decoder = settings.get("added_tokens_decoder")
    if ids and isinstance(decoder, dict):
        for number, token in decoder.items():
            if str(number).isdecimal() and len(str(number)) < 10 and isinstance(token, dict):
                ids.setdefault(str(token.get("content")), int(number))
    return ids


def _numbers(table: Mapping[str, Any]) -> dict[str, int]:
    return {token: number for token, number in table.items() if type(number) is int}
