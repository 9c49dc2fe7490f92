"""Writes a base model with an adapter merged into its weights as an ordinary folder of transformers."""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from coral_core.errors import AdapterError
from coral_core.lm.base_model import local_path
from coral_core.lm.loaded_model import LoadedModel
from coral_core.lm.requests import AdapterFolder

SHARD = "5GB"
"""Largest file of weights; a larger model is written in several, with an index."""


def write_merged(
    base: LoadedModel, adapter: AdapterFolder, out: Path, settings: dict[str, Any], end: str = "", shard: str = SHARD
) -> None:
    """Merge an adapter as the engine merges it for an evaluation, and write weights, configuration and tokenizer.

    Args:
        base: The loaded base model, not quantised; it is restored afterwards.
        adapter: The adapter, LoRA or DoRA.
        out: The folder, which exists.
        settings: Decoding, as arguments of transformers' `GenerationConfig`; written to generation_config.json with the end
            tokens that the engine stops at.
        end: Text of the token that ends an answer of the prompt template; empty: none but the model's own.
        shard: Largest file of weights, as `save_pretrained` takes it.

    Raises:
        AdapterError: the adapter does not load exactly, or a merged weight is not finite in this dtype.
        Infeasible: the model lacks a module that the adapter targets.
        OSError: `out` cannot be written.
    """
    with base.adapted(adapter) as model:
        for name, parameter in model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise AdapterError(f"{adapter.folder}: merged into {base.config.name}, {name} is not finite")
        before = model.config, model.generation_config
        try:
            model.config = _config(model)
            model.generation_config = GenerationConfig(
                eos_token_id=sorted(base.ends_with(end)), pad_token_id=base.pad, **settings
            )
            model.save_pretrained(out, max_shard_size=shard)
        finally:
            model.config, model.generation_config = before
    # a tokenizer of its own: the engine's pads on the left, which is no setting of the model
    path = local_path(base.config)
    source = (base.config.name, base.identity.content_id) if path is None else (str(path), None)
    AutoTokenizer.from_pretrained(source[0], revision=source[1], trust_remote_code=False).save_pretrained(out)


def _config(model: Any) -> Any:
    """The model's configuration, which says whether its head is tied: it is not where the adapter was on a tied head."""
    config = copy.deepcopy(model.config)
    head = model.get_output_embeddings()
    if head is not None:
        is_tied = head.weight is model.get_input_embeddings().weight
        for part in (config, config.get_text_config()):
            part.tie_word_embeddings = is_tied
    return config
