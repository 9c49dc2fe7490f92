"""Makes the gene tables (benchmarks/tables): every cell trained twice and evaluated at a few light settings.

    python -m benchmarks.gene_table quickstart --minutes 30     what is missing, for half an hour, on two lanes
    python -m benchmarks.gene_table quickstart --shard 3 --of 10
    python -m benchmarks.gene_table second --dry-run            what is missing, and about how long it takes

Each call adds one part with the rows that it made, and rewrites the page (benchmarks/tables/README.md); commit both. A
call that is stopped, by whatever means, loses the rows in progress only: finished ones wait in the work folder for the
next call. Jobs, requests to the engine, judge, linters and formulas are those of an evolution, so the scores equal those of
a run with seed 0 (tests/benchmarks/test_gene_table.py); completions that recur are judged once.

`second` is the table on which nothing is tuned: other problems (data seed 2, and families that `quickstart` does not
learn) and another base model, pre-trained on other families with another seed (benchmarks/tables/second/base, made by
``python -m coral_core.lm.pretrain DIR --exchanged --seed 2``).
"""

import argparse
import fcntl
import itertools
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gene_table_page import TABLES, write_page
from benchmarks.record import QUICKSTART, ROOT
from coral_core.atomic_write import write_atomic
from coral_core.config import GenesConfig, RunConfig, load_config
from coral_core.config.gene_space import HeavyGeneSpace
from coral_core.errors import CoralError, Infeasible, TableError
from coral_core.evolution.job_runner import Planner
from coral_core.genome import LightGenes
from coral_core.jobs.jobs import EvaluationJob
from coral_core.judge.judge import Judge
from coral_core.lanes.lane import entry, generation_request, training_request
from coral_core.lm.engine_client import Engine, EngineProcess
from coral_core.problem_sources.builtin import load_builtin
from coral_core.problem_sources.families import EXCHANGED
from coral_core.problems.problem import Problem, ProblemSet
from coral_core.scoring import objectives
from coral_core.scoring.boundary import CompletionScorer, Item
from coral_core.scoring.judged import Judged
from coral_core.scoring.text_process import TextProcess
from coral_core.search.table_files import LightResult, Row, TableFacts, TableProblem, write_part
from coral_core.search.tables import Table, cells_of, spanned

WORK = ROOT / "runs" / "gene_table"
LONGEST_JOB = 1800.0
"""Seconds after which the engine of a job is ended."""
SECONDS_PER_ROW = 20.0
"""CPU seconds of a row while none is made."""
JUDGING_SECONDS = 2.5
"""CPU seconds of a row outside the engine: judge, linters, this process."""
REMEMBERED = 100_000
"""Judged completions that are kept in memory."""
MOST_FAILURES = 3
"""Rows in a row that may fail on a lane before it gives up."""
LIGHTS = tuple(
    LightGenes(
        temperature=temperature, top_p=1.0, top_k=50, repetition_penalty=penalty, token_limit=96, sampling=sampling
    )
    for sampling, temperature, penalty in ((False, 0.1, 1.0), (False, 0.1, 1.05), (True, 0.1, 1.0), (True, 0.7, 1.0))
)


@dataclass(frozen=True)
class Plan:
    """What a table varies, and on what.

    Attributes:
        name: Name of the table and of its folders.
        heavy: Candidates of the heavy genes.
        settings: What differs from configs/quickstart.yaml, as for ``--set``.
        exchanged: The problems are of the families that the usual base model knows (`EXCHANGED`).
        replicates: Trainings per cell.
    """

    name: str
    heavy: HeavyGeneSpace
    settings: tuple[str, ...] = ()
    exchanged: bool = False
    replicates: int = 2


USUAL = {"dropout": (0.0,), "rank": (2, 4, 8, 16, 32), "learning_rate": (1e-3, 2e-3, 5e-3, 1e-2)}
PLANS = {
    "quickstart": Plan("quickstart", HeavyGeneSpace.model_validate(USUAL | {"alpha": (8, 16, 32, 64)})),
    "second": Plan(
        "second",
        HeavyGeneSpace.model_validate(USUAL | {"alpha": (8, 32), "adapter": ("lora",)}),
        ("base_model.name=benchmarks/tables/second/base", "base_model.prompt=tiny", "problems.data_seed=2"),
        exchanged=True,
    ),
}


