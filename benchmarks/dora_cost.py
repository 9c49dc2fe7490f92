"""Training of DoRA over LoRA with the same genes, in CPU seconds per token; with and without dropout.

    python -m benchmarks.dora_cost --model coral-tiny --model ~/.cache/coral-x/models/smollm2

Both sides train on the same pairs with the same seed, each in processes of its own, in turn (lora, dora, dora, lora, ...). The
CPU seconds are those that the engine reports in `Cost`. Adapters of rank 8 on all linear modules of each layer.
"""

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, write
from benchmarks.training_speed import ADAPTERS, LARGE, RATES, RECIPES, run_side
from coral_core.config.tree import ProblemsConfig
from coral_core.jobs.job_content import problem_set
from coral_core.lm.engine_environment import engine_environment
from coral_core.prompting.templates import INSTRUCT, TINY

NAME = "dora_cost"
KINDS = ("lora", "dora")
DROPOUTS = (0.0, 0.05)


def compared(model: str, dropout: float, rounds: int) -> dict[str, Any]:
    """CPU seconds per token of both kinds, and their ratio: the medians of `rounds` trainings each."""
    name = Path(model).name
    prompt = TINY if name == "coral-tiny" else INSTRUCT
    pairs = [[prompt.prompt(pair.buggy), prompt.answer(pair.fixed)] for pair in problem_set(ProblemsConfig(pairs=128)).pairs]  # fmt: skip
    genes = ADAPTERS["dora"] | {"dropout": dropout, "learning_rate": RATES.get(name, 1e-3)}
    request = {"model": model, "recipe": RECIPES.get(name, LARGE), "pairs": pairs}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        for kind in KINDS if number % 2 == 0 else reversed(KINDS):
            found = run_side(ROOT, engine_environment(), request | {"heavy": genes | {"adapter": kind}})
            seconds[kind].append(found["cpu_seconds"] / found["tokens"])
    lora, dora = (statistics.median(seconds[kind]) for kind in KINDS)
    row = {"model": name, "dropout": dropout, "lora": lora, "dora": dora, "ratio": dora / lora, "rounds": rounds}
    print(f"{name}, dropout {dropout}: DoRA {dora / lora:.2f} times LoRA", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = [
        compared(os.path.expanduser(model), dropout, options.rounds)
        for model in options.model or ["coral-tiny"]
        for dropout in DROPOUTS
    ]
    write(NAME, {"rows": rows})


if __name__ == "__main__":
    main()
