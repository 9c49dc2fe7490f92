"""Would a race of finalists on more problems name better champions? Replayed on finished runs of the quickstart.

    python -m benchmarks.finalists RUN [RUN ...]

The finalists of a run are the genomes that its search expects the most of. They are evaluated on fresh bugs, of which neither
the run's splits nor its training pairs hold the normal form. A race would name the one that repairs most of the fitness
problems and the fresh ones together. It is compared with the champion and with the best finalist there is (by the held-out
split itself, which no rule can know): the most that a better rule could bring.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gene_table import LONGEST_JOB, Scorer
from benchmarks.quickstart_cost import mean_interval
from benchmarks.record import write
from coral_core.config import RunConfig, load_config
from coral_core.evolution.job_runner import Planner
from coral_core.jobs.job_content import problem_set
from coral_core.lanes.lane import entry, generation_request
from coral_core.lm.engine_client import EngineProcess
from coral_core.problems.normal_form import normal_form
from coral_core.problems.problem import Problem
from coral_core.runs.run_folder import RunFolder
from coral_core.search.archive import Scored
from coral_core.search.strategy import make_search

NAME = "finalists"
FINALISTS = 4
FRESH = 240
"""Bugs that are drawn; those near the run's training pairs are left out again."""
BUDGETS = (60, 120, FRESH)
"""Fresh bugs that a race may use."""


def finalists(config: RunConfig, results: Sequence[Scored], count: int) -> list[Scored]:
    """The results that the search would name champion, then the one that it would name without that one, and so on."""
    search, left = make_search(config), list(results)
    found: list[Scored] = []
    while left and len(found) < count:
        best = search.champion_of(left)
        if best is None:
            break
        found.append(best)
        left.remove(best)
    return found


def fresh_bugs(config: RunConfig, count: int) -> tuple[RunConfig, list[int]]:
    """A configuration whose fitness split goes on with fresh bugs, and their places in it."""
    problems = config.problems
    longer = problems.model_copy(update={"fitness": problems.fitness + count})
    known = {normal_form(text) for each in problem_set(problems).pairs for text in (each.buggy, each.fixed)}
    split = problem_set(longer).fitness
    places = range(problems.fitness, longer.fitness)  # after the run's own bugs, which come first in both
    fresh = [n for n in places if not {normal_form(split[n].buggy), normal_form(split[n].reference)} & known]
    return config.model_copy(update={"problems": longer}), fresh


class Finals:
    """Evaluates genomes of one run beside its store.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.config = load_config(folder / "config.yaml")
        self.store = Path(self.config.store.path)
        self.planner = Planner.of_config(self.config)
        self.longer, self.fresh = fresh_bugs(self.config, FRESH)
        self.engine = EngineProcess()
        self.spent = 0.0

    def passed(self, scored: Scored, config: RunConfig, problems: Sequence[Problem], split: Any) -> tuple[bool, ...]:
        """Whether the first sample passes, per problem of a split of `config`."""
        genome, planner = scored.genome, Planner.of_config(config)
        adapter = self.store / "adapters" / self.planner.training(genome.heavy).digest()
        job, scorer = planner.of(genome, split), Scorer(config, problems)
        try:
            self.engine.load(config.base_model)
            request = generation_request(job, adapter).model_copy(update={"entries": (entry(job, adapter),)})
            written = self.engine.generate(request, LONGEST_JOB).entries[0]
            self.spent += written.cost.cpu_seconds
            return scorer.result([samples[0] for samples in written.completions], 0.0).passed
        finally:
            scorer.close()


def measured(folder: Path) -> dict[str, Any]:
    """The finalists of one run on the three sets of bugs."""
    finals = Finals(folder)
    results: dict[str, Scored] = {}
    rates: dict[str, float] = {}
    for record in RunFolder(folder).history():
        if getattr(record, "type", "") == "genome" and record.scores is not None:
            scored = Scored(genome=record.genome, scores=record.scores, fitness=record.fitness)
            rates[record.genome.genome_id] = record.pass_at_1
            results.setdefault(record.genome.genes_digest(), scored)
    held_out = [n for n, problem in enumerate(finals.planner.problems("held_out")) if not problem.retention]
    longer = problem_set(finals.longer.problems).fitness
    own = sum(not problem.retention for problem in finals.planner.problems("fitness"))
    rows: list[dict[str, Any]] = []
    try:
        for scored in finalists(finals.config, list(results.values()), FINALISTS):
            far = finals.passed(scored, finals.longer, longer, "fitness")
            cost = finals.spent
            held = finals.passed(scored, finals.config, finals.planner.problems("held_out"), "held_out")
            finals.spent = cost  # reading the held-out split is no part of a race
            rows.append(
                {
                    "genome": scored.genome.genome_id,
                    "trainings": scored.genome.heavy.trainings(),
                    "fitness": scored.fitness,
                    "own": round(own * rates[scored.genome.genome_id]),
                    "fresh": "".join(str(int(far[n])) for n in finals.fresh),
                    "held_out": statistics.fmean(float(held[n]) for n in held_out),
                }
            )
    finally:
        finals.engine.close()
    return {
        "run": folder.name,
        "seed": finals.config.seed,
        "own_bugs": own,
        "cpu_seconds": finals.spent,
        "rows": rows,
    }


def gain(run: dict[str, Any], budget: int) -> float:
    """Held-out rate of the one that a race with `budget` fresh bugs names, minus the champion's."""
    rows = run["rows"]
    best = max(rows, key=lambda row: row["own"] + row["fresh"][:budget].count("1"))
    return float(best["held_out"] - rows[0]["held_out"])


def average(values: Sequence[float]) -> dict[str, Any]:
    """Mean over the runs, with its 95 % interval."""
    return {"mean": statistics.fmean(values), "interval": mean_interval(values)}


def result(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The content of the JSON."""
    best = [max(row["held_out"] for row in run["rows"]) - run["rows"][0]["held_out"] for run in runs]
    return {
        "finalists": FINALISTS,
        "gain": {str(budget): average([gain(run, budget) for run in runs]) for budget in BUDGETS},
        "most": average(best),
        "champion": statistics.fmean(run["rows"][0]["held_out"] for run in runs),
        "runs": list(runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs of configs/quickstart.yaml")
    runs = [measured(folder) for folder in parser.parse_args().runs]
    write(NAME, result(runs))


if __name__ == "__main__":
    main()