class Scorer:
    """Judges completions and scores them per problem; a completion that recurs is judged once. Thread-safe.

    Args:
        config: Limits of the judge.
        problems: The problems of the fitness split.
    """

    def __init__(self, config: RunConfig, problems: Sequence[Problem]) -> None:
        self._problems = tuple(problems)
        self._judge = Judge.configured(config.scoring.judge)
        self._texts = TextProcess()
        self._known: dict[tuple[int, str], Item] = {}
        self._lock = threading.Lock()
        self.reference_lines = self._judge.reference_lines(problems, LONGEST_JOB)

    def items(self, completions: Sequence[str]) -> list[Item]:
        """The judged and linted item of each problem.

        Args:
            completions: One per problem.

        Raises:
            JudgeError: no verdict was reached.
        """
        with self._lock:
            wanted = list(enumerate(completions))
            if len(self._known) > REMEMBERED:
                self._known.clear()
            new = [key for key in wanted if key not in self._known]
            if new:
                subset = [self._problems[number] for number, _ in new]
                scorer = CompletionScorer(subset, self._judge, self._texts, lambda: LONGEST_JOB)
                scorer.add({place: [text] for place, (_, text) in enumerate(new)})
                self._known |= dict(zip(new, (group[0] for group in scorer.items().groups), strict=True))
            return [self._known[key] for key in wanted]

    def result(self, completions: Sequence[str], cpu_seconds: float) -> LightResult:
        """What one evaluation found per problem. Arguments and errors as `items`.

        Args:
            completions: One per problem.
            cpu_seconds: Of their generation.
        """
        rows = list(zip(self._problems, self.items(completions), self.reference_lines, strict=True))
        lint = {item.patch: item.findings for _, item, _ in rows}
        return LightResult(
            passed=tuple(item.verdict.passed for _, item, _ in rows),
            bugfix=tuple(objectives.bugfix(item.verdict) for _, item, _ in rows),
            style=tuple(objectives.style(item.patch, lint, objectives.size(problem)) for problem, item, _ in rows),
            security=tuple(objectives.security(item.patch, lint) for _, item, _ in rows),
            syntax=tuple(objectives.syntax(problem, item.patch, lint) for problem, item, _ in rows),
            runtime=tuple(objectives.work_ratio(item.verdict, lines) for _, item, lines in rows),
            cpu_seconds=cpu_seconds,
        )

    def base(self, completions: Sequence[str], parameters: int) -> tuple[objectives.Scores, tuple[str, ...]]:
        """Scores of the bare base model, and the problems that it repairs. Raises as `items`."""
        items = self.items(completions)
        judged = Judged(
            problems=self._problems,
            patches=tuple((item.patch,) for item in items),
            verdicts=tuple((item.verdict,) for item in items),
            base_passes=frozenset(),
            trainable_parameters=0,
            base_parameters=parameters,
        )
        scores = objectives.score(judged, self.reference_lines, {item.patch: item.findings for item in items})
        return scores, tuple(item.problem_id for item in items if item.verdict.passed)

    def close(self) -> None:
        self._judge.close()
        self._texts.close()


