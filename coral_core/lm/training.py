"""Trains one LoRA or DoRA adapter in a plain loop, in which every source of randomness is seeded.

The loss is taken on the answer's tokens only. The seed is set before the adapter is initialised. The base model is
restored bit for bit. Not covered: several adapters at once (slower on a processor: docs/decisions.md), several GPUs.
"""

import math
import random
import time
from collections.abc import Iterator
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor

from coral_core.errors import ConfigError, Infeasible
from coral_core.jobs.jobs import Cost, LossPoint, TrainedAdapter, TrainingJob
from coral_core.lm.adapters import fill, lora_config
from coral_core.lm.base_model import lasting_name, local_path
from coral_core.lm.dora import use_factored_norms
from coral_core.lm.loaded_model import LoadedModel, memory_is_evidence, peak_memory_mb
from coral_core.lm.requests import TrainingRequest

Encoded = tuple[list[int], int]
"""Token ids of prompt and answer, and how many of them are the prompt."""

PAD_MULTIPLE = 8
WINDOW = 8
"""Batches whose examples are sorted by length together: 1.11 times the tokens instead of 1.49 on the built-in pairs."""
CHECKED_TOGETHER = 8
"""Steps whose losses are read and checked at once."""
CURVE_POINTS = 30


def train_adapter(base: LoadedModel, request: TrainingRequest) -> TrainedAdapter:
    """Train an adapter and write it as a PEFT folder.

    Args:
        base: The loaded base model; it is restored afterwards.
        request: The job with heavy genes and recipe, pairs of prompt and answer, and the output folder.

    Returns:
        Parameters, loss curve, warnings and cost of the training.

    Raises:
        AdapterError: the adapter to go on with does not fit its genes.
        ConfigError: a pair is longer than the model has positions, or the architecture has no gradient checkpointing.
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
        use_factored_norms(model)
        if request.warm_start is not None:
            fill(model, request.warm_start)
        if job.recipe.checkpointing:
            _checkpoint(base)
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
    optimiser = torch.optim.AdamW(parameters, lr=heavy.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    batches = _batches([len(ids) for ids, _ in encoded], recipe.batch_size, random.Random(job.seed()))
    recorded: list[Tensor] = []
    losses: list[float] = []
    tokens = 0
    model.train()
    for step in range(recipe.steps):
        batch = [encoded[n] for n in next(batches)]
        warm = min(1.0, (step + 1) / recipe.warmup) if recipe.warmup else 1.0
        decay = min(1.0, (recipe.steps - step) / max(1, recipe.steps - recipe.warmup))
        optimiser.param_groups[0]["lr"] = heavy.learning_rate * warm * decay
        recorded.append(_gradients(base, model, batch, recipe.micro_batch or len(batch)))
        torch.nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        tokens += sum(len(row) for row, _ in batch)
        if len(recorded) == CHECKED_TOGETHER or step + 1 == recipe.steps:
            losses += _checked(recorded, len(losses), recipe.steps)
            recorded = []
    if not all(bool(torch.isfinite(p).all()) for p in parameters):
        raise Infeasible("diverged", "the adapter's weights are not finite after training")
    return losses, tokens


def _checkpoint(base: LoadedModel) -> None:
    """Switch gradient checkpointing on; `LoadedModel.kept` switches it off with everything else that training changes."""
    if not base.model.supports_gradient_checkpointing:
        raise ConfigError(
            f"training.checkpointing: true: {base.config.name} ({base.model.config.model_type}) does not support it",
            remedy="Set training.checkpointing to false; training.micro_batch saves memory, too.",
        )
    # not re-entrant: the other kind gives no gradients where the inputs of a layer need none, as below the first adapter
    base.model.gradient_checkpointing_enable({"use_reentrant": False})


def _gradients(base: LoadedModel, model: torch.nn.Module, batch: list[Encoded], rows: int) -> Tensor:
    """Add the gradients of the batch's mean loss per answer token, `rows` examples at a time; that loss, detached."""
    answers = sum(len(ids) - max(prompt, 1) for ids, prompt in batch)
    parts = []
    for start in range(0, len(batch), rows):
        ids, places, labels = _pad(batch[start : start + rows], base.pad, base.device)
        logits = _logits(model, ids, places)
        part = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum") / max(1, answers)
        part.backward()  # type: ignore[no-untyped-call]
        parts.append(part.detach())
    return torch.stack(parts).sum()


def _checked(recorded: list[Tensor], before: int, steps: int) -> list[float]:
    """The losses as numbers: read together, because each reading makes a GPU wait for the processor."""
    values: list[float] = torch.stack(recorded).tolist()
    for number, value in enumerate(values, before + 1):
        if not math.isfinite(value):
            raise Infeasible("diverged", f"the loss was {value} at step {number} of {steps}")
    return values


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
    """Inputs of a batch, padded on the right.

    Returns:
        Token ids, (rows, length); places in the flattened ids whose next token belongs to an answer, (answer tokens,); and
        those next tokens, (answer tokens,).
    """
    length = max(len(ids) for ids, _ in batch)
    length += -length % PAD_MULTIPLE
    ids = torch.full((len(batch), length), pad, dtype=torch.long)
    places: list[int] = []
    labels: list[int] = []
    for row, (tokens, prompt) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        first = max(prompt, 1)  # nothing comes before the first token, so nothing predicts it
        places += range(row * length + first - 1, row * length + len(tokens) - 1)
        labels += tokens[first:]
    return ids.to(device), torch.tensor(places).to(device), torch.tensor(labels).to(device)


def _logits(model: Any, ids: Tensor, places: Tensor) -> Tensor:
    """Logits at `places` of the flattened `ids`, (places, vocabulary).

    The output head computes these places only: it is a fifth of the work of a small model, and whole logits are its
    largest tensors. A hook selects them before the head, so that what a model does to its logits afterwards (scaling, soft
    capping) stays its own. Where the head is not called on all hidden states, the whole logits are made and then selected.

    No attention mask is passed: tokens attend only to those before them, and padding comes after.
    """
    selected = False

    def select(_: object, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal selected
        if not inputs or not isinstance(inputs[0], Tensor) or inputs[0].shape[:-1] != ids.shape:
            return None
        selected = True
        return (inputs[0].flatten(0, 1).index_select(0, places)[None], *inputs[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    return logits[0] if selected else logits.flatten(0, 1).index_select(0, places)


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
