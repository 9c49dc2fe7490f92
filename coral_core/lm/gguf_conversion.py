"""Converts a GGUF file of the Llama architecture to a folder as `save_pretrained` writes it: bfloat16 safetensors, tokenizer.

The result is a function of the file alone: neither torch nor transformers takes part, so their versions change no byte,
and the folder has one content id on every machine. Covered: Llama without biases and with plain rotary positions, and
byte-level BPE with the pre-tokenizer of SmolLM. Dequantisation is that of the package gguf.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coral_core.errors import BaseModelError

NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Module of a layer in GGUF -> in transformers."""
OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
"""Tensors outside the layers, likewise."""
CONTROL = 3
"""Type of special tokens in ``tokenizer.ggml.token_type``."""


def check_reader(what: str) -> None:
    """Raise `BaseModelError` when the package that reads GGUF is not installed; `what` is to be read."""
    if importlib.util.find_spec("gguf") is None:
        raise BaseModelError(
            f"{what}: reading GGUF needs the package gguf, which is not installed",
            remedy="Run: pip install 'coral-x[smollm2]'.",
        )


def convert(gguf: Path, out: Path) -> None:
    """Convert a model.

    Args:
        gguf: The file. Its content is trusted: the caller compares its checksum.
        out: An existing folder; files of the same names are overwritten.

    Raises:
        BaseModelError: the package gguf is not installed, or the file holds another kind of model or tokenizer.
        OSError: a file cannot be read or written.
    """
    check_reader(gguf.name)
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    for key, known in (
        ("general.architecture", "llama"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "smollm"),
    ):
        if fields.get(key) != known:
            raise BaseModelError(
                f"{gguf.name}: {key} {fields.get(key)!r}: only {known} is converted",
                remedy="Give safetensors, as save_pretrained writes them.",
            )
    _write_weights(reader.tensors, fields, out / "model.safetensors")
    tied = not any(tensor.name == "output.weight" for tensor in reader.tensors)
    texts = {
        "config.json": _json(_config(fields, tied)),
        "generation_config.json": _json(_ids(fields, "bos", "eos", "pad")),
        "tokenizer.json": _json(_tokenizer(fields)),
        "tokenizer_config.json": _json(_tokenizer_config(fields)),
        "chat_template.jinja": fields["tokenizer.chat_template"],
    }
    for name, text in texts.items():
        (out / name).write_bytes(text.encode())


def _write_weights(tensors: Any, fields: dict[str, Any], file: Path) -> None:
    """Write a safetensors file by hand: the library's function for raw bytes changes from version to version."""
    named = sorted((_name(tensor.name), tensor) for tensor in tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in named:
        start, end = end, end + 2 * int(tensor.n_elements)
        shape = [int(n) for n in reversed(tensor.shape)]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in named:
            out.write(_bfloat16(_weights(tensor, fields)).tobytes())


def _weights(tensor: Any, fields: dict[str, Any]) -> NDArray[np.float32]:
    from gguf.quants import dequantize

    weights = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    key = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
    module = tensor.name.split(".")[-2]
    return _half_rotated(weights, fields[key[module]]) if module in key else weights


def _name(gguf: str) -> str:
    """Name in transformers of a tensor of GGUF.

    >>> _name("blk.3.ffn_up.weight")
    'model.layers.3.mlp.up_proj.weight'
    """
    if gguf in OUTSIDE:
        return OUTSIDE[gguf]
    _, layer, module, kind = gguf.split(".")
    return f"model.layers.{layer}.{NAMES[module]}.{kind}"


def _half_rotated(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of a query or key projection in the order of transformers: GGUF has the two halves of a rotation interleaved.

    Args:
        weights: (heads * width, inputs).
        heads: Attention heads of the projection.
    """
    rows, inputs = weights.shape
    swapped = weights.reshape(heads, rows // heads // 2, 2, inputs).swapaxes(1, 2)
    return np.ascontiguousarray(swapped.reshape(rows, inputs))


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of finite float32 values rounded to bfloat16: to nearest, ties to even.

    >>> [hex(n) for n in _bfloat16(np.array([1.0, 1.00390625, 1.01171875], dtype=np.float32))]
    ['0x3f80', '0x3f80', '0x3f82']
    """
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _config(fields: dict[str, Any], tied: bool) -> dict[str, Any]:
    heads, width = fields["llama.attention.head_count"], fields["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "head_dim": width // heads,
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": fields["llama.feed_forward_length"],
        "max_position_embeddings": fields["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": fields["llama.block_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        # stored as float32, of which the shortest decimal is the value that was meant
        "rms_norm_eps": float(str(np.float32(fields["llama.attention.layer_norm_rms_epsilon"]))),
        "rope_theta": fields["llama.rope.freq_base"],
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "vocab_size": fields["llama.vocab_size"],
        **_ids(fields, "bos", "eos", "pad"),
    }


def _ids(fields: dict[str, Any], *marks: str) -> dict[str, int]:
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    return {f"{mark}_token_id": fields[f"tokenizer.ggml.{names[mark]}_token_id"] for mark in marks}


def _tokenizer(fields: dict[str, Any]) -> dict[str, Any]:
    """The content of tokenizer.json. SmolLM splits numbers into digits before the bytes are mapped."""
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": n, "content": token, **flags}
            for n, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind == CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: n for n, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]],
        },
    }


def _tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    marks = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    tokens = fields["tokenizer.ggml.tokens"]
    return {
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{mark}_token": tokens[fields[f"tokenizer.ggml.{name}_token_id"]] for mark, name in marks.items()},
    }


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
