"""A folder with the header of CodeLlama-7B's weights and no weights: a sparse file of 13.5 GB that takes a few kilobytes.

Its tokenizer is that of coral-tiny.
"""

import json
import math
import shutil
import struct
from pathlib import Path

from coral_core.lm.base_model import TINY

SIZES = {"vocab_size": 32_016, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 16_384}  # fmt: skip


def save_headers(folder: Path, sizes: dict[str, int] = SIZES, dtype: str = "BF16") -> Path:
    """Write config.json and a sparse model.safetensors of a Llama with `sizes`."""
    hidden, wide, words = sizes["hidden_size"], sizes["intermediate_size"], sizes["vocab_size"]
    narrow = hidden * sizes["num_key_value_heads"] // sizes["num_attention_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (words, hidden),
        "lm_head.weight": (words, hidden),
    }
    for layer in range(sizes["num_hidden_layers"]):
        for leaf, shape in (
            ("q", (hidden, hidden)),
            ("k", (narrow, hidden)),
            ("v", (narrow, hidden)),
            ("o", (hidden, hidden)),
        ):
            shapes[f"model.layers.{layer}.self_attn.{leaf}_proj.weight"] = shape
        for leaf, shape in (("gate", (wide, hidden)), ("up", (wide, hidden)), ("down", (hidden, wide))):
            shapes[f"model.layers.{layer}.mlp.{leaf}_proj.weight"] = shape
    item, place, entries = {"BF16": 2, "F32": 4}[dtype], 0, {}
    for name, shape in shapes.items():
        end = place + math.prod(shape) * item
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(entries).encode()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + place)
    for file in TINY.glob("tokenizer*"):
        shutil.copy(file, folder)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **sizes})
    )
    return folder
