"""A real base model: champion, random search, tuned and default LoRA and the bare model on held-out bugs, at equal trainings.

    coral model fetch smollm2
    python -m benchmarks.real_model --seed 0 --minutes 90
    python -m benchmarks.real_model --seed 1 --minutes 90 --quixbugs QuixBugs

One command measures one seed and adds it to results/real_model.json. It makes two runs on one store: evolution with tuned
baselines, and random search over the same genes with as many trainings; equal genes are one training. After the time limit,
Ctrl-C or a kill, the same command goes on; what a seed still lacks stands under `missing`. With ``--minutes 0`` nothing is
run, and the result says what there is. With ``--quixbugs`` the adapters are also tried on the 16 held-out programs of
QuixBugs. CPU seconds are those of trainings, evaluations and judges. `trained` lists the genes and scores of each adapter: a small
gene table of a real model.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.record import RESULTS, ROOT, commit, write
from coral_core import Progress, RunConfig, evolve
from coral_core.evolution.job_runner import Planner
from coral_core.execution import make_executor
from coral_core.jobs.job_content import problem_set
from coral_core.jobs.jobs import EvaluationJob
from coral_core.lm.targets import default_lora_of
from coral_core.problem_sources.leak_guard import guard
from coral_core.report.build_report import build_report
from coral_core.report.comparison import compare_runs
from coral_core.report.content import Contender, Gap, Report
from coral_core.report.history_records import History
from coral_core.report.paired import share_interval
from coral_core.runs.run_folder import RunFolder, identify_run
from coral_core.store.store import Store

NAME = "real_model"
STRATEGIES = ("evolution", "random")
LINES = {"base": "base_model", "default_lora": "default_lora", "tuned_lora": "tuned_lora", "champion": "champion"}
"""Key in the result -> line of the report of the evolution."""
GENES: dict[str, dict[str, Any]] = {
    "heavy": {
        "rank": [8, 16, 32, 64],
        "alpha": [32, 64, 128],
        "dropout": [0.0],
        "learning_rate": [5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3],
        "target_modules": ["mlp", "all"],
        "adapter": ["lora", "dora"],
    },
    "light": {"repetition_penalty": {"low": 1.0, "high": 1.0}, "sampling": [False]},
}
"""Both strategies search these. The ranges come from seven trainings tried on fitness problems beforehand: attention alone
repaired fewer, and so did a learning rate of 4e-3."""
QUIXBUGS_TOKENS = 512
"""Prompt and answer at most, in tokens, on QuixBugs: its programs are longer than the built-in ones."""


class OutOfTimeError(Exception):
    """The time limit of this session has passed."""


def configuration(options: argparse.Namespace, strategy: str) -> RunConfig:
    """The run of one strategy; both need the same number of trainings.

    Evolution trains its population, and all but one elite of each later generation. Random search draws as many genomes
    at once. Neither starts at the default LoRA, so that every training is one of its own genomes.
    """
    population, later = options.population, options.generations - 1
    sizes = {
        "evolution": {"population": population, "generations": options.generations, "elites": 1, "baselines": "tuned"},
        "random": {"population": population + later * (population - 1), "generations": 1},
    }
    limit = {"low": options.tokens, "high": options.tokens}
    return RunConfig.model_validate({
        "name": f"real-model-{strategy}",
        "seed": options.seed,
        "runs": str(options.work / "runs"),
        "store": {"path": str(options.work / "store")},
        "search": {
            "strategy": strategy, "start_with_default": False, "early_stopping": {"enabled": False}, **sizes[strategy],
        },
        "genes": {"heavy": GENES["heavy"], "light": {**GENES["light"], "token_limit": limit}},
        "base_model": {"name": options.model, "dtype": options.dtype},
        "problems": {
            "fitness": options.fitness, "retention": options.retention, "monitor": 0, "held_out": options.held_out,
            "pairs": options.pairs,
        },
        "training": {
            "steps": options.steps, "batch_size": options.batch_size, "warmup": options.steps // 10,
            "sequence_length": 2 * options.prompt_length,
        },
        "generation": {"batch_size": 8, "prompt_length": options.prompt_length},
        "infra": {
            "executor": options.executor, "training": {"minutes": 60}, "evaluation": {"minutes": 60},
        },
    })  # fmt: skip


def place(config: RunConfig) -> tuple[RunFolder, Store]:
    """Folder and store of a run."""
    return RunFolder.of(config, identify_run(config)), Store(config.store.path)


def run(configs: dict[str, RunConfig], deadline: float) -> None:
    """Begin or continue the runs; raises `OutOfTimeError` at `deadline` (of `time.monotonic`)."""

    def look(_: Progress | None = None) -> None:
        if time.monotonic() > deadline:
            raise OutOfTimeError

    for config in configs.values():
        look()
        evolve(config, progress=look)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Do what is missing of one seed, and return its row."""
    configs = {strategy: configuration(options, strategy) for strategy in STRATEGIES}
    programs: dict[str, Any] | None = None
    try:
        run(configs, time.monotonic() + 60 * options.minutes)
        programs = quixbugs(configs, options.quixbugs) if options.quixbugs else None
    except (OutOfTimeError, KeyboardInterrupt):
        print("stopped; the same command goes on", flush=True)
    reports = {name: build_report(*place(each)) for name, each in configs.items() if place(each)[0].path.exists()}
    missing = [name for name in STRATEGIES if name not in reports or reports[name].status != "finished"]
    missing += ["quixbugs"] if options.quixbugs and programs is None else []
    figures = row(configs, reports) | {"trained": trained([configs[name] for name in reports], reports)}
    return {"seed": options.seed, "commit": commit(), "missing": missing, **figures, "quixbugs": programs}


