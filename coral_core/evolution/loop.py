"""The loop of an evolution: baselines, then the generations, then the sealed held-out split once.

An equal configuration and edition give an equal history, for every executor, number of lanes, order of completion and
number of restarts: results in the store are not computed again, and all random draws are counter-based. Not covered: where
jobs run (`coral_core.execution`, flows/work_pools) and what they do (`coral_core.lanes`).
"""

import asyncio
import contextlib
import logging
import statistics
import time
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from coral_core.config import RunConfig
from coral_core.config.scoring_config import ScoringConfig
from coral_core.errors import CoralError, StoreError
from coral_core.evolution.charges import Charges, reached
from coral_core.evolution.job_runner import JobRunner, Planner, Recorder, Steps
from coral_core.evolution.listener import Listener
from coral_core.evolution.progress_watch import ProgressWatch
from coral_core.evolution.start_from import Start
from coral_core.execution.executor import Executor
from coral_core.genome import Genome, HeavyGenes
from coral_core.jobs.job_content import problem_set, split_digest
from coral_core.jobs.jobs import Evaluation, EvaluationJob
from coral_core.lm.baselines import tuned_loras
from coral_core.lm.targets import check_targets, default_lora_of, for_model
from coral_core.runs.identities import freeze_identities, frozen_identities
from coral_core.runs.records import (
    BaselineName,
    BaselineRecord,
    FinalRecord,
    GenerationRecord,
    GenomeRecord,
    HeldOut,
    LineName,
    Outcome,
    Phase,
    Repeat,
    RunIdentity,
    RunRecord,
    SessionTiming,
    TunedCandidate,
    line_names,
)
from coral_core.runs.run_folder import BEAT_SECONDS, HistoryWriter, RunFolder
from coral_core.search import selection
from coral_core.search.archive import Scored
from coral_core.search.selection import fitness, hypervolume
from coral_core.search.strategy import Search, StrategyError, make_search
from coral_core.store.store import Store
from coral_core.untrusted import in_a_line

log = logging.getLogger("coral.evolve")
Result = TypeVar("Result")


class NoChampionError(CoralError):
    """Every genome of the run was infeasible."""


