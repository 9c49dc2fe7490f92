"""The state of a base model in memory: recorded when it is loaded, restored after each request, and verified.

Adapters are put on the loaded model itself, because a GPU has no room for a second copy of a real model. The changes that
a request makes are therefore undone in one place:

- `BaseState.restore` restores module tree, tensors, flags, hooks, attributes and configurations. It sets references
  and allocates nothing on the device, so it also works after running out of memory. It does not restore the content of a
  tensor, because nothing writes to one (`coral_core.lm.adapters` merges into private copies).
- `BaseState.check` reads every bit of every tensor and all of the structure, and compares with the state after the load.

The checksum finds accidents; it does not resist a constructed collision. It finds every change within one 32-bit word,
and every exchange of two words of one block (`BLOCK`). Any other change is missed with a probability of about 2**-32 or
less. It takes one pass over the memory of the model (`benchmarks/base_checksum.py`).
"""

import copy
import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig

from coral_core.errors import BaseChangedError

BLOCK = {"cpu": 1 << 16, "cuda": 1 << 21}
"""32-bit words that are summed at once: sized for a core's cache, and for 16 MB of GPU memory."""
_SHOWN = 3


class Fingerprint(NamedTuple):
    """Identity of a model in memory: its structure as text, and a checksum per tensor."""

    structure: dict[str, str]
    tensors: dict[str, str]

    @property
    def checksum(self) -> str:
        """One checksum over structure and tensors."""
        return hashlib.sha256(json.dumps([self.structure, self.tensors], sort_keys=True).encode()).hexdigest()

    def differences(self, other: "Fingerprint") -> list[str]:
        """Names of the tensors and modules that differ in `other`."""
        names = []
        for mine, others in ((self.tensors, other.tensors), (self.structure, other.structure)):
            names += [
                name or "the model" for name in sorted(mine.keys() | others) if mine.get(name) != others.get(name)
            ]
        return names


class BaseState:
    """Records the state of a model on construction.

    Args:
        model: The model, just loaded; it is referenced, not copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules = [_Remembered(module) for module in model.modules()]
        settings: dict[int, Any] = {}
        tensors: dict[int, Tensor] = {}
        for module in model.modules():
            settings |= {id(value): value for value in vars(module).values() if _is_settings(value)}
            tensors |= {id(tensor): tensor for _, tensor in _own_tensors(module)}
        for value in list(settings.values()):
            settings |= {id(part): part for part in vars(value).values() if _is_settings(part)}
        self._settings = [(value, _copied(vars(value))) for value in settings.values()]
        self._tensors = [(tensor, tensor.data, tensor.requires_grad) for tensor in tensors.values()]
        self._loaded = fingerprint(model)
        self.checksum = self._loaded.checksum

    def restore(self) -> None:
        """Restore modules, references to tensors, flags and configurations; additions are removed."""
        for remembered in self._modules:
            remembered.restore()
        for tensor, data, trainable in self._tensors:
            tensor.grad = None
            if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape or tensor.stride() != data.stride():
                tensor.data = data
            tensor.requires_grad_(trainable)
        for value, saved in self._settings:
            if vars(value) != saved:
                vars(value).clear()
                vars(value).update(_copied(saved))

    def check(self) -> str:
        """The checksum of the model in memory.

        Raises:
            BaseChangedError: it differs from that of the load; names the tensors and modules.
        """
        now = fingerprint(self._model)
        if now.checksum != self.checksum:
            changed = self._loaded.differences(now)
            more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
            raise BaseChangedError(
                f"the base model in memory is not what was loaded: {', '.join(changed[:_SHOWN])}{more}"
            )
        return self.checksum


def fingerprint(model: nn.Module) -> Fingerprint:
    """Identity of `model`: every bit of its tensors, and all attributes of its modules that affect its output."""
    structure: dict[str, str] = {}
    groups: dict[tuple[Any, ...], tuple[int, Tensor]] = {}
    shown: dict[str, int] = {}
    settings: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        kinds = []
        for key, tensor in _own_tensors(module):
            place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
            group, _ = groups.setdefault(place if tensor.numel() else (id(tensor),), (len(groups), tensor))
            shown[f"{name}.{key}" if name else key] = group
            # two names of one group are tied: writing to one changes the other
            kinds.append(
                (key, group, str(tensor.dtype), tuple(tensor.shape), tensor.requires_grad, tensor.grad is None)
            )
        structure[name] = repr(
            (f"{type(module).__module__}.{type(module).__qualname__}", _attributes(module, settings), kinds)
        )
    sums = _checksums([tensor for _, tensor in groups.values()])
    return Fingerprint(structure, {name: sums[group] for name, group in shown.items()})


class _Remembered:
    """The attributes of a module. Of containers (parameters, buffers, children, hooks) the content is kept too."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._type = type(module)
        self._attributes = dict(vars(module))
        self._held = [
            (value, copy.copy(value)) for value in vars(module).values() if isinstance(value, dict | list | set)
        ]

    def restore(self) -> None:
        if type(self._module) is not self._type:
            self._module.__class__ = self._type
        for container, content in self._held:
            # in place: others may hold a reference to the container
            if isinstance(container, list):
                container[:] = content
            else:
                container.clear()
                container.update(content)
        vars(self._module).clear()
        vars(self._module).update(self._attributes)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters (of 4-bit ones also the scales), buffers and tensors in plain attributes of this module, not of its children."""
    for held in (module._parameters, module._buffers, vars(module)):
        yield from ((key, value) for key, value in held.items() if isinstance(value, Tensor))
    for key, parameter in module._parameters.items():
        scales = getattr(parameter, "quant_state", None)
        if scales is not None:
            yield from ((f"{key}.{name}", value) for name, value in vars(scales).items() if isinstance(value, Tensor))


def _attributes(module: nn.Module, settings: dict[int, str]) -> list[tuple[str, str]]:
    """All attributes of a module: plain values as they are, configurations in full, containers by size, others by type.

    `settings` keeps the text of each configuration: hundreds of modules hold the same one.
    """
    texts = []
    for key, value in sorted(vars(module).items()):
        if key == "_modules":
            text = repr([(name, type(child).__qualname__) for name, child in value.items()])
        elif isinstance(value, str | int | float | bool | None):
            text = repr(value)
        elif _is_settings(value):
            if id(value) not in settings:
                settings[id(value)] = hashlib.sha256(value.to_json_string(use_diff=False).encode()).hexdigest()
            text = settings[id(value)]
        elif isinstance(value, dict | list | set):
            text = f"{type(value).__name__} of {len(value)}"
        else:
            text = type(value).__qualname__
        texts.append((key, text))
    return texts


def _is_settings(value: object) -> bool:
    """True for a configuration of transformers (of the model, or of its generation)."""
    return isinstance(value, PretrainedConfig | GenerationConfig)


def _copied(settings: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a configuration, copied; configurations within it are recorded separately."""
    return {key: part if _is_settings(part) else copy.deepcopy(part) for key, part in settings.items()}


