"""Several genomes on one base model at once, against one after the other: light genes per row, and training.

    python -m benchmarks.packed_bank                            coral-tiny
    python -m benchmarks.packed_bank --model smollm2 --genomes 4 --problems 8 --token-limit 48

CPU seconds of this process with one torch thread, the sides in turn. Light settings of one adapter in one request are compared
with a request each. Training compares the product's loop with a prototype, kept here because it is not worth its code in the
product: factors of all adapters in one tensor, rows grouped by adapter, clipping and optimiser per adapter.

The parts `generation` and `dora` of the result are of a bank that computed adapters of several genomes in one batch. It was taken
out of the product because of these figures (docs/decisions.md); its program is that of commit 7ef4ff9.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.record import RESULTS, ROOT, write
from coral_core.config.tree import BaseModelConfig, GenerationConfig, ProblemsConfig, TrainingConfig
from coral_core.genome import GREEDY, HeavyGenes, LightGenes
from coral_core.jobs.job_content import problem_set
from coral_core.jobs.jobs import TrainingJob
from coral_core.lm.engine import TorchBackend
from coral_core.lm.requests import AdapterFolder, Entry, GenerationRequest, TrainingRequest
from coral_core.lm.training import _batches, _encode, _logits, _pad
from coral_core.prompting.templates import INSTRUCT, TINY

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
RANKS = (2, 4, 8, 16, 32, 8, 16, 32, 4, 8, 16, 32, 2, 8, 16, 64)
TARGETS = (ATTENTION,) * 5 + (ATTENTION + MLP,) * 3 + (("q_proj", "v_proj"),) * 2 + (MLP, ATTENTION + MLP) + (ATTENTION, ATTENTION + MLP) * 2  # fmt: skip
LIGHTS = tuple(
    LightGenes(
        temperature=temperature, top_p=1.0, top_k=50, repetition_penalty=penalty, token_limit=96, sampling=sampling
    )
    for sampling, temperature, penalty in ((False, 0.1, 1.0), (False, 0.1, 1.05), (True, 0.1, 1.0), (True, 0.7, 1.0))
)
"""The settings of a row of benchmarks/gene_table.py."""


class Bench:
    """One base model, its adapters and its prompts."""

    def __init__(self, options: argparse.Namespace) -> None:
        tiny = options.model == "coral-tiny"
        self.prompt = TINY if tiny else INSTRUCT
        self.backend = TorchBackend(BaseModelConfig(name=options.model, prompt="tiny" if tiny else "instruct"))
        self.light = GREEDY.model_copy(update={"token_limit": options.token_limit})
        self.length = 112 if tiny else 192
        problems = problem_set(ProblemsConfig(fitness=options.problems, pairs=128))
        self.prompts = tuple((p.problem_id, self.prompt.prompt(p.buggy)) for p in problems.fitness[: options.problems])
        self.pairs = tuple((self.prompt.prompt(p.buggy), self.prompt.answer(p.fixed)) for p in problems.pairs)
        self.rates = (5e-3, 1e-2, 2e-3, 5e-3) if tiny else (1e-3,)
        self.recipe = (
            {"steps": 40, "warmup": 6, "batch_size": 8} if tiny else {"steps": 3, "warmup": 1, "batch_size": 4}
        )
        self.adapters = [self._adapter(options.work / options.model, number) for number in range(options.genomes)]

    def job(self, heavy: HeavyGenes, recipe: TrainingConfig, seed: int) -> TrainingJob:
        return TrainingJob(
            heavy=heavy, base_model=self.backend.loaded.config, base_content_id="b", numerics_class="b", recipe=recipe,
            recipe_version="b", problems=ProblemsConfig(), pairs_digest="b", prompt_version="b", run_seed=seed,
        )  # fmt: skip

    def _adapter(self, work: Path, number: int) -> AdapterFolder:
        """A trained adapter of its own shape; kept in the work folder."""
        folder = work / f"a{number}"
        kind, rank = ("lora", "dora")[number % 2], RANKS[number % 16]
        heavy = HeavyGenes.model_validate({"rank": rank, "alpha": 2 * rank, "dropout": 0.0, "target_modules": TARGETS[number % 16], "adapter": kind, "learning_rate": self.rates[number % len(self.rates)]})  # fmt: skip
        if not (folder / "adapter_model.safetensors").exists():
            folder.mkdir(parents=True, exist_ok=True)
            recipe = TrainingConfig.model_validate(self.recipe)
            self.backend.train(TrainingRequest(job=self.job(heavy, recipe, number), pairs=self.pairs, out=folder))
        return AdapterFolder(folder=folder, heavy=heavy)

    def entry(self, number: int, light: LightGenes | None = None) -> Entry:
        return Entry(adapter=self.adapters[number], light=light or self.light, seed=number)

    def write(self, entries: Sequence[Entry]) -> tuple[float, list[Any], int]:
        """CPU seconds, completions of each entry, and tokens of one request."""
        shape = GenerationConfig(prompt_length=self.length)
        prompt = self.prompt
        request = GenerationRequest(
            entries=tuple(entries), prompts=self.prompts, shape=shape, stop=prompt.stop, end=prompt.end,
            add_bos=prompt.add_bos, prefix=prompt.before,
        )  # fmt: skip
        started = time.process_time()
        found = self.backend.generate(request).entries
        seconds = time.process_time() - started
        return seconds, [each.completions for each in found], sum(each.cost.tokens for each in found)

    def one_by_one(self, entries: Sequence[Entry]) -> tuple[float, list[Any], int]:
        """As `write`, with a request per entry."""
        parts = [self.write([entry]) for entry in entries]
        return sum(part[0] for part in parts), [part[1][0] for part in parts], sum(part[2] for part in parts)


def compare(rounds: int, sides: dict[str, Callable[[], tuple[float, Any, int]]]) -> dict[str, Any]:
    """The sides in turn; medians of CPU seconds, and the median of the ratios first / last within a round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    outputs: dict[str, Any] = {}
    tokens = 0
    for _ in range(rounds):
        for name, side in sides.items():
            spent, outputs[name], tokens = side()
            seconds[name].append(spent)
            print(f"  {name}: {spent:.2f} CPU seconds", flush=True)
    first, *_, last = sides
    equal = [mine == other for mine, other in zip(outputs[first], outputs[last], strict=True)]
    texts = [a == b for mine, other in zip(outputs[first], outputs[last], strict=True) for a, b in zip(mine, other, strict=True)]  # fmt: skip
    return {
        "cpu_seconds": {name: round(statistics.median(found), 2) for name, found in seconds.items()},
        "rounds": [{name: round(found[number], 2) for name, found in seconds.items()} for number in range(rounds)],
        "ratio": round(statistics.median(a / b for a, b in zip(seconds[first], seconds[last], strict=True)), 3),
        "equal_entries": f"{sum(equal)} of {len(equal)}",
        "equal_texts": f"{sum(texts)} of {len(texts)}",
        "tokens": tokens,
    }


