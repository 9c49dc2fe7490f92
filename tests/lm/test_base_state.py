"""The base model in memory: its checksum finds every change, and a failed request leaves none."""

import hashlib
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM  # noqa: E402

from coral_core.errors import BaseChangedError  # noqa: E402
from coral_core.lm.base_state import BLOCK, BaseState, fingerprint  # noqa: E402
from tests.lm.small_models import save_model  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama-tied"), "llama-tied")


@pytest.fixture
def model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


def sums(tensor: "torch.Tensor") -> str:
    return fingerprint(torch.nn.ParameterList([torch.nn.Parameter(tensor, requires_grad=False)])).checksum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool])
def test_every_single_bit_and_every_exchange_moves_the_checksum(dtype: "torch.dtype") -> None:
    bits = torch.randint(
        0, 2 if dtype == torch.bool else 256, (37 * torch.empty(0, dtype=dtype).element_size(),), dtype=torch.uint8
    )
    tensor = bits.view(dtype)
    before = sums(tensor)
    step = 1 if dtype == torch.bool else 8
    for byte, bit in itertools.product(range(len(bits)), range(step)):
        bits[byte] ^= 1 << bit
        assert sums(tensor) != before, (byte, bit)
        bits[byte] ^= 1 << bit
    view = bits.view(-1, tensor.element_size())
    for one, two in itertools.combinations(range(len(view)), 2):
        if not torch.equal(view[one], view[two]):
            view[[one, two]] = view[[two, one]]
            assert sums(tensor) != before, (one, two)
            view[[one, two]] = view[[two, one]]
    assert sums(tensor) == before


def test_changes_are_found_anywhere_in_a_tensor_of_many_blocks() -> None:
    tensor = torch.zeros(3 * BLOCK["cpu"] + 5)
    before = sums(tensor)
    chance = random.Random(1)
    for place in [
        0,
        BLOCK["cpu"] - 1,
        BLOCK["cpu"],
        len(tensor) - 1,
        *(chance.randrange(len(tensor)) for _ in range(20)),
    ]:
        # the sign alone, the last bit alone; and the same number at another place
        for value in (-0.0, 1e-45):
            tensor[place] = value
            assert sums(tensor) != before
            other = sums(tensor)
            tensor[place] = 0.0
            tensor[(place + BLOCK["cpu"]) % len(tensor)] = value
            assert sums(tensor) not in (before, other)
            tensor[(place + BLOCK["cpu"]) % len(tensor)] = 0.0


def test_a_nan_is_compared_by_its_bits() -> None:
    tensor = torch.full((4,), torch.nan)
    before = sums(tensor)
    assert sums(tensor.clone()) == before
    tensor.view(torch.int32)[2] ^= 1
    assert sums(tensor) != before


def _untie(model: Any) -> None:
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone(), requires_grad=False)


CHANGES: dict[str, Callable[[Any], object]] = {
    "a parameter": lambda model: model.model.layers[1].mlp.up_proj.weight.data[3, 4].add_(1e-7),
    "the tied tensor": lambda model: model.lm_head.weight.data[5, 6].mul_(2),
    "a buffer": lambda model: model.model.rotary_emb.inv_freq[0].add_(1e-3),
    "another tensor with the same bits": _untie,
    "training mode of one module": lambda model: model.model.layers[0].mlp.train(),
    "a trainable parameter": lambda model: model.model.norm.weight.requires_grad_(True),
    "a kept gradient": lambda model: setattr(model.model.norm.weight, "grad", torch.zeros(32)),
    "a hook": lambda model: model.model.layers[0].register_forward_hook(lambda *_: None),
    "an attribute": lambda model: setattr(model, "peft_config", {}),
    "a module more": lambda model: model.model.layers[0].add_module("lora_A", torch.nn.Linear(2, 2)),
    "a module less": lambda model: model.model.layers[0].mlp.__delattr__("up_proj"),
    "a module of another class": lambda model: setattr(model.model.layers[0].mlp, "act_fn", torch.nn.ReLU()),
    "the configuration": lambda model: setattr(model.config, "tie_word_embeddings", False),
    "sampling": lambda model: setattr(model.generation_config, "temperature", 0.1),
    "an epsilon": lambda model: setattr(model.model.norm, "variance_epsilon", 0.5),
    "a dtype": lambda model: model.half(),
    "a buffer of another length": lambda model: model.model.rotary_emb.register_buffer(
        "inv_freq", torch.ones(2), persistent=False
    ),
}
BITS_ONLY = ("a parameter", "the tied tensor", "a buffer")


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_found_and_all_but_written_bits_are_put_back(model: Any, change: str) -> None:
    state = BaseState(model)
    assert state.check() == state.checksum
    CHANGES[change](model)
    with pytest.raises(BaseChangedError, match="is not what was loaded"):
        state.check()
    state.restore()
    if change in BITS_ONLY:  # nothing may write to a loaded tensor, so no copy is kept; the engine is replaced
        with pytest.raises(BaseChangedError):
            state.check()
    else:
        assert state.check() == state.checksum


def test_the_message_names_what_changed(model: Any) -> None:
    state = BaseState(model)
    CHANGES["a parameter"](model)
    with pytest.raises(BaseChangedError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        state.check()


def test_equal_files_give_equal_checksums(folder: Path, model: Any) -> None:
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    assert BaseState(again).checksum == BaseState(model).checksum


def test_the_sums_are_those_of_the_definition() -> None:
    """Against plain Python: words weighted by odd numbers that occur once, modulo 2**64."""
    from coral_core.lm.base_state import _checksums, _weights

    words = torch.randint(-(2**31), 2**31, (300,), dtype=torch.int32, generator=torch.Generator().manual_seed(3))
    weights = _weights(BLOCK["cpu"], torch.device("cpu")).tolist()
    assert len(set(weights)) == BLOCK["cpu"] and all(weight % 2 and 0 < weight < 2**31 for weight in weights)
    total = sum(word * weight for word, weight in zip(words.tolist(), weights, strict=False))
    total = (total + 2**63) % 2**64 - 2**63
    text = f'["torch.int32", [300], [{total}]]'
    assert _checksums([words]) == [hashlib.sha256(text.encode()).hexdigest()]