class Evolution:
    """One session of one run; `run` does the part of the run that is missing.

    Args:
        config: The whole configuration.
        identity: Identity of the run; its seed drives the search.
        folder: Folder of the run; the caller holds its lock.
        store: Where results are.
        executor: Runs the jobs; the caller closes it.
        start: Origin of the first population.

    Attributes:
        steps: How jobs and generations are run; may be replaced before `run`.
        listeners: Objects that are notified of events; may be added to before `run`.
        outcome: How `run` ended; "failed" before it has ended.
        champion: Genome id of the champion once the run is finished; empty before.
    """

    def __init__(
        self,
        config: RunConfig,
        identity: RunIdentity,
        folder: RunFolder,
        store: Store,
        executor: Executor,
        start: Start,
    ) -> None:
        self.config = config
        self.identity = identity
        self.folder = folder
        self.store = store
        self.executor = executor
        self.start = start
        self.steps = Steps()
        self.listeners: list[Listener] = []
        self.outcome: Outcome = "failed"
        self.champion = ""
        self._planner = Planner(config, identity)
        self._recorder: Recorder
        self._history = HistoryWriter(folder)
        self._jobs: JobRunner
        self._search: Search  # made in `run`, when the modules of the base model are known
        self._default: HeavyGenes
        self._tuned: HeavyGenes | None = None
        self._first: Sequence[Scored] = ()
        self._champion: Scored | None = None
        self._charges = Charges(store, config.budget.price, lambda heavy: self._planner.training(heavy).digest())
        self._limit = ""
        """Which limit on the cost of the search is reached, in words."""
        history = folder.history()
        self._recorded = sum(isinstance(record, GenerationRecord) for record in history)
        self._begun = next((record for record in history if isinstance(record, RunRecord)), None)

    async def run(self) -> None:
        """Do the missing part of the run. The line of this session in timings.jsonl records how it ended.

        Raises:
            NoChampionError: every genome was infeasible.
            CoralError: a job failed in all its attempts, or the store or the run's folder cannot be used.
        """
        error = ""
        watch = ProgressWatch(self.folder, self.store, self.executor, self.listeners)
        self._recorder = Recorder(self.folder, watch.wake)
        keep = 4 * self.config.search.population
        self._jobs = JobRunner(self.store, self.executor, self._recorder, self.steps, keep)
        self.executor.on_failure = self._recorder.job_failed
        progress = watch.progress()
        try:
            for listener in self.listeners:
                listener.started(progress, self.start.text if self.start.start_from != "nothing" else "")
            await _beside(self._run(), _beat(self.folder), watch.run())
            self.outcome = "finished"
        except Exception as failure:
            error = in_a_line(failure)
            raise
        except BaseException:  # Ctrl-C, SIGTERM, a cancel
            self.outcome = "stopped"
            raise
        finally:
            self._jobs.close()
            with contextlib.suppress(OSError):
                (self.folder.path / "beat").unlink(missing_ok=True)
            try:
                self.folder.append_timing(
                    SessionTiming(
                        started=self._recorder.started,
                        seconds=time.time() - self._recorder.started,
                        trainings=self._recorder.done["training"],
                        evaluations=self._recorder.done["evaluation"],
                        outcome=self.outcome,
                        error=error,
                    )
                )
            finally:
                with contextlib.suppress(
                    CoralError, OSError
                ):  # the store is unreachable: report the last known progress
                    progress = watch.progress()
                for listener in self.listeners:
                    listener.ended(progress, self.outcome, error)

    async def _run(self) -> None:
        await self._ask_lanes()
        self._make_search()
        self._record_run()
        await self._baselines()
        self._recorder.phase = Phase.SEARCHING
        while not self._search.done and not self._limit:
            number = self._recorder.generation = self._search.generation
            genomes = list(self._search.ask())
            results = await self.steps.generation(number, genomes, lambda each=genomes: self._generation(each))  # type: ignore[misc]
            self._search.tell(results)
            self._first = self._first or results
            await self._after_generation(number, results)
        self._recorder.phase, self._recorder.generation = Phase.HELD_OUT, None
        await self._held_out()

    async def _ask_lanes(self) -> None:
        """Find out the identity of the base model on the lanes; an earlier session may have frozen it in the run's folder."""
        identities = frozen_identities(self.folder, self.config.infra)
        if identities is None or self.config.infra.executor != "work-pools":  # asking this machine again costs nothing
            identities = await asyncio.to_thread(self.executor.identities, self.config)
            freeze_identities(self.folder, self.config.infra, identities)
        self._planner.lanes = identities

    def _make_search(self) -> None:
        """Check the target modules against the base model before the first job, and make the search."""
        base = self._planner.base("training")
        check_targets(self.config, base)
        self._default = default_lora_of(base)
        # the search uses the run seed (from seed and edition), so that a new edition draws other genomes
        seeded = for_model(self.config, base).model_copy(update={"seed": self.identity.run_seed})
        self._search = make_search(seeded, self.start.genomes, self._default)
        self._check_strategy()

    def _check_strategy(self) -> None:
        """Refuse to continue a run with another version of its strategy, whose genomes may differ."""
        begun, here = self._begun, self._search.version
        if begun is not None and begun.strategy_version != here:
            raise StrategyError(
                f"search.strategy: {self.config.search.strategy}: {self.folder.run_id} was begun with "
                f"{begun.strategy_version or 'no version'}, here is {here or 'no version'}",
                remedy="Install that version, or start another edition (coral evolve --again).",
            )

    def _record_run(self) -> None:
        problems = self.config.problems
        counts = {name: len(self._planner.problems(name)) for name in ("fitness", "monitor", "held_out")}
        digests = {name: split_digest(problems, name) for name in ("fitness", "monitor", "held_out")}
        notes = list(problem_set(problems).notes)
        self._history.add(
            RunRecord(
                identity=self.identity,
                name=self.config.name,
                strategy=self.config.search.strategy,
                strategy_version=self._search.version,
                base_model=self._planner.base("evaluation"),
                training_numerics_class=self._planner.base("training").numerics_class,
                prompt=self._planner.carried_prompt,
                problems={"source": problems.source, "counts": counts, "digests": digests}
                | ({"notes": notes} if notes else {}),
                start=self.start.record(),
            )
        )
        log.info("%s", self.start.text)

    # -- baselines -------------------------------------------------------------------------

    async def _baselines(self) -> None:
        """Evaluate the bare base model and the LoRAs that the champion must beat, before the search begins."""
        training = asyncio.create_task(self._jobs.trained(self._planner.training(self._default), "default_lora"))
        base = await self._jobs.evaluated(self._planner.evaluation(None), "base_model")
        self._record_baseline("base_model", base)
        self._planner.base_passes = base.passed
        await training
        default = await self._jobs.evaluated(self._planner.evaluation(self._default), "default_lora")
        self._record_baseline("default_lora", default)
        if self.config.search.baselines == "tuned":
            await self._tune()

    async def _tune(self) -> None:
        """Find the tuned LoRA: the best of the usual ones on the fitness split, by the rule that finds the champion."""
        grid = tuned_loras(self._planner.base("training"))
        jobs = [(f"tuned_lora {name}", self._planner.evaluation(heavy)) for name, heavy in grid.items()]
        evaluations = await _together(self._jobs.evaluated(job, label) for label, job in jobs)
        candidates = tuple(
            TunedCandidate(
                name=name,
                heavy=heavy,
                trainable_parameters=evaluation.trainable_parameters,
                **self._outcome(evaluation),
            )
            for (name, heavy), evaluation in zip(grid.items(), evaluations, strict=True)
        )
        best = tuned_choice(candidates, self.config.scoring)
        evaluation = evaluations[candidates.index(best)]
        self._record_baseline("tuned_lora", evaluation, heavy=best.heavy, candidates=candidates)
        self._tuned = best.heavy

    def _record_baseline(self, name: BaselineName, evaluation: Evaluation, **tuned: Any) -> None:
        self._history.add(
            BaselineRecord(
                name=name,
                training_digest=evaluation.training_digest,
                evaluation_digest=evaluation.evaluation_digest,
                scores=evaluation.scores,
                fitness=self._fitness(evaluation),
                pass_at_1=evaluation.pass_at_1,
                infeasible=evaluation.infeasible,
                **tuned,
            )
        )
        log.info("%s repairs %.0f %% of the fitness bugs", name, 100 * evaluation.pass_at_1)

    def _fitness(self, evaluation: Evaluation) -> float | None:
        """The weighted sum of the scores; None for an infeasible genome."""
        return None if evaluation.infeasible else fitness(evaluation.scores, self.config.scoring.weights)

    def _outcome(self, evaluation: Evaluation) -> dict[str, Any]:
        """The fields that `GenomeRecord`, `TunedCandidate` and `Repeat` share."""
        return {
            "training_digest": evaluation.training_digest,
            "evaluation_digest": evaluation.evaluation_digest,
            "scores": evaluation.scores,
            "fitness": self._fitness(evaluation),
            "pass_at_1": None if evaluation.infeasible else evaluation.pass_at_1,
            "infeasible": evaluation.infeasible,
            "reason": evaluation.reason,
        }

    # -- generations -----------------------------------------------------------------------

    async def _generation(self, genomes: Sequence[Genome]) -> list[Scored]:
        """Train and evaluate the genomes concurrently; results are in the order of `genomes`."""
        return await _together(self._scored(genome) for genome in genomes)

    async def _scored(self, genome: Genome) -> Scored:
        evaluation = await self._jobs.evaluated(self._planner.of(genome), genome.genome_id)
        if evaluation.infeasible:
            return Scored(genome=genome, infeasible=evaluation.infeasible, scores=None, fitness=None)
        return Scored(genome=genome, scores=evaluation.scores, fitness=self._fitness(evaluation))

    async def _after_generation(self, number: int, results: Sequence[Scored]) -> None:
        """Score the champion on the monitor split, and add the records of the generation to the history."""
        genomes = [await self._genome_record(scored) for scored in results]
        best = self._search.best()
        monitor: float | None = None
        if best is not None:
            name = best.genome.genome_id
            self._notify_of_champion(number, best, genomes)
            if self.config.problems.monitor:
                job = self._planner.of(best.genome, "monitor")
                monitor = (await self._jobs.evaluated(job, f"{name} monitor")).pass_at_1
            log.info("generation %d: best so far %s, fitness %.3f", number, name, best.fitness or 0.0)
        values = [scored.fitness for scored in results if scored.fitness is not None]
        front = self._search.front()
        objectives = [name for name, role in self.config.scoring.roles.items() if role == "objective"]
        summary = GenerationRecord(
            generation=number,
            best=best.genome.genome_id if best else None,
            best_fitness=best.fitness if best else None,
            mean_fitness=statistics.fmean(values) if values else None,
            front=tuple(scored.genome.genome_id for scored in front),
            hypervolume=hypervolume([s.scores for s in front if s.scores is not None], objectives),
            unique_adapters=len({scored.genome.heavy.digest() for scored in results}),
            monitor_pass_at_1=monitor,
        )
        self._history.add(*genomes, summary)
        if self.config.search.gpu_seconds is not None or self.config.search.money is not None:
            self._limit = await asyncio.to_thread(self._reached, genomes)

    def _reached(self, genomes: Sequence[GenomeRecord]) -> str:
        for record in genomes:
            self._charges.add(record)
        return reached(self.config, self._charges.total)

    def _notify_of_champion(self, number: int, best: Scored, genomes: Sequence[GenomeRecord]) -> None:
        """Notify the listeners of a new champion, but not when a replay finds it again."""
        before, self._champion = self._champion, best
        record = next((each for each in genomes if each.genome.genome_id == best.genome_id), None)
        if record is None or best.fitness is None or number < self._recorded:
            return
        if before is None or before.genome_id != best.genome_id:
            for listener in self.listeners:
                listener.champion_found(record, number, before.fitness if before else None)

    async def _genome_record(self, scored: Scored) -> GenomeRecord:
        evaluation = await self._jobs.evaluated(self._planner.of(scored.genome), scored.genome.genome_id)
        return GenomeRecord(
            genome=scored.genome, trainable_parameters=evaluation.trainable_parameters, **self._outcome(evaluation)
        )

    # -- the end ---------------------------------------------------------------------------

    async def _held_out(self) -> None:
        """Evaluate the lines of the final table on the sealed split, and repeat the champion at the same time."""
        champion, plan = self._search.best(), self._planner
        if champion is None:
            raise NoChampionError(
                "no genome could be trained and evaluated, so there is no champion. The reasons stand in history.jsonl",
                remedy="Widen genes.heavy or lower the learning rates.",
            )
        median = self._median_of_first() or champion
        genomes: dict[LineName, Genome] = {"champion": champion.genome, "generation_0_median": median.genome}
        longer = (self._tuned or self._default).repeated(champion.genome.heavy.trainings())
        adapters = {
            "base_model": None, "default_lora": self._default, "tuned_lora": self._tuned, "longer_lora": longer,
        }  # fmt: skip
        jobs: dict[LineName, EvaluationJob] = {
            name: plan.of(genomes[name], "held_out") if name in genomes else plan.evaluation(adapters[name], None, "held_out")
            for name in line_names(self.config.search)
        }  # fmt: skip
        repeats, results = await asyncio.gather(
            self._repeats(champion.genome),
            asyncio.gather(*(self._jobs.evaluated(job, f"{name} held-out") for name, job in jobs.items())),
        )
        problems = plan.problems("held_out")
        retention = {problem.problem_id for problem in problems if problem.retention}
        self._history.add(
            FinalRecord(
                reason=self._search.reason or self._limit,
                champion=champion.genome_id,
                held_out_openings=1,
                held_out=tuple(
                    HeldOut(
                        name=name,
                        genome_id=genomes[name].genome_id if name in genomes else None,
                        training_digest=evaluation.training_digest,
                        evaluation_digest=evaluation.evaluation_digest,
                        pass_at_1=evaluation.pass_at_1,
                        scores=evaluation.scores,
                        passed=len(set(evaluation.passed) - retention),
                        bugs=len(problems) - len(retention),
                    )
                    for name, evaluation in zip(jobs, results, strict=True)
                ),
                repeats=repeats,
            )
        )
        self.champion = champion.genome_id

    def _median_of_first(self) -> Scored | None:
        """The genome of median fitness in generation 0, the lower one of two; None when all are infeasible."""
        rated = [scored for scored in self._first if scored.fitness is not None]
        rated.sort(key=lambda scored: (scored.fitness or 0.0, scored.genome_id))
        return rated[(len(rated) - 1) // 2] if rated else None

    async def _repeats(self, champion: Genome) -> tuple[Repeat, ...]:
        """Train and evaluate the champion's genes again with other seeds, `search.champion_repeats` times.

        The champion is the best of many noisy scores, so its own score is biased upwards; repeats estimate the bias. They
        use the fitness split, because each evaluation on the held-out split would open it again.
        """
        numbers = range(1, self.config.search.champion_repeats + 1)
        return tuple(await asyncio.gather(*(self._repeat(champion, number) for number in numbers)))

    async def _repeat(self, champion: Genome, number: int) -> Repeat:
        job = self._planner.evaluation(champion.heavy, champion.light, "fitness", number)
        evaluation = await self._jobs.evaluated(job, f"{champion.genome_id} repeat {number}")
        return Repeat(replicate=number, **self._outcome(evaluation))


def tuned_choice(candidates: Sequence[TunedCandidate], scoring: ScoringConfig) -> TunedCandidate:
    """The candidate that is the tuned LoRA: the best by the champion rule, or the first when all are infeasible.

    Its score on the fitness split is the best of many and biased upwards, as the champion's; that on the held-out split
    is not, so it is trained once.
    """
    return selection.champion([each for each in candidates if not each.infeasible], scoring) or candidates[0]


async def _together(coroutines: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run all `coroutines` concurrently; results are in their order. The first error ends the others."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _beside(work: Coroutine[Any, Any, None], *endless: Coroutine[Any, Any, None]) -> None:
    """Run `work`, and cancel the `endless` coroutines when it is done. Raises the first error of any of them."""
    failed: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in endless]
            await work
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as several:
        failed = several.exceptions[0]
    if failed is not None:
        raise failed


async def _beat(folder: RunFolder) -> None:
    """Touch the file ``beat`` every `BEAT_SECONDS`, so that other machines see that the evolution is running."""
    while True:
        with contextlib.suppress(OSError):
            await asyncio.to_thread(folder.beat)
        await asyncio.sleep(BEAT_SECONDS)


@contextlib.contextmanager
def failure_recorded(folder: RunFolder) -> Iterator[None]:
    """Record an error raised in this context, before a session begins, as a failed session in timings.jsonl."""
    try:
        yield
    except Exception as error:
        line = SessionTiming(
            started=time.time(), seconds=0, trainings=0, evaluations=0, outcome="failed", error=in_a_line(error)
        )
        with contextlib.suppress(StoreError):  # the original error is raised below
            folder.append_timing(line)
        raise
