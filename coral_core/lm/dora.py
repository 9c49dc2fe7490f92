"""DoRA without the adapted weight matrix: a forward pass that computes the norms of its rows from the low-rank factors.

PEFT builds W + sBA of every adapted module in every forward pass to take its row norms: a multiplication by a unit matrix and
several passes over tensors of the size of W. The same norms follow from tensors of rank r:

    |w_i + s b_i A|^2 = |w_i|^2 + 2 s (A w_i) . b_i + s^2 b_i (A A^T) b_i

The modules, their parameters, and what is saved stay PEFT's. Source: DoRA (https://arxiv.org/abs/2402.09353), section 4.3:
norms are constants in the backward pass.
"""

from typing import Any

import torch
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.variants import DoraLinearVariant
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import transpose
from torch import Tensor
from torch.nn import Identity

_ADAPTER = "default"


def use_factored_norms(model: torch.nn.Module, are_constant: bool = False) -> None:
    """Let every DoRA module of a PEFT model compute by this forward pass.

    Args:
        model: A model from `peft.get_peft_model`, changed in place; modules without DoRA are left as they are.
        are_constant: Whether the adapter stays as it is from now on, so that its norms are computed once.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer) and type(module.lora_variant.get(_ADAPTER)) is DoraLinearVariant:
            module.lora_variant[_ADAPTER] = FactoredDora(module, are_constant)


class FactoredDora(DoraLinearVariant):  # type: ignore[misc]  # PEFT has no types here
    """The DoRA of one linear module (also Conv1D or quantised), whose weight must not change afterwards.

    Args:
        module: The module that PEFT has put around it.
        is_constant: Whether its adapter does not change either.
    """

    def __init__(self, module: Any, is_constant: bool = False) -> None:
        self._is_constant = is_constant
        self._scale: Tensor | None = None
        with torch.no_grad():
            weight = transpose(dequantize_module_weight(module.get_base_layer()), module.fan_in_fan_out)
            self._squares = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32).square_()

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """The output of the adapted module, (..., outputs).

        Args:
            module: As at the beginning.
            active_adapter: Name of the adapter.
            x: Inputs, (..., inputs).
            result: Outputs of the base module for `x`, (..., outputs).
        """
        a, b = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        layer: DoraLinearLayer = module.lora_magnitude_vector[active_adapter]
        base, scaling = module.get_base_layer(), module.scaling[active_adapter]
        dropout = module.lora_dropout[active_adapter]
        scale = self._scale
        if scale is None:
            scale = layer.weight / self._norms(base, a.detach(), b.detach(), scaling)
            self._scale = scale if self._is_constant else None
        if isinstance(dropout, Identity) or not module.training:
            update = _update(x, a, b, scaling)
            if base.bias is None:
                return scale * (result + update)
            shifted: Tensor = scale * (result - base.bias + update) + base.bias
            return shifted
        x = dropout(x)
        dropped = base(x.to(result.dtype))
        if base.bias is not None:
            dropped = dropped - base.bias
        return torch.addcmul(result + scale * _update(x, a, b, scaling), scale - 1, dropped)

    def _norms(self, base: Any, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        """Norms of the rows of the adapted weight, (outputs,), outside of the graph of gradients."""
        with torch.no_grad():
            projected = base(a.to(_compute_dtype(base, a))).to(a.dtype)
            if base.bias is not None:
                projected = projected - base.bias  # (rank, outputs)
            mixed = (b @ (a @ a.T)).mul_(scaling).add_(projected.T, alpha=2)
            squares = self._squares.add(mixed.mul_(b).sum(1), alpha=scaling)
            norms: Tensor = squares.clamp_min_(torch.finfo(squares.dtype).tiny).sqrt_()
            return norms


def _update(x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """The output of the low-rank update; the scaling is applied where the tensor is narrowest."""
    return torch.nn.functional.linear(torch.nn.functional.linear(x, a) * scaling, b)


def _compute_dtype(base: Any, a: Tensor) -> torch.dtype:
    """The type in which a base module expects its inputs: its own, or that of the adapter where its weights are quantised."""
    weight = base.weight
    return weight.dtype if isinstance(weight, Tensor) and weight.is_floating_point() else a.dtype
