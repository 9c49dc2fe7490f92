"""The `evolve` flow: baselines, then generation after generation, then the sealed held-out split once.

Equal configuration and edition give equal history, whatever the executor, the number of
lanes, the order of completion or the number of kills in between: what is in the store is
not done again, and everything else is derived from counters. Not covered: where jobs
run (flows/work_pools) and what they do (coral_core/lanes/lane.py).
"""

import asyncio
import contextlib
import logging
import statistics
import time
from datetime import datetime
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Cancelled

from coral_core.config import RunConfig
from coral_core.errors import ConfigError, CoralError
from coral_core.evolution.planner import Planner
from coral_core.evolution.preflight import preflight
from coral_core.evolution.warm_start import Start, freeze_start
from coral_core.genome import HeavyGenes
from coral_core.jobs.job_content import split_digest
from coral_core.jobs.jobs import Evaluation
from coral_core.lm.targets import check_targets, default_lora_of, for_model
from coral_core.report.export import export_champion
from coral_core.report.report_files import write_report
from coral_core.runs.editions import LARGEST_EDITION, scheduled_edition, stamp
from coral_core.runs.identities import freeze_identities, frozen_identities
from coral_core.runs.job_count import JobCount, plan_jobs
from coral_core.runs.records import (
    BaselineRecord,
    FinalRecord,
    GenerationRecord,
    GenomeRecord,
    HeldOut,
    Record,
    RunIdentity,
    RunRecord,
    SessionTiming,
)
from coral_core.runs.run_folder import HistoryWriter, RunFolder, identify_run
from coral_core.runs.run_lock import hold
from coral_core.search.selection import fitness, hypervolume
from coral_core.search.strategy import Scored, Search, make_search
from coral_core.store.store import Store
from coral_core.untrusted import in_a_line
from flows.generation import generation
from flows.observe import artifacts, events, memory
from flows.observe import budget_watch as budget
from flows.observe.heartbeat import beating, failure_noted
from flows.observe.run_logging import logged_to
from flows.prefect_api.flow_run_process import limit_retries, outlive_worker, roots, until_cancelled
from flows.prefect_api.prefect_client import api_in_use
from flows.prefect_api.settings import without_secrets
from flows.repeats import repeats
from flows.session import Session, current, watcher
from flows.tasks import evaluated, trained
from flows.work_pools import make_executor

log = logging.getLogger("coral.evolve")


class NoChampionError(CoralError):
    """Every genome of the run was infeasible."""


@flow(name="evolve", flow_run_name="{config.name}", persist_result=False)
async def evolve(config: RunConfig, edition: int | None = None, overrides: list[str] | None = None) -> Any:
    """Search for the best adapter.

    Args:
        config: The whole configuration, which in the Prefect UI is this form; what is left as it is keeps the value shown.
        edition: Another number makes a new run with other seeds; a repeat of a number is a replay. Left out: the date
            (YYYYMMDD) for a scheduled run, with hour and minute for another one of that date, else 1.
        overrides: Leave it out: what `coral evolve` was given with --set and put into config, kept with the run.

    Returns:
        run_id, champion and where the run's folder is.

    Raises:
        ConfigError: the configuration comes from the server and names a place outside the roots of this machine.
    """
    memory.keep_level()
    outlive_worker()
    if (held_to := roots()) is not None:
        held_to.check_config(config)
    if edition is not None and not 1 <= edition <= LARGEST_EDITION:
        raise ConfigError(f"edition: {edition}: is none. Give a number of 1 to {LARGEST_EDITION}.")
    await asyncio.to_thread(preflight, config)
    flow_run_id, scheduled = str(flow_run.id or ""), _scheduled_start()
    if edition is None and scheduled is not None:
        edition = scheduled_edition(config, scheduled, flow_run_id)
    identity = identify_run(config, edition or 1)
    store = Store(config.store.path)
    store.prepare()
    with hold(RunFolder.of(config, identity).path):
        return await _session(
            config, store, identity, overrides or [], stamp(scheduled) if scheduled is not None else ""
        )


