"""Several adapters on one base model at once, LoRA and DoRA of any rank and modules mixed, beside its weights.

The rows of a batch come in groups, and each group has an adapter. Every adapted module multiplies all rows by its weight once,
and each group by the factors of its adapter, filled up with zeros to one rank: two batched products. DoRA adds one scale per
output column. Which other adapters there are, and how many groups, changes no bit of a row where `is_independent` says so.

Source: S-LoRA (https://arxiv.org/abs/2311.03285) for LoRA. Not covered: fused expert weights.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from coral_core.lm.adapters import attach
from coral_core.lm.decoding import HEAD_ROWS, PROMPT_TOKENS
from coral_core.lm.dora import FactoredDora, use_factored_norms
from coral_core.lm.requests import GROUP, AdapterFolder

_NAME = "default"
_RANKS = 8
"""Ranks are filled up to multiples of this."""


class _Factors(NamedTuple):
    """What one adapter does in one module."""

    a: Tensor
    """(inputs, rank)"""
    b: Tensor
    """(rank, outputs), multiplied by alpha over rank."""
    scale: Tensor | None
    """(outputs,) of DoRA; None for LoRA."""


Adapter = dict[str, _Factors]
"""Module -> factors."""


class AdapterBank:
    """Adapters that `install` puts on a model.

    Args:
        adapters: What `read_adapter` gives, in the order of their numbers.
    """

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self._adapters = adapters
        self._modules: list[_BankedModule] = []

    def install(self, model: nn.Module) -> None:
        """Put all adapters on a bare model. Use it within `LoadedModel.kept`, which removes them again."""
        names = sorted({name for adapter in self._adapters for name in adapter})
        for name in names:
            module = _BankedModule(model.get_submodule(name), [adapter.get(name) for adapter in self._adapters])
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, module)
            self._modules.append(module)

    def use(self, owners: Sequence[int]) -> None:
        """Set the adapter of each group of the next forward passes; all groups have as many rows."""
        chosen = tuple(owners)
        for module in self._modules:
            module.use(chosen)


class _BankedModule(nn.Module):
    """A linear module with the factors of all adapters."""

    def __init__(self, base: Any, factors: Sequence[_Factors | None]) -> None:
        super().__init__()
        self.base = base
        known = [(number, each) for number, each in enumerate(factors) if each is not None]
        first = known[0][1]
        rank = max(each.a.shape[1] for _, each in known)
        self._a = first.a.new_zeros(len(factors), first.a.shape[0], rank + -rank % _RANKS)
        self._b = first.b.new_zeros(len(factors), self._a.shape[2], first.b.shape[1])
        self._scale = self._shift = None
        if any(each.scale is not None for _, each in known):
            self._scale = first.a.new_ones(len(factors), 1, self._b.shape[2])
            if base.bias is not None:
                self._shift = torch.zeros_like(self._scale)
        for number, each in known:
            self._a[number, :, : each.a.shape[1]] = each.a
            self._b[number, : each.b.shape[0]] = each.b
            if each.scale is not None and self._scale is not None:
                self._scale[number, 0] = each.scale
                if self._shift is not None:  # DoRA scales what is multiplied, and not the bias
                    self._shift[number, 0] = base.bias * (1 - each.scale)
        self._owners: tuple[int, ...] = ()
        self._now: tuple[Tensor | None, ...] = ()

    def use(self, owners: tuple[int, ...]) -> None:
        """Set the adapters of the groups."""
        if owners != self._owners:
            chosen = torch.tensor(owners, device=self._a.device)
            parts = (self._a, self._b, self._scale, self._shift)
            self._owners, self._now = owners, tuple(None if part is None else part[chosen] for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, (rows, tokens, outputs), for inputs (rows, tokens, inputs)."""
        a, b, scale, shift = self._now
        assert a is not None and b is not None
        result: Tensor = self.base(x)
        groups = len(self._owners)
        inner = torch.bmm(x.reshape(groups, -1, x.shape[-1]).to(a.dtype), a)
        grouped = torch.baddbmm(result.reshape(groups, -1, result.shape[-1]).to(a.dtype), inner, b)
        if scale is not None:
            grouped = grouped * scale if shift is None else torch.addcmul(shift, grouped, scale)
        return grouped.reshape(result.shape).to(result.dtype)


def read_adapter(model: nn.Module, folder: AdapterFolder | None) -> Adapter | None:
    """The factors of an adapter, which must load exactly; the model must be restored afterwards.

    Args:
        model: The bare base model.
        folder: The adapter; None: no adapter.

    Returns:
        Its factors; None if it changes a module that is not linear.

    Raises:
        AdapterError: as `coral_core.lm.adapters.attach`.
    """
    if folder is None:
        return {}
    adapted = attach(model, folder)
    use_factored_norms(adapted, are_constant=True)
    found: Adapter = {}
    for name, module in adapted.base_model.model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        base: Any = module.get_base_layer()
        if not isinstance(base, nn.Linear | Conv1D):
            return None
        variant: Any = module.lora_variant.get(_NAME)
        a, b = module.lora_A[_NAME].weight.detach(), module.lora_B[_NAME].weight.detach()
        scale = variant.scale(module, _NAME).detach() if isinstance(variant, FactoredDora) else None
        found[name] = _Factors(a.T, b.T * module.scaling[_NAME], scale)
    return found


def is_independent(model: nn.Module, most: int) -> bool:
    """Whether other groups and ranks change no bit of a group in the linear modules of `model`, on this machine.

    Args:
        model: The bare base model.
        most: Groups at most.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    kinds = {
        (type(base), _inputs(base), str(base.weight.dtype), base is head): base
        for base in model.modules()
        if isinstance(base, nn.Linear | Conv1D)
    }
    return all(_is_independent(base, most, HEAD_ROWS if base is head else PROMPT_TOKENS) for base in kinds.values())


def _is_independent(base: Any, most: int, rows: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    dtype = base.weight.dtype if base.weight.is_floating_point() else torch.float32

    def drawn(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(base.weight.device)

    x = drawn(most * rows, _inputs(base)).to(dtype)
    result = base(x)
    if any(not torch.equal(base(x[: count * rows]), result[: count * rows]) for count in (1, 3)):
        return False
    few = drawn(1, x.shape[1], _RANKS), drawn(1, _RANKS, result.shape[1])
    many = drawn(most, x.shape[1], 8 * _RANKS), drawn(most, 8 * _RANKS, result.shape[1])
    for wide, narrow in zip(many, few, strict=True):
        wide[:1] = 0
        wide[:1, : narrow.shape[1], : narrow.shape[2]] = narrow
    for size in (GROUP, rows):
        inputs, outputs = x[: most * size].float(), result[: most * size].float()
        alone = torch.baddbmm(outputs[None, :size], torch.bmm(inputs[None, :size], few[0]), few[1])
        inputs, outputs = inputs.view(most, size, -1), outputs.view(most, size, -1)
        if not torch.equal(torch.baddbmm(outputs, torch.bmm(inputs, many[0]), many[1])[:1], alone):
            return False
    return True


def _inputs(base: Any) -> int:
    return int(base.nx if isinstance(base, Conv1D) else base.in_features)
