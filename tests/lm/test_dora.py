"""The forward pass of DoRA by factored norms against PEFT's own: outputs, gradients, and trained adapters."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.variants import DoraLinearVariant
from torch import nn
from transformers.pytorch_utils import Conv1D

from coral_core.lm.dora import FactoredDora, use_factored_norms


class Net(nn.Module):
    """One adapted module of some kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.part = Conv1D(24, 16) if kind == "conv1d" else nn.Linear(16, 24, bias=kind == "bias")
        if kind == "bias":
            nn.init.normal_(self.part.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.part(x)
        return out


def adapted(kind: str, dtype: torch.dtype, scale: float, **options: Any) -> Any:
    """A DoRA that has moved away from its start; `scale` is the size of its factors."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["part"], use_dora=True, **options)
    model = get_peft_model(Net(kind).to(dtype), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=scale)
    return model


def outcome(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradient of the input, and gradients of the adapter."""
    x = x.clone().requires_grad_()
    torch.manual_seed(1)  # the same dropout mask in both
    out = model(x)
    (out.float() ** 2).sum().backward()
    assert x.grad is not None
    return [out.detach(), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kind", ["plain", "bias", "conv1d"])
@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("options", [{}, {"lora_dropout": 0.5}, {"use_rslora": True}], ids=lambda each: "-".join(each))
def test_outputs_and_gradients_are_those_of_peft(kind: str, scale: float, options: dict[str, Any]) -> None:
    theirs = adapted(kind, torch.float32, scale, **options)
    ours = copy.deepcopy(theirs)
    use_factored_norms(ours)
    x = torch.randn(3, 5, 16)
    for mine, expected in zip(outcome(ours, x), outcome(theirs, x), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["plain", "bias"])
def test_a_base_in_bf16_keeps_its_precision(kind: str) -> None:
    theirs = adapted(kind, torch.bfloat16, 0.1)
    ours = copy.deepcopy(theirs)
    use_factored_norms(ours)
    for mine, expected in zip(*(outcome(each, torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(2)).bfloat16()) for each in (ours, theirs)), strict=True):  # fmt: skip
        assert mine.dtype == expected.dtype
        error = (mine.float() - expected.float()).norm() / expected.float().norm()
        assert error < 2**-7, "the rounding of bfloat16"


def test_nothing_else_is_changed() -> None:
    model = adapted("plain", torch.float32, 0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    use_factored_norms(model)
    use_factored_norms(model)
    assert type(model.base_model.model.part.lora_variant["default"]) is FactoredDora
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    lora = get_peft_model(Net("plain"), LoraConfig(r=4, target_modules=["part"]))
    use_factored_norms(lora)
    assert not lora.base_model.model.part.lora_variant, "plain LoRA stays PEFT's"


def test_norms_of_a_constant_adapter_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("bias", torch.float32, 0.1).eval()
    x = torch.randn(3, 5, 16)
    expected = model(x)
    use_factored_norms(model, are_constant=True)
    torch.testing.assert_close(model(x), expected)
    monkeypatch.setattr(FactoredDora, "_norms", lambda *_: pytest.fail("computed again"))
    torch.testing.assert_close(model(x), expected)


def test_the_variant_replaced_is_the_one_that_peft_uses() -> None:
    """A PEFT that organises DoRA otherwise would leave the forward pass slow without a word."""
    model = adapted("plain", torch.float32, 0.0)
    assert type(model.base_model.model.part.lora_variant["default"]) is DoraLinearVariant