async def _session(config: RunConfig, store: Store, identity: RunIdentity, overrides: list[str], scheduled: str) -> Any:
    """Begin the run, or go on with it, from what is in its folder and in the store."""
    flow_run_id = str(flow_run.id or "")
    folder = RunFolder.create(config, identity, overrides, flow_run_id, without_secrets(api_in_use()), scheduled)
    planner = Planner(config, identity)
    with contextlib.ExitStack() as lasting:
        with failure_noted(folder):
            start = await asyncio.to_thread(freeze_start, folder, config)
            lasting.enter_context(logged_to(flow_run_id))
            made = await asyncio.to_thread(make_executor, config, store, identity.run_id, flow_run_id)
            executor = lasting.enter_context(made)
        session = Session(planner=planner, store=store, executor=executor, folder=folder)
        session.board.generations = config.search.generations
        session.board.start = start.text if start.start_from != "nothing" else ""
        events.evolution_started(identity.run_id, config.search.generations, start.text)
        cancelled = await _shown(session, _Evolution(session, identity, start), flow_run_id)
    if cancelled:
        return Cancelled(message=f"cancelled; finished work is kept. Go on with: coral resume {identity.run_id}")
    report = await asyncio.to_thread(write_report, folder, store)
    await asyncio.to_thread(export_champion, folder, store, report)
    return {"run_id": identity.run_id, "champion": session.board.best, "folder": str(folder.path)}


async def _shown(session: Session, evolution: "_Evolution", flow_run_id: str) -> bool:
    """Run the evolution with everything that shows it; True when it was cancelled."""
    run_id, board, started = session.folder.run_id, session.board, time.time()
    publisher = artifacts.Publisher(session.folder, session.store, flow_run_id)
    session.executor.on_failure, session.on_generation = session.failed, publisher.generation_run
    session.on_change = _fan_out(publisher, session)
    session.on_budget = lambda percent, at: events.budget_reached(
        run_id, percent, events.standing_text(at), events.goes_on_text(run_id, at)
    )
    outcome: Literal["finished", "stopped", "failed"] = "failed"
    error = ""
    token = current.set(session)
    try:
        async with publisher, budget.watched(session, flow_run_id), beating(session.folder):
            cancelled = await until_cancelled(evolution.run(), flow_run_id)
        outcome = "stopped" if cancelled else "finished"
        return cancelled
    except (asyncio.CancelledError, KeyboardInterrupt, SystemExit, TerminationSignal) as told:
        limit_retries(told)
        outcome = "stopped"
        raise
    except BaseException as raised:
        error = in_a_line(raised)
        raise
    finally:
        current.reset(token)
        session.submitting.shutdown(wait=False, cancel_futures=True)
        events.evolution_ended(run_id, outcome, board.best, board.best_fitness, error)
        session.folder.append_timing(
            SessionTiming(
                started=started,
                seconds=time.time() - started,
                trainings=board.trainings,
                evaluations=board.evaluations,
                outcome=outcome,
                error=error,
            )
        )
        await publisher.finish(artifacts.PATIENCE if outcome == "finished" else 5.0)


def _scheduled_start() -> datetime | None:
    """When a schedule wanted this run to start; None for a run by hand."""
    return flow_run.scheduled_start_time if "auto-scheduled" in (flow_run.tags or []) else None


def _fan_out(publisher: "artifacts.Publisher", session: Session) -> Any:
    show = watcher.get()

    def changed() -> None:
        publisher.changed()
        if show is not None:
            show(session.board)

    return changed


