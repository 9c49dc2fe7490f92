"""Small models of many architectures with random weights, saved as save_pretrained saves them, and their tokenizer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXTS = ("def f(a, b):\n    return a + b\n", "for n in range(10):\n    if n > 2:\n        print(n)\n", "Buggy code: Corrected code:\n```python\n")  # fmt: skip
COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
}
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", COMMON | {"num_key_value_heads": 2}),
    "llama-tied": ("llama", COMMON | {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", COMMON | {"num_key_value_heads": 2}),
    "mistral": ("mistral", COMMON | {"num_key_value_heads": 2}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "gpt_neox": ("gpt_neox", COMMON),
    "gpt_bigcode": ("gpt_bigcode", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "opt": ("opt", {"hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 512}),
    "falcon": ("falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "phi": ("phi", COMMON),
    "phi3": ("phi3", COMMON | {"num_key_value_heads": 2}),
    "gemma2": ("gemma2", COMMON | {"num_key_value_heads": 2, "head_dim": 8}),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "codegen": ("codegen", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 512}),
    "mixtral": ("mixtral", COMMON | {"num_key_value_heads": 2, "num_local_experts": 2}),
    "starcoder2": ("starcoder2", COMMON | {"num_key_value_heads": 2}),
}  # fmt: skip
DEFAULTS = {
    "gpt2": ("c_attn",), "gpt_neox": ("query_key_value",), "gpt_bigcode": ("c_attn",), "opt": ("q_proj", "v_proj"),
    "falcon": ("query_key_value",), "phi": ("fc1", "fc2", "q_proj", "v_proj"), "phi3": ("o_proj", "qkv_proj"),
    "bloom": ("query_key_value",), "codegen": ("qkv_proj",),
}  # fmt: skip
"""Target modules of the default LoRA where they are not q, k, v and o."""


def save_tokenizer(folder: Path, **special: str) -> Any:
    """A byte-level BPE tokenizer that reads any Python text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet, show_progress=False)  # fmt: skip
    tokenizer.train_from_iterator(TEXTS, trainer)
    marks = special or {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)
    fast.save_pretrained(str(folder))
    return fast


def save_model(folder: Path, name: str, **changes: Any) -> Path:
    """The small model called `name` in `SMALL`, with a tokenizer beside it; `changes` are of its configuration."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    model_type, settings = SMALL[name]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = save_tokenizer(folder)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = CONFIG_MAPPING[model_type](vocab_size=len(tokenizer), **(ids | settings | changes))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(str(folder))
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file in place."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
