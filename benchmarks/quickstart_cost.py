"""The quickstart against an earlier commit: CPU seconds of lane work, and the champion's held-out bugs, paired, over seeds.

    python -m benchmarks.quickstart_cost --seeds 10

Both sides run `coral evolve` on their own configs/quickstart.yaml, seed by seed, in turn. Both are unpacked commits (HEAD,
without uncommitted changes, and the earlier one) and run in this environment. Lane work is what trainings, evaluations and
judges report; CPU seconds of the whole command stand beside it. Both champions meet
the same held-out bugs. A program that was stopped goes on: finished runs in the work folder are not done again.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, ROOT, write
from coral_core.report.paired import compare

NAME = "quickstart_cost"
COMMAND_SECONDS = "command_cpu_seconds.json"
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Quantiles of Student's t distribution at 97.5 %, for 1, 2, ... degrees of freedom."""


def source(name: str, work: Path) -> Path:
    """The tree of a commit, unpacked below `work`."""
    tree, half = work / "trees" / name, work / "trees" / f"{name}.part"
    if not tree.exists():
        half.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(["git", "archive", name], cwd=ROOT, check=True, stdout=subprocess.PIPE)
        subprocess.run(["tar", "x"], cwd=half, input=packed.stdout, check=True)
        half.rename(tree)
    return tree


def report_of(tree: Path, folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the quickstart of `tree` in `folder`, unless it is finished there, and return its report."""
    settings = (f"runs={folder}", f"store.path={folder}/store", *overrides)
    environment = {**os.environ, "PYTHONPATH": str(tree), "CORAL_HOME": str(folder.parent / "home")}
    environment.pop("PREFECT_API_URL", None)
    pairs = [part for setting in settings for part in ("--set", setting)]
    if not any(_finished(path) for path in folder.glob("*/report.json")):
        command = [sys.executable, "-m", "flows.cli", "evolve", str(tree / "configs" / "quickstart.yaml"), *pairs]
        before = _children_seconds()
        subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
        (folder / COMMAND_SECONDS).write_text(json.dumps(_children_seconds() - before))
    return next(found for path in folder.glob("*/report.json") if (found := _finished(path)))


def _children_seconds() -> float:
    """CPU seconds of all processes that this one has started and waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def command_seconds(report: dict[str, Any], folder: Path) -> float | None:
    """CPU seconds of the whole command with its lanes; None for a run of several sessions, of which only one is known."""
    path = folder / COMMAND_SECONDS
    known = report["totals"]["sessions"] == 1 and path.exists()
    return round(float(json.loads(path.read_text())), 1) if known else None


def _finished(path: Path) -> dict[str, Any] | None:
    report: dict[str, Any] = json.loads(path.read_text())
    return report if report["status"] == "finished" else None


def repaired(report: dict[str, Any], folder: Path) -> dict[str, float]:
    """Held-out bug -> 1 if the champion repairs it, else 0."""
    digest = report["champion"]["held_out_evaluation_digest"]
    published = json.loads((folder / "store" / "evaluations" / f"{digest}.json").read_text())
    evaluation = json.loads(published["evaluation"])
    passed = set(evaluation["passed"])
    return {
        record["problem_id"]: float(record["problem_id"] in passed)
        for record in evaluation["records"]
        if not record["retention"]
    }


def measured(seed: int, trees: dict[str, Path], folders: dict[str, Path], overrides: Sequence[str]) -> dict[str, Any]:
    """Both sides of one seed; odd seeds begin with the new side."""
    sides = sorted(trees, reverse=seed % 2 == 0)  # "old" before "new" for even seeds
    reports = {
        side: report_of(trees[side], folders[side] / f"seed{seed}", (f"seed={seed}", *overrides)) for side in sides
    }
    bugs = {side: repaired(reports[side], folders[side] / f"seed{seed}") for side in sides}
    if bugs["old"].keys() != bugs["new"].keys():
        raise SystemExit("the two commits have other held-out bugs, so their champions cannot be compared")
    rates = {side: statistics.fmean(bugs[side].values()) for side in sides}
    gap = compare(rates["new"] - rates["old"], bugs["new"], bugs["old"])
    seconds = {side: round(reports[side]["totals"]["cpu_seconds"], 2) for side in sides}
    return {
        "seed": seed,
        "commit": folders["new"].name,
        "cpu_seconds": seconds,
        "ratio": round(seconds["new"] / seconds["old"], 4) if seconds["old"] else None,
        "command_cpu_seconds": {side: command_seconds(reports[side], folders[side] / f"seed{seed}") for side in sides},
        "champion": rates,
        "default_lora": {side: reports[side]["default_lora"]["held_out_pass_at_1"] for side in sides},
        # of this commit alone: a LoRA that was trained as often as the champion, and the bare model
        **{line: (reports["new"].get(line) or {}).get("held_out_pass_at_1") for line in ("longer_lora", "base_model")},
        "difference": gap.difference,
        "only_new": gap.only_champion,
        "only_old": gap.only_other,
        "bugs": gap.bugs,
    }


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of a mean (Student's t), one value per seed; None for a single value."""
    degrees = len(values) - 1
    if not degrees:
        return None
    quantile = T_975[min(degrees, len(T_975)) - 1]  # of more seeds a little too wide
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return (statistics.fmean(values) - half, statistics.fmean(values) + half)


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """CPU seconds of all seeds together, and the mean difference with two intervals.

    The interval by seed treats each seed as one observation (Student's t) and so contains the luck of training and search;
    that by bug treats each bug of each seed as one.
    """
    seconds = {side: sum(row["cpu_seconds"][side] for row in rows) for side in ("old", "new")}
    differences = [row["difference"] for row in rows]
    bugs, wins, losses = (sum(row[key] for row in rows) for key in ("bugs", "only_new", "only_old"))
    spread = 1.959964 * math.sqrt(max(0.0, wins + losses - (wins - losses) ** 2 / bugs)) / bugs
    return {
        "cpu_seconds": {side: round(value, 1) for side, value in seconds.items()},
        "ratio": round(seconds["new"] / seconds["old"], 4) if seconds["old"] else None,
        "difference": statistics.fmean(differences),
        "interval_by_seed": mean_interval(differences),
        "interval_by_bug": ((wins - losses) / bugs - spread, (wins - losses) / bugs + spread),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--against", default="1f1d1b0", help="the earlier commit")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / NAME, help="runs, kept between sessions")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting for both sides")
    options = parser.parse_args(arguments)
    work = options.work.absolute()
    commits = {
        side: subprocess.run(
            ["git", "rev-parse", name], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()
        for side, name in (("old", options.against), ("new", "HEAD"))
    }
    trees = {side: source(name, work) for side, name in commits.items()}
    folders = {side: work / side / name for side, name in commits.items()}
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        rows.append(measured(seed, trees, folders, options.set))
        print(json.dumps(rows[-1]), flush=True)
        missing = list(range(seed + 1, options.seeds))
        result = {"against": commits["old"], "set": options.set, "missing": missing, **summary(rows), "rows": rows}
        write(NAME, result, options.results)


if __name__ == "__main__":
    main()