def trained(configs: Sequence[RunConfig], reports: dict[str, Report]) -> list[dict[str, Any]]:
    """Every adapter of a seed once, fittest first: its genes, and its scores on the fitness split. A small gene table."""
    found = [
        (record.genome.heavy, {"fitness": record.fitness, **record.scores})
        for config in configs
        for record in History.of(place(config)[0]).genomes.values()
    ]
    found += [
        (line.heavy, {"fitness": line.fitness, "pass_at_1": line.pass_at_1})
        for report in reports.values()
        for line in report.tuned
    ]
    distinct = {json.dumps(heavy.model_dump(mode="json"), sort_keys=True): scores for heavy, scores in found[::-1]}
    rows = [json.loads(heavy) | scores for heavy, scores in distinct.items() if scores["fitness"] is not None]
    return sorted(rows, key=lambda each: -float(each["fitness"]))


def row(configs: dict[str, RunConfig], reports: dict[str, Report]) -> dict[str, Any]:
    """The figures of one seed as far as they are known; the others are null."""
    evolution, random = (reports.get(name) for name in STRATEGIES)
    found: dict[str, Contender | None] = {
        key: getattr(evolution, line) if evolution else None for key, line in LINES.items()
    }
    found["random_best"] = random.champion if random else None
    gaps = evolution.gaps if evolution else None
    against_random = compare_runs(*map(place, configs.values())).gap if len(reports) == len(STRATEGIES) else None
    return {
        "held_out": next((each.held_out_bugs for each in found.values() if each and each.held_out_bugs), None),
        **{key: each.held_out_pass_at_1 if each else None for key, each in found.items()},
        "p_vs_default": p_value(gaps.champion_minus_default_lora) if gaps else None,
        "p_vs_tuned": p_value(gaps.champion_minus_tuned_lora) if gaps else None,
        "p_vs_random": p_value(against_random),
        "cpu_seconds": round(sum(report.totals.cpu_seconds for report in reports.values()), 1),
        "gaps": {
            "champion_minus_default": gaps.champion_minus_default_lora if gaps else None,
            "champion_minus_tuned": gaps.champion_minus_tuned_lora if gaps else None,
            "champion_minus_random": against_random,
        },
        "repaired": {key: each.held_out_repaired if each else None for key, each in found.items()},
        "interval": {key: each.held_out_interval if each else None for key, each in found.items()},
        "fitness": {key: each.fitness if each else None for key, each in found.items()},
        "genes": {key: each.heavy for key, each in found.items() if each and each.heavy},
        "work": {name: report.stages for name, report in reports.items()},
        "adapters": {name: report.searched.adapters for name, report in reports.items()},
    }


