"""Chooses the next token of each row from its logits: greedy, or sampled from a stream of random numbers of its own.

What is chosen for a row depends on nothing but its logits, its tokens, its light genes and its stream.
"""

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from coral_core.genome import LightGenes

CANDIDATES = 64
"""Most probable tokens among which sampling looks first; where they do not suffice, the whole vocabulary is sorted."""


@dataclass
class Row:
    """One completion in progress.

    Args:
        entry: Place of the entry in the request; rows of one entry have the same light genes.
        prompt: Place of the prompt in the request.
        sample: Number of the sample.
        light: Light genes.
        seen: Tokens that the repetition penalty applies to; grows with `written`. Unused when the penalty is 1.
        stream: Random numbers, one for each token; None: greedy.
    """

    entry: int
    prompt: int
    sample: int
    light: LightGenes
    seen: set[int] = field(default_factory=set)
    stream: Tensor | None = None
    written: list[int] = field(default_factory=list)


class NotFiniteError(ArithmeticError):
    """The largest logit of a row is NaN or infinite: choosing a token anyway would give a silent score of 0.

    Args:
        token: Number of the token, from 1.
    """

    def __init__(self, token: int) -> None:
        super().__init__(f"not finite at token {token}")


def stream(seed: int, key: str, number: int, length: int) -> Tensor:
    """`length` uniform numbers in [0, 1) for one sample, seeded by job seed, problem `key` and sample `number`."""
    digest = hashlib.sha256(f"{seed}|{key}|{number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.rand(length, generator=generator, dtype=torch.float64)


def penalised_tokens(prompt: Sequence[int], ends: Collection[int]) -> set[int]:
    """Tokens of a prompt that the repetition penalty applies to.

    End tokens count once they are written, and a row ends there. A prompt may hold them as marks (where one token begins and
    ends texts, or in chat templates): a penalty for that would punish stopping from the first token on.
    """
    return set(prompt) - set(ends)


def choose(logits: Tensor, rows: Sequence[Row | None]) -> list[int]:
    """One token per row.

    Args:
        logits: (rows, vocabulary).
        rows: The rows; None: not in use, and its token is 0.

    Raises:
        NotFiniteError: the largest logit of a row in use is not finite.
    """
    largest, best = logits.max(-1)
    changed: dict[int, list[int]] = {}
    for place, (row, value) in enumerate(zip(rows, largest.tolist(), strict=True)):
        if row is not None and not math.isfinite(value):
            raise NotFiniteError(len(row.written) + 1)
        if row is not None and (row.light.sampling or row.light.repetition_penalty != 1.0):
            changed.setdefault(row.entry, []).append(place)
    tokens = [0 if row is None else int(token) for row, token in zip(rows, best.tolist(), strict=True)]
    for places in changed.values():
        used = [row for place in places if (row := rows[place]) is not None]
        light = used[0].light
        part = (logits if len(places) == len(rows) else logits[places]).float()
        part = penalised(part, [row.seen for row in used], light.repetition_penalty)
        if light.sampling:
            draws = [float(row.stream[len(row.written)]) for row in used if row.stream is not None]
            found = sample(part, light, torch.tensor(draws, dtype=torch.float64).to(part.device))
        else:
            found = part.argmax(-1)
        for place, token in zip(places, found.tolist(), strict=True):
            tokens[place] = int(token)
    return tokens


def penalised(logits: Tensor, seen: Sequence[set[int]], penalty: float) -> Tensor:
    """Repetition penalty of Keskar et al. (2019, CTRL): seen tokens' logits are divided (multiplied when negative).

    Args:
        logits: (rows, vocabulary).
        seen: Tokens that were seen, per row.
        penalty: 1 changes nothing.
    """
    if penalty == 1.0 or not any(seen):
        return logits
    rows = [row for row, tokens in enumerate(seen) for _ in tokens]
    place = (
        torch.tensor(rows, device=logits.device),
        torch.tensor([token for tokens in seen for token in tokens], device=logits.device),
    )
    old = logits[place]
    logits = logits.clone()
    logits[place] = torch.where(old > 0, old / penalty, old * penalty)
    return logits


def sample(logits: Tensor, light: LightGenes, draws: Tensor) -> Tensor:
    """One token per row: temperature, then top-k, then nucleus (Holtzman et al. 2020), by inverse transform of `draws`.

    Args:
        logits: (rows, vocabulary), float32.
        light: Temperature, top_k (0: all) and top_p.
        draws: (rows,) numbers in [0, 1), float64.
    """
    vocabulary = logits.shape[-1]
    count = min(max(CANDIDATES, light.top_k + 1), vocabulary)
    index = logits.topk(count, dim=-1).indices.sort(-1).values
    ordered, order = logits.gather(-1, index).sort(dim=-1, descending=True, stable=True)
    index = index.gather(-1, order)
    kept = min(light.top_k or count, count)
    scaled = ordered.double() / light.temperature
    if light.top_k:
        total = scaled[:, :kept].logsumexp(-1, keepdim=True)
    else:
        total = (logits / light.temperature).logsumexp(-1, keepdim=True).double()
    shares = (scaled[:, :kept] - total).exp()
    found = _inverse(shares, light.top_p, draws, index)
    if count == vocabulary:
        return found
    # tokens that equal the last candidate may have been left out, so those above it must suffice
    if light.top_k:
        clear = ordered[:, kept - 1] > ordered[:, -1]
    else:
        clear = (shares * (ordered > ordered[:, -1:])).sum(-1) > light.top_p
    for row in (~clear).nonzero().flatten().tolist():
        found[row] = _sample_of_all(logits[row : row + 1], light, draws[row : row + 1])[0]
    return found


def _sample_of_all(logits: Tensor, light: LightGenes, draws: Tensor) -> Tensor:
    ordered, index = (logits.double() / light.temperature).sort(dim=-1, descending=True, stable=True)
    if light.top_k:
        ordered[:, light.top_k :] = -torch.inf
    return _inverse(ordered.softmax(-1), light.top_p, draws, index)


def _inverse(shares: Tensor, top_p: float, draws: Tensor, index: Tensor) -> Tensor:
    """The token at which the sum of `shares`, in descending order and cut at the nucleus, exceeds the draw."""
    before = shares.cumsum(-1) - shares
    shares = torch.where(before < top_p, shares, torch.zeros_like(shares))
    sums = (shares / shares.sum(-1, keepdim=True)).cumsum(-1)
    place = (sums <= draws[:, None]).sum(-1)
    last = (shares > 0).sum(-1) - 1
    return index.gather(1, torch.minimum(place, last)[:, None]).squeeze(1)
