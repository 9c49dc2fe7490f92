"""Memory that the jobs of a configuration need, from the headers of the base model's files. Loads nothing, imports no torch.

Bytes are counted for the genes that need most: highest rank, each set of modules, LoRA or DoRA. `benchmarks/planned_memory.py`
compares with what an engine process uses (within 15 %). Not covered: state of
recurrent layers, which are counted as ordinary linear layers; fused experts that the table does not name; memory that other
processes of the machine hold.
"""

import bisect
import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from coral_core.config import RunConfig
from coral_core.errors import ConfigError
from coral_core.jobs.jobs import QueueName
from coral_core.lm.architecture import EXPERTS, LAYERS, Architecture, describe
from coral_core.lm.base_model import implementation, is_rehearsal, resolve_device, resolve_dtype
from coral_core.lm.baselines import tuned_loras
from coral_core.lm.model_check import PAD_MULTIPLE, model_folder, seen
from coral_core.lm.model_files import FLOATS, ModelFolder, read_folder
from coral_core.lm.targets import UnknownTargetError, resolve

GB = 10**9
ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}
PROCESS = 440_000_000
"""An engine process with torch, transformers and PEFT, before it loads a model."""
CUDA_PROCESS = 2_200_000_000
"""The same with the libraries of CUDA in host memory. Stated, not measured here."""
CUDA_CONTEXT = 800_000_000
"""Device memory of a CUDA context, cuBLAS workspaces and unused blocks of torch's allocator. Stated, not measured here."""
MOST_ROWS = 4096
"""Largest ``generation.batch_size`` of a configuration."""
HOLES = 1.1
"""Holes that glibc's heap keeps where temporary tensors of the forward pass were, on the CPU: their bytes over those of the outputs of
the base's linear layers. Measured: they do not grow with what an adapter keeps besides."""
MERGING, MERGING_FUSED = 3, 7
"""Float32 tensors of a parameter's size while an adapter is merged into it. Those of fused experts were measured at PEFT's merge."""
STREAMED = 3
"""Largest tensors that are in host memory at a time while a model is loaded straight to its device."""
SHORTEST = 64
"""Tokens of a pair below which a shorter sequence length is not proposed."""
TRANSPOSED = {"gpt2", "openai-gpt", "imagegpt"}
"""Types whose linear layers are Conv1D: weights are (inputs, outputs)."""


class Linear(NamedTuple):
    """The linear modules of one name in all layers."""

    inputs: int
    outputs: int
    copies: int
    used: float
    """Share that one token passes through: below 1 for experts."""
    together: int = 1
    """Matrices in one parameter: more than 1 for fused experts, which the loaded model keeps as one parameter per layer."""

    @property
    def numbers(self) -> int:
        """Numbers in one parameter."""
        return self.inputs * self.outputs * self.together


class ModelSize(NamedTuple):
    """Sizes of a base model that decide memory."""

    layers: int
    hidden: int
    vocabulary: int
    heads: int
    query_width: int
    cache_width: int
    """Width of the keys of a token in one layer; the values have the same."""
    linears: dict[str, Linear]
    parameters: int
    largest: int
    """Numbers in the largest tensor."""
    file_bytes: int
    file_item: int
    """Bytes of a number in the files."""

    @property
    def widest(self) -> int:
        """Outputs of the widest linear module, experts left out."""
        return max((each.outputs for each in self.linears.values() if each.together == 1), default=self.hidden)

    @property
    def largest_fused(self) -> int:
        """Numbers in the largest parameter of fused experts that are single matrices in the files; 0 where none is."""
        fused = max((each.numbers for each in self.linears.values() if each.together > 1), default=0)
        return fused if fused > self.largest else 0


class Lengths(NamedTuple):
    """Tokens of the longest training pair, of them in the longest answer, and of the longest prompt."""

    pair: int
    answer: int
    prompt: int


class JobMemory(NamedTuple):
    """Planned peak of one kind of job, in bytes by what holds them."""

    queue: QueueName
    device: dict[str, int]
    """Empty when the model runs on the CPU."""
    host: dict[str, int]
    genes: str
    """The genes that need most."""

    @property
    def device_bytes(self) -> int:
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        return sum(self.host.values())


