"""Every architecture of the zoo: adapters that the engine trains are ordinary PEFT adapters, and leave the base as it was.

Of each small random model: LoRA and DoRA, plain and rank-stabilised, on the default modules and on all linear ones. Plain
PEFT on plain transformers, and the code of the model card, write the text that the engine writes.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from coral_core.config.tree import BaseModelConfig, GenerationConfig  # noqa: E402
from coral_core.errors import AdapterError, Infeasible  # noqa: E402
from coral_core.genome import GREEDY  # noqa: E402
from coral_core.lm.engine import TorchBackend  # noqa: E402
from coral_core.lm.requests import AdapterFolder  # noqa: E402
from coral_core.lm.targets import resolve  # noqa: E402
from coral_core.prompting.choice import resolve_prompt  # noqa: E402
from coral_core.report.usage import EXAMPLE  # noqa: E402
from tests.lm.engine_models import training, writing  # noqa: E402
from tests.lm.small_models import DTYPES, SMALL, edit  # noqa: E402
from tests.lm.test_architecture import PAIRS, genes, job  # noqa: E402
from tests.lm.test_plain_peft import plain_with_margins  # noqa: E402
from tests.lm.test_usage import engine_and_card  # noqa: E402

Zoo = Callable[[str], Path]
QUICK = ("phi3", "qwen2_moe")
SLOW = pytest.mark.slow(reason="2 seconds a model; two others are in `make test`")
NAMES = [pytest.param(name, marks=() if name in QUICK else SLOW) for name in SMALL]
PROMPTS = [("a", "def f(a):\n"), ("b", "x = 1\n"), ("c", "return a +"), ("d", "for n in range("), ("e", "import")]
SHAPE = GenerationConfig(batch_size=4, prompt_length=24)
LIGHT = GREEDY.model_copy(update={"token_limit": 12})
TIES = {"float32": 0.0, "float16": 0.01, "bfloat16": 0.05}
"""Margins of a choice, in standard deviations of the logits, below which rounding of another shape may choose otherwise."""
ADAPTERS = (
    {"adapter": "lora", "scaling": "lora", "on": "default"},
    {"adapter": "lora", "scaling": "rslora", "on": "all-linear"},
    {"adapter": "dora", "scaling": "lora", "on": "all-linear"},
    {"adapter": "dora", "scaling": "rslora", "on": "default"},
)


def check(folder: Path, name: str, tmp_path: Path, adapters: Iterable[dict[str, str]]) -> None:
    """Train each of `adapters` on one engine, and compare it with plain PEFT and the card; the base stays as it was."""
    dtype = DTYPES.get(name, "float32")
    backend = TorchBackend(BaseModelConfig.model_validate({"name": str(folder), "dtype": dtype}))

    def texts(adapter: Path | None, heavy: Any = None, merge: bool = True) -> Any:
        shape = SHAPE.model_copy(update={"merge": merge})
        return backend.generate(writing(adapter, heavy, LIGHT, PROMPTS, shape=shape)).only().completions

    bare = texts(None)
    for number, chosen in enumerate(adapters):
        modules = resolve(chosen["on"], backend.identity)
        of_peft = {"adapter": chosen["adapter"], "scaling": chosen["scaling"]}
        heavy = genes(target_modules=modules, learning_rate=0.05, **of_peft)
        adapter = tmp_path / str(number)
        adapter.mkdir()
        backend.train(training(job(backend, folder, heavy), PAIRS, adapter))
        goes_on_with_the_same_weights(backend, folder, adapter, heavy, tmp_path / f"{number}-on")
        expected = plain_with_margins(folder, adapter, dtype, PROMPTS, LIGHT.token_limit)
        for merge in (True, False):
            found = texts(adapter, heavy, merge)
            differ = [margin for (text,), (plainly, margin) in zip(found, expected, strict=True) if text != plainly]
            assert found != bare and all(margin < TIES[dtype] for margin in differ), (chosen, merge, differ)
            assert len(differ) < len(PROMPTS) / 2, (chosen, merge)
        engine, card = engine_and_card(backend, adapter, heavy, LIGHT)
        if card != engine:
            prompt = resolve_prompt(backend.loaded.config, backend.identity.chat).prompt(EXAMPLE)
            ((_, margin),) = plain_with_margins(folder, adapter, dtype, [("card", prompt)], LIGHT.token_limit)
            assert margin < TIES[dtype], (chosen, margin)
    assert texts(None) == bare and backend.check() == backend.checksum
    fresh = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).state_dict()
    kept = backend.loaded.model.state_dict()
    assert kept.keys() == fresh.keys() and all(torch.equal(kept[key], value) for key, value in fresh.items())


def goes_on_with_the_same_weights(backend: TorchBackend, folder: Path, adapter: Path, heavy: Any, out: Path) -> None:
    """Train `adapter` further at a learning rate of nearly nothing: its weights stay, and its options too."""
    out.mkdir()
    later = heavy.model_copy(update={"learning_rate": 1e-15, "warm_start": heavy})
    request = training(job(backend, folder, later), PAIRS, out)
    backend.train(request.model_copy(update={"warm_start": AdapterFolder(folder=adapter, heavy=heavy)}))
    before, after = (load_file(each / "adapter_model.safetensors") for each in (adapter, out))
    assert before.keys() == after.keys() and before
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype and after[name].allclose(tensor, atol=1e-9), name
    assert backend.check() == backend.checksum


@pytest.mark.parametrize("name", NAMES)
def test_plain_peft_and_the_card_write_what_the_engine_writes(zoo: Zoo, name: str, tmp_path: Path) -> None:
    check(zoo(name), name, tmp_path, ADAPTERS)


@pytest.mark.parametrize(
    "name", ["mixtral", *(pytest.param(name, marks=SLOW) for name in ("qwen2_moe", "qwen3_moe", "deepseek_v2"))]
)
def test_fused_experts_are_adapted_as_parameters(zoo: Zoo, name: str, tmp_path: Path) -> None:
    plain_lora, stabilised = ({"adapter": "lora", "scaling": scaling} for scaling in ("lora", "rslora"))
    check(
        zoo(name), name, tmp_path, [plain_lora | {"on": "experts"}, stabilised | {"on": "experts.down_proj+attention"}]
    )
    saved = json.loads((tmp_path / "0" / "adapter_config.json").read_text())
    assert set(saved["target_parameters"]) == {"experts.down_proj", "experts.gate_up_proj"}
    assert saved["target_modules"] == []
    backend = TorchBackend(BaseModelConfig(name=str(zoo(name))))
    heavy = genes(target_modules=("experts.down_proj", "o_proj"))
    for change in ({"adapter": "dora"}, {"dropout": 0.1}):
        with pytest.raises(Infeasible, match=r"experts\.down_proj is no linear module: PEFT puts LoRA without dropout"):
            backend.train(training(job(backend, zoo(name), heavy.model_copy(update=change)), PAIRS, tmp_path))
    edit(tmp_path / "0" / "adapter_config.json", lambda data: data.update(target_parameters=["experts.down_proj"]))
    both = genes(target_modules=("experts.down_proj", "experts.gate_up_proj"))
    with pytest.raises(AdapterError, match="target_parameters is"):
        backend.generate(writing(tmp_path / "0", both, LIGHT, PROMPTS, shape=SHAPE))
    assert backend.check() == backend.checksum


def test_there_are_enough_of_them() -> None:
    assert len(SMALL) >= 18 and {model_type for model_type, _ in SMALL.values()} >= {
        "llama", "qwen2", "qwen3", "mistral", "starcoder2", "phi", "phi3", "gpt_neox", "gpt_bigcode", "opt", "falcon",
        "mixtral", "gemma2", "bloom", "codegen", "gemma3_text", "gpt2", "qwen2_moe",
    }  # fmt: skip