class _Evolution:
    """The loop of one run."""

    def __init__(self, session: Session, identity: RunIdentity, start: Start) -> None:
        self.session = session
        self.planner = session.planner
        self.config = session.planner.config
        self.identity = identity
        self.start = start
        self.history = HistoryWriter(session.folder)
        self.search: Search  # made when lanes have said what modules the base model has
        self.default: HeavyGenes
        self.first: list[Scored] = []
        self.champion: Scored | None = None
        self.told = sum(isinstance(record, GenerationRecord) for record in session.folder.history())

    async def run(self) -> None:
        session, board, plan = self.session, self.session.board, plan_jobs(self.config)
        board.phase = "asking lanes"
        await self._ask_lanes()
        self._make_search()
        board.phase = "baselines"
        self._expect(plan.total)
        self._record_run()
        await self._baselines()
        while not self.search.done:
            number = self.search.generation
            board.phase, board.generation = "searching", number + 1
            genomes = list(self.search.ask())
            results = await generation(number, genomes)
            self.search.tell(results)
            if number == 0:
                self.first = results
            await self._after_generation(number, results)
            await asyncio.to_thread(memory.give_back)
            self._expect(plan.left_after(number + 1))
        board.phase = "held-out"
        await self._held_out()
        board.phase, board.jobs_expected = "finished", board.jobs_done
        session.on_change()

    async def _ask_lanes(self) -> None:
        """Know what the base model is where the jobs will run; a run that was asked for before has it in its folder."""
        folder, infra = self.session.folder, self.config.infra
        known = frozen_identities(folder, infra)
        if known is None or infra.executor != "work-pools":  # this machine is asked again: it costs nothing
            self.session.on_change()
            known = await asyncio.to_thread(self.session.executor.identities, self.config.base_model)
            freeze_identities(folder, infra, known)
        self.planner.lanes = known

    def _make_search(self) -> None:
        """Refuse target modules that the base model does not have, before the first job, and begin the search with its own."""
        base = self.planner.base("training")
        check_targets(self.config, base)
        self.default = default_lora_of(base)
        # the run seed (seed and edition) drives the search, so that a new edition breeds other genomes
        seeded = for_model(self.config, base).model_copy(update={"seed": self.identity.run_seed})
        self.search = make_search(seeded, self.start.genomes, self.default)

    def _expect(self, left: JobCount) -> None:
        """Tell the board how many jobs are still to come at most."""
        self.session.board.jobs_expected = self.session.board.jobs_done + left.total
        self.session.on_change()

    def _record_run(self) -> None:
        problems = self.config.problems
        counts = {name: len(self.planner.problems(name)) for name in ("fitness", "monitor", "held_out")}
        digests = {name: split_digest(problems, name) for name in ("fitness", "monitor", "held_out")}
        self.history.add(
            RunRecord(
                identity=self.identity,
                name=self.config.name,
                strategy=self.config.search.strategy,
                base_model=self.planner.base("evaluation"),
                training_numerics_class=self.planner.base("training").numerics_class,
                problems={"source": problems.source, "counts": counts, "digests": digests},
                start=self.start.record(),
            )
        )
        get_run_logger().info(self.start.text)

    async def _baselines(self) -> None:
        """Score the bare base and the default LoRA before any money is spent on the search."""
        session, heavy = self.session, self.default
        training = asyncio.create_task(trained(session, self.planner.training(heavy), "default_lora"))
        base = await evaluated(session, self.planner.evaluation(None), "base_model")
        self._baseline("base_model", base)
        self.planner.base_passes = base.passed
        await training
        tuned = await evaluated(session, self.planner.evaluation(heavy), "default_lora")
        self._baseline("default_lora", tuned)

    def _baseline(self, name: Literal["base_model", "default_lora"], evaluation: Evaluation) -> None:
        value = None if evaluation.infeasible else fitness(evaluation.scores, self.config.scoring.weights)
        self.history.add(
            BaselineRecord(
                name=name,
                training_digest=evaluation.training_digest,
                evaluation_digest=evaluation.evaluation_digest,
                scores=evaluation.scores,
                fitness=value,
                pass_at_1=evaluation.pass_at_1,
                infeasible=evaluation.infeasible,
            )
        )
        self.session.board.baselines[name] = evaluation.pass_at_1
        get_run_logger().info("%s repairs %.0f %% of the fitness bugs", name, 100 * evaluation.pass_at_1)
        self.session.on_change()

    async def _after_generation(self, number: int, results: list[Scored]) -> None:
        records: list[Record] = [await self._genome_record(scored) for scored in results]
        best = self.search.best()
        self._tell_champion(number, best, records)
        monitor: float | None = None
        if best is not None and self.config.problems.monitor:
            job = self.planner.of(best.genome, "monitor")
            monitor = (await evaluated(self.session, job, f"{best.genome.genome_id} monitor")).pass_at_1
        if best is not None:
            name = best.genome.genome_id
            get_run_logger().info("generation %d: best so far %s, fitness %.3f", number, name, best.fitness or 0.0)
        values = [scored.fitness for scored in results if scored.fitness is not None]
        front = self.search.front()
        objectives = [name for name, role in self.config.scoring.roles.items() if role == "objective"]
        records.append(
            GenerationRecord(
                generation=number,
                best=best.genome.genome_id if best else None,
                best_fitness=best.fitness if best else None,
                mean_fitness=statistics.fmean(values) if values else None,
                front=tuple(scored.genome.genome_id for scored in front),
                hypervolume=hypervolume([s.scores for s in front if s.scores is not None], objectives),
                unique_adapters=len({scored.genome.heavy.digest() for scored in results}),
                monitor_pass_at_1=monitor,
            )
        )
        self.history.add(*records)

    def _tell_champion(self, number: int, best: Scored | None, records: list[Record]) -> None:
        """An event for a champion that is new, and not when a replay finds it again."""
        before, self.champion = self.champion, best
        if best is None or best.fitness is None or number < self.told:
            return
        name = best.genome.genome_id
        if before is not None and before.genome.genome_id == name:
            return
        own = (record for record in records if isinstance(record, GenomeRecord) and record.genome.genome_id == name)
        passed = next((record.pass_at_1 for record in own), None)
        events.champion_found(
            self.identity.run_id, name, number, best.fitness, passed, before.fitness if before else None
        )

    async def _genome_record(self, scored: Scored) -> GenomeRecord:
        job = self.planner.of(scored.genome)
        evaluation = await evaluated(self.session, job, scored.genome.genome_id)
        return GenomeRecord(
            genome=scored.genome,
            training_digest=evaluation.training_digest,
            evaluation_digest=evaluation.evaluation_digest,
            scores=evaluation.scores,
            fitness=scored.fitness,
            pass_at_1=None if evaluation.infeasible else evaluation.pass_at_1,
            infeasible=evaluation.infeasible,
            reason=evaluation.reason,
            trainable_parameters=evaluation.trainable_parameters,
        )

    async def _held_out(self) -> None:
        """Open the sealed split once, for four lines of the final table."""
        champion = self.search.best()
        if champion is None:
            raise NoChampionError(
                "no genome could be trained and evaluated, so there is no champion. The reasons stand in history.jsonl; "
                "widen genes.heavy or lower the learning rates."
            )
        heavy = self.default
        ranked = sorted(
            (s for s in self.first if s.fitness is not None), key=lambda s: (s.fitness or 0.0, s.genome.genome_id)
        )
        median = ranked[(len(ranked) - 1) // 2] if ranked else champion
        wanted: list[tuple[Any, str | None, Any]] = [
            ("champion", champion.genome.genome_id, self.planner.of(champion.genome, "held_out")),
            ("base_model", None, self.planner.evaluation(None, split="held_out")),
            ("default_lora", None, self.planner.evaluation(heavy, split="held_out")),
            ("generation_0_median", median.genome.genome_id, self.planner.of(median.genome, "held_out")),
        ]
        again, results = await asyncio.gather(
            repeats(self.session, champion.genome),
            asyncio.gather(*(evaluated(self.session, job, f"{name} held-out") for name, _, job in wanted)),
        )
        retention = {problem.problem_id for problem in self.planner.problems("held_out") if problem.retention}
        bugs = len(self.planner.problems("held_out")) - len(retention)
        self.history.add(
            FinalRecord(
                reason=self.search.reason,
                champion=champion.genome.genome_id,
                held_out_openings=1,
                held_out=tuple(
                    HeldOut(
                        name=name,
                        genome_id=genome_id,
                        training_digest=evaluation.training_digest,
                        evaluation_digest=evaluation.evaluation_digest,
                        pass_at_1=evaluation.pass_at_1,
                        scores=evaluation.scores,
                        passed=len(set(evaluation.passed) - retention),
                        bugs=bugs,
                    )
                    for (name, genome_id, _), evaluation in zip(wanted, results, strict=True)
                ),
                repeats=again,
            )
        )
        self.session.board.best = champion.genome.genome_id
