"""An adapter of somebody else: what is read of it, what is refused and why, before any model is loaded."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from coral_core.config.tree import BaseModelConfig
from coral_core.errors import ConfigError
from coral_core.lm.base_model import identify
from coral_core.lm.given_adapter import _tied_heads, check_base, decoding_of, read_given_adapter
from coral_core.lm.model_files import Tensor
from tests.lm.adapter_files import tensors, write_adapter

TINY = BaseModelConfig(name="coral-tiny")
CONTENT = identify(TINY).content_id


def test_a_lora_of_others_is_read_from_its_tensors(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", dtype="BF16", target_modules=".*q_proj$", unknown_later_field=None)
    found = read_given_adapter(folder, TINY)
    assert (found.heavy.rank, found.heavy.alpha, found.heavy.target_modules) == (4, 8, ("q_proj",))
    assert found.parameters == 4 * 4 * 256 and len(found.modules) == 4
    check_base(found, TINY, CONTENT)
    other = read_given_adapter(write_adapter(tmp_path / "b", dtype="BF16", lora_alpha=16), TINY)
    assert found.digest(CONTENT) != other.digest(CONTENT), "another scale is another adapter"
    assert found.digest(CONTENT) != found.digest("other base")
    again = read_given_adapter(write_adapter(tmp_path / "c", dtype="BF16", peft_version="9", lora_dropout=0.5), TINY)
    assert again.digest(CONTENT) == found.digest(CONTENT), "nothing that changes its output"


def test_dora_and_links_as_in_the_hubs_cache(tmp_path: Path) -> None:
    blobs = write_adapter(tmp_path / "blobs", tensors(dora=True), use_dora=True, use_rslora=True)
    (tmp_path / "snapshot").mkdir()
    for file in blobs.iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    found = read_given_adapter(tmp_path / "snapshot", TINY)
    assert found.heavy.adapter == "dora" and found.heavy.scaling == "rslora"
    assert found.parameters == 4 * (4 * 256 + 128)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"peft_type": "LOHA"}, "of the type LOHA, and only LoRA and DoRA"),
        ({"peft_type": ["LORA"]}, "of the type"),
        ({"task_type": "SEQ_CLS"}, "task SEQ_CLS"),
        ({"bias": "all"}, "trains biases too"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16 .*changes the weights of the base"),
        ({"init_lora_weights": 1}, "begins as 1"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "uses rank_pattern"),
        ({"layers_to_transform": [0]}, "uses layers_to_transform"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "uses target_parameters"),
        ({"a_field_of_2031": {"x": 1}}, "uses a_field_of_2031"),
        ({"use_dora": 1}, "use_dora 1, which is neither"),
        ({"use_dora": True}, "lacks lora_magnitude_vector"),
        ({"r": 8}, "rank 4 on .* and 8 in its configuration"),
        ({"r": "4"}, "has r 4, which is no positive whole number"),
        ({"lora_alpha": -1}, "has lora_alpha -1"),
        ({"lora_alpha": True}, "has lora_alpha True"),
        ({"target_modules": ["v_proj"]}, "which its target_modules do not name"),
        ({"target_modules": None}, "names no target_modules"),
        ({"base_model_name_or_path": {"a": 1}}, "base_model_name_or_path .*no name"),
        ({"base_model_name_or_path": "a\x1b[2Jb"}, "no name"),
    ],
)
def test_what_the_engine_does_not_have_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as refused:
        read_given_adapter(write_adapter(tmp_path / "a", **fields), TINY)
    assert str(tmp_path / "a") in str(refused.value).splitlines()[0] and "\x1b" not in str(refused.value)


def embedding(name: str) -> dict[str, tuple[int, ...]]:
    return {name: (4, 128)}


@pytest.mark.parametrize(
    ("shapes", "dtype", "text"),
    [
        (tensors(rank=3), "F32", "rank 3"),
        ({}, "F32", "holds no tensor"),
        (tensors(), "I8", "as I8; only F32, F16, BF16"),
        (tensors(dora=True), "F32", "has lora_magnitude_vector"),
        (embedding("base_model.model.model.embed_tokens.lora_embedding_A"), "F32", "no LoRA on a linear module"),
        (embedding("base_model.model.lm_head.weight"), "F32", "no LoRA on a linear module"),
        ({**tensors(), "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": (128, 5)}, "F32", "no LoRA of a matrix"),
        (dict(list(tensors().items())[:-1]), "F32", "lacks lora_B"),
    ],
)  # fmt: skip
def test_tensors_that_are_no_lora_are_refused(tmp_path: Path, shapes: Any, dtype: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        read_given_adapter(write_adapter(tmp_path / "a", shapes, dtype), TINY)


def test_folders_that_are_none(tmp_path: Path) -> None:
    def refused(path: Path, text: str) -> None:
        with pytest.raises(ConfigError, match=text):
            read_given_adapter(path, TINY)

    refused(tmp_path / "none", "there is no such folder")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "is no folder")
    refused(tmp_path, "holds no adapter_config.json")
    folder = write_adapter(tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    refused(folder, "^/[^ ]*/a/adapter_model.safetensors: not a safetensors file")
    weights.write_bytes(b"\xff" * 64)
    refused(folder, "not a safetensors file")
    weights.unlink()
    refused(folder, "holds no weights")
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    refused(folder, r"its weights are a pickle \(adapter_model.bin\), which can run code")
    os.mkfifo(weights)
    refused(folder, "a FIFO, not a file")
    for text in ("[]", "{", '{"peft_type": "LORA", "peft_type": "LORA"}', "x" * (2 << 20)):
        (folder / "adapter_config.json").write_text(text)
        refused(folder, "adapter_config.json: cannot be read")


def test_an_adapter_of_another_base_is_refused_with_both_names(tmp_path: Path) -> None:
    def refused(base: BaseModelConfig, text: str, *, same: bool = False, **fields: Any) -> None:
        shapes = fields.pop("shapes", None)
        found = read_given_adapter(write_adapter(tmp_path / "a", shapes, **fields), base)
        with pytest.raises(ConfigError, match=text):
            check_base(found, base, CONTENT, same)

    named = {"base_model_name_or_path": "codellama/CodeLlama-7b-hf", "revision": "0123456789abcdef"}
    refused(TINY, r"names codellama/CodeLlama-7b-hf \(0123456789ab\), and the base model here is coral-tiny", **named)
    refused(TINY, "names no base model, and the base model here is coral-tiny", base_model_name_or_path=None)
    wide = {"shapes": tensors(width=576), "base_model_name_or_path": "smollm"}
    refused(TINY, "for a matrix of 576 x 576, and coral-tiny has 128 x 128 there.*names smollm", same=True, **wide)
    odd = {"shapes": tensors(module="c_attn"), "target_modules": ["c_attn"]}
    refused(TINY, "is on c_attn, which coral-tiny does not have", **odd)
    refused(TINY, "adapts 2 of the 4 modules of its kinds", shapes=tensors(layers=2))
    fits = read_given_adapter(write_adapter(tmp_path / "b", base_model_name_or_path="my/copy"), TINY)
    check_base(fits, TINY, CONTENT, same_base=True)


def test_a_folder_of_equal_content_is_the_same_base(tmp_path: Path) -> None:
    import shutil

    from coral_core.lm.base_model import TINY as FILES

    copy = tmp_path / "copy"
    shutil.copytree(FILES, copy)
    found = read_given_adapter(write_adapter(tmp_path / "a", base_model_name_or_path=str(copy)), TINY)
    check_base(found, TINY, CONTENT)
    (copy / "config.json").write_text(json.dumps(json.loads((copy / "config.json").read_text()) | {"rms_norm_eps": 1}))
    with pytest.raises(ConfigError, match=r"names .*copy, and the base model here is coral-tiny"):
        check_base(found, TINY, CONTENT)


def test_a_hub_model_is_told_by_name_and_commit(tmp_path: Path) -> None:
    hub = BaseModelConfig(name="owner/Model")
    for revision, fits in ((None, True), ("main", True), ("c0ffee", True), ("bead", False)):
        found = read_given_adapter(
            write_adapter(tmp_path / "a", base_model_name_or_path="Owner/model", revision=revision), hub
        )
        if fits:
            check_base(found, hub, "c0ffee")
        else:
            with pytest.raises(
                ConfigError, match=r"names Owner/model \(bead\), and the base model here is owner/Model \(c0ffee\)"
            ):
                check_base(found, hub, "c0ffee")


def test_decoding_is_read_only_where_it_is_one(tmp_path: Path) -> None:
    file = tmp_path / "generation_config.json"
    assert decoding_of(tmp_path, 96) is None
    file.write_text('{"eos_token_id": 2, "temperature": 9}')
    assert decoding_of(tmp_path, 96) is None, "a base model's own settings"
    file.write_text(
        '{"do_sample": true, "max_new_tokens": 40, "temperature": 0.5, "top_k": 5, "repetition_penalty": 1.1}'
    )
    light = decoding_of(tmp_path, 96)
    assert light is not None and light.sampling and (light.token_limit, light.top_k, light.top_p) == (40, 5, 1.0)
    for text in ("[]", '{"max_new_tokens": -1}', '{"max_new_tokens": 4, "temperature": 1e9}'):
        file.write_text(text)
        with pytest.raises(ConfigError, match="is no decoding"):
            decoding_of(tmp_path, 96)
    file.write_text('{"max_new_tokens": 99999, "num_beams": 1, "eos_token_id": [3], "temperature": null}')
    with pytest.raises(
        ConfigError, match=r"is no decoding \(max_new_tokens 99999: Input should be less than or equal to"
    ):
        decoding_of(tmp_path, 96)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"do_sample": true, "temperature": 0.7, "max_new_tokens": 40}', (True, 0.7, 50, 1.0, 40)),
        ('{"do_sample": true, "temperature": 0.7, "top_k": 0}', (True, 0.7, 0, 1.0, 96)),
        ('{"repetition_penalty": 1.3}', (False, 1.0, 0, 1.3, 96)),
        ('{"do_sample": false, "temperature": 0.0, "max_new_tokens": 40, "num_beams": 1, "min_p": 0.0}', (False, 1.0, 0, 1.0, 40)),
    ],
)  # fmt: skip
def test_decoding_is_what_transformers_would_read(tmp_path: Path, text: str, expected: tuple[Any, ...]) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    light = decoding_of(tmp_path, 96)
    assert light is not None
    assert (light.sampling, light.temperature, light.top_k, light.repetition_penalty, light.token_limit) == expected


@pytest.mark.parametrize(
    "field",
    [
        "num_beams: 4",
        "no_repeat_ngram_size: 1",
        "min_p: 1.0",
        "forced_bos_token_id: 1",
        "forced_bos_token_id: 0",
        "penalty_alpha: 1",
        "token_healing: true",
        "num_beams: true",
    ],
)
def test_a_decoding_that_the_engine_has_not_is_refused(tmp_path: Path, field: str) -> None:
    name, value = field.split(": ")
    (tmp_path / "generation_config.json").write_text(f'{{"max_new_tokens": 40, "{name}": {value}}}')
    with pytest.raises(ConfigError, match=rf"is no decoding \({name} \S+, which the engine does not have"):
        decoding_of(tmp_path, 96)


def test_the_head_of_a_base_with_tied_embeddings_is_one_of_its_modules() -> None:
    held = {
        "model.embed_tokens.weight": Tensor(shape=(50, 8), dtype="F32"),
        "model.layers.0.q_proj.weight": Tensor(shape=(8, 8), dtype="F32"),
    }
    assert _tied_heads({"lm_head": (8, 50), "model.layers.0.q_proj": (8, 8)}, held) == {"lm_head"}
    assert not _tied_heads({"lm_head": (8, 49), "model.layers.0.other": (8, 50)}, held)