class Maker:
    """Makes the rows of a table.

    Args:
        plan: The table.
        config: Its configuration (`configuration`).
        known: Facts of the parts that are there; None for a new table.
        lights: Light settings.

    Attributes:
        facts: The facts of the table, after `prepare`.
    """

    def __init__(
        self, plan: Plan, config: RunConfig, known: TableFacts | None = None, lights: tuple[LightGenes, ...] = LIGHTS
    ) -> None:
        self.plan, self.config, self.lights = plan, config, lights
        self.planner = Planner.of_config(config)
        self.problems = self.planner.problems("fitness")
        self.scorer = Scorer(config, self.problems)
        self.cells = cells_of(config.genes)
        self._known = known
        self.facts: TableFacts

    def prepare(self, engine: Engine) -> None:
        """Find out the facts of the table; a new one needs an evaluation of the base model.

        Args:
            engine: Evaluates it.

        Raises:
            TableError: the parts that are there were made with another configuration, base model or version.
        """
        if self._known is None:
            ((texts, _),) = self._completions(engine, [self.planner.evaluation(None)], None)
            scores, passes = self.scorer.base(texts, engine.identity.parameters)
            self.facts = self._described(scores.objectives(), passes)
        else:
            passes = tuple(item.problem_id for item in self._known.problems if item.base_passes)
            self.facts = self._described(self._known.base_scores, passes)
            for name in TableFacts.model_fields:
                here, there = getattr(self.facts, name), getattr(self._known, name)
                if here != there:
                    raise TableError(
                        f"table {self.plan.name}: {name} is {str(there)[:200]} in its parts and {str(here)[:200]} here",
                        remedy="Make it with the version that began it, or delete its parts and begin again.",
                    )
        self.planner.base_passes = passes

    def _described(self, base_scores: dict[str, float], passes: Sequence[str]) -> TableFacts:
        training, evaluation = self.planner.training(self.cells[0]), self.planner.evaluation(None)
        identity = self.planner.base("training")
        return TableFacts(
            name=self.plan.name,
            genes=self.config.genes,
            lights=self.lights,
            replicates=self.plan.replicates,
            problems=tuple(
                TableProblem(
                    problem_id=problem.problem_id,
                    bug_class=problem.bug_class,
                    retention=problem.retention,
                    base_passes=problem.problem_id in passes,
                )
                for problem in self.problems
            ),
            scoring=self.config.scoring,
            base_model="coral-tiny",
            base_parameters=identity.parameters,
            base_scores=base_scores,
            made_with={
                "base": training.base_content_id,
                "dtype": self.config.base_model.dtype,
                "pairs": training.pairs_digest,
                "problems": evaluation.problems_digest,
                "recipe": self.config.training.model_dump(mode="json"),
                "recipe_version": training.recipe_version,
                "generation": self.config.generation.model_dump(mode="json"),
                "versions": evaluation.versions,
                "run_seed": training.run_seed,
            },
        )

    def row(self, engine: Engine, cell: int, replicate: int) -> Row:
        """Train a cell once and evaluate it at all light settings.

        Args:
            engine: Does the work.
            cell: Number of the cell.
            replicate: Number of the training; each has other random numbers.

        Raises:
            EngineError: the engine failed.
            JudgeError: no verdict was reached.
        """
        heavy = self.cells[cell]
        started = time.perf_counter()
        engine.load(self.config.base_model)
        with tempfile.TemporaryDirectory(prefix="coral-gene-table-") as folder:
            try:
                adapter = engine.train(
                    training_request(self.planner.training(heavy, replicate), Path(folder)), LONGEST_JOB
                )
                jobs = [self.planner.evaluation(heavy, light, replicate=replicate) for light in self.lights]
                written = self._completions(engine, jobs, Path(folder))
            except Infeasible as error:
                seconds = time.perf_counter() - started
                return Row(cell=cell, replicate=replicate, infeasible=error.reason, cpu_seconds=seconds)
        return Row(
            cell=cell,
            replicate=replicate,
            trainable_parameters=adapter.trainable_parameters,
            losses=tuple(point.loss for point in adapter.losses),
            cpu_seconds=adapter.cost.cpu_seconds,
            results=tuple(self.scorer.result(texts, seconds) for texts, seconds in written),
        )

    def _completions(
        self, engine: Engine, jobs: Sequence[EvaluationJob], adapter: Path | None
    ) -> list[tuple[tuple[str, ...], float]]:
        """The first completion per problem of each job, and its share of the engine's CPU seconds.

        Args:
            engine: Writes them, in one request.
            jobs: Evaluations that differ in their light genes only.
            adapter: The adapter of all.
        """
        engine.load(self.config.base_model)
        request = generation_request(jobs[0], adapter)
        entries = tuple(entry(job, adapter) for job in jobs)
        generated = engine.generate(request.model_copy(update={"entries": entries}), LONGEST_JOB)
        return [
            (tuple(samples[0] for samples in written.completions), written.cost.cpu_seconds)
            for written in generated.entries
        ]

    def close(self) -> None:
        self.scorer.close()


