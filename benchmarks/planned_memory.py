"""Planned against measured peak memory of engine processes on the CPU: trainings and evaluations, LoRA and DoRA.

Each row is one engine process, which loads the base model and does one job; measured is the largest resident size that the
kernel saw (ru_maxrss). The training pairs are the longest of the built-in ones, so that each batch is as long as the plan
assumes; prompts likewise. ``--model`` is repeated for several base models: a name or a folder.

    python -m benchmarks.planned_memory --model coral-tiny --model smollm2
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import write
from coral_core.config import RunConfig
from coral_core.evolution.preflight import token_counts
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.jobs.job_content import problem_set
from coral_core.jobs.jobs import TrainingJob
from coral_core.lm.engine_client import EngineProcess
from coral_core.lm.memory_plan import Lengths, plan_memory
from coral_core.lm.model_check import model_folder, seen
from coral_core.lm.model_files import read_folder
from coral_core.lm.requests import AdapterFolder, Entry, GenerationRequest, TrainingRequest
from coral_core.lm.targets import resolve
from coral_core.prompting.templates import INSTRUCT, TINY

CASES: tuple[dict[str, Any], ...] = (
    {"adapter": "lora", "modules": "attention", "dtype": "float32"},
    {"adapter": "dora", "modules": "all", "dtype": "float32"},
    {"adapter": "lora", "modules": "all", "dtype": "bfloat16"},
    {"adapter": "lora", "modules": "attention", "dtype": "float32", "checkpointing": True, "micro_batch": 1},
)
TOKENS = 24
"""Tokens per answer in an evaluation: the cache grows with it, the rest does not."""
SECONDS = 1800.0


def configuration(model: str, case: dict[str, Any]) -> RunConfig:
    """A configuration with one candidate of each heavy gene."""
    tiny = model == "coral-tiny"
    return RunConfig.model_validate({
        "base_model": {"name": model, "dtype": case["dtype"], "prompt": "tiny" if tiny else "instruct"},
        "genes": {
            "heavy": {"rank": [8], "alpha": [16], "dropout": [0.0], "target_modules": [case["modules"]], "adapter": [case["adapter"]], "learning_rate": [1e-3]},
            "light": {"token_limit": {"low": TOKENS, "high": TOKENS}, "sampling": [False]},
        },
        "problems": {"pairs": 96, "fitness": 24, "retention": 8, "monitor": 8, "held_out": 24},
        "search": {"diversity": {"minimum_unique": 0.1}, "population": 4, "elites": 1},
        "training": {
            "steps": 2, "warmup": 0, "batch_size": 8 if tiny else 4, "sequence_length": 512,
            "checkpointing": case.get("checkpointing", False), "micro_batch": case.get("micro_batch", 0),
        },
        "generation": {"batch_size": 32 if tiny else 8, "prompt_length": 120 if tiny else 220},
    })  # fmt: skip


def rows(model: str, case: dict[str, Any]) -> list[dict[str, Any]]:
    """A training and an evaluation of its adapter, planned and measured."""
    config = configuration(model, case)
    problems, template = problem_set(config.problems), TINY if model == "coral-tiny" else INSTRUCT
    pairs = [(template.prompt(pair.buggy), template.answer(pair.fixed)) for pair in problems.pairs]
    prompts, answers = (token_counts(config, list(texts)) for texts in zip(*pairs, strict=True))
    order = sorted(range(len(pairs)), key=lambda n: prompts[n] + answers[n])[-config.training.batch_size :]
    lengths = Lengths(
        max(prompts[n] + answers[n] for n in order), sum(answers[n] for n in order) // len(order), max(prompts)
    )
    base, path = seen(config), model_folder(config)
    if base is None or path is None:
        raise SystemExit(f"{model} is not on this machine: coral model fetch {model}")
    training, evaluation = plan_memory(config, read_folder(path), lengths)
    heavy = HeavyGenes.model_validate({"rank": 8, "alpha": 16, "dropout": 0.0, "learning_rate": 1e-3, "adapter": case["adapter"], "target_modules": resolve(case["modules"], base)})  # fmt: skip
    job = TrainingJob(
        heavy=heavy, base_model=config.base_model, base_content_id="", numerics_class="", recipe=config.training,
        recipe_version="", problems=config.problems, pairs_digest="", prompt_version="", run_seed=0,
    )  # fmt: skip
    found = []
    with tempfile.TemporaryDirectory() as folder:
        train = TrainingRequest(job=job, pairs=tuple(pairs[n] for n in order), out=Path(folder))
        light = LightGenes.model_validate({"sampling": False, "token_limit": TOKENS, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0})  # fmt: skip
        texts = tuple((str(n), pairs[order[n % len(order)]][0]) for n in range(config.generation.batch_size))
        generate = GenerationRequest(entries=(Entry(adapter=AdapterFolder(folder=Path(folder), heavy=heavy), light=light, seed=0),), prompts=texts, shape=config.generation)  # fmt: skip
        for planned, request in ((training, train), (evaluation, generate)):
            engine = EngineProcess()
            try:
                engine.load(config.base_model)
                if isinstance(request, TrainingRequest):
                    measured = engine.train(request, SECONDS).cost.peak_memory_mb * 2**20
                else:
                    measured = engine.generate(request, SECONDS).only().cost.peak_memory_mb * 2**20
            finally:
                engine.close()
            found.append({
                "model": Path(model).name, "job": planned.queue, **case, "planned_mb": round(planned.host_bytes / 1e6),
                "measured_mb": round(measured / 1e6), "planned_over_measured": round(planned.host_bytes / measured, 3),
                "parts_mb": {part: round(size / 1e6) for part, size in planned.host.items()},
            })  # fmt: skip
            print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--case", type=int, action="append", default=[], help="number of a case; all by default")
    parser.add_argument("--no-record", action="store_true", help="print only; leave results/ as it is")
    options = parser.parse_args()
    cases = [CASES[n] for n in options.case] or list(CASES)
    found = [
        row
        for model in options.model or ["coral-tiny"]
        for case in cases
        for row in rows(os.path.expanduser(model), case)
    ]
    worst = max(found, key=lambda row: abs(row["planned_over_measured"] - 1))
    print(f"furthest off: {worst['planned_over_measured']} ({worst['model']}, {worst['job']}, {worst['adapter']})")
    if not options.no_record:
        write("planned_memory", {"rows": found, "furthest_off": worst["planned_over_measured"]})


if __name__ == "__main__":
    main()
