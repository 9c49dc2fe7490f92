"""Builds the `Report` of a run from its folder and the store. Reads only; draws nothing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from coral_core.jobs.jobs import Evaluation
from coral_core.report.answer import answer
from coral_core.report.content import (
    Ancestor,
    BaseCheck,
    BugClassLine,
    Contender,
    Counts,
    Evaluated,
    FrontPoint,
    Gap,
    Gaps,
    GenerationLine,
    InfeasibleGenome,
    Report,
    RunLine,
)
from coral_core.report.failures import failed_jobs, failed_tries
from coral_core.report.gene_importance import gene_effects, searched
from coral_core.report.history_records import History as History
from coral_core.report.operators import operator_lines
from coral_core.report.paired import compare
from coral_core.report.previous import previous_run
from coral_core.report.repeats import seed_repeats
from coral_core.report.spending import spending
from coral_core.runs.records import GenomeRecord, HeldOut
from coral_core.runs.run_folder import RunFolder
from coral_core.runs.sessions import run_state, session_error, sessions, totals
from coral_core.store.store import Store

TOO_GOOD = 0.9
TOO_BAD = 0.02
RIVALS = ("base_model", "default_lora", "generation_0_median")


def build_report(folder: RunFolder, store: Store, why: bool = False) -> Report:
    """Everything known about the run in `folder`, finished or not; `why`: the importance of genes too (about a second)."""
    history = History.of(folder)
    config = folder.config()
    facts = folder.sound_facts()
    work = sessions(folder.timings())
    evaluations = _held_out_evaluations(history, store)
    gaps, search, state = _gaps(history, evaluations), config.search, run_state(folder, work)
    return Report(
        run_id=folder.run_id,
        path=str(folder.path),
        name=config.name,
        seed=config.seed,
        edition=facts["identity"]["edition"],
        strategy=config.search.strategy,
        overrides=tuple(map(str, facts.get("set", ()))),
        versions={name: str(value) for name, value in facts.get("versions", {}).items()},
        problems=history.run.problems if history.run else {"source": config.problems.source},
        base_model_name=config.base_model.name,
        numerics_class=history.run.numerics if history.run else None,
        status=state,
        error=session_error(state, work),
        reason=history.final.reason if history.final else None,
        seconds=work[-1].seconds if work else 0.0,
        counts=work[-1].counts if work else Counts(trainings=0, evaluations=0),
        totals=totals(work),
        champion=_genome(history, store, evaluations, "champion", history.champion),
        base_model=_baseline(history, store, evaluations, "base_model"),
        default_lora=_baseline(history, store, evaluations, "default_lora"),
        generation_0_median=_genome(history, store, evaluations, "generation_0_median", history.median()),
        gaps=gaps,
        generations=tuple(_generation(history, index) for index in range(len(history.generations))),
        pareto_front=_front(history),
        evaluated=_evaluated(history),
        infeasible=tuple(
            InfeasibleGenome(genome_id=name, reason=record.infeasible, detail=record.reason)
            for name, record in history.genomes.items()
            if record.infeasible
        )
        + _unscored(history, evaluations),
        lineage=_lineage(history),
        bug_classes=_bug_classes(evaluations),
        outcomes={
            name: dict(_outcomes(evaluation))
            for name, evaluation in evaluations.items()
            if name != "generation_0_median"
        },
        held_out_openings=history.final.held_out_openings if history.final else None,
        base_check=_base_check(history),
        previous=previous_run(folder, history.run),
        answer=answer(history, gaps, evaluations),
        searched=searched(history, config.genes, search.strategy, search.generations, search.population),
        repeats=seed_repeats(history),
        genes=gene_effects(history, config.genes) if why else (),
        operators=operator_lines(history),
        spending=spending(store, folder.run_id, config.budget),
        failed_jobs=failed_jobs(store, folder.run_id),
        failed_tries=failed_tries(folder),
    )


def run_line(folder: RunFolder) -> RunLine:
    """The line of `coral runs`; opens no evaluation."""
    history = History.of(folder)
    work = sessions(folder.timings())
    spent = totals(work)
    champion, state = history.held_out("champion"), run_state(folder, work)
    last = history.generations[-1] if history.generations else None
    return RunLine(
        run_id=folder.run_id,
        status=state,
        error=session_error(state, work),
        generation=last.generation if last else None,
        generations=folder.config().search.generations,
        best_fitness=last.best_fitness if last else None,
        champion=history.champion,
        champion_held_out_pass_at_1=champion.pass_at_1 if champion else None,
        started=folder.made(),
        seconds=spent.seconds,
        cpu_seconds=spent.cpu_seconds,
        trainings=spent.trainings,
        evaluations=spent.evaluations,
        path=str(folder.path),
    )


def _held_out_evaluations(history: History, store: Store) -> dict[str, Evaluation]:
    """The held-out evaluations that the store still has, by name of their line."""
    lines = history.final.held_out if history.final else ()
    found = {line.name: store.read_evaluation(line.evaluation_digest) for line in lines}
    return {name: evaluation for name, evaluation in found.items() if evaluation is not None}


def _held_out_fields(line: HeldOut | None, evaluation: Evaluation | None) -> dict[str, Any]:
    if line is None or (evaluation is not None and evaluation.infeasible):  # a failure is no score
        return {}
    return {
        "held_out_pass_at_1": line.pass_at_1,
        "held_out_scores": line.scores,
        "held_out_repaired": line.passed,
        "held_out_bugs": line.bugs,
        "held_out_evaluation_digest": line.evaluation_digest,
    }


def contender_of(record: GenomeRecord, store: Store, **held_out: Any) -> Contender:
    """A genome of the history as the report shows it; `held_out` are its fields of the sealed split, where it was scored there."""
    return Contender(
        genome_id=record.genome.genome_id,
        heavy=record.genome.heavy,
        light=record.genome.light,
        fitness=record.fitness,
        scores=record.scores,
        fitness_pass_at_1=record.pass_at_1,
        trainable_parameters=record.trainable_parameters,
        training_digest=record.training_digest,
        fitness_evaluation_digest=record.evaluation_digest,
        adapter_path=str(store.adapter_path(record.training_digest)),
        **held_out,
    )


def _genome(
    history: History, store: Store, evaluations: Mapping[str, Evaluation], name: str, genome_id: str | None
) -> Contender | None:
    record = history.genomes.get(genome_id or "")
    if record is None:
        return None
    return contender_of(record, store, **_held_out_fields(history.held_out(name), evaluations.get(name)))


def _baseline(history: History, store: Store, evaluations: Mapping[str, Evaluation], name: str) -> Contender | None:
    record = history.baselines.get(name)
    if record is None:
        return None
    adapter = name != "base_model"
    trained = store.read_adapter(record.training_digest) if adapter else None
    return Contender(
        fitness=record.fitness,
        scores=record.scores,
        fitness_pass_at_1=None if record.infeasible else record.pass_at_1,
        trainable_parameters=(trained.trainable_parameters if trained else None) if adapter else 0,
        training_digest=record.training_digest,
        fitness_evaluation_digest=record.evaluation_digest,
        adapter_path=str(store.adapter_path(record.training_digest)) if adapter else None,
        **_held_out_fields(history.held_out(name), evaluations.get(name)),
    )


def _unscored(history: History, evaluations: Mapping[str, Evaluation]) -> tuple[InfeasibleGenome, ...]:
    """Baselines, and lines of the final table, without a score."""
    found = [
        InfeasibleGenome(genome_id=name, reason=record.infeasible, detail="")
        for name, record in history.baselines.items()
        if record.infeasible
    ]
    found += [
        InfeasibleGenome(genome_id=f"{name}, held-out", reason=evaluation.infeasible, detail=evaluation.reason)
        for name, evaluation in evaluations.items()
        if evaluation.infeasible
    ]
    return tuple(found)


def _gaps(history: History, evaluations: Mapping[str, Evaluation]) -> Gaps:
    champion = history.held_out("champion")
    gaps: dict[str, Gap] = {}
    for rival in RIVALS:
        line = history.held_out(rival)
        if champion is None or line is None:
            continue
        ours, theirs = evaluations.get("champion"), evaluations.get(rival)
        if any(one is not None and one.infeasible for one in (ours, theirs)):
            continue  # nothing to compare: a failure is no score
        gaps[f"champion_minus_{rival}"] = compare(
            champion.pass_at_1 - line.pass_at_1,
            ours.repaired() if ours else None,
            theirs.repaired() if theirs else None,
        )
    return Gaps(**gaps)


def _generation(history: History, index: int) -> GenerationLine:
    record = history.generations[index]
    best = history.genomes.get(record.best or "")
    return GenerationLine(
        generation=record.generation,
        best=record.best,
        best_fitness=record.best_fitness,
        mean_fitness=record.mean_fitness,
        best_pass_at_1=best.pass_at_1 if best else None,
        monitor_pass_at_1=record.monitor_pass_at_1,
        hypervolume=record.hypervolume,
        front_size=len(record.front),
        unique_adapters=record.unique_adapters,
        infeasible=sum(genome.infeasible is not None for genome in history.populations[index]),
    )


def _front(history: History) -> tuple[FrontPoint, ...]:
    names = history.generations[-1].front if history.generations else ()
    records = [history.genomes[name] for name in names if name in history.genomes]
    return tuple(
        FrontPoint(
            genome_id=record.genome.genome_id,
            heavy=record.genome.heavy,
            light=record.genome.light,
            fitness=record.fitness,
            scores=record.scores,
            pass_at_1=record.pass_at_1,
            trainable_parameters=record.trainable_parameters,
            training_digest=record.training_digest,
        )
        for record in records
    )


def _evaluated(history: History) -> tuple[Evaluated, ...]:
    front = set(history.generations[-1].front) if history.generations else set()
    return tuple(
        Evaluated(
            genome_id=name,
            scores=record.scores,
            fitness=record.fitness,
            trainable_parameters=record.trainable_parameters,
            on_front=name in front,
        )
        for name, record in history.genomes.items()
        if not record.infeasible
    )


def _lineage(history: History) -> tuple[Ancestor, ...]:
    """The champion and everything it descends from, in order of generation."""
    todo = [history.champion] if history.champion else []
    found: dict[str, GenomeRecord] = {}
    while todo:
        name = todo.pop()
        record = history.genomes.get(name)
        if record is None or name in found:
            continue
        found[name] = record
        todo += record.genome.lineage.parents
    ordered = sorted(found.values(), key=lambda record: (record.genome.generation, record.genome.slot))
    return tuple(
        Ancestor(
            genome_id=record.genome.genome_id,
            operator=record.genome.lineage.operator,
            parents=record.genome.lineage.parents,
            fitness=record.fitness,
            pass_at_1=record.pass_at_1,
        )
        for record in ordered
    )


def _bug_classes(evaluations: Mapping[str, Evaluation]) -> tuple[BugClassLine, ...]:
    if not evaluations:
        return ()
    any_one = next(iter(evaluations.values()))
    members: dict[str, set[str]] = {}
    for record in any_one.records:
        if not record.retention:
            members.setdefault(record.bug_class, set()).add(record.problem_id)

    def repaired(name: str, ids: set[str]) -> int | None:
        return len(ids & set(evaluations[name].passed)) if name in evaluations else None

    return tuple(
        BugClassLine(
            bug_class=bug_class,
            bugs=len(ids),
            champion=repaired("champion", ids),
            base_model=repaired("base_model", ids),
            default_lora=repaired("default_lora", ids),
        )
        for bug_class, ids in sorted(members.items())
    )


def _outcomes(evaluation: Evaluation) -> Sequence[tuple[str, int]]:
    """How the judge ended on the first sample of each problem, most frequent first."""
    firsts = [record.samples[0].verdict for record in evaluation.records if record.samples]
    counted = Counter(str(verdict.get("outcome", "unknown")) for verdict in firsts)
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))


def _base_check(history: History) -> BaseCheck:
    """Too good: little is left to repair. Too bad: a customary adapter does not help either."""
    base, tuned = history.baselines.get("base_model"), history.baselines.get("default_lora")
    if base is None:
        return BaseCheck(verdict="unknown", text="The base model has not been evaluated yet.")
    share = f"The base model alone repairs {base.pass_at_1:.0%} of the fitness bugs"
    if base.pass_at_1 > TOO_GOOD:
        return BaseCheck(verdict="too good", text=f"{share}: little is left for an adapter. Choose harder problems.")
    if base.pass_at_1 > TOO_BAD:
        return BaseCheck(verdict="usable", text=f"{share}, so adapters have room in both directions.")
    if tuned is None or tuned.infeasible:
        return BaseCheck(
            verdict="unknown",
            text=f"{share}; the default LoRA, which decides whether that is too little, {'is not done' if tuned is None else f'has no score ({tuned.infeasible})'}.",
        )
    if tuned.pass_at_1 > TOO_BAD:
        return BaseCheck(
            verdict="usable",
            text=f"{share} and the default LoRA {tuned.pass_at_1:.0%}: training helps, adapters can be told apart.",
        )
    text = f"{share} and the default LoRA {tuned.pass_at_1:.0%}: too little to tell adapters apart. Choose easier problems, more training, or a stronger base model."
    return BaseCheck(verdict="too bad", text=text)
