"""Builds the `Report` of a run from its folder and the store. Reads only; draws nothing."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from coral_core.config import BudgetConfig
from coral_core.errors import StoreError
from coral_core.evolution.start_from import read_start
from coral_core.frozen import Frozen
from coral_core.genome import REPEAT, HeavyGenes
from coral_core.jobs.jobs import Evaluation
from coral_core.ledger import Ledger, Spent
from coral_core.lm.targets import default_lora_of
from coral_core.report.content import (
    Ancestor,
    Answer,
    BaseCheck,
    BugClassLine,
    Contender,
    Evaluated,
    FinalistLine,
    FrontPoint,
    Gap,
    Gaps,
    GenerationLine,
    InfeasibleGenome,
    PreviousRun,
    RepeatLine,
    Repeats,
    Report,
    Spending,
    TunedLine,
)
from coral_core.report.failures import failed_jobs, failed_tries
from coral_core.report.gene_importance import gene_effects, searched
from coral_core.report.history_records import History
from coral_core.report.operators import operator_lines
from coral_core.report.paired import compare, share_interval
from coral_core.report.wording import NAMES
from coral_core.runs.records import BaselineRecord, GenomeRecord, LineName
from coral_core.runs.run_folder import RunFolder
from coral_core.runs.sessions import WorkDone, run_state
from coral_core.store.store import Store

TOO_GOOD = 0.9
"""Pass@1 on the fitness bugs above which a base model is too good for the problems."""
TOO_BAD = 0.02
"""Pass@1 up to which base model and default LoRA are too bad for the problems."""
RIVALS = ("base_model", "default_lora", "tuned_lora", "longer_lora", "generation_0_median")
COMPARED = ("champion", "base_model", "default_lora", "tuned_lora", "longer_lora")
"""Lines of the final table for which verdicts are counted by outcome and by bug class."""
ANSWERS = {
    "better": "The search helped: the champion repairs more held-out bugs than the {rival}",
    "worse": "The search did not help: the champion repairs fewer held-out bugs than the {rival}",
    "not distinguishable": "The search is not shown to have helped: on the held-out bugs the champion is not distinguishable "
    "from the {rival}",
    "unknown": "An evaluation has left the store, so there is no paired test of the champion against the {rival}",
}
Evaluations = Mapping[str, Evaluation]
"""Name of a line in the final table -> held-out evaluation; those no longer in the store are left out."""
Model = TypeVar("Model", bound=Frozen)


def build_report(folder: RunFolder, store: Store, why: bool = False) -> Report:
    """Collect everything known about a run, finished or not.

    Args:
        folder: The run's folder.
        store: The run's store.
        why: Whether to compute the importance of genes too, which takes about a second.

    Raises:
        StoreError: a line of the history is broken.
    """
    history = History.of(folder)
    config = folder.config()
    facts = folder.sound_facts()
    work = WorkDone.of(folder)
    final, state = history.final, run_state(folder, work)
    evaluations: dict[str, Evaluation] = {}
    longer = _longer_lora(history)
    for line in final.held_out if final else ():
        if line.name == "longer_lora" and longer is None:
            continue  # the champion was trained once: it is one of the others
        if (evaluation := store.read_evaluation(line.evaluation_digest)) is not None:
            evaluations[line.name] = evaluation
    gaps = _gaps(history, evaluations)
    return Report(
        run_id=folder.run_id,
        path=str(folder.path),
        name=config.name,
        seed=config.seed,
        edition=facts.identity.edition,
        strategy=config.search.strategy,
        overrides=facts.set,
        versions=facts.versions,
        problems=history.run.problems if history.run else {"source": config.problems.source},
        base_model_name=config.base_model.name,
        numerics_class=history.run.numerics if history.run else None,
        status=state,
        error=work.error(state),
        reason=final.reason if final else None,
        seconds=work.seconds,
        counts=work.counts,
        totals=work.totals,
        stages=work.stage_costs,
        champion=_contender(history, store, evaluations, "champion"),
        base_model=_contender(history, store, evaluations, "base_model"),
        default_lora=_contender(history, store, evaluations, "default_lora"),
        tuned_lora=_contender(history, store, evaluations, "tuned_lora"),
        longer_lora=_line(history, evaluations, "longer_lora", longer, store) if longer else None,
        baselines=config.search.baselines,
        tuned=_tuned(history),
        generation_0_median=_contender(history, store, evaluations, "generation_0_median"),
        gaps=gaps,
        generations=_generations(history),
        pareto_front=tuple(_from(FrontPoint, _flat(history.genomes[name])) for name in history.front),
        evaluated=tuple(
            _from(Evaluated, _flat(record), on_front=name in history.front)
            for name, record in history.genomes.items()
            if not record.infeasible
        ),
        infeasible=_infeasible(history, evaluations),
        lineage=lineage_of(history, history.champion),
        bug_classes=_bug_classes(evaluations),
        outcomes={name: _outcomes(evaluations[name]) for name in COMPARED if name in evaluations},
        held_out_openings=final.held_out_openings if final else None,
        base_check=base_check(history.baselines),
        previous=_previous(folder, history),
        answer=_answer(history, gaps, evaluations),
        searched=searched(history, config.genes, config.search),
        finalists=_finalists(history),
        repeats=_repeats(history),
        genes=gene_effects(history, config.genes) if why else (),
        operators=operator_lines(history),
        device=work.device,
        spending=_spending(store, folder.run_id, config.budget),
        failed_jobs=failed_jobs(store, folder.run_id),
        failed_tries=failed_tries(folder),
    )


def contender_of(record: GenomeRecord | BaselineRecord, store: Store, **more: Any) -> Contender:
    """A genome or baseline of the history as the report shows it.

    Args:
        record: The record in the history.
        store: Gives the folder of the adapter.
        **more: Further fields of `Contender`, such as the held-out scores.
    """
    digest = record.training_digest
    return _from(
        Contender,
        _flat(record),
        fitness_pass_at_1=None if record.infeasible else record.pass_at_1,
        fitness_evaluation_digest=record.evaluation_digest,
        adapter_path=None if digest == "none" else str(store.adapter_path(digest)),
        **more,
    )


def _flat(record: GenomeRecord | BaselineRecord) -> dict[str, Any]:
    """The fields of a record, of its genome and of its lineage side by side."""
    if isinstance(record, BaselineRecord):
        return dict(record)
    return {**dict(record.genome.lineage), **dict(record.genome), **dict(record)}


def _from(model: type[Model], fields: Mapping[str, Any], **more: Any) -> Model:
    """A `model` built from those `fields` that it declares, and from `more`."""
    return model(**{name: fields[name] for name in model.model_fields if name in fields} | more)


def _contender(history: History, store: Store, evaluations: Evaluations, name: str) -> Contender | None:
    """A line of the final table with what is known so far; None before its first record."""
    genomes = {"champion": history.champion, "generation_0_median": history.median()}
    record = history.genomes.get(genomes[name] or "") if name in genomes else history.baselines.get(name)
    if record is None:
        return None
    more: dict[str, Any] = {}
    if isinstance(record, BaselineRecord):
        trained = store.read_adapter(record.training_digest)
        unknown = 0 if name == "base_model" else None
        more["trainable_parameters"] = trained.trainable_parameters if trained else unknown
    return contender_of(record, store, **more, **_opened(history, evaluations, name))


def _opened(history: History, evaluations: Evaluations, name: str) -> dict[str, Any]:
    """What a line of the final table adds to a contender; nothing before the end, and for a line without a score."""
    line, evaluation = history.held_out(name), evaluations.get(name)
    if line is None or (evaluation and evaluation.infeasible):  # a failure is no score
        return {}
    return {
        "held_out_pass_at_1": line.pass_at_1,
        "held_out_interval": share_interval(line.pass_at_1, line.bugs) if line.bugs else None,
        "held_out_scores": line.scores,
        "held_out_repaired": line.passed,
        "held_out_bugs": line.bugs,
        "held_out_evaluation_digest": line.evaluation_digest,
    }


def _longer_lora(history: History) -> HeavyGenes | None:
    """Genes of the line `longer_lora`; None where the champion was trained once, or there is no such line."""
    champion = history.genomes.get(history.champion or "")
    if history.run is None or champion is None or history.held_out("longer_lora") is None:
        return None
    trainings, tuned = champion.genome.heavy.trainings(), history.baselines.get("tuned_lora")
    usual = (tuned and tuned.heavy) or default_lora_of(history.run.base_model)
    return usual.repeated(trainings) if trainings > 1 else None


def _line(history: History, evaluations: Evaluations, name: LineName, heavy: HeavyGenes, store: Store) -> Contender:
    """A line that has no evaluation on the fitness split."""
    line = history.held_out(name)
    trained = store.read_adapter(line.training_digest) if line else None
    return Contender(
        heavy=heavy,
        training_digest=line.training_digest if line else None,
        trainable_parameters=trained.trainable_parameters if trained else None,
        **_opened(history, evaluations, name),
    )


def _gaps(history: History, evaluations: Evaluations) -> Gaps:
    gaps: dict[str, Gap] = {}
    failed = {name for name, evaluation in evaluations.items() if evaluation.infeasible}
    shares = {name: evaluation.repaired() for name, evaluation in evaluations.items()}
    champion = history.held_out("champion")
    for rival in RIVALS:
        line = history.held_out(rival)
        if rival == "longer_lora" and _longer_lora(history) is None:
            continue
        if champion is not None and line is not None and not failed & {"champion", rival}:
            difference = champion.pass_at_1 - line.pass_at_1
            gaps[f"champion_minus_{rival}"] = compare(difference, shares.get("champion"), shares.get(rival))
    return Gaps(**gaps)


def _answer(history: History, gaps: Gaps, evaluations: Evaluations) -> Answer:
    """Did the search help? The champion against the strongest LoRA that was tried by hand, on the held-out bugs."""
    key: LineName = "tuned_lora" if "tuned_lora" in history.baselines else "default_lora"
    if _longer_lora(history) is not None:
        key = "longer_lora"
    gap: Gap | None = getattr(gaps, f"champion_minus_{key}")
    for name in ("champion", key):
        if (evaluation := evaluations.get(name)) is not None and evaluation.infeasible:
            text = f"Nothing can be compared: the {NAMES[name]} has no score on the held-out bugs ({evaluation.infeasible})."
            return Answer(verdict="unknown", text=text)
    champion, default, rival = (history.held_out(name) for name in ("champion", "default_lora", key))
    if gap is None or champion is None or default is None or rival is None:
        return Answer(verdict="unknown", text="The held-out split has not been opened, so nothing is decided yet.")
    if champion.evaluation_digest == default.evaluation_digest:
        text = "The search found nothing better than what it started from: the champion is the default LoRA itself."
        return Answer(verdict="default LoRA itself", text=text)
    text = f"{ANSWERS[gap.verdict].format(rival=NAMES[key])} ({100 * gap.difference:+.1f} points)."
    if champion.training_digest == rival.training_digest:
        same = champion.evaluation_digest == rival.evaluation_digest
        text += (
            f" Its adapter is the {NAMES[key]}'s own; {'the decoding, too' if same else 'only the decoding differs'}."
        )
    if len(history.generations) > 1 and history.generations[0].best == (bred := _as_bred(history)):
        text += f" {bred} was there in the first generation: breeding improved nothing."
    return Answer(verdict=gap.verdict, text=text)


def _finalists(history: History) -> tuple[FinalistLine, ...]:
    lines = []
    for again in history.genomes.values():
        parents = again.genome.lineage.parents if again.genome.lineage.operator == REPEAT else ()
        for first in (history.genomes[name] for name in parents if name in history.genomes):
            both = [each.fitness for each in (first, again) if each.fitness is not None]
            lines.append(
                FinalistLine(
                    genome_id=first.genome.genome_id,
                    again=again.genome.genome_id,
                    fitness=first.fitness,
                    fitness_again=again.fitness,
                    mean_fitness=sum(both) / 2 if len(both) == 2 else None,
                )
            )
    return tuple(sorted(lines, key=lambda line: -(line.mean_fitness or 0.0)))


def _as_bred(history: History) -> str | None:
    """The champion, or the genome whose genes it repeats with other random numbers."""
    record = history.genomes.get(history.champion or "")
    if record is not None and record.genome.lineage.operator == REPEAT:
        return next(iter(record.genome.lineage.parents), history.champion)
    return history.champion


def _generations(history: History) -> tuple[GenerationLine, ...]:
    best = [history.genomes.get(record.best or "") for record in history.generations]
    return tuple(
        _from(
            GenerationLine,
            dict(record),
            best_pass_at_1=fittest.pass_at_1 if fittest else None,
            front_size=len(record.front),
            infeasible=sum(genome.infeasible is not None for genome in population),
        )
        for record, fittest, population in zip(history.generations, best, history.populations, strict=True)
    )


def _infeasible(history: History, evaluations: Evaluations) -> tuple[InfeasibleGenome, ...]:
    """Genomes, baselines and lines of the final table without a score."""
    reasons = [(name, record.infeasible, record.reason) for name, record in history.genomes.items()]
    reasons += [(name, baseline.infeasible, "") for name, baseline in history.baselines.items()]
    reasons += [(f"{name}, held-out", line.infeasible, line.reason) for name, line in evaluations.items()]
    return tuple(InfeasibleGenome(genome_id=name, reason=word, detail=text) for name, word, text in reasons if word)


def lineage_of(history: History, genome_id: str | None) -> tuple[Ancestor, ...]:
    """A genome and everything it descends from, in order of generation; empty for None."""
    pending = [genome_id or ""]
    ancestors: dict[str, GenomeRecord] = {}
    while pending:
        name = pending.pop()
        if name in history.genomes and name not in ancestors:
            ancestors[name] = history.genomes[name]
            pending += ancestors[name].genome.lineage.parents
    ordered = sorted(ancestors.values(), key=lambda record: (record.genome.generation, record.genome.slot))
    return tuple(_from(Ancestor, _flat(record)) for record in ordered)


def _tuned(history: History) -> tuple[TunedLine, ...]:
    """Candidates for the tuned LoRA, fittest first; those without a score last."""
    found = history.baselines.get("tuned_lora")
    if found is None:
        return ()
    lines = [_from(TunedLine, dict(each), chosen=each.heavy == found.heavy) for each in found.candidates]
    return tuple(sorted(lines, key=lambda line: (line.fitness is None, -(line.fitness or 0.0), line.name)))


def _bug_classes(evaluations: Evaluations) -> tuple[BugClassLine, ...]:
    members: dict[str, set[str]] = {}
    for record in next(iter(evaluations.values())).records if evaluations else ():
        if not record.retention:
            members.setdefault(record.bug_class, set()).add(record.problem_id)
    passed = {name: set(evaluations[name].passed) if name in evaluations else None for name in COMPARED}
    return tuple(
        BugClassLine(
            bug_class=bug_class,
            bugs=len(ids),
            **{name: None if repaired is None else len(ids & repaired) for name, repaired in passed.items()},
        )
        for bug_class, ids in sorted(members.items())
    )


def _outcomes(evaluation: Evaluation) -> dict[str, int]:
    """Verdict outcome -> number of problems, by the first sample of each problem, most frequent first."""
    firsts = [record.samples[0].verdict for record in evaluation.records if record.samples]
    counted = Counter(str(verdict.get("outcome", "unknown")) for verdict in firsts)
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def base_check(baselines: Mapping[str, BaselineRecord]) -> BaseCheck:
    """Whether the base model suits the problems.

    It is too good if little is left to repair, and too bad if the tuned LoRA (the default LoRA where none was tuned)
    repairs next to nothing either.
    """
    key = "tuned_lora" if "tuned_lora" in baselines else "default_lora"
    base, adapter, name = baselines.get("base_model"), baselines.get(key), NAMES[key]
    if base is None:
        return BaseCheck(verdict="unknown", text="The base model has not been evaluated yet.")
    rates = f"The base model alone repairs {base.pass_at_1:.0%} of the fitness bugs"
    if adapter is not None and not adapter.infeasible:
        rates += f", the {name} {adapter.pass_at_1:.0%}"
    if base.pass_at_1 > TOO_GOOD:
        text = f"{rates}: little is left for an adapter. Choose harder problems."
        return BaseCheck(verdict="too good", text=text)
    if base.pass_at_1 > TOO_BAD or (adapter is not None and not adapter.infeasible and adapter.pass_at_1 > TOO_BAD):
        return BaseCheck(verdict="usable", text=f"{rates}: adapters can be told apart.")
    if adapter is None or adapter.infeasible:
        text = f"{rates}. Whether that is too little is decided by the {name}, which has no score."
        return BaseCheck(verdict="unknown", text=text)
    text = (
        f"{rates}: too little to tell adapters apart. Choose easier problems, more training, or a stronger base model."
    )
    return BaseCheck(verdict="too bad", text=text)


def _previous(folder: RunFolder, history: History) -> PreviousRun | None:
    """The last run of this name that had finished when `folder` was made; None where there was none."""
    start, run = read_start(folder), history.run
    if start is None or start.previous is None:
        return None
    previous = start.previous
    problems = (run.problems.get("digests") or {}).get("fitness") if run else None
    known = problems is not None and previous.fitness_problems is not None
    return _from(
        PreviousRun,
        dict(previous),
        path=str(folder.path.parent / previous.run_id),
        started_from=start.start_from == "last-champion",
        same_problems=problems == previous.fitness_problems if known else None,
        same_base_model=run.base_model.content_id == previous.base_content_id if run else None,
    )


def _repeats(history: History) -> Repeats | None:
    """The champion's seed repeats; None when there are none (search.champion_repeats 0, or not at the end yet)."""
    final, champion = history.final, history.genomes.get(history.champion or "")
    if final is None or champion is None or not final.repeats:
        return None
    default = history.baselines.get("default_lora")
    scores = [line.fitness for line in final.repeats if line.fitness is not None]
    repaired = [line.pass_at_1 for line in final.repeats if line.pass_at_1 is not None]
    least = default.fitness if default else None
    return Repeats(
        n=len(scores),
        lines=tuple(_from(RepeatLine, dict(line)) for line in final.repeats),
        own_fitness=champion.fitness,
        own_pass_at_1=champion.pass_at_1,
        mean_fitness=_mean(scores),
        sd_fitness=_sd(scores),
        mean_pass_at_1=_mean(repaired),
        sd_pass_at_1=_sd(repaired),
        above_default=None if least is None else sum(score > least for score in scores),
    )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _sd(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _spending(store: Store, run_id: str, budget: BudgetConfig) -> Spending | None:
    """Lane hours and money of one evolution, at the prices of `budget`; None when no lane has booked any."""
    problem, spent = "", Spent()
    try:
        spent = Ledger(store).spent(budget.price, run_id)
    except StoreError as error:
        problem = str(error)
    if spent.gpu_hours <= 0 and not problem:
        return None
    priced = budget.price.training > 0 or budget.price.evaluation > 0
    return Spending(
        currency=budget.currency,
        gpu_hours=spent.gpu_hours,
        training_hours=spent.training_hours,
        evaluation_hours=spent.evaluation_hours,
        money=spent.money if priced else None,
        limit_gpu_hours=budget.evolution.gpu_hours,
        limit_money=budget.evolution.money,
        problem=problem,
    )
