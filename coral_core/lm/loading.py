"""Loads a base model and its tokenizer the way its files ask for: attention, end tokens, padding. Never runs its code."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from coral_core.config.tree import BaseModelConfig
from coral_core.errors import BaseModelError, ConfigError, CoralError, EngineError
from coral_core.lm.architecture import end_tokens, positions
from coral_core.lm.base_model import attention_of, local_path
from coral_core.lm.engine_environment import without_credentials
from coral_core.lm.model_files import is_passing

_ITS_SHAPES = ("mismatch", "negative dimension", "overflowed")
"""How torch and transformers say, in a plain RuntimeError, that configuration and weights do not fit."""


def load_model(config: BaseModelConfig, content_id: str) -> tuple[Any, Any, dict[str, Any]]:
    """Tokenizer (padding on the left), model on the CPU, and what transformers says of the loading.

    Args:
        config: Which model, and of which type its weights shall be.
        content_id: Commit of a model on the hub.

    Raises:
        BaseModelError: the files do not make a whole causal language model without code of their own.
        EngineError: the disk, the mount or the network failed.
    """
    path = local_path(config)
    source, revision = (config.name, content_id) if path is None else (str(path), None)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, padding_side="left", trust_remote_code=False
        )
        model, found = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            dtype=getattr(torch, config.dtype),
            attn_implementation=attention_of(config),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (CoralError, MemoryError):
        raise
    except Exception as error:  # transformers raises what it likes for files that it cannot make a model of
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _ITS_SHAPES):
            raise  # the machine's, such as no memory or a lost device: the job is tried again elsewhere
        if is_passing(error):
            raise EngineError(
                f"base_model.name: {config.name}: could not be loaded: {_reason(error)}. Look at disk and network, and run the same command again."
            ) from None
        raise _refused(config, error) from None
    if missing := sorted(found["missing_keys"]):
        raise BaseModelError(
            f"base_model.name: {config.name}: its files lack {len(missing)} tensor(s) of the model, such as {missing[0]}: they would be "
            "random numbers. Save the whole model with save_pretrained."
        )
    return tokenizer, model, found


def _refused(config: BaseModelConfig, error: Exception) -> BaseModelError:
    return BaseModelError(f"base_model.name: {config.name}: cannot be loaded: {_reason(error)}")


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = without_credentials(" ".join(lines[:2]))[:400] or "no reason given"
    return f"{type(error).__name__}: {reason}"


def special_tokens(tokenizer: Any, model: Any, name: str) -> tuple[int, frozenset[int]]:
    """The padding token and all end tokens: of the tokenizer, config.json and generation_config.json together.

    Raises:
        BaseModelError: there is no end token, or it or the padding token has no embedding.
    """
    generation: Mapping[str, Any] = model.generation_config.to_dict() if model.generation_config else {}
    configured: Mapping[str, Any] = model.config.to_dict()
    rows = model.get_input_embeddings().weight.shape[0]
    named = end_tokens({"eos_token_id": tokenizer.eos_token_id}, configured, generation)
    ends = frozenset(token for token in named if 0 <= token < rows)  # no other is ever written
    if named and not ends:
        raise BaseModelError(
            f"base_model.name: {name}: its end tokens {', '.join(map(str, named[:5]))} have no embedding (there are {rows}), so generation would never "
            "end. Set eos_token in tokenizer_config.json to a token of the vocabulary."
        )
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, configured.get("pad_token_id"), *sorted(ends))
    pad = next((token for token in candidates if type(token) is int), None)
    if pad is None or not ends:
        raise BaseModelError(
            f"base_model.name: {name}: neither tokenizer nor configuration names an end token, so nothing could end or be padded. Set eos_token in tokenizer_config.json."
        )
    if not 0 <= pad < rows:
        raise BaseModelError(
            f"base_model.name: {name}: the padding token has id {pad}, the model has embeddings for 0 to {rows - 1}. Set pad_token in tokenizer_config.json to another token."
        )
    # special tokens of the tokenizer's class that no text holds do no harm, but for the one before every prompt
    harmless = set(tokenizer.all_special_tokens) - {tokenizer.bos_token}
    beyond = [
        (number, token) for token, number in tokenizer.get_vocab().items() if number >= rows and token not in harmless
    ]
    if beyond:
        number, token = max(beyond)
        raise BaseModelError(
            f"base_model.name: {name}: the tokenizer has {len(beyond)} tokens beyond the model's {rows} embeddings, such as {token[:40]!r} with id {number}. "
            "Use the tokenizer that belongs to the model, or resize the embeddings (resize_token_embeddings) and save it."
        )
    return pad, ends


def check_room(model: Any, name: str, tokens: int, key: str) -> None:
    """Positions for sequences of `tokens` tokens. The check of the configuration says so earlier, where the files are.

    Raises:
        ConfigError: `key` of the configuration asks for more than the model was made for.
    """
    most = positions(model.config.get_text_config().to_dict())
    if most is not None and tokens > most:
        raise ConfigError(f"{key}: sequences become {tokens} tokens long, and {name} has {most} positions. Lower it.")
