"""Training: losses against those of the whole logits, gradient accumulation, gradient checkpointing, batches."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from coral_core.config.tree import BaseModelConfig, TrainingConfig
from coral_core.errors import ConfigError, Infeasible
from coral_core.jobs.jobs import TrainedAdapter, recipe_content
from coral_core.lm import training as module
from coral_core.lm.base_model import TINY
from coral_core.lm.engine import TorchBackend
from coral_core.lm.training import _batches, _logits, _pad
from tests.lm.engine_models import job, training

PAIRS = [(f"<bos>def f(x):\n    return x + {n}<sep>", f"def f(x):\n    return x - {n * n}<eos>") for n in range(8)]
RECIPE = {"steps": 3, "warmup": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def tiny() -> TorchBackend:
    return TorchBackend(BaseModelConfig(name="coral-tiny"))


def _train(
    backend: TorchBackend, out: Path, modules: tuple[str, ...] = ("q_proj", "v_proj"), **recipe: object
) -> TrainedAdapter:
    wanted = job(TINY, modules, dropout=0.0, learning_rate=0.005).model_copy(
        update={"recipe": TrainingConfig.model_validate(RECIPE | recipe), "numerics_class": "equal seeds"}
    )
    # the recipe is part of the digest, and so of the seed: the adapters compared here must begin alike
    wanted = type("Job", (type(wanted),), {"seed": lambda self: 7}).model_validate(wanted.model_dump())
    out.mkdir()
    trained = backend.train(training(wanted, PAIRS, out))
    assert backend.check() == backend.checksum
    return trained


def _losses(trained: TrainedAdapter) -> list[float]:
    return [point.loss for point in trained.losses]


@pytest.mark.parametrize("recipe", [{"micro_batch": 1}, {"micro_batch": 3}, {"checkpointing": True}])
def test_what_saves_memory_gives_the_same_losses(tiny: TorchBackend, tmp_path: Path, recipe: dict[str, object]) -> None:
    plain, saving = _train(tiny, tmp_path / "plain"), _train(tiny, tmp_path / "saving", **recipe)
    assert _losses(saving) == pytest.approx(_losses(plain), rel=1e-4)
    assert saving.cost.tokens == plain.cost.tokens


def test_defaults_leave_old_digests_and_new_values_change_them() -> None:
    assert not {"micro_batch", "checkpointing"} & recipe_content(TrainingConfig()).keys()
    plain = job(TINY, ("q_proj",))
    for change in ({"micro_batch": 2}, {"checkpointing": True}):
        other = plain.model_copy(update={"recipe": plain.recipe.model_copy(update=change)})
        assert other.digest() != plain.digest()


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "gemma2", "cohere", "granite"])
def test_logits_of_the_answers_are_those_of_the_whole_text(name: str) -> None:
    model = _small(name)
    batch = [([1, 5, 9, 3, 7], 2), ([1, 8, 4], 1), ([6, 2, 9, 9, 9, 9, 9, 9, 4], 8)]
    ids, places, labels = _pad(batch, 0, torch.device("cpu"))
    mask = torch.zeros_like(ids)
    for row, (tokens, _) in enumerate(batch):
        mask[row, : len(tokens)] = 1
    whole = model(input_ids=ids, attention_mask=mask).logits.flatten(0, 1)[places]
    torch.testing.assert_close(_logits(model, ids, places), whole, rtol=1e-4, atol=1e-5)
    assert labels.tolist() == [9, 3, 7, 8, 4, 4]
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_a_head_that_is_not_called_on_all_hidden_states_still_gives_the_answers_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _small("llama-tied")
    ids, places, _ = _pad([([1, 5, 9, 3], 2)], 0, torch.device("cpu"))
    expected = _logits(model, ids, places)
    monkeypatch.setattr(type(model), "get_output_embeddings", lambda self: torch.nn.Identity())
    torch.testing.assert_close(_logits(model, ids, places), expected)


def _small(name: str) -> torch.nn.Module:
    """A random model whose logits are scaled or capped after the head, as the architecture does it."""
    import transformers

    torch.manual_seed(3)
    sizes = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    few = {"num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if name == "gpt2":
        config = transformers.GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=32)
        return transformers.GPT2LMHeadModel(config).eval()
    kind, more = {
        "llama-tied": ("Llama", {"tie_word_embeddings": True}),
        "gemma2": ("Gemma2", {"final_logit_softcapping": 0.5, "head_dim": 8}),
        "cohere": ("Cohere", {"logit_scale": 0.25}),
        "granite": ("Granite", {"logits_scaling": 8.0}),
    }[name]
    config = getattr(transformers, f"{kind}Config")(**sizes, **few, **more)
    model: torch.nn.Module = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    return model


def test_an_architecture_without_checkpointing_is_refused(
    tiny: TorchBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tiny.loaded.model), "supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match=r"training.checkpointing: true: .*does not support it"):
        _train(tiny, tmp_path / "out", checkpointing=True)
    assert tiny.check() == tiny.checksum


@pytest.mark.parametrize("steps", [3, module.CHECKED_TOGETHER + 2])
def test_divergence_names_its_step(
    tiny: TorchBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    real, calls = module._gradients, []

    def broken(*arguments: object) -> torch.Tensor:
        calls.append(1)
        loss: torch.Tensor = real(*arguments)  # type: ignore[arg-type]
        return loss * float("nan") if len(calls) == 2 else loss

    monkeypatch.setattr(module, "_gradients", broken)
    with pytest.raises(Infeasible, match=f"the loss was nan at step 2 of {steps}"):
        _train(tiny, tmp_path / "out", steps=steps)


def test_batches_hold_every_example_once_an_epoch() -> None:
    batches = _batches([5, 9, 1, 4, 4, 8], 2, random.Random(1))
    seen = [number for _ in range(24) for number in next(batches)]
    assert sorted(seen) == sorted(list(range(6)) * 8)


def test_first_tokens_have_nothing_that_predicts_them() -> None:
    _, places, labels = _pad([([4, 5, 6], 0)], 0, torch.device("cpu"))
    assert (places.tolist(), labels.tolist()) == ([0, 1], [5, 6])


def test_small_models_of_several_architectures_train(zoo: Callable[[str], Path], tmp_path: Path) -> None:
    backend = TorchBackend(BaseModelConfig(name=str(zoo("gpt2"))))
    trained = _train(backend, tmp_path / "out", ("c_attn",), checkpointing=True, micro_batch=2)
    assert all(loss > 0 for loss in _losses(trained))
