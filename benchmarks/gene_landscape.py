"""Do genes matter? Rank 16 on all modules against rank 1 on q, the default LoRA and the base model, over seeds.

Runs through executor, engine, judge and store as an evolution does; only the search is left out.
"""

import argparse
import statistics
import tempfile
from concurrent.futures import as_completed
from typing import Any

from benchmarks.record import QUICKSTART, write
from coral_core.config import load_config
from coral_core.config.gene_space import MODULE_SETS
from coral_core.evolution.job_runner import Planner
from coral_core.genome import DEFAULT_LORA, HeavyGenes
from coral_core.jobs.jobs import Evaluation
from coral_core.store.store import Store
from flows.work_pools import make_executor


def genes(**changes: Any) -> HeavyGenes:
    """The default LoRA with `changes`."""
    return HeavyGenes.model_validate(DEFAULT_LORA.model_dump() | changes)


SETTINGS: dict[str, HeavyGenes] = {
    "default LoRA (r8 qkvo)": genes(),
    "r1 q": genes(rank=1, alpha=2, target_modules=MODULE_SETS["q"]),
    "r16 all": genes(rank=16, alpha=32, target_modules=MODULE_SETS["all"]),
    "r16 all DoRA": genes(rank=16, alpha=32, target_modules=MODULE_SETS["all"], adapter="dora"),
    "r16 all lr 1e-2": genes(rank=16, alpha=32, target_modules=MODULE_SETS["all"], learning_rate=1e-2),
    "r8 mlp": genes(target_modules=MODULE_SETS["mlp"]),
    "r8 qkvo lr 1e-3": genes(learning_rate=1e-3),
    "r32 all": genes(rank=32, alpha=64, target_modules=MODULE_SETS["all"]),
}
STRONG, WEAK = "r16 all", "r1 q"


def measure(seed: int, device: str, model: str, names: list[str]) -> dict[str, Evaluation]:
    """Evaluations on the fitness split of the bare base and each setting, at one run seed."""
    with tempfile.TemporaryDirectory(prefix="coral-landscape-") as folder:
        overrides = [f"seed={seed}", f"store.path={folder}", f"base_model.device={device}", f"base_model.name={model}"]
        config = load_config(QUICKSTART, overrides)
        planner = Planner.of_config(config)
        store = Store(config.store.path)
        store.prepare()
        with make_executor(config, store) as executor:
            evaluations = {executor.submit_evaluation(planner.evaluation(None)): "base"}
            trainings = {executor.submit_training(planner.training(SETTINGS[name])): name for name in names}
            for training in as_completed(trainings):
                training.result()
                name = trainings[training]
                evaluations[executor.submit_evaluation(planner.evaluation(SETTINGS[name]))] = name
            return {evaluations[future]: future.result() for future in evaluations}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="coral-tiny")
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--dry", action="store_true", help="print only, write no JSON")
    options = parser.parse_args()
    rows: dict[str, list[float]] = {}
    retention: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        for name, evaluation in measure(seed, options.device, options.model, options.only).items():
            rows.setdefault(name, []).append(evaluation.pass_at_1)
            retention.setdefault(name, []).append(evaluation.scores.get("retention", float("nan")))
        print(f"seed {seed}: " + ", ".join(f"{name} {values[-1]:.3f}" for name, values in rows.items()), flush=True)
    table = {
        name: {"pass_at_1": values, "mean": statistics.fmean(values), "retention": statistics.fmean(retention[name])}
        for name, values in rows.items()
    }
    for name, row in table.items():
        print(f"{name:24s} pass@1 {row['mean']:.3f}  retention {row['retention']:.3f}")
    if STRONG in table and WEAK in table:
        apart = float(table[STRONG]["mean"]) - float(table[WEAK]["mean"])  # type: ignore[arg-type]
        print(f"{STRONG} against {WEAK}: {apart:+.3f} pass@1 over {options.seeds} seeds")
        if not options.dry:
            name = "gene_landscape" if options.device == "cpu" else f"gene_landscape_{options.device}"
            write(name, {"seeds": options.seeds, "device": options.device, "apart": apart, "settings": table})


if __name__ == "__main__":
    main()
