"""The zoo: small models with random weights of many architectures, saved as save_pretrained saves them, and their tokenizer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coral_core.lm.base_model import TINY

TEXTS = ("def f(a, b):\n    return a + b\n", "for n in range(10):\n    if n > 2:\n        print(n)\n", "Buggy code: Corrected code:\n```python\n")  # fmt: skip
COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
}
GQA = COMMON | {"num_key_value_heads": 2}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
MOE = GQA | {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", GQA),
    "llama-tied": ("llama", GQA | {"tie_word_embeddings": True}),
    "llama-biases": ("llama", GQA | {"attention_bias": True, "mlp_bias": True}),
    "llama-fp16": ("llama", GQA),
    "llama-bf16": ("llama", GQA),
    "llama-sharded": ("llama", GQA),
    "qwen2": ("qwen2", GQA),
    "qwen2-tied": ("qwen2", GQA | {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", GQA | {"head_dim": 8}),
    "mistral": ("mistral", GQA),
    "gpt2": ("gpt2", GPT),
    "gpt_neox": ("gpt_neox", COMMON),
    "gpt_bigcode": ("gpt_bigcode", GPT),
    "opt": ("opt", {"hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 512}),
    "falcon": ("falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "phi": ("phi", COMMON),
    "phi3": ("phi3", GQA),
    "gemma2": ("gemma2", GQA | {"head_dim": 8}),
    "gemma3": ("gemma3_text", GQA | {"head_dim": 8}),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "codegen": ("codegen", GPT | {"rotary_dim": 4}),
    "mixtral": ("mixtral", GQA | {"num_local_experts": 2}),
    "qwen2_moe": ("qwen2_moe", MOE | {"shared_expert_intermediate_size": 24}),
    "qwen3_moe": ("qwen3_moe", MOE | {"head_dim": 8}),
    "deepseek_v2": ("deepseek_v2", COMMON | {"moe_intermediate_size": 24, "n_routed_experts": 4, "num_experts_per_tok": 2, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}),
    "starcoder2": ("starcoder2", GQA),
    # linear modules in a list, whose names layers have too
    "gemma3n": ("gemma3n_text", GQA | {"intermediate_size": [48, 48], "head_dim": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 300, "num_kv_shared_layers": 0, "laurel_rank": 4, "altup_num_inputs": 2, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "activation_sparsity_pattern": [0.0, 0.0]}),
    # state-space layers beside attention, on whose output PEFT refuses LoRA
    "falcon_h1": ("falcon_h1", GQA | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "head_dim": 8}),
}  # fmt: skip
"""Name -> model_type, and fields of its configuration."""
DTYPES = {"llama-fp16": "float16", "llama-bf16": "bfloat16"}
"""Type of the saved weights where it is not float32."""
DEFAULTS = {
    "gpt2": ("c_attn",), "gpt_neox": ("query_key_value",), "gpt_bigcode": ("c_attn",), "opt": ("q_proj", "v_proj"),
    "falcon": ("query_key_value",), "phi": ("fc1", "fc2", "q_proj", "v_proj"), "phi3": ("o_proj", "qkv_proj"),
    "bloom": ("query_key_value",), "codegen": ("qkv_proj",), "deepseek_v2": ("kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "q_a_proj", "q_b_proj"),
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
    """The model called `name` in `SMALL`, with a tokenizer beside it; the same bits each time.

    Args:
        folder: Where it is written.
        name: Key of `SMALL`, or coral-tiny, which stays where it is.
        changes: Fields of its configuration.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    if name == "coral-tiny":
        return TINY
    model_type, settings = SMALL[name]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = save_tokenizer(folder)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "initializer_range": 0.3}
    config = CONFIG_MAPPING[model_type](vocab_size=len(tokenizer), **(ids | settings | changes))
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config)
    # transformers sets the row of the padding token to zero: as a row of a tied head it has no direction, and DoRA gives NaN
    torch.nn.init.normal_(model.get_input_embeddings().weight.data[2], std=0.3)
    model.to(getattr(torch, DTYPES.get(name, "float32")))
    model.save_pretrained(str(folder), max_shard_size="40KB" if name == "llama-sharded" else "1GB")
    return folder


def chat_model(folder: Path, chat_template: str) -> Path:
    """A small Llama whose turns end with a token that no file names as an end token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_model(folder, "llama", initializer_range=0.3)  # logits that an adapter can move
    tokens = AutoTokenizer.from_pretrained(str(folder))
    tokens.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokens.chat_template = chat_template
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    model.resize_token_embeddings(len(tokens))
    model.save_pretrained(str(folder))
    tokens.save_pretrained(str(folder))
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file in place."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
