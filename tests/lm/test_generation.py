"""Within a numerics class, what else is generated changes no bit of a row; sampling is exact; each prompt is reported once."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from coral_core.config.tree import BaseModelConfig, GenerationConfig  # noqa: E402
from coral_core.errors import BaseModelError  # noqa: E402
from coral_core.genome import GREEDY, LightGenes  # noqa: E402
from coral_core.lm import architecture, generation, sampling  # noqa: E402
from coral_core.lm.decoding import Slots, padding_changes_nothing, shapes_for  # noqa: E402
from coral_core.lm.engine import TorchBackend  # noqa: E402
from coral_core.lm.generation import generate  # noqa: E402
from coral_core.lm.loaded_model import LoadedModel  # noqa: E402
from coral_core.lm.requests import Entry, GenerationRequest  # noqa: E402
from tests.lm import engine_models, small_models  # noqa: E402
from tests.lm.small_models import save_model  # noqa: E402

pytestmark = pytest.mark.torch
SAMPLING = LightGenes(temperature=0.9, top_p=0.95, top_k=0, repetition_penalty=1.1, token_limit=9, sampling=True)
SHORT = GREEDY.model_copy(update={"token_limit": 9})
SHAPE = GenerationConfig(batch_size=4, prompt_length=64)
PREFIX = "Fix the bug in this function, please:\n"
TEXTS = [
    ("a", "return a + b"),
    ("b", "def f(x):\n    for n in range(10):\n        print(n, x)\n    return x\n"),
    ("c", PREFIX + "x = 1"),
    ("d", "if n > 2:"),
    ("e", PREFIX + "def add(a, b):\n    return a - b\n"),
    ("f", "print(n)\n"),
    ("g", PREFIX + "while True: pass"),
    ("h", "def f(a, b):\n    return a + b\n"),
]
Bits = dict[tuple[str, int, int], bytes]
"""Prompt, sample and token -> bits of the logits that the token was chosen from."""


def writing(texts: Any, light: LightGenes = SHORT, **changes: Any) -> GenerationRequest:
    entry = Entry(adapter=None, light=light, samples=changes.pop("samples", 1), seed=1)
    settings = {"entries": (entry,), "prompts": tuple(texts), "shape": SHAPE, "prefix": PREFIX}
    return GenerationRequest.model_validate(settings | changes)


def load(config: BaseModelConfig) -> LoadedModel:
    loaded: LoadedModel = TorchBackend(config).loaded
    return loaded


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[dict[str, Any], Bits]]]:
    """Completions of a request, and the bits of all logits on the way."""
    bits: Bits = {}
    keys: list[str] = []
    original = sampling.choose

    def choose(logits: Any, rows: Any) -> list[int]:
        for values, row in zip(logits, rows, strict=True):
            if row is not None:
                place = (keys[row.prompt], row.sample, len(row.written))
                bits[place] = values.contiguous().view(torch.uint8).numpy().tobytes()
        return original(logits, rows)

    monkeypatch.setattr(generation, "choose", choose)

    def run(backend: LoadedModel, request: GenerationRequest) -> tuple[dict[str, Any], Bits]:
        bits.clear()
        keys[:] = [key for key, _ in request.prompts]
        found = generate(backend, request).only()
        return dict(zip(keys, found.completions, strict=True)), dict(bits)

    yield run


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "gemma2", "qwen2", "falcon", "mixtral"])
@pytest.mark.parametrize("light", [SHORT, SAMPLING], ids=["greedy", "sampling"])
def test_neighbours_and_order_change_no_bits(
    zoo: Callable[[str], Path], record: Any, name: str, light: LightGenes
) -> None:
    """Alone, in another order, and put into a slot that another row has left: the logits are equal bit for bit."""
    backend = load(BaseModelConfig(name=str(zoo(name))))
    samples = 2 if light.sampling else 1
    texts, bits = record(backend, writing(TEXTS, light, samples=samples))
    assert len(bits) > len(TEXTS) * samples
    rng = random.Random(name)
    for count in (1, 1, 2, 5, len(TEXTS)):
        some = rng.sample(TEXTS, count)
        found, its = record(backend, writing(some, light, samples=samples))
        assert found == {key: texts[key] for key, _ in some}
        assert its == {place: bits[place] for place in its}, f"{count} of the prompts"


def test_a_type_of_16_bits_is_as_independent(zoo: Callable[[str], Path], record: Any) -> None:
    backend = load(BaseModelConfig(name=str(zoo("llama")), dtype="bfloat16"))
    texts, bits = record(backend, writing(TEXTS))
    for some in (TEXTS[:1], TEXTS[3:6][::-1]):
        found, its = record(backend, writing(some))
        assert found == {key: texts[key] for key, _ in some} and its == {place: bits[place] for place in its}


def test_the_prefix_and_the_size_of_the_batch_change_no_text(zoo: Callable[[str], Path], record: Any) -> None:
    backend = load(BaseModelConfig(name=str(zoo("llama"))))
    texts, _ = record(backend, writing(TEXTS))
    assert record(backend, writing(TEXTS, prefix=""))[0] == texts
    for size in (1, 3, 16):
        shape = SHAPE.model_copy(update={"batch_size": size})
        assert record(backend, writing(TEXTS, shape=shape))[0] == texts
    reads: list[int] = []
    handle = backend.model.register_forward_pre_hook(
        lambda _, __, values: reads.append(values["input_ids"].shape[1]), with_kwargs=True
    )
    record(backend, writing(TEXTS))
    record(backend, writing(TEXTS, prefix=""))
    handle.remove()
    prefix = len(backend.encode(PREFIX)) - 2
    assert reads.count(prefix) == 1, "it is read once"


@pytest.mark.parametrize(
    ("name", "fits"),
    [("llama", True), ("gpt2", True), ("opt", True), ("gemma2", True), ("bloom", False), ("codegen", False)],
)
def test_what_slots_do_not_fit_is_decoded_in_padded_batches(zoo: Callable[[str], Path], name: str, fits: bool) -> None:
    backend = load(BaseModelConfig(name=str(zoo(name))))
    with torch.inference_mode():
        assert (shapes_for(backend.model, backend.pad, 4, 64) is not None) == fits


def test_a_window_that_the_request_exceeds_does_not_fit(zoo: Callable[[str], Path]) -> None:
    backend = load(BaseModelConfig(name=str(zoo("mistral"))))
    backend.model.config.sliding_window = 48
    with torch.inference_mode():
        assert shapes_for(backend.model, backend.pad, 4, 48) and shapes_for(backend.model, backend.pad, 4, 64) is None


def test_a_deep_model_in_bfloat16_is_decoded_in_slots(tmp_path: Path) -> None:
    """Rounding grows with the layers: padding alone moves single logits by a third of their spread."""
    folder = save_model(tmp_path / "deep", "llama", num_hidden_layers=40)
    backend = load(BaseModelConfig(name=str(folder), dtype="bfloat16"))
    with torch.inference_mode():
        assert shapes_for(backend.model, backend.pad, 4, 64) is not None


def test_slots_that_compute_something_else_are_found(
    zoo: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial compares with plain forward passes: a position that is off by one is no rounding."""
    backend = load(BaseModelConfig(name=str(zoo("llama"))))
    original = Slots.step
    monkeypatch.setattr(Slots, "step", lambda self, tokens, columns: original(self, tokens, [n + 1 for n in columns]))
    with torch.inference_mode():
        assert shapes_for(backend.model, backend.pad, 4, 64) is None