def p_value(gap: Gap | None) -> float | None:
    return gap.p_value if gap else None


def quixbugs(configs: dict[str, RunConfig], clone: str) -> dict[str, Any]:
    """Repaired held-out programs of QuixBugs by each adapter that the built-in bugs chose; `clone` is its directory."""
    config = configs["evolution"]
    planner = Planner.of_config(config)
    reports = {name: build_report(*place(each)) for name, each in configs.items()}
    evolution, best = reports["evolution"], reports["random"].champion
    problems = {"source": "quixbugs", "path": str(Path(clone).absolute()), "pairs": config.problems.pairs}
    other = RunConfig.model_validate(
        config.model_dump() | {"problems": problems, "generation": {"batch_size": 8, "prompt_length": QUIXBUGS_TOKENS}}
    )
    guard(problem_set(other.problems), other.problems)  # no answer may have been trained on
    foreign = Planner.of_config(other)
    light = planner.evaluation(None).light.model_copy(update={"token_limit": QUIXBUGS_TOKENS})
    adapters = {
        "base": None,
        "default_lora": default_lora_of(planner.base("training")),
        "tuned_lora": evolution.tuned_lora.heavy if evolution.tuned_lora else None,
        "champion": evolution.champion.heavy if evolution.champion else None,
        "random_best": best.heavy if best else None,
    }
    jobs: dict[str, EvaluationJob] = {
        name: foreign.evaluation(heavy, light, "held_out").model_copy(
            update={"training": planner.training(heavy) if heavy else None}
        )
        for name, heavy in adapters.items()
    }
    store = Store(config.store.path)
    with make_executor(config, store) as executor:
        evaluations = {
            name: store.read_evaluation(job.digest()) or executor.submit_evaluation(job).result()
            for name, job in jobs.items()
        }
    bugs = len(foreign.problems("held_out"))
    return {
        "held_out": bugs,
        "repaired": {name: len(found.passed) for name, found in evaluations.items()},
        "interval": {name: share_interval(len(found.passed) / bugs, bugs) for name, found in evaluations.items()},
        "cpu_seconds": round(sum(found.cost.cpu_seconds for found in evaluations.values()), 1),
    }


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of one session."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=90, help="time limit of this session; 0: only report")
    parser.add_argument("--model", default="smollm2", help="name or directory")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--quixbugs", metavar="DIR", help="a clone of QuixBugs (coral problems fetch quixbugs)")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "real_model", help="runs and store, kept between sessions"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--population", type=int, default=6)
    parser.add_argument(
        "--generations", type=int, default=3, help="6 + 5 + 5 trainings, one elite of each generation kept"
    )
    parser.add_argument("--fitness", type=int, default=48)
    parser.add_argument("--retention", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=160, help="8 of them have no bug")
    parser.add_argument("--pairs", type=int, default=384)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--prompt-length", type=int, default=160)
    parser.add_argument("--tokens", type=int, default=160, help="new tokens per patch at most")
    parser.add_argument("--executor", default="local", choices=("local", "inline"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    per_session = ("seed", "minutes", "work", "results", "quixbugs", "executor")
    settings = {key: value for key, value in vars(options).items() if key not in per_session}
    path = options.results / f"{NAME}.json"
    earlier = json.loads(path.read_text()) if path.exists() else {"seeds": []}
    rows = earlier["seeds"] if earlier.get("settings") == settings else []
    if rows != earlier["seeds"]:
        print(f"{path}: its rows were measured with other settings and are left out", flush=True)
    fresh = json.loads(TypeAdapter(dict[str, Any]).dump_json(measured(options)))
    print(json.dumps(fresh, indent=1), flush=True)
    seeds = sorted(
        [*(each for each in rows if each["seed"] != options.seed), fresh], key=lambda each: int(each["seed"])
    )
    write(NAME, {"settings": settings, "seeds": seeds}, options.results)


if __name__ == "__main__":
    main()
