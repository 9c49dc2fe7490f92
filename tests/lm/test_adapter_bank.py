"""Several adapters in one batch: what plain PEFT writes, no bit of a neighbour, and the base model as it was."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from peft import PeftModel  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from coral_core.config.tree import BaseModelConfig, GenerationConfig  # noqa: E402
from coral_core.errors import Infeasible  # noqa: E402
from coral_core.genome import GREEDY, HeavyGenes  # noqa: E402
from coral_core.lm import generation, sampling  # noqa: E402
from coral_core.lm.adapter_bank import AdapterBank, read_adapter  # noqa: E402
from coral_core.lm.engine import TorchBackend  # noqa: E402
from coral_core.lm.requests import AdapterFolder, Entry, GenerationRequest  # noqa: E402
from tests.lm.engine_models import PAIRS, TEXTS, job, training  # noqa: E402
from tests.lm.test_plain_peft import plain  # noqa: E402

pytestmark = pytest.mark.torch
SHAPE = GenerationConfig(batch_size=32, prompt_length=32, bank=True)
LIGHT = GREEDY.model_copy(update={"token_limit": 7})
DRAWN = LIGHT.model_copy(update={"sampling": True, "repetition_penalty": 1.2})
MODULES = {
    "llama-biases": (("q_proj", "v_proj"), ("down_proj", "k_proj", "lm_head"), ("gate_proj", "o_proj", "q_proj")),
    "gpt2": (("c_attn",), ("c_attn", "c_proj"), ("lm_head",)),
}
"""Model -> modules of its adapters; of every adapter some are no target of another one."""
GENES: tuple[dict[str, Any], ...] = (
    {"rank": 1, "adapter": "lora"},
    {"rank": 64, "adapter": "dora"},
    {"rank": 12, "adapter": "lora", "scaling": "rslora"},
    {"rank": 8, "adapter": "dora"},
)


class Case:
    """A model with four adapters."""

    def __init__(self, name: str, folder: Path, out: Path) -> None:
        self.folder = folder
        self.backend = TorchBackend(BaseModelConfig(name=str(folder)))
        self.adapters: list[AdapterFolder] = []
        for number, genes in enumerate(GENES):
            path = out / f"{name}-{number}"
            path.mkdir()
            wanted = job(folder, MODULES[name][number % 3], dropout=0.0, **genes)
            self.backend.train(training(wanted, PAIRS, path))
            self.adapters.append(AdapterFolder(folder=path, heavy=wanted.heavy))

    def entry(self, number: int | None, light: Any = LIGHT, samples: int = 1) -> Entry:
        adapter = None if number is None else self.adapters[number]
        return Entry(adapter=adapter, light=light, samples=samples, seed=number or 0)


def request(*entries: Entry, **changes: Any) -> GenerationRequest:
    settings = {"entries": entries, "prompts": tuple(TEXTS), "shape": SHAPE}
    return GenerationRequest.model_validate(settings | changes)


@pytest.fixture(scope="module", params=sorted(MODULES))
def case(request: Any, zoo: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, zoo(request.param), tmp_path_factory.mktemp("bank"))


def test_each_adapter_writes_what_plain_peft_writes(case: Case) -> None:
    found = case.backend.generate(request(*map(case.entry, (0, 1, None, 2, 3)))).entries
    texts = [written.completions for written in found]
    assert len(set(texts)) == len(texts), "each adapter changes the text"
    for adapter, written in zip(case.adapters, [*texts[:2], *texts[3:]], strict=True):
        assert written == plain(case.folder, adapter.folder, tokens=7)
    bare = case.backend.generate(request(case.entry(None), shape=SHAPE.model_copy(update={"bank": False}))).only()
    assert texts[2] == bare.completions
    assert case.backend.check() == case.backend.checksum


def test_outputs_differ_from_those_of_peft_by_rounding_only(case: Case) -> None:
    loaded = case.backend.loaded
    ids = torch.randint(100, (4, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), loaded.kept():
        held = []
        for folder in case.adapters:
            with loaded.kept():
                held.append(read_adapter(loaded.model, folder) or {})
        bank = AdapterBank(held)
        bank.install(loaded.model)
        bank.use(range(4))
        logits = loaded.model(input_ids=ids).logits
    for number, folder in enumerate(case.adapters):
        base = AutoModelForCausalLM.from_pretrained(str(case.folder), dtype=torch.float32)
        model = PeftModel.from_pretrained(base, str(folder.folder)).eval()
        with torch.inference_mode():
            expected = model(input_ids=ids[number : number + 1]).logits[0]
        assert torch.allclose(logits[number], expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def bits(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[Any, bytes]]:
    """Adapter, prompt, sample and token -> bits of the logits that the token was chosen from."""
    found: dict[Any, bytes] = {}
    original = sampling.choose

    def choose(logits: Any, rows: Any) -> list[int]:
        for values, row in zip(logits, rows, strict=True):
            if row is not None:
                place = (*found["key"][row.entry], row.prompt, row.sample, len(row.written))  # type: ignore[misc]
                found[place] = values.contiguous().view(torch.uint8).numpy().tobytes()
        return original(logits, rows)

    monkeypatch.setattr(generation, "choose", choose)
    yield found


def test_neighbours_change_no_bit(case: Case, bits: dict[Any, Any]) -> None:
    def run(*keys: tuple[int, bool], prompts: Any = tuple(TEXTS)) -> dict[Any, bytes]:
        bits.clear()
        bits["key"] = keys
        entries = [case.entry(number, DRAWN if drawn else LIGHT, 3 if drawn else 1) for number, drawn in keys]
        case.backend.generate(request(*entries, prompts=prompts))
        return {place: value for place, value in bits.items() if place != "key"}

    all_keys = [(number, drawn) for number in range(4) for drawn in (False, True)]
    together = run(*all_keys)
    assert {place[:2] for place in together} == set(all_keys)
    for some in (all_keys[:1], all_keys[3:4], [all_keys[6], all_keys[0], all_keys[3]]):
        found = run(*some)
        assert found == {place: value for place, value in together.items() if place[:2] in some}


def test_more_rows_than_slots_and_more_adapters_than_groups(case: Case) -> None:
    prompts = tuple((f"{number}", f"x = {number} + {text}") for number in range(9) for _, text in TEXTS)
    entries = [case.entry(number) for number in (0, 1, 2, 3)]
    expected = case.backend.generate(request(*entries, prompts=prompts)).entries
    small = SHAPE.model_copy(update={"batch_size": 16})  # two groups for four adapters
    found = case.backend.generate(request(*entries, prompts=prompts, shape=small)).entries
    assert [written.completions for written in found] == [written.completions for written in expected]
    loaded = case.backend.loaded
    known, loaded.independent = loaded.independent, {4: False}  # a machine on which neighbours change bits
    found = case.backend.generate(request(*entries, prompts=prompts)).entries
    loaded.independent = known
    assert [written.completions for written in found] == [written.completions for written in expected]
    odd = SHAPE.model_copy(update={"batch_size": 12})  # no whole groups: one adapter after the other
    found = case.backend.generate(request(*entries, prompts=prompts, shape=odd)).entries
    assert [written.completions for written in found] == [written.completions for written in expected]


def test_an_adapter_that_is_not_finite_fails_the_request_and_leaves_the_base(case: Case, tmp_path: Path) -> None:
    heavy, source = case.adapters[1].heavy, case.adapters[1].folder
    (tmp_path / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    huge = {name: tensor * 1e30 for name, tensor in load_file(source / "adapter_model.safetensors").items()}
    save_file(huge, tmp_path / "adapter_model.safetensors")
    broken = Entry(adapter=AdapterFolder(folder=tmp_path, heavy=heavy), light=LIGHT, seed=0)
    with pytest.raises(Infeasible, match="not finite"):
        case.backend.generate(request(case.entry(0), broken))
    assert case.backend.check() == case.backend.checksum


def test_adapters_of_expert_weights_are_written_one_after_the_other(zoo: Callable[[str], Path], tmp_path: Path) -> None:
    folder = zoo("mixtral")
    backend = TorchBackend(BaseModelConfig(name=str(folder)))
    wanted = job(folder, ("q_proj",), dropout=0.0)
    backend.train(training(wanted, PAIRS, tmp_path))
    entry = Entry(adapter=AdapterFolder(folder=tmp_path, heavy=wanted.heavy), light=LIGHT, seed=0)
    found = backend.generate(request(entry, entry)).entries
    assert found[0].completions == found[1].completions == plain(folder, tmp_path, tokens=7)


def test_genes_that_do_not_fit_are_named(case: Case) -> None:
    heavy = HeavyGenes.model_validate(case.adapters[0].heavy.model_dump() | {"target_modules": ("absent",)})
    wrong = Entry(adapter=AdapterFolder(folder=case.adapters[0].folder, heavy=heavy), light=LIGHT, seed=0)
    with pytest.raises(Infeasible, match="absent"):
        case.backend.generate(request(case.entry(1), wrong))