def configuration(plan: Plan, work: Path) -> RunConfig:
    """The configuration of a table: that of the quickstart, but for the axes and `Plan.settings`.

    Args:
        plan: The table.
        work: Receives the problems of a table with exchanged families, as a file for the source jsonl.
    """
    config = load_config(QUICKSTART, plan.settings)
    genes = GenesConfig(heavy=plan.heavy, light=spanned(LIGHTS))
    config = config.model_copy(update={"genes": genes})
    if plan.exchanged:
        path = work / "problems.jsonl"
        write_atomic(path, _jsonl(load_builtin(config.problems, EXCHANGED)))
        problems = config.problems.model_copy(update={"source": "jsonl", "path": str(path)})
        config = config.model_copy(update={"problems": problems})
    return config


def _jsonl(problems: ProblemSet) -> bytes:
    """A problem set in the form that the source jsonl reads."""
    lines: list[dict[str, object]] = []
    for split in ("fitness", "monitor", "held_out"):
        for problem in problems.split(split):
            kept = problem.model_dump(
                mode="json",
                include={"entry_point", "buggy", "reference", "bug_class", "difficulty", "family", "variant"},
            )
            cases = [
                {"arguments": list(case.arguments), "value": case.value, "encoded": True} for case in problem.cases
            ]
            lines.append({"type": "problem", "id": problem.problem_id, "split": split, "cases": cases} | kept)
    lines += [{"type": "pair"} | pair.model_dump(mode="json") for pair in problems.pairs]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def order(cells: int, replicates: int) -> list[tuple[int, int]]:
    """(cell, replicate) of all rows, shuffled by cell: the rows of any shard are spread over the whole table."""
    numbers = random.Random(0).sample(range(cells), cells)
    return list(itertools.product(numbers, range(replicates)))


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """The folder in which finished rows wait, locked: one call at a time makes rows of a table."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TableError(f"{folder}: another call is making rows", remedy="Wait for its end.") from None
        yield folder


def waiting_rows(work: Path) -> dict[tuple[int, int], Path]:
    """(cell, replicate) -> file of the finished rows that are in no part yet."""
    found = {}
    for path in sorted((work / "rows").glob("*.json")):
        row = Row.model_validate_json(path.read_bytes())
        found[row.cell, row.replicate] = path
    return found


def pack(folder: Path, work: Path, facts: TableFacts, made: set[tuple[int, int]], made_on: str) -> Path | None:
    """Move the waiting rows into a new part.

    Args:
        folder: Holds the parts.
        work: Holds the waiting rows.
        facts: Those of the table.
        made: Rows that are in a part already; a call that was killed here may have left their files.
        made_on: Numerics class of this machine.

    Returns:
        The part; None when no row waits.
    """
    waiting = waiting_rows(work)
    new = [Row.model_validate_json(path.read_bytes()) for key, path in waiting.items() if key not in made]
    part = None
    if new:
        number = max((int(path.stem.removeprefix("part-")) for path in folder.glob("part-*.npz")), default=-1) + 1
        part = folder / f"part-{number:03d}.npz"
        write_part(part, facts, new, made_on)
    for path in waiting.values():
        path.unlink()
    return part


def make_rows(
    maker: Maker, todo: Sequence[tuple[int, int]], work: Path, engines: Sequence[Engine], seconds: float
) -> int:
    """Make rows until none is left or the time is over.

    Args:
        maker: Makes them.
        todo: (cell, replicate) of the rows, in order.
        work: Receives a file per finished row.
        engines: One per lane.
        seconds: No row is begun that would probably end later.

    Returns:
        Number of rows made.

    Raises:
        CoralError: a lane failed `MOST_FAILURES` times in a row; the finished rows are kept.
    """
    deadline = time.monotonic() + seconds
    left, lock = iter(todo), threading.Lock()
    longest, made, stopped = 0.0, 0, False

    def serve(engine: Engine) -> None:
        nonlocal longest, made
        failures = 0
        while not stopped and time.monotonic() + longest < deadline:
            with lock:
                key = next(left, None)
            if key is None:
                return
            started = time.monotonic()
            try:
                row = maker.row(engine, *key)
            except CoralError as error:
                failures += 1
                print(f"cell {key[0]}, replicate {key[1]}: {error}", flush=True)
                if failures == MOST_FAILURES or stopped:
                    raise
                continue
            failures = 0
            write_atomic(work / "rows" / f"{key[0]:05d}-{key[1]:02d}.json", row.model_dump_json().encode())
            with lock:
                longest, made = max(longest, time.monotonic() - started), made + 1

    with ThreadPoolExecutor(len(engines)) as pool:
        try:
            for future in [pool.submit(serve, engine) for engine in engines]:
                future.result()
        except BaseException:
            stopped = True
            for engine in engines:
                engine.kill()
            raise
    return made


def seconds_per_row(table: Table | None) -> float:
    """CPU seconds of a row: from the rows that are made, else `SECONDS_PER_ROW`."""
    if table is None:
        return SECONDS_PER_ROW
    columns = table.columns
    return (
        float(columns.training_seconds.sum() + columns.evaluation_seconds.sum()) / len(columns.cell) + JUDGING_SECONDS
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=sorted(PLANS))
    parser.add_argument("--minutes", type=float, default=30.0, help="begin no row that would probably end later")
    parser.add_argument("--shard", type=int, default=1, metavar="N", help="only part N of the rows, from 1")
    parser.add_argument("--of", type=int, default=1, metavar="M", help="number of parts that the rows are divided into")
    parser.add_argument("--rows", type=int, help="at most so many rows")
    parser.add_argument("--lanes", type=int, default=min(2, os.cpu_count() or 1), help="rows at a time")
    parser.add_argument("--dry-run", action="store_true", help="print what is missing, make nothing")
    parser.add_argument("--tables", type=Path, default=TABLES, help="folder of the tables")
    parser.add_argument("--work", type=Path, default=WORK, help="rows that are in no part yet")
    options = parser.parse_args(arguments)
    if not 1 <= options.shard <= options.of:
        parser.error(f"--shard {options.shard} --of {options.of}: shards are numbered from 1 to --of")
    if options.lanes < 1:
        parser.error(f"--lanes {options.lanes}: at least one lane makes rows")
    plan, folder = PLANS[options.table], options.tables / options.table
    with work_folder(options.work / plan.name) as work:
        table = Table.read(folder) if any(folder.glob("part-*.npz")) else None
        made = set(table.made if table else ())
        done = made | set(waiting_rows(work))
        cells = len(cells_of(GenesConfig(heavy=plan.heavy)))
        wanted = order(cells, plan.replicates)[options.shard - 1 :: options.of]
        todo = [key for key in wanted if key not in done][: options.rows]
        hours = len(todo) * seconds_per_row(table) / 3600
        print(
            f"{plan.name}: {cells} cells x {plan.replicates} trainings x {len(LIGHTS)} light settings; "
            f"{len(wanted)} rows asked for, {len(todo)} to make: about {hours:.2f} CPU hours, "
            f"{hours / options.lanes:.2f} hours on {options.lanes} free cores",
            flush=True,
        )
        if options.dry_run:
            return
        with ExitStack() as stack:
            maker = Maker(plan, configuration(plan, work), table.facts if table else None)
            stack.callback(maker.close)
            engines = [EngineProcess() for _ in range(options.lanes)]
            for engine in engines:
                stack.callback(engine.close)
            maker.prepare(engines[0])
            try:
                number = make_rows(maker, todo, work, engines, options.minutes * 60)
            finally:
                part = pack(folder, work, maker.facts, made, maker.planner.base("training").numerics_class)
        print(f"{number} rows made; written to {part}" if part else "no row made", flush=True)
        if part:
            write_page(options.tables)


if __name__ == "__main__":
    main()
