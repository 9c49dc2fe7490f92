"""Trains one LoRA or DoRA adapter in a plain loop, in which every source of randomness is seeded.

The loss is taken on the answer's tokens only. The seed is set before the adapter is initialised. The base model is
restored bit for bit. Not covered: several adapters at once (the packed bank), gradient accumulation, several GPUs.
"""

import math
import random
import time
from collections.abc import Iterator

import torch
from peft import get_peft_model
from torch import Tensor

from coral_core.errors import Infeasible
from coral_core.jobs.jobs import Cost, LossPoint, TrainedAdapter, TrainingJob
from coral_core.lm.adapters import lora_config
from coral_core.lm.base_model import lasting_name, local_path
from coral_core.lm.loaded_model import LoadedModel, memory_is_evidence, peak_memory_mb
from coral_core.lm.requests import TrainingRequest

Encoded = tuple[list[int], int]
"""Token ids of prompt and answer, and how many of them are the prompt."""

PAD_MULTIPLE = 8
WINDOW = 8
"""Batches whose examples are sorted by length together: 1.11 times the tokens instead of 1.49 on the built-in pairs."""
CURVE_POINTS = 30


def train_adapter(base: LoadedModel, request: TrainingRequest) -> TrainedAdapter:
    """Train an adapter and write it as a PEFT folder.

    Args:
        base: The loaded base model; it is restored afterwards.
        request: The job with heavy genes and recipe, pairs of prompt and answer, and the output folder.

    Returns:
        Parameters, loss curve, warnings and cost of the training.

    Raises:
        ConfigError: a pair is longer than the model has positions.
        Infeasible: a target module is missing, no pair fits the sequence length, the loss diverged, or memory ran out.
    """
    job = request.job
    base.check_modules(job.heavy.target_modules)
    encoded = _encode(base, request, job.recipe.sequence_length)
    longest = max(len(ids) for ids, _ in encoded)
    base.check_length(longest + -longest % PAD_MULTIPLE, "training.sequence_length")
    started, cpu = time.perf_counter(), time.process_time()
    if base.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(base.device)
    with memory_is_evidence("training"), base.kept():
        torch.manual_seed(job.seed())
        model = get_peft_model(base.model, lora_config(job.heavy))
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        losses, tokens = _loop(base, model, job, encoded)
        # an absolute path or a commit of the hub, so that the adapter can be used from any folder
        model.peft_config["default"].base_model_name_or_path = lasting_name(base.config)
        model.peft_config["default"].revision = None if local_path(base.config) else base.identity.content_id
        # otherwise PEFT asks the hub whether the vocabulary has grown
        model.save_pretrained(str(request.out), save_embedding_layers=False)
        (request.out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card; the champion gets a real one
    return TrainedAdapter(
        training_digest=job.digest(),
        trainable_parameters=trainable,
        base_parameters=base.identity.parameters,
        examples=len(encoded),
        losses=_curve(losses),
        warnings=_warnings(losses, len(encoded), len(request.pairs)),
        cost=Cost(
            seconds=time.perf_counter() - started,
            cpu_seconds=time.process_time() - cpu,
            peak_memory_mb=peak_memory_mb(base.device),
            tokens=tokens,
        ),
    )


def _encode(base: LoadedModel, request: TrainingRequest, longest: int) -> list[Encoded]:
    encoded = []
    for prompt, answer in request.pairs:
        before, after = base.encode_pair(prompt, answer, request.add_bos)
        if len(before) + len(after) <= longest:
            encoded.append((before + after, len(before)))
    if not encoded:
        raise Infeasible("prompt-too-long", f"no training pair fits into training.sequence_length {longest}: raise it")
    return encoded


def _loop(
    base: LoadedModel, model: torch.nn.Module, job: TrainingJob, encoded: list[Encoded]
) -> tuple[list[float], int]:
    recipe, heavy = job.recipe, job.heavy
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=heavy.learning_rate, weight_decay=recipe.weight_decay)
    batches = _batches([len(ids) for ids, _ in encoded], recipe.batch_size, random.Random(job.seed()))
    losses: list[float] = []
    tokens = 0
    model.train()
    for step in range(recipe.steps):
        batch = [encoded[n] for n in next(batches)]
        ids, labels, mask = _pad(batch, base.pad, base.device)
        warm = min(1.0, (step + 1) / recipe.warmup) if recipe.warmup else 1.0
        decay = min(1.0, (recipe.steps - step) / max(1, recipe.steps - recipe.warmup))
        optimiser.param_groups[0]["lr"] = heavy.learning_rate * warm * decay
        loss = _loss(model, ids, labels, mask)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Infeasible("diverged", f"the loss was {value} at step {step + 1} of {recipe.steps}")
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(value)
        tokens += sum(len(row) for row, _ in batch)
    if not all(bool(torch.isfinite(p).all()) for p in parameters):
        raise Infeasible("diverged", "the adapter's weights are not finite after training")
    return losses, tokens


def _batches(lengths: list[int], size: int, rng: random.Random) -> Iterator[list[int]]:
    """Indices of `size` examples at a time, endlessly; examples of similar length go together, to save padding.

    Sorting is limited to windows of `WINDOW` batches, so that every epoch mixes examples anew.
    """
    queue: list[int] = []
    while True:
        while len(queue) < size * WINDOW:
            epoch = list(range(len(lengths)))
            rng.shuffle(epoch)
            queue += epoch
        window, queue = sorted(queue[: size * WINDOW], key=lambda n: (lengths[n], n)), queue[size * WINDOW :]
        batches = [window[start : start + size] for start in range(0, len(window), size)]
        rng.shuffle(batches)
        yield from batches


def _pad(batch: list[Encoded], pad: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, length) tensors of tokens, labels (-100 where no loss is taken) and mask; right-padded."""
    length = max(len(ids) for ids, _ in batch)
    length += -length % PAD_MULTIPLE
    ids = torch.full((len(batch), length), pad, dtype=torch.long)
    labels = torch.full((len(batch), length), -100, dtype=torch.long)
    mask = torch.zeros((len(batch), length), dtype=torch.long)
    for row, (tokens, prompt) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, prompt : len(tokens)] = torch.tensor(tokens[prompt:])
        mask[row, : len(tokens)] = 1
    return ids.to(device), labels.to(device), mask.to(device)


def _loss(model: torch.nn.Module, ids: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), labels[:, 1:].reshape(-1), ignore_index=-100
    )


def _curve(losses: list[float]) -> tuple[LossPoint, ...]:
    """About `CURVE_POINTS` means of neighbouring steps."""
    width = max(1, math.ceil(len(losses) / CURVE_POINTS))
    parts = [losses[start : start + width] for start in range(0, len(losses), width)]
    return tuple(LossPoint(step=(n + 1) * width, loss=sum(part) / len(part)) for n, part in enumerate(parts))


def _warnings(losses: list[float], used: int, given: int) -> tuple[str, ...]:
    warnings = []
    third = max(1, len(losses) // 3)
    first, last = sum(losses[:third]) / third, sum(losses[-third:]) / third
    if last >= first:
        warnings.append(f"the loss did not fall: {first:.3f} in the first third, {last:.3f} in the last")
    if used < given:
        warnings.append(f"{given - used} of {given} pairs are longer than training.sequence_length and were left out")
    return tuple(warnings)
