"""Keys and values of attention in buffers of fixed shape, behind the interface of transformers' `Cache`.

transformers' `DynamicCache` copies all keys and values at each token, and its `StaticCache` writes all rows at one position.
Here each row has its own position, so that a row can start while others are half-way.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

KeysValues = dict[int, tuple[Tensor, Tensor]]
"""Layer -> keys and values; both have the shape (heads, tokens, size of a head), or that with rows in front."""


class PromptCache(Cache):  # type: ignore[misc]
    """Keeps the keys and values of one forward pass over the ends of prompts.

    Args:
        prefix: Keys and values, (1, heads, tokens, size), of tokens that stand before the ends of all prompts.
    """

    def __init__(self, prefix: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self.prefix = prefix
        self.written: KeysValues = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.written[layer_idx] = (key_states, value_states)
        if layer_idx not in self.prefix:
            return key_states, value_states
        keys, values = (part.expand(key_states.shape[0], -1, -1, -1) for part in self.prefix[layer_idx])
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.prefix[layer_idx][0].shape[2] if layer_idx in self.prefix else 0


class SlotCache(Cache):  # type: ignore[misc]
    """Keys and values of up to `slots` sequences. Token n of a sequence is always in column n of its slot.

    Args:
        slots: Sequences at most.
        width: Tokens of a sequence at most.
    """

    def __init__(self, slots: int, width: int) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self._slots, self._width = slots, width
        self._buffers: KeysValues = {}
        self._rows = self._columns = torch.zeros(0, dtype=torch.long)
        self._seen = 0

    def put(self, slot: int, *parts: KeysValues) -> None:
        """Write the keys and values of a sequence into a slot, one part after the other."""
        for layer in parts[-1]:
            if layer not in self._buffers:
                # zeros: what was never written is multiplied by 0 in attention, and must be finite
                self._buffers[layer] = tuple(  # type: ignore[assignment]
                    part.new_zeros(self._slots, part.shape[-3], self._width, part.shape[-1])
                    for part in parts[-1][layer]
                )
            for place, buffer in enumerate(self._buffers[layer]):
                start = 0
                for part in parts:
                    if part:
                        tokens = part[layer][place]
                        buffer[slot, :, start : start + tokens.shape[-2]] = tokens
                        start += tokens.shape[-2]

    def move(self, slots: list[int]) -> None:
        """Put the sequences of `slots` into the first slots, in this order."""
        for buffers in self._buffers.values():
            for buffer in buffers:
                buffer[: len(slots)] = buffer[slots]

    def at(self, columns: Tensor, seen: int) -> "SlotCache":
        """Prepare the next forward pass.

        Args:
            columns: (rows,) column of the token that each of the first rows reads next.
            seen: Columns that attention reads.
        """
        if columns.shape != self._rows.shape:
            self._rows = torch.arange(columns.shape[0], device=columns.device)
        self._columns, self._seen = columns, seen
        return self

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self._buffers[layer_idx]
        rows = key_states.shape[0]
        keys[self._rows, :, self._columns] = key_states[:, :, 0]
        values[self._rows, :, self._columns] = value_states[:, :, 0]
        return keys[:rows, :, : self._seen], values[:rows, :, : self._seen]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return max(self._seen - 1, 0)