def light_genes(bench: Bench, rounds: int) -> dict[str, Any]:
    """Four light settings of one adapter: a request each, and one request."""
    entries = [bench.entry(2 % len(bench.adapters), light) for light in LIGHTS]
    return compare(
        rounds,
        {
            "a request per setting": lambda: bench.one_by_one(entries),
            "one request": lambda: bench.write(entries),
        },
    )


class _Stacked(nn.Module):
    """A linear module with the trainable factors of several LoRA of one rank."""

    def __init__(self, base: Any, a: Tensor, b: Tensor, scaling: float) -> None:
        super().__init__()
        self.base, self.scaling = base, scaling
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base(x)
        count = self.a.shape[0]
        inner = torch.bmm(x.reshape(count, -1, x.shape[-1]), self.a) * self.scaling
        return torch.baddbmm(result.reshape(count, -1, result.shape[-1]), inner, self.b).reshape(result.shape)


def training(bench: Bench, rounds: int, count: int, steps: int) -> dict[str, Any]:
    """`count` LoRA of rank 8 at batch 4: the product one after the other, and the prototype of a stack."""
    heavy = HeavyGenes.model_validate({"rank": 8, "alpha": 16, "dropout": 0.0, "target_modules": ATTENTION, "adapter": "lora", "learning_rate": bench.rates[0]})  # fmt: skip
    recipe = TrainingConfig(steps=steps, warmup=4, batch_size=4)
    jobs = [bench.job(heavy, recipe, seed) for seed in range(count)]
    losses: dict[str, list[float]] = {}

    def alone() -> tuple[float, Any, int]:
        started, tokens = time.process_time(), 0
        with tempfile.TemporaryDirectory() as folder:
            for number, job in enumerate(jobs):
                out = Path(folder) / str(number)
                out.mkdir()
                trained = bench.backend.train(TrainingRequest(job=job, pairs=bench.pairs, out=out))
                tokens += trained.cost.tokens
                losses.setdefault("alone", [])[number:] = [trained.losses[-1].loss]
        return time.process_time() - started, [], tokens

    def stacked() -> tuple[float, Any, int]:
        started = time.process_time()
        losses["stacked"], tokens = _train_stack(bench, jobs)
        return time.process_time() - started, [], tokens

    found = compare(rounds, {"one after the other": alone, "stacked prototype": stacked})
    widest = max(abs(a - b) for a, b in zip(losses["alone"], losses["stacked"], strict=True))
    return {key: found[key] for key in ("cpu_seconds", "rounds", "ratio", "tokens")} | {"largest_loss_difference": widest}  # fmt: skip


