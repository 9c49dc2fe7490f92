"""Batched generation with a KV cache at fixed shapes.

Every batch has `batch_size` rows and `prompt_length` columns (short ones are padded), so
that a row's bits do not depend on its neighbours. Sampling draws from a stream of its
own per row, seeded by (job seed, problem, sample): batches and order change nothing.
"""

import hashlib
import time
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from coral_core.config.tree import GenerationConfig
from coral_core.errors import BaseModelError, ConfigError, Infeasible
from coral_core.genome import LightGenes
from coral_core.jobs.jobs import Cost
from coral_core.lm.loaded_model import LoadedModel, memory_is_evidence, peak_memory_mb
from coral_core.lm.requests import Generated, GenerationRequest

Done = Callable[[int, tuple[str, ...]], None]
"""Receives the place of a prompt in the request and its completions, one per sample."""


def generate(base: LoadedModel, request: GenerationRequest, done: Done | None = None) -> Generated:
    """Write the completions that `request` asks for.

    Args:
        base: The loaded base model; it is restored afterwards.
        request: Prompts, adapter, light genes, samples per prompt, seed and batch shape.
        done: Called once per prompt, as soon as all its samples are written; in any order of prompts. The texts are provisional
            until `generate` returns: a later error discards them.

    Returns:
        Per prompt, one completion per sample, without special tokens; and the cost.

    Raises:
        AdapterError: the adapter does not load exactly, or does not fit its genes.
        BaseModelError: the logits of the bare base are not finite.
        ConfigError: a prompt is longer than `shape.prompt_length`, or prompt and answer exceed the model's positions.
        Infeasible: memory ran out, or the logits of the adapted model are not finite.
    """
    started, cpu = time.perf_counter(), time.process_time()
    shape, light, samples = request.shape, request.light, request.samples
    rows = [
        (key, number, base.encode(text, request.add_bos)) for key, text in request.prompts for number in range(samples)
    ]
    longest = max((len(ids) for _, _, ids in rows), default=0)
    if longest > shape.prompt_length:
        raise ConfigError(
            f"generation.prompt_length {shape.prompt_length} is too short: a prompt has {longest} tokens. Raise it to {longest}."
        )
    base.check_length(longest + light.token_limit, "genes.light.token_limit")
    texts: list[str] = []
    tokens = 0
    with memory_is_evidence("generation"), base.merged(request.adapter) as model, torch.inference_mode():
        for start in range(0, len(rows), shape.batch_size):
            batch = rows[start : start + shape.batch_size]
            ids, mask = _prompt_tensors(base, [row[2] for row in batch], shape)
            streams = None
            if light.sampling:
                streams = [_stream(request.seed, key, number, light.token_limit) for key, number, _ in batch]
            written = _decode(base, model, ids, mask, request, streams, len(batch))
            tokens += sum(map(len, written))
            finished = len(texts) // samples
            texts += [_text(base, row, request.stop) for row in written]
            if done is not None:
                for prompt in range(finished, len(texts) // samples):
                    done(prompt, tuple(texts[prompt * samples : (prompt + 1) * samples]))
    return Generated(
        completions=tuple(tuple(texts[start : start + samples]) for start in range(0, len(texts), samples)),
        cost=Cost(
            seconds=time.perf_counter() - started,
            cpu_seconds=time.process_time() - cpu,
            tokens=tokens,
            peak_memory_mb=peak_memory_mb(base.device),
        ),
    )


def _text(base: LoadedModel, tokens: list[int], stop: tuple[str, ...]) -> str:
    """Decode `tokens` exactly, up to the first text of `stop`.

    The optional clean-up of spaces that tokenizers offer for English would change code.
    """
    text: str = base.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text[: min((text.index(mark) for mark in stop if mark in text), default=len(text))]


def _prompt_tensors(base: LoadedModel, prompts: list[list[int]], shape: GenerationConfig) -> tuple[Tensor, Tensor]:
    """(batch_size, prompt_length) ids and mask, left-padded; rows past the prompts repeat the first."""
    ids = torch.full((shape.batch_size, shape.prompt_length), base.pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row in range(shape.batch_size):
        prompt = prompts[row] if row < len(prompts) else prompts[0]
        ids[row, -len(prompt) :] = torch.tensor(prompt)
        mask[row, -len(prompt) :] = 1
    return ids.to(base.device), mask.to(base.device)


def _stream(seed: int, key: str, number: int, length: int) -> Tensor:
    """`length` uniform numbers in [0, 1) for one sample, seeded by job seed, problem `key` and sample `number`."""
    digest = hashlib.sha256(f"{seed}|{key}|{number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.rand(length, generator=generator, dtype=torch.float64)


def _decode(
    base: LoadedModel,
    model: Any,
    ids: Tensor,
    mask: Tensor,
    request: GenerationRequest,
    streams: list[Tensor] | None,
    used: int,
) -> list[list[int]]:
    """Token ids written by the first `used` rows, without the end token; the other rows only fill the batch."""
    light = request.light
    ends, stop = base.ends_with(request.end), request.stop
    window = max([8, *(len(mark.encode()) + 4 for mark in stop)])
    written: list[list[int]] = [[] for _ in range(used)]
    running = set(range(used))
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    seen: Tensor | None = None
    cache: Any = None
    feed = ids
    for step in range(light.token_limit):
        output = model(
            input_ids=feed,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        logits = output.logits[:, -1].float()
        _must_be_numbers(base, logits[sorted(running)], step, request.adapter is not None)
        if seen is None:
            seen = _seen(ids, mask, ends, logits.shape[-1])
        logits = _penalised(logits, seen, light.repetition_penalty)
        if streams is None:
            chosen = logits.argmax(-1)
        else:
            draws = torch.tensor(
                [float(streams[row][step]) if row < used else 0.0 for row in range(ids.shape[0])], dtype=torch.float64
            )
            chosen = _sample(logits, light, draws.to(ids.device))
        for row, token in enumerate(chosen[:used].tolist()):
            if row not in running:
                continue
            if token in ends:
                running.discard(row)
                continue
            written[row].append(token)
            if stop and any(
                mark in base.tokenizer.decode(written[row][-window:], clean_up_tokenization_spaces=False)
                for mark in stop
            ):
                running.discard(row)
        if not running:
            break
        seen.scatter_(1, chosen[:, None], True)
        feed = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)
        positions = positions[:, -1:] + 1
    return written


def _seen(ids: Tensor, mask: Tensor, ends: Collection[int], vocabulary: int) -> Tensor:
    """(rows, vocabulary): tokens of the prompts, padding left out.

    End tokens count once they are written, and a row ends there. A prompt may hold them as marks (where one token begins and ends
    texts, or in chat templates): a penalty for that would punish stopping from the first token on.
    """
    # scatter_add, not scatter: the padding token may also occur in the prompt, and scatter's order of writes is undefined
    counts = torch.zeros(ids.shape[0], vocabulary, dtype=torch.long, device=ids.device).scatter_add_(1, ids, mask)
    if inside := [token for token in ends if 0 <= token < vocabulary]:
        counts[:, inside] = 0
    return counts > 0


def _must_be_numbers(base: LoadedModel, logits: Tensor, step: int, adapted: bool) -> None:
    """Raise where a row's largest logit is NaN or infinite: choosing a token anyway would give a silent score of 0."""
    if bool(torch.isfinite(logits.amax(-1)).all()):
        return
    if adapted:
        raise Infeasible("diverged", f"generation: the adapted model's outputs are not finite at token {step + 1}")
    raise BaseModelError(
        f"base_model.dtype: {base.config.dtype}: the outputs of {base.config.name} are not finite at token {step + 1}. Try bfloat16 or float32."
    )


def _penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Repetition penalty of Keskar et al. (2019, CTRL): seen tokens' logits are divided (multiplied when negative)."""
    if penalty == 1.0:
        return logits
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _sample(logits: Tensor, light: LightGenes, draws: Tensor) -> Tensor:
    """One token per row: temperature, then top-k, then nucleus (Holtzman et al. 2020), by inverse transform of `draws`."""
    ordered, index = (logits.double() / light.temperature).sort(dim=-1, descending=True, stable=True)
    if light.top_k:
        ordered[:, light.top_k :] = -torch.inf
    shares = ordered.softmax(-1)
    before = shares.cumsum(-1) - shares
    shares = torch.where(before < light.top_p, shares, torch.zeros_like(shares))
    sums = (shares / shares.sum(-1, keepdim=True)).cumsum(-1)
    place = (sums <= draws[:, None]).sum(-1).clamp(max=sums.shape[-1] - 1)
    kept = (shares > 0).sum(-1) - 1
    return index.gather(1, torch.minimum(place, kept)[:, None]).squeeze(1)
