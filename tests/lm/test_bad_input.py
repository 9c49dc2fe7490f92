"""What does not fit a base model is refused with its reason, and leaves the engine as it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from coral_core.config.config_file import parse_config  # noqa: E402
from coral_core.config.tree import BaseModelConfig  # noqa: E402
from coral_core.errors import AdapterError, BaseModelError, ConfigError  # noqa: E402
from coral_core.lm.engine import TorchBackend  # noqa: E402
from tests.lm import engine_models  # noqa: E402
from tests.lm.engine_models import training, writing  # noqa: E402
from tests.lm.small_models import edit, save_model, save_tokenizer  # noqa: E402

Tensors = dict[str, Any]


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: change(value) if name in key else value for key, value in tensors.items()}


WEIGHTS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "another width": (changed("q_proj.lora_A", lambda tensor: tensor[:, 1:].contiguous()), "fits"),
    "another rank": (changed("q_proj.lora_B", lambda tensor: tensor[:, 1:].contiguous()), "fits"),
    "another type": (changed("q_proj.lora_A", lambda tensor: tensor.half()), "float16"),
    "NaN": (changed("q_proj.lora_A", lambda tensor: tensor * torch.nan), "holds NaN or infinity"),
    "missing": (lambda tensors: dict(list(tensors.items())[1:]), "is missing"),
    "too many": (lambda tensors: tensors | {"base_model.model.more": torch.zeros(2)}, "belongs to no module"),
}
OPTIONS = {
    "use_rslora": True,
    "r": 8,
    "lora_alpha": 1,
    "use_dora": True,
    "alpha_pattern": {"q_proj": 1},
    "target_parameters": ["x"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchBackend, Any, Path]:
    folder = save_model(tmp_path_factory.mktemp("base"), "llama")
    job, out = engine_models.job(folder, ("q_proj", "up_proj")), tmp_path_factory.mktemp("adapter")
    backend = TorchBackend(BaseModelConfig(name=str(folder)))
    backend.train(training(job, engine_models.PAIRS, out))
    return backend, job.heavy, out


def refused(trained: tuple[TorchBackend, Any, Path], words: str) -> None:
    backend, heavy, adapter = trained
    with pytest.raises(AdapterError, match=words) as caught:
        backend.generate(writing(adapter, heavy))
    assert str(adapter) in str(caught.value) and backend.check() == backend.checksum


@pytest.mark.parametrize("case", WEIGHTS)
def test_an_adapter_that_does_not_fit_is_refused(
    trained: tuple[TorchBackend, Any, Path], case: str, tmp_path: Path
) -> None:
    backend, heavy, adapter = trained
    change, words = WEIGHTS[case]
    save_file(change(load_file(adapter / "adapter_model.safetensors")), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    refused((backend, heavy, tmp_path), words)


@pytest.mark.parametrize("key", OPTIONS)
def test_an_option_that_was_not_trained_is_refused(
    trained: tuple[TorchBackend, Any, Path], key: str, tmp_path: Path
) -> None:
    backend, heavy, adapter = trained
    (tmp_path / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    options = json.loads((adapter / "adapter_config.json").read_text()) | {key: OPTIONS[key]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(options))
    refused((backend, heavy, tmp_path), f"{key} is ")


def test_an_adapter_of_another_scaling_is_refused(trained: tuple[TorchBackend, Any, Path]) -> None:
    backend, heavy, adapter = trained
    refused(
        (backend, heavy.model_copy(update={"scaling": "rslora"}), adapter), "use_rslora is False, and True was trained"
    )


def test_weights_of_the_base_that_are_no_numbers_are_the_models_fault(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    backend = TorchBackend(BaseModelConfig(name=str(folder)))
    with pytest.raises(BaseModelError, match="not finite"):
        backend.generate(writing(None, None))


def test_no_new_tokens_are_refused_by_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"genes\.light\.token_limit: range 0\.\.0 is outside"):
        parse_config("", "test", ["genes.light.token_limit={low: 0, high: 0}"])


def test_a_larger_tokenizer_than_the_models_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    tokenizer = save_tokenizer(folder)
    tokenizer.add_tokens([f"token{n}" for n in range(20)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(BaseModelError, match=r"20 tokens beyond the model's 300 embeddings"):
        TorchBackend(BaseModelConfig(name=str(folder)))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"num_attention_heads": 8},
            r"do not fit config\.json, such as model\.layers\.0.*: its shape is \(\d+, \d+\), and",
        ),
        ({"vocab_size": 100}, r"its shape is \(300, 32\), and \(100, 32\) is expected"),
        ({"hidden_act": "unheard"}, r"'unheard' \(a name in its files that transformers does not know"),
    ],
)
def test_what_config_and_weights_disagree_on_is_named(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    folder = save_model(tmp_path, "llama")
    edit(folder / "config.json", lambda data: data.update(changes))
    with pytest.raises(BaseModelError, match=problem) as caught:
        TorchBackend(BaseModelConfig(name=str(folder)))
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("normalizer", {"type": "Lowercase"}),
        ("normalizer", {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}),
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("decoder", None),
    ],
)
def test_a_tokenizer_that_changes_code_is_refused(tmp_path: Path, part: str, value: Any) -> None:
    folder = save_model(tmp_path, "llama")
    edit(folder / "tokenizer.json", lambda data: data.update({part: value}))
    with pytest.raises(BaseModelError, match="its tokenizer does not keep Python text"):
        TorchBackend(BaseModelConfig(name=str(folder)))