def test_each_prompt_is_reported_once_with_its_completions(zoo: Callable[[str], Path]) -> None:
    backend = load(BaseModelConfig(name=str(zoo("llama"))))
    for light, samples in ((SHORT, 1), (SAMPLING, 3)):
        reported: dict[int, tuple[str, ...]] = {}

        def done(entry: int, place: int, texts: tuple[str, ...]) -> None:
            assert entry == 0 and place not in reported  # noqa: B023
            reported[place] = texts  # noqa: B023

        found = generate(backend, writing(TEXTS, light, samples=samples), done).only()
        assert [reported[place] for place in range(len(TEXTS))] == list(found.completions)
        assert all(len(texts) == samples for texts in found.completions)
    assert generate(backend, writing([])).only().completions == ()


def test_a_stop_text_ends_a_row_wherever_its_characters_lie(zoo: Callable[[str], Path]) -> None:
    backend = load(BaseModelConfig(name=str(zoo("llama"))))
    long = GREEDY.model_copy(update={"token_limit": 24})
    for _, text in TEXTS[:4]:
        full = generate(backend, writing([("a", text)], long)).only().completions[0][0]
        for start in range(2, len(full) - 3, 5):
            mark = full[start : start + 3]
            if "\ufffd" in mark:
                continue
            found = generate(backend, writing([("a", text)], long, stop=(mark,))).only().completions[0][0]
            assert found == full[: full.index(mark)]