def model_size(folder: ModelFolder, architecture: Architecture | None = None) -> ModelSize:
    """Sizes of a model from its config.json and the headers of its weights.

    Args:
        folder: The model's folder.
        architecture: The model's architecture; None: it is described anew.
    """
    architecture = architecture or describe(folder)
    nested = folder.config.get("text_config")
    config: dict[str, Any] = folder.config | (nested if isinstance(nested, dict) else {})
    layers = _number(config, 1, *LAYERS)
    hidden = _number(config, 1, "hidden_size", "n_embd", "d_model", "hidden_dim")
    heads = _number(config, 1, "num_attention_heads", "n_head", "num_heads")
    width = _number(config, max(1, hidden // heads), "head_dim")
    groups = 1 if config.get("multi_query") is True else _number(config, heads, "num_key_value_heads", "num_kv_heads")
    experts = _number(config, 1, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    share = min(1.0, _number(config, 1, "num_experts_per_tok", "moe_k") / experts)
    shapes: dict[str, list[tuple[int, ...]]] = {}
    in_experts: dict[str, bool] = {}
    for name, tensor in folder.tensors.items():
        path, _, last = name.rpartition(".")
        leaf = path.rpartition(".")[2]
        fused = EXPERTS in architecture.sets and ".experts." in path
        if last == "weight" and leaf in architecture.modules and len(tensor.shape) == 2 and not fused:
            shapes.setdefault(leaf, []).append(tensor.shape)
            in_experts[leaf] = in_experts.get(leaf, False) or ".experts." in path
    turned = architecture.model_type in TRANSPOSED
    linears = {}
    for leaf, found in shapes.items():
        rows, columns = max(found, key=math.prod)
        inputs, outputs = (rows, columns) if turned else (columns, rows)
        linears[leaf] = Linear(inputs, outputs, len(found), share if in_experts[leaf] else 1.0)
    linears |= _fused_experts(folder, architecture, hidden, experts, share)
    sizes = [math.prod(tensor.shape) for tensor in folder.tensors.values()]
    items = [FLOATS.get(tensor.dtype, 4) for tensor in folder.tensors.values()]
    return ModelSize(
        layers=layers,
        hidden=hidden,
        vocabulary=_number(config, 1, "vocab_size"),
        heads=heads,
        query_width=heads * width,
        cache_width=groups * width,
        linears=linears,
        parameters=architecture.parameters,
        largest=max(sizes, default=0),
        file_bytes=sum(size * item for size, item in zip(sizes, items, strict=True)),
        file_item=max(items, default=4),
    )


def _fused_experts(
    folder: ModelFolder, architecture: Architecture, hidden: int, experts: int, share: float
) -> dict[str, Linear]:
    """The matrices of fused experts, in and out of the inner width of their MLPs."""
    names = architecture.sets.get(EXPERTS, ())
    layers, numbers = set(), 0
    for name, tensor in folder.tensors.items():
        layer, found, inside = name.partition(".experts.")
        if names and found and not name.endswith("bias") and len(tensor.shape) == 3 - inside[:1].isdigit():
            layers.add(layer)
            numbers += math.prod(tensor.shape)
    parts = 2 if any("gate" in name for name in names) else 1
    inner = numbers // ((parts + 1) * hidden * experts * len(layers)) if layers else 0
    copies = experts * len(layers)
    return {
        name: Linear(inner, hidden, copies, share, experts) if "down" in name else Linear(hidden, parts * inner, copies, share, experts)
        for name in names
        if inner
    }  # fmt: skip


def _number(config: dict[str, Any], default: int, *keys: str) -> int:
    return next((config[key] for key in keys if type(config.get(key)) is int and config[key] > 0), default)


def plan_memory(config: RunConfig, folder: ModelFolder, lengths: Lengths | None = None) -> tuple[JobMemory, JobMemory]:
    """Planned peaks of a training and of an evaluation.

    Args:
        config: The configuration.
        folder: Files of its base model.
        lengths: Tokens of the longest texts; None: the limits of the configuration.

    Returns:
        For the genes that need most: the training, the evaluation.
    """
    architecture = describe(folder)
    size = model_size(folder, architecture)
    eager = implementation(config.base_model, architecture) == "eager"
    limit = config.training.sequence_length
    found = lengths or Lengths(limit, max(1, limit // 2), config.generation.prompt_length)
    base = seen(config)
    heaviest = []
    for candidate in config.genes.heavy.target_modules:
        try:
            modules = resolve(candidate, base) if base else size.linears
        except UnknownTargetError:  # refused by `check_targets`
            continue
        for adapter in config.genes.heavy.adapter:
            rank = max(config.genes.heavy.rank)
            dropout = max(config.genes.heavy.dropout) > 0
            parts = _training(
                config, size, [name for name in modules if name in size.linears], rank, adapter, dropout, found, eager
            )
            heaviest.append((sum(parts.values()), parts, f"rank {rank}, {candidate}, {adapter}"))
    tuned = tuned_loras(base) if base and config.search.baselines == "tuned" else {}
    for name, heavy in tuned.items():
        linears = [module for module in heavy.target_modules if module in size.linears]
        parts = _training(config, size, linears, heavy.rank, heavy.adapter, False, found, eager)
        heaviest.append((sum(parts.values()), parts, f"tuned LoRA {name}"))
    _, training, genes = max(heaviest, key=lambda each: each[0], default=(0, {}, ""))
    sets = [resolve(name, base) for name in config.genes.heavy.target_modules] if base else []
    sets += [heavy.target_modules for heavy in tuned.values()]
    one = max((MERGING * each.numbers for each in size.linears.values() if each.together == 1), default=0)
    if config.generation.merge and config.generation.engine == "vllm":
        # each is merged while it is loaded; fused experts are refused
        adapter_parts = {"weights being merged": 4 * one}
    elif config.generation.merge and config.base_model.quantization == "none":
        merged = max((_weights(size, modules) for modules in sets), default=0)
        targeted = {name for modules in sets for name in modules}
        fused = max(
            (
                MERGING_FUSED * each.numbers
                for name, each in size.linears.items()
                if each.together > 1 and name in targeted
            ),
            default=0,
        )
        adapter_parts = {"merged weights": merged * item_bytes(config) + 4 * max(one, fused)}
    else:
        rank = max(config.genes.heavy.rank)
        kind = "dora" if "dora" in config.genes.heavy.adapter else "lora"
        adapter_parts = {"adapter": max((_adapter(size, modules, rank, kind) * 4 for modules in sets), default=0)}
    evaluation = adapter_parts | _evaluation(config, size, eager)
    if config.generation.engine == "vllm" and config.infra.executor != "work-pools":
        # lanes of this machine do both kinds of jobs, and keep the engine of the other kind
        evaluation["torch engine"] = _base_weights(config, size) + PROCESS * (not on_gpu(config))
    return (
        _job(config, "training", size, training, genes),
        _job(config, "evaluation", size, evaluation, "the largest set of modules"),
    )


def _job(config: RunConfig, queue: QueueName, size: ModelSize, parts: dict[str, int], genes: str) -> JobMemory:
    """A job whose `parts` come on top of the weights."""
    weights = _base_weights(config, size)
    if not on_gpu(config):
        # what is converted, to another type or to fused experts, is read beside the new weights, and given back after the load
        converted = size.file_item != item_bytes(config) or size.largest_fused
        read = size.file_bytes + size.largest_fused * item_bytes(config) if converted else 0
        return JobMemory(queue, {}, {"process": PROCESS, "weights": weights} | _above(parts, read), genes)
    streamed = STREAMED * max(size.largest, size.largest_fused) * max(size.file_item, item_bytes(config))
    return JobMemory(
        queue,
        {"CUDA context": CUDA_CONTEXT, "weights": weights} | parts,
        {"process": CUDA_PROCESS, "loading": streamed},
        genes,
    )


def item_bytes(config: RunConfig) -> int:
    """Bytes of one number of the base model; for dtype auto on GPUs those of bfloat16, since planned pools have such GPUs."""
    base = config.base_model
    if base.dtype == "auto" and on_gpu(config):
        return ITEM["bfloat16"]
    return ITEM[resolve_dtype(base)]


def on_gpu(config: RunConfig) -> bool:
    """True when jobs are planned for a GPU. ``base_model.device: auto`` is the device of this machine, and on work pools a GPU."""
    device = config.base_model.device
    return (device if config.infra.executor == "work-pools" else resolve_device(device)) != "cpu"


def _base_weights(config: RunConfig, size: ModelSize) -> int:
    """Bytes of the base model's weights; linear layers of a 4-bit base have a scale per 64 numbers."""
    item = item_bytes(config)
    if config.base_model.quantization == "none":
        return size.parameters * item
    linear = sum(each.inputs * each.outputs * each.copies for each in size.linears.values() if each.together == 1)
    return int(linear * (0.5 + 4 / 64)) + (size.parameters - linear) * item


def _above(parts: dict[str, int], read: int) -> dict[str, int]:
    """The larger of the two peaks above the weights: of the job, or of loading, which has ended before."""
    return parts if sum(parts.values()) >= read else {"loading": read}


def _training(
    config: RunConfig,
    size: ModelSize,
    modules: list[str],
    rank: int,
    adapter: str,
    dropout: bool,
    lengths: Lengths,
    eager: bool,
) -> dict[str, int]:
    """Bytes of a training above the weights: adapter with gradients and Adam's two moments, saved activations, logits."""
    item = item_bytes(config)
    recipe = config.training
    rows = min(recipe.micro_batch or recipe.batch_size, recipe.batch_size)
    length = lengths.pair + -lengths.pair % PAD_MULTIPLE
    tokens = rows * length
    per_layer = _saved(size, modules, rank, adapter, dropout, item)
    if eager:
        per_layer += size.heads * length * (4 + 2 * item)
    saved = size.layers * per_layer * tokens
    outputs = sum(each.outputs * each.copies * each.used for each in size.linears.values())  # of all layers
    if recipe.checkpointing:
        saved = size.layers * size.hidden * item * tokens + per_layer * tokens
        outputs /= size.layers  # the next layer fills the holes of the one before
    in_experts = (each.outputs * each.used * each.together for each in size.linears.values() if each.together > 1)
    widest = max([size.widest, *in_experts])
    passing = 6 * widest * 4 * tokens  # gradients on their way through one layer
    # of fused experts PEFT makes the whole update, and their sum and its gradient stand beside it
    passing += (
        3
        * 4
        * max((each.numbers for name, each in size.linears.items() if each.together > 1 and name in modules), default=0)
    )
    answers = rows * lengths.answer
    holes = HOLES * outputs * item * tokens if not on_gpu(config) else 0.0
    return {
        "adapter, gradients, Adam": _adapter(size, modules, rank, adapter) * 4 * 4,
        "activations": int(saved + passing + holes),
        "logits": int(answers * size.vocabulary * (16 if item == 4 else 18)),
    }


def _saved(size: ModelSize, modules: list[str], rank: int, adapter: str, dropout: bool, item: int) -> float:
    """Bytes per token that one layer keeps for the backward pass. Base weights are frozen: no input is kept for their gradients."""
    total = 0.0
    inputs: set[tuple[int, int]] = set()
    for name, each in size.linears.items():
        per_layer = each.copies / size.layers * each.used
        total += (
            each.outputs * per_layer * item
        )  # kept by attention, by the activation, or in the sum of the residual stream
        if each.together > 1:  # tokens are copied for their experts, and the parts of a gated MLP are kept
            total += (each.outputs + size.hidden / 2) * per_layer * item
        if name not in modules or each.together > 1:
            continue
        total += rank * per_layer * 4
        if item == 4:
            inputs.add((each.inputs, each.outputs if each.inputs != size.hidden else 0))
        else:  # each module converts its input to float32
            total += each.inputs * per_layer * 4
        if (
            dropout
        ):  # each module gets inputs of its own, and the mask is kept: as bytes on a GPU, as numbers on the CPU
            total += each.inputs * per_layer * (item + 4 if item == 4 else 1)
        if adapter == "dora":  # the sum of the outputs of base and adapter, for the gradient of the magnitudes
            total += each.outputs * per_layer * 4
    total += sum(width for width, _ in inputs) * item
    total += size.query_width * item  # the output of attention
    total += size.widest * item  # the gate after its activation
    if item != 4:
        total += 2 * size.hidden * 4  # norms compute in float32
    return total


def _evaluation(config: RunConfig, size: ModelSize, eager: bool) -> dict[str, int]:
    """Bytes of an evaluation above weights and adapter: key-value cache, prefill and logits."""
    item = item_bytes(config)
    rows, limit = config.generation.batch_size, config.genes.light.token_limit.high
    length = config.generation.prompt_length
    cache = 2 * size.layers * size.cache_width * item * rows * (length + limit)
    widest = size.widest
    prefill = rows * length * (4 * size.hidden + 3 * widest) * max(item, 4)
    if eager:
        prefill += rows * size.heads * length * length * (4 + item)
    sampled = 40 if True in config.genes.light.sampling else 0  # sorting in float64
    return {
        "key-value cache": int(cache * (1 + 2 / size.layers)),
        "prefill": prefill,
        "logits": rows * size.vocabulary * (item + 13 + sampled),
    }


def _adapter(size: ModelSize, modules: Collection[str], rank: int, adapter: str) -> int:
    """Parameters of an adapter on `modules`."""
    return sum(
        ((each.inputs + each.outputs) * rank + (each.outputs if adapter == "dora" else 0)) * each.copies
        for name, each in size.linears.items()
        if name in modules
    )


def _weights(size: ModelSize, modules: tuple[str, ...]) -> int:
    return sum(each.inputs * each.outputs * each.copies for name, each in size.linears.items() if name in modules)


class Room(NamedTuple):
    """Memory that a lane has, in bytes; None: not known, so nothing is refused for it."""

    device: int | None
    host: int | None
    where: str


def room_of(config: RunConfig, queue: QueueName) -> Room:
    """What a lane of `queue` may use: the pool's memory, or an equal share of this machine's for lanes that run here."""
    lanes = config.infra.training if queue == "training" else config.infra.evaluation
    if config.infra.executor == "work-pools":
        return Room(
            int(lanes.device_memory_gb * GB), int(lanes.memory_gb * GB), f"a lane of {lanes.deployment.split('/')[0]}"
        )
    memory, together = _machine_memory(), config.infra.local_lanes or os.cpu_count() or 1
    together = (
        1
        if config.infra.executor == "inline"
        else min(together, config.infra.training.lanes + config.infra.evaluation.lanes)
    )
    where = "this machine" if together == 1 else f"each of {together} lanes of this machine"
    return Room(None, None if memory is None else memory // together, where)


def _machine_memory() -> int | None:
    """Memory that this machine's kernel says is available, or the limit of the container; None: not told."""
    found = []
    try:
        text = Path("/proc/meminfo").read_text()
        found.append(next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemTotal")))
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError, StopIteration):  # another system, or no limit ("max")
        pass
    return min(found, default=None)


def check_memory(config: RunConfig, lengths: Lengths | None = None) -> None:
    """Refuse a configuration of which a job does not fit into its lane.

    Args:
        config: The configuration; nothing is checked when its base model is not on this machine.
        lengths: Tokens of the longest texts; None: the limits of the configuration.

    Raises:
        ConfigError: names the job, what it needs, what there is, and changes that would fit.
    """
    if is_rehearsal(config.base_model) or (path := model_folder(config)) is None:
        return
    folder = read_folder(path)
    for job in plan_memory(config, folder, lengths):
        if problem := too_large(job, room_of(config, job.queue)):
            fits = list(what_fits(config, folder, job.queue, lengths))
            raise ConfigError(
                f"infra.{job.queue}: {problem}",
                ("infra", job.queue),
                remedy=f"What fits: {'; '.join(fits)}."
                if fits
                else "Nothing smaller fits: use a larger pool or a smaller base model.",
            )


def too_large(job: JobMemory, room: Room) -> str:
    """Why a job does not fit; empty when it does."""
    kind = "a training" if job.queue == "training" else "an evaluation"
    for name, parts, has in (("device", job.device, room.device), ("host", job.host, room.host)):
        if has is not None and sum(parts.values()) > has:
            detail = ", ".join(f"{part} {size / GB:.1f}" for part, size in parts.items())
            return f"{kind} needs {sum(parts.values()) / GB:.1f} GB of {name} memory ({detail}; {job.genes}), and {room.where} has {has / GB:.1f}"
    return ""


def most_rows(config: RunConfig, folder: ModelFolder, queue: QueueName) -> int | None:
    """Largest number of rows at a time with which the job of `queue` fits its lane, as it is configured otherwise.

    Args:
        config: The configuration.
        folder: The base model's files.
        queue: For a training, rows are those of ``training.micro_batch``, at most ``training.batch_size``; for an evaluation
            those of ``generation.batch_size``, at most 4,096.

    Returns:
        The number; 0 when one row does not fit, None when the lane's memory is not known.
    """
    room = room_of(config, queue)
    if room.device is None and room.host is None:
        return None

    def fits(rows: int) -> bool:
        section, key = ("training", "micro_batch") if queue == "training" else ("generation", "batch_size")
        changed = getattr(config, section).model_copy(update={key: rows})
        jobs = plan_memory(config.model_copy(update={section: changed}), folder)
        return not too_large(jobs[0 if queue == "training" else 1], room)

    largest = config.training.batch_size if queue == "training" else MOST_ROWS
    return bisect.bisect_left(range(1, largest + 1), True, key=lambda rows: not fits(rows))


def what_fits(config: RunConfig, folder: ModelFolder, queue: QueueName, lengths: Lengths | None) -> Iterator[str]:
    """Changes of the configuration with which the job of `queue` fits its lane, each by itself; at most one of a kind."""
    for kind in _changes(config, queue):
        for text, changed in kind:
            job = plan_memory(changed, folder, lengths)[0 if queue == "training" else 1]
            if not too_large(job, room_of(changed, queue)):
                yield text
                break


def _changes(config: RunConfig, queue: QueueName) -> Iterator[list[tuple[str, RunConfig]]]:
    def with_(section: str, **values: Any) -> RunConfig:
        return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})

    def halves(size: int) -> list[int]:
        return [size >> n for n in range(1, size.bit_length())]

    if queue == "training":
        rows = config.training.micro_batch or config.training.batch_size
        yield [(f"training.micro_batch: {n}", with_("training", micro_batch=n)) for n in halves(rows)]
        if not config.training.checkpointing:
            yield [("training.checkpointing: true", with_("training", checkpointing=True))]
            yield [(f"training.checkpointing: true with training.micro_batch: {n}", with_("training", checkpointing=True, micro_batch=n)) for n in halves(rows)]  # fmt: skip
        shorter = [n for n in halves(config.training.sequence_length) if n >= SHORTEST]
        yield [(f"training.sequence_length: {n} (longer pairs are left out)", with_("training", sequence_length=n)) for n in shorter]  # fmt: skip
    else:
        yield [
            (f"generation.batch_size: {n}", with_("generation", batch_size=n))
            for n in halves(config.generation.batch_size)
        ]
        if config.generation.merge:
            yield [("generation.merge: false", with_("generation", merge=False))]
    if config.base_model.dtype == "float32":
        yield [("base_model.dtype: bfloat16", with_("base_model", dtype="bfloat16"))]
    if config.infra.executor == "local" and config.infra.local_lanes != 1:
        yield [(f"infra.local_lanes: {n}", with_("infra", local_lanes=n)) for n in (4, 2, 1)]
    if config.base_model.quantization == "none" and on_gpu(config):
        yield [("base_model.quantization: nf4", with_("base_model", quantization="nf4"))]
    other: QueueName = "evaluation" if queue == "training" else "training"
    lanes, others = getattr(config.infra, queue), getattr(config.infra, other)
    if config.infra.executor == "work-pools" and others.device_memory_gb > lanes.device_memory_gb:
        infra = config.infra.model_copy(update={queue: lanes.model_copy(update={"device_memory_gb": others.device_memory_gb, "memory_gb": others.memory_gb})})  # fmt: skip
        yield [(f"the pool of {others.deployment.split('/')[0]} for infra.{queue}.deployment too", config.model_copy(update={"infra": infra}))]  # fmt: skip