def _checksums(tensors: list[Tensor]) -> list[str]:
    """A checksum of the bits of each tensor: sums of words weighted by their place, block after block.

    A word is read as a signed number x of 32 bits, its weight w is odd, below 2**31 and occurs once in a block; the sum
    of x * w wraps at 64 bits. A change of one word moves the sum by dx * w, an exchange of two by (w1 - w2) * (x1 - x2):
    neither is 0, and both are smaller than 2**63, so that neither can wrap to 0.
    """
    sums: list[list[Tensor]] = []
    with torch.no_grad():
        for tensor in tensors:
            words = _words(tensor.detach())
            block = BLOCK.get(words.device.type, BLOCK["cpu"])
            weights = _weights(block, words.device)
            buffer = torch.empty(min(block, words.numel()), dtype=torch.int64, device=words.device)
            block_sums = []
            for start in range(0, words.numel(), block):
                part = words[start : start + block]
                block_sums.append(buffer[: part.numel()].copy_(part).mul_(weights[: part.numel()]).sum())
            sums.append(block_sums)
        # all at once: reading each value separately would synchronise the GPU each time
        values = {
            device: iter(
                torch.stack([value for block_sums in sums for value in block_sums if value.device == device]).tolist()
            )
            for device in {value.device for block_sums in sums for value in block_sums}
        }
    return [
        hashlib.sha256(
            json.dumps(
                [str(tensor.dtype), list(tensor.shape), [next(values[value.device]) for value in block_sums]]
            ).encode()
        ).hexdigest()
        for tensor, block_sums in zip(tensors, sums, strict=True)
    ]


def _words(tensor: Tensor) -> Tensor:
    """The bits of `tensor` as 32-bit integers, in the order of its elements; filled up with zeros at the end."""
    flat = tensor.reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    size = flat.element_size()
    if size % 4 == 0:
        return flat.contiguous().view(torch.int32)
    data = flat.contiguous().view(torch.uint8)
    if missing := -data.numel() % 4:
        data = torch.cat([data, data.new_zeros(missing)])
    elif data.storage_offset() % 4:
        data = data.clone()
    return data.view(torch.int32)


_WEIGHTS: dict[tuple[int, torch.device], Tensor] = {}


def _weights(block: int, device: torch.device) -> Tensor:
    """Odd numbers below 2**31, each once: multiplication by an odd number permutes the numbers below 2**30."""
    if (block, device) not in _WEIGHTS:
        places = torch.arange(block, dtype=torch.int64, device=device)
        _WEIGHTS[block, device] = (places * 0x2545F491 + 0x1234567) % 2**30 * 2 + 1
    return _WEIGHTS[block, device]