@pytest.mark.parametrize("name", ["llama", "mixtral", "bloom"])
def test_light_genes_of_one_request_change_nothing_of_each_other(zoo: Callable[[str], Path], name: str) -> None:
    """Rows of several settings share batches and the reading of prompts, and write what each would alone."""
    backend = load(BaseModelConfig(name=str(zoo(name))))
    penalty, hot = (SHORT.model_copy(update={"repetition_penalty": 1.3}), SAMPLING.model_copy(update={"temperature": 2.0}))  # fmt: skip
    settings = [(SHORT, 1, 1), (SAMPLING, 3, 5), (penalty, 1, 1), (SAMPLING, 2, 6), (hot, 1, 5)]
    settings.append((SHORT.model_copy(update={"token_limit": 40}), 1, 1))  # its cache is wider
    entries = tuple(Entry(adapter=None, light=light, samples=n, seed=seed) for light, n, seed in settings)
    request = writing(TEXTS)
    reported: list[dict[int, tuple[str, ...]]] = [{} for _ in entries]
    found = generate(
        backend, request.model_copy(update={"entries": entries}), lambda entry, place, texts: reported[entry].setdefault(place, texts)
    ).entries  # fmt: skip
    assert len({written.completions for written in found}) == len(entries)
    for entry, written, seen in zip(entries, found, reported, strict=True):
        alone = generate(backend, request.model_copy(update={"entries": (entry,)})).only()
        assert written.completions == alone.completions == tuple(seen[place] for place in range(len(TEXTS)))
        assert written.cost.tokens == alone.cost.tokens


@pytest.mark.parametrize("top_k", [0, 3, 64, 100])
@pytest.mark.parametrize("top_p", [0.5, 0.95, 1.0])
def test_looking_at_the_most_probable_tokens_first_samples_what_sorting_all_gives(top_k: int, top_p: float) -> None:
    generator = torch.Generator().manual_seed(top_k)
    for spread in (0.1, 3.0, 12.0):
        light = SAMPLING.model_copy(update={"top_k": top_k, "top_p": top_p})
        logits = (torch.randn(40, 300, generator=generator) * spread).round(decimals=1)  # many are equal
        draws = torch.rand(40, generator=generator, dtype=torch.float64)
        assert torch.equal(sampling.sample(logits, light, draws), sampling._sample_of_all(logits, light, draws))


def test_sampling_draws_tokens_as_often_as_they_are_probable() -> None:
    light = SAMPLING.model_copy(update={"temperature": 1.0, "top_p": 1.0})
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = torch.cat([shares.log(), torch.full((100,), -40.0)])
    draws = torch.arange(1000, dtype=torch.float64) / 1000
    found = sampling.sample(logits.repeat(1000, 1), light, draws)
    assert [int((found == token).sum()) for token in range(4)] == pytest.approx([500, 300, 150, 50], abs=1)


def test_a_model_that_takes_padding_for_tokens_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MiniMax hands on a state in which the padding counts; its text would be another one, without a word."""
    kinds = ["linear_attention", "full_attention"]
    monkeypatch.setitem(
        small_models.SMALL, "minimax", ("minimax", small_models.MOE | {"head_dim": 8, "layer_types": kinds})
    )
    monkeypatch.setattr(architecture, "COUNTED_OTHERWISE", frozenset())
    backend = TorchBackend(BaseModelConfig(name=str(small_models.save_model(tmp_path / "model", "minimax"))))
    for _ in range(2):
        with pytest.raises(BaseModelError, match="padding on the left changes what it computes"):
            backend.generate(engine_models.writing(None, None))
    assert backend.check() == backend.checksum


@pytest.mark.parametrize("name", ["codegen", "falcon", "falcon_h1", "gemma3n"])
def test_models_that_are_padded_give_what_they_give_without(zoo: Callable[[str], Path], name: str) -> None:
    model = TorchBackend(BaseModelConfig(name=str(zoo(name)))).loaded
    with torch.inference_mode():
        assert padding_changes_nothing(model.model, model.pad)


def test_neighbours_change_no_bits_where_experts_are_padded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gpt-oss has an attention window, so that its prompts are padded, and experts, which multiply the tokens of all rows together."""
    made = small_models.GQA | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}
    monkeypatch.setitem(
        small_models.SMALL, "gpt_oss", ("gpt_oss", made | {"layer_types": ["sliding_attention", "full_attention"]})
    )
    backend = TorchBackend(BaseModelConfig(name=str(small_models.save_model(tmp_path / "model", "gpt_oss"))))
    texts = [
        (str(n), text)
        for n, text in enumerate(("def f(a):", "x = 1", "return", "for n in range(3): pass", "import", "if a:"))
    ]

    def logits_of_the_first(prompts: list[tuple[str, str]]) -> list[Any]:
        seen: dict[int, list[Any]] = {}

        def choosing(logits: Any, rows: Any) -> list[int]:
            for row, values in zip(rows, logits, strict=True):
                if row is not None:
                    seen.setdefault(row.prompt, []).append(values.clone())
            return sampling.choose(logits, rows)

        with monkeypatch.context() as patched:
            patched.setattr(generation, "choose", choosing)
            shape = GenerationConfig(batch_size=6, prompt_length=24)
            backend.generate(engine_models.writing(None, None, prompts=prompts, shape=shape))
        return seen[0]

    alone, together = logits_of_the_first(texts[:1]), logits_of_the_first(texts)
    assert len(alone) == len(together) and all(map(torch.equal, alone, together))
