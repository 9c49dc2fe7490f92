"""Adapter folders written by hand, without torch: those of other people, and hostile ones."""

import json
import struct
from pathlib import Path
from typing import Any

FIELDS: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "coral-tiny", "r": 4, "lora_alpha": 8,
    "target_modules": ["q_proj"], "use_dora": False, "bias": "none", "peft_version": "0.18.0", "init_lora_weights": True,
    "modules_to_save": None, "rank_pattern": {}, "lora_dropout": 0.1,
}  # fmt: skip
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "F64": 8}


def tensors(layers: int = 4, rank: int = 4, width: int = 128, module: str = "q_proj", dora: bool = False) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Names and shapes of a LoRA on one kind of module of coral-tiny."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
        shapes |= {f"{name}.lora_A.weight": (rank, width), f"{name}.lora_B.weight": (width, rank)}
        shapes |= {f"{name}.lora_magnitude_vector": (width,)} if dora else {}
    return shapes


def safetensors(shapes: dict[str, tuple[int, ...]], dtype: str = "F32") -> bytes:
    """A safetensors file of zeros."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = SIZES[dtype]
        for number in shape:
            size *= number
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(at)


def write_adapter(folder: Path, shapes: dict[str, tuple[int, ...]] | None = None, dtype: str = "F32", **fields: Any) -> Path:  # fmt: skip
    """An adapter folder; `fields` change its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(FIELDS | fields))
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors() if shapes is None else shapes, dtype))
    return folder
