"""Token ids of prompts and answers, the same for training and generation. Takes a tokenizer of transformers; imports no torch."""

from typing import Any

from coral_core.errors import BaseModelError, ConfigError

PYTHON = (
    "class Ab(list):\n    def f(self, x_1=0):\n        return {'k': [self[x_1] ** 2 % 10 != ~3]}  # \"B\" @ $a; `c`\n"
)
"""Text with what Python needs: line breaks, indentation, upper case, digits and punctuation."""


def check_tokenizer(tokenizer: Any, model: str) -> None:
    """Check that a tokenizer gives Python text back; some lower its case, or drop its line breaks or indentation.

    Args:
        tokenizer: A tokenizer of transformers.
        model: Name of its base model, for the error.

    Raises:
        BaseModelError: the text is another one after encoding and decoding.
    """
    # at the ends spaces are added or taken off by some that keep all others
    back = exact_text(tokenizer, tokenizer.encode(PYTHON, add_special_tokens=False)).strip()
    if back != PYTHON.strip():
        raise BaseModelError(
            f"base_model.name: {model}: its tokenizer does not keep Python text, so the model can neither read nor write code: "
            f"{PYTHON[:60]!r} becomes {back[:60]!r}",
            remedy="Give a model whose tokenizer keeps case, line breaks and indentation; if this one should, save its tokenizer again.",
        )


def encode_prompt(tokenizer: Any, text: str, add_bos: bool = True) -> list[int]:
    """Token ids of `text`. Special tokens in it are parsed.

    Args:
        tokenizer: A tokenizer of transformers.
        text: A prompt, or a prompt and its answer.
        add_bos: Put the BOS token in front where it is missing; False for text that holds all special tokens.
    """
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    bos = tokenizer.bos_token_id
    if add_bos and bos is not None and ids[:1] != [bos]:
        ids = [bos, *ids]
    return ids


def encode_pair(tokenizer: Any, prompt: str, answer: str, add_bos: bool = True) -> tuple[list[int], list[int]]:
    """Token ids of a prompt as generation sees it, and of an answer as the model would write it there.

    An answer encoded by itself is not always what is written after a prompt: SentencePiece puts a space in front of it. The
    answer's tokens are therefore the rest of the whole text. Where a token of the whole spans the end of the prompt, they are
    those of an encoding that decodes to the same text.

    Args:
        tokenizer: A tokenizer of transformers.
        prompt: Text of the prompt.
        answer: Text of the answer.
        add_bos: As in `encode_prompt`.

    Raises:
        ConfigError: no tokens of the answer give the text after this prompt.
    """
    before, whole = encode_prompt(tokenizer, prompt, add_bos), encode_prompt(tokenizer, prompt + answer, add_bos)
    if whole[: len(before)] == before:
        return before, whole[len(before) :]
    text = exact_text(tokenizer, whole)
    for anchor in ("", "\n", tokenizer.eos_token or "", "x"):
        start = tokenizer.encode(anchor, add_special_tokens=False) if anchor else []
        ids = tokenizer.encode(anchor + answer, add_special_tokens=False)
        if ids[: len(start)] == start and exact_text(tokenizer, [*before, *ids[len(start) :]]) == text:
            return before, ids[len(start) :]
    raise ConfigError(
        f"base_model.prompt: the tokenizer joins the end of the prompt ({prompt[-20:]!r}) to its answer ({answer[:20]!r})",
        ("base_model", "prompt"),
        remedy="End the prompt with a line break or a special token.",
    )


def exact_text(tokenizer: Any, ids: list[int]) -> str:
    """The text of `ids`, special tokens included, without the clean-up of spaces that tokenizers offer for English."""
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
