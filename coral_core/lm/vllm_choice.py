"""Chooses the tokens of vLLM's rows as the torch engine does (`coral_core.lm.sampling`), as a logits processor of vLLM.

Light genes, random numbers and the repetition penalty thus mean the same under both engines. vLLM's own penalty would count
the end tokens of chat templates, and its random numbers are others.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from coral_core.lm.sampling import NotFiniteError, Row, choose

PROBE = "probe"
"""Id of the request whose logits show the state of the weights."""


class Chooser:
    """The rows in flight, and where vLLM keeps them in its batch.

    Attributes:
        rows: Id of a request -> its row.
        failure: Set when the logits of a row were not finite; the tokens since then mean nothing.
        probed: Digest of the logits of the last probe.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.failure: NotFiniteError | None = None
        self.probed = ""
        self._places: dict[int, str] = {}

    def move(self, removed: list[int], added: Mapping[int, str], moved: list[tuple[int, int, bool]]) -> None:
        """Follow the places of requests in the batch.

        Args:
            removed: Places that became free.
            added: Place -> id of its new request.
            moved: From, to, and whether the two are swapped; in this order.
        """
        for place in removed:
            self._places.pop(place, None)
        self._places |= added
        for source, target, is_swap in moved:
            one, other = self._places.pop(source, None), self._places.pop(target, None)
            if one is not None:
                self._places[target] = one
            if other is not None and is_swap:
                self._places[source] = other

    def apply(self, logits: Tensor) -> Tensor:
        """Logits (rows, vocabulary) of which the largest is that of the chosen token, for each row."""
        ids = [self._places.get(place, "") for place in range(logits.shape[0])]
        if PROBE in ids:
            row = logits[ids.index(PROBE)].float().cpu().contiguous()
            self.probed = hashlib.sha256(row.numpy().tobytes()).hexdigest()
            return logits
        rows = [self.rows.get(name) for name in ids]
        if not any(rows):  # vLLM tries its sampler when it starts
            return logits
        tokens = [0] * len(rows)
        try:
            tokens = choose(logits, rows)
        except NotFiniteError as error:
            self.failure = error
        logits.fill_(-torch.inf)
        logits[torch.arange(len(rows)), torch.tensor(tokens)] = 0.0
        return logits


def processor_for(chooser: Chooser) -> Any:
    """The class of a logits processor of vLLM that lets `chooser` choose. Requests carry their id as ``extra_args["row"]``."""
    from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

    class Choice(LogitsProcessor):  # type: ignore[misc]
        """Passes vLLM's calls on."""

        def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
            """Nothing is kept: vLLM makes one of this class."""

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: Any) -> None:
            if batch_update is not None:
                chooser.move(
                    list(batch_update.removed),
                    {place: (params.extra_args or {}).get("row", "") for place, params, *_ in batch_update.added},
                    [(one, other, kind is MoveDirectionality.SWAP) for one, other, kind in batch_update.moved],
                )

        def apply(self, logits: Tensor) -> Tensor:
            return chooser.apply(logits)

    return Choice
