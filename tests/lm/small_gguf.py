"""A small GGUF file as llama.cpp writes SmolLM2: 4-bit weights, byte-level BPE."""

from pathlib import Path

import numpy as np

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("Ġ Ġ", "ĠĠ ĠĠ")


def write_gguf(
    file: Path,
    seed: int = 0,
    tied: bool = True,
    architecture: str = "llama",
    pre: str = "smollm",
    tokenizer: str = "gpt2",
) -> Path:
    """Write a file of two layers with random weights."""
    from gguf import GGMLQuantizationType, GGUFWriter, TokenType
    from gguf.quants import quantize
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*SPECIAL, *alphabet, *(merge.replace(" ", "") for merge in MERGES)]
    width, inner, heads, groups = 64, 96, 4, 2
    writer = GGUFWriter(file, architecture)
    writer.add_block_count(2)
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_rope_freq_base(100_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model(tokenizer)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    kinds = [TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (len(tokens) - len(SPECIAL))
    writer.add_token_types(kinds)
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    random = np.random.default_rng(seed)

    def add(name: str, *shape: int) -> None:
        values = random.normal(0, 0.1, shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, values)
            return
        packed = quantize(values, GGMLQuantizationType.Q4_1)
        writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q4_1)

    add("token_embd.weight", len(tokens), width)
    add("output_norm.weight", width)
    if not tied:
        add("output.weight", len(tokens), width)
    for layer in range(2):
        for name, *shape in (
            ("attn_norm", width), ("ffn_norm", width), ("attn_q", width, width), ("attn_k", width // heads * groups, width),
            ("attn_v", width // heads * groups, width), ("attn_output", width, width), ("ffn_gate", inner, width),
            ("ffn_up", inner, width), ("ffn_down", width, inner),
        ):  # fmt: skip
            add(f"blk.{layer}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