def _train_stack(bench: Bench, jobs: Sequence[TrainingJob]) -> tuple[list[float], int]:
    """Last losses and tokens of adapters that are trained together, each with its own order, clipping and optimiser state."""
    from peft import get_peft_model

    from coral_core.lm.adapters import lora_config

    base, recipe, heavy = bench.backend.loaded, jobs[0].recipe, jobs[0].heavy
    encoded = _encode(base, TrainingRequest(job=jobs[0], pairs=bench.pairs, out=Path()), recipe.sequence_length)
    drawn: list[dict[str, tuple[Tensor, Tensor]]] = []
    with base.kept():
        for job in jobs:  # initialised as each alone
            with base.kept():
                torch.manual_seed(job.seed())
                model = get_peft_model(base.model, lora_config(heavy))
                drawn.append({name: (part.lora_A["default"].weight.detach().T, part.lora_B["default"].weight.detach().T) for name, part in model.base_model.model.named_modules() if hasattr(part, "lora_A")})  # fmt: skip
        modules = []
        for name in drawn[0]:
            a, b = (torch.stack([each[name][place] for each in drawn]).contiguous() for place in (0, 1))
            parent, _, last = name.rpartition(".")
            module = _Stacked(base.model.get_submodule(name), a, b, heavy.alpha / heavy.rank)
            setattr(base.model.get_submodule(parent), last, module)
            modules.append(module)
        parameters = [parameter for module in modules for parameter in (module.a, module.b)]
        optimiser = torch.optim.AdamW(parameters, lr=heavy.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        orders = [_batches([len(ids) for ids, _ in encoded], recipe.batch_size, random.Random(job.seed())) for job in jobs]  # fmt: skip
        history, tokens = [], 0
        base.model.train()
        for step in range(recipe.steps):
            batches = [[encoded[n] for n in next(order)] for order in orders]
            answers = torch.tensor([sum(len(ids) - max(prompt, 1) for ids, prompt in batch) for batch in batches])
            rows = [row for batch in batches for row in batch]
            ids, places, labels = _pad(rows, base.pad, base.device)
            each = torch.nn.functional.cross_entropy(_logits(base.model, ids, places), labels, reduction="none")
            owner = torch.repeat_interleave(torch.arange(len(jobs)), answers)
            mean = torch.zeros(len(jobs)).index_add(0, owner, each) / answers
            mean.sum().backward()  # type: ignore[no-untyped-call]
            squares = sum(p.grad.square().sum((1, 2)) for p in parameters if p.grad is not None)
            clip = (recipe.gradient_clip / (torch.as_tensor(squares).sqrt() + 1e-6)).clamp(max=1.0)[:, None, None]
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(clip)
            warm = min(1.0, (step + 1) / recipe.warmup)
            decay = min(1.0, (recipe.steps - step) / max(1, recipe.steps - recipe.warmup))
            optimiser.param_groups[0]["lr"] = heavy.learning_rate * warm * decay
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            history.append(mean.detach())
            tokens += sum(len(row) for row, _ in rows)
        base.model.eval()
    width = max(1, -(-recipe.steps // 30))  # as the points of the product's curve
    ended: list[float] = torch.stack(history[(recipe.steps - 1) // width * width :]).mean(0).tolist()
    return ended, tokens


def record(name: str, settings: dict[str, Any], parts: dict[str, Any], results: Path) -> None:
    """Write the result; parts that were measured before with the same settings are kept."""
    path = results / f"{name}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    kept = known["parts"] if known.get("settings") == settings else {}
    write(name, {"settings": settings, "parts": kept | parts}, results)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="coral-tiny")
    parser.add_argument("--genomes", type=int, default=16)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--token-limit", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--training-steps", type=int, default=30)
    parser.add_argument("--part", action="append", choices=("light", "training"), default=[])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "packed_bank", help="trained adapters")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    bench = Bench(options)
    bench.write([bench.entry(0)])  # the trial of the shapes, which an engine makes once
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "light": lambda: light_genes(bench, options.rounds),
        "training": lambda: training(bench, options.rounds, 8, options.training_steps),
    }
    settings = {key: getattr(options, key) for key in ("model", "genomes", "problems", "token_limit")}
    name = "packed_bank" if options.model == "coral-tiny" else f"packed_bank_{Path(options.model).name}"
    for part in options.part or parts:
        print(part, flush=True)
        measured = parts[part]()
        print(json.dumps(measured), flush=True)
        bench.backend.check()
        record(name, settings, {part: measured}, options.results)


if __name__ == "__main__":
    main()
