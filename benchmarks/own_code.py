"""A team's own code: base model, default LoRA and champion on held-out bugs of the functions of public packages.

    make own-packages                                    # fetches the packages and an environment for their tests
    coral model fetch smollm2
    python -m benchmarks.own_code --minutes 90           # two packages; the same command goes on after a stop

For each package `coral init --from` writes the configuration, as a team would call it; only the sizes of the search differ.
Held-out bugs are in functions of the package that nothing trained on. CPU seconds are those of trainings, evaluations and judges.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.own_packages import PYTHON, source_of
from benchmarks.real_model import OutOfTimeError, place, run
from benchmarks.record import RESULTS, ROOT, commit, write
from coral_core import RunConfig, load_config, load_problems
from coral_core.report.build_report import build_report

NAME = "own_code"
PACKAGES = ("boltons", "more-itertools")
LINES = {"base": "base_model", "default_lora": "default_lora", "champion": "champion"}
"""Key in the result -> line of the report."""


def configuration(package: str, options: argparse.Namespace) -> RunConfig:
    """What `coral init --from` writes for a package, with the sizes of this benchmark.

    Raises:
        SystemExit: the package is not there, or init finds too little in it.
    """
    source = source_of(package)
    if source is None:
        raise SystemExit(f"{package}: not fetched. Fetch it: make own-packages")
    file = options.work / f"{package}.yaml"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "flows.cli", "init", str(file), "--from", str(source), "--python", str(PYTHON)]
        done = subprocess.run([*command, "--base-model", options.model], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{package}: {done.stderr or done.stdout}")
    later = options.population - 1
    settings = {
        "name": f"own-code-{package}",
        "seed": options.seed,
        "runs": options.work / "runs",
        "store.path": options.work / "store",
        "search.population": options.population,
        "search.generations": options.generations,
        "search.trainings": options.population + later * (options.generations - 1),
        "search.elites": 1,
        "search.baselines": "quick",
        "search.champion_repeats": 0,
        "search.early_stopping.enabled": "false",
        "genes.heavy.rank": [8, 16, 32, 64],
        "genes.heavy.alpha": [32, 64, 128],
        "genes.heavy.learning_rate": [5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3],
        "genes.heavy.target_modules": ["mlp", "all"],
        "genes.light.sampling": ["false"],
        "training.steps": options.steps,
        "training.warmup": options.steps // 10,
        "training.batch_size": options.batch_size,
        "infra.executor": "local",
        "infra.training.minutes": 60,
        "infra.evaluation.minutes": 60,
    }
    given = (
        f"{key}={value if not isinstance(value, list) else str(value).replace(chr(39), '')}"
        for key, value in settings.items()
    )
    return load_config(file, tuple(given))


def measured(package: str, options: argparse.Namespace, deadline: float) -> dict[str, Any]:
    """Run the search of one package, or go on with it, and return its row."""
    config = configuration(package, options)
    problems = load_problems(config.problems)
    ended = True
    try:
        run({"evolution": config}, deadline)
    except (OutOfTimeError, KeyboardInterrupt):
        print("stopped; the same command goes on", flush=True)
        ended = False
    folder, store = place(config)
    report = build_report(folder, store) if folder.path.exists() else None
    found = {key: getattr(report, line) if report else None for key, line in LINES.items()}
    source = source_of(package)
    return {
        "package": package,
        "version": source.name.rpartition("-")[2] if source else "",
        "commit": commit(),
        "finished": ended and report is not None and report.status == "finished",
        "problems": {name: len(problems.split(name)) for name in ("fitness", "monitor", "held_out")},
        "pairs": len(problems.pairs),
        "held_out": next((each.held_out_bugs for each in found.values() if each and each.held_out_bugs), None),
        **{key: each.held_out_pass_at_1 if each else None for key, each in found.items()},
        "repaired": {key: each.held_out_repaired if each else None for key, each in found.items()},
        "interval": {key: each.held_out_interval if each else None for key, each in found.items()},
        "champion_minus_default": report.gaps.champion_minus_default_lora if report and report.gaps else None,
        "genes": {key: each.heavy for key, each in found.items() if each and each.heavy},
        "adapters": report.searched.adapters if report else 0,
        "cpu_seconds": round(report.totals.cpu_seconds, 1) if report else 0.0,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", nargs="+", default=list(PACKAGES), help="names of fetched packages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=90, help="time limit of this session")
    parser.add_argument("--model", default="smollm2", help="name or directory")
    parser.add_argument("--population", type=int, default=6)
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / NAME, help="configurations, runs and store")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    rows = []
    for package in options.packages:
        row = measured(package, options, deadline)
        rows.append(json.loads(TypeAdapter(dict[str, Any]).dump_json(row)))
        print(json.dumps(rows[-1], indent=1), flush=True)
    of_session = ("minutes", "work", "results", "packages")
    settings = {key: value for key, value in vars(options).items() if key not in of_session}
    write(NAME, {"settings": settings, "packages": rows}, options.results)


if __name__ == "__main__":
    main()
