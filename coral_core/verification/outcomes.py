"""What a run found: the store's entries, the scores in the history, and the search played again with them."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from coral_core.errors import CoralError, StoreError
from coral_core.evolution.warm_start import freeze_start
from coral_core.jobs.jobs import Evaluation, TrainedAdapter
from coral_core.judge.judge import Verdict
from coral_core.lm.targets import default_lora_of, for_model
from coral_core.problems.problem import Problem
from coral_core.runs.records import BaselineRecord, FinalRecord, GenerationRecord, GenomeRecord
from coral_core.scoring.objectives import bugfix, cost, pass_at_more, retention
from coral_core.search.selection import fitness, hypervolume
from coral_core.search.strategy import Scored, make_search
from coral_core.store.store import Kind
from coral_core.untrusted import visible
from coral_core.verification.findings import Expected, Verified, first_line
from coral_core.verification.origins import as_recorded
from coral_core.verification.replay import not_of_its_problems

FROM_VERDICTS = ("bugfix", "retention", "cost", "pass@k")
"""Scores that need neither judge nor linter, only what the judge said."""
ROUNDING = 1e-9


def check_store(run: Verified, expected: Sequence[Expected]) -> None:
    """Is every adapter and evaluation there, with all its bytes, and what the job that it is of gives?"""
    differences: list[str] = []
    adapters: dict[str, TrainedAdapter | None] = {}
    for item in expected:
        evaluation = run.store.read_evaluation(item.evaluation_digest)
        if item.training_digest != "none" and item.training_digest not in adapters:
            adapters[item.training_digest] = run.store.read_adapter(item.training_digest)
            if adapters[item.training_digest] is None:
                differences.append(f"{item.label}: {_lost(run, 'adapter', item.training_digest)}")
        if evaluation is None:
            differences.append(f"{item.label}: {_lost(run, 'evaluation', item.evaluation_digest)}")
        else:
            found = list(_of_another_job(run, item, evaluation, adapters.get(item.training_digest)))
            differences += [f"{item.label}: in the store, {text}" for text in found]
    run.say("store", differences, f"{len(expected)} evaluations and {len(adapters)} adapters are in the store, every byte as published, each of its job; scores that follow from stored verdicts alone ({', '.join(FROM_VERDICTS)}) follow from them")  # fmt: skip


def _lost(run: Verified, kind: Kind, digest: str) -> str:
    return f"{kind} {digest[:16]} is {'broken in' if run.store.holds(kind, digest) else 'not in'} the store {run.store.root}"


def _of_another_job(run: Verified, item: Expected, evaluation: Evaluation, adapter: TrainedAdapter | None) -> Iterator[str]:  # fmt: skip
    """What an evaluation holds that its job cannot have given."""
    if evaluation.training_digest != item.training_digest:
        yield f"it is of adapter {evaluation.training_digest[:16]}, not of {item.training_digest[:16]}"
    if evaluation.split != item.job.split:
        yield f"it is of the split {evaluation.split}, not of {item.job.split}"
    if adapter is not None and adapter.infeasible and evaluation.infeasible != adapter.infeasible:
        yield f"its adapter is infeasible ({adapter.infeasible}), and it is not"
    if evaluation.infeasible is not None:
        return  # a finding that stands in the store; its patches, if there were any, are not kept
    trained = adapter.trainable_parameters if adapter else 0
    known = adapter is not None or item.training_digest == "none"
    if known and evaluation.trainable_parameters != trained:
        yield f"{evaluation.trainable_parameters} trainable parameters, its adapter has {trained}"
    try:
        problems = run.planner.problems(item.job.split)
    except (CoralError, OSError):
        return  # said by the check of the problems
    yield from not_of_its_problems(problems, item.job, evaluation)
    if [p.problem_id for p in problems] == [r.problem_id for r in evaluation.records]:
        yield from _not_of_its_verdicts(run, item, evaluation, problems)


def _not_of_its_verdicts(run: Verified, item: Expected, evaluation: Evaluation, problems: Sequence[Problem]) -> Iterator[str]:  # fmt: skip
    try:
        verdicts = [[Verdict.model_validate(s.verdict) for s in record.samples] for record in evaluation.records]
    except ValidationError as error:
        yield f"a verdict is none: {first_line(error)}"
        return
    for record, group in zip(evaluation.records, verdicts, strict=True):
        for verdict in group:
            passing = sum(case == "pass" for case in verdict.cases)
            if (verdict.was_failing + verdict.was_passing, verdict.now_passing + verdict.still_passing) != (len(verdict.cases), passing):  # fmt: skip
                yield f"{visible(record.problem_id)}: the verdict's counts are not those of its cases"
                return
    bugs = [group for problem, group in zip(problems, verdicts, strict=True) if not problem.retention]
    values = [bugfix(verdict) for group in bugs for verdict in group]
    again = {
        "bugfix": statistics.fmean(values) if values else 0.0,
        "retention": retention(problems, verdicts, item.job.base_passes),
        "cost": cost(evaluation.trainable_parameters, run.run.base_model.parameters),
    }
    for name, value in again.items():
        if abs(evaluation.scores.get(name, -1.0) - value) > ROUNDING:
            yield f"score {name} {evaluation.scores.get(name)}, its verdicts give {value}"
    more = pass_at_more(bugs)
    if more.keys() != evaluation.pass_at_k.keys() or any(abs(more[k] - evaluation.pass_at_k[k]) > ROUNDING for k in more):  # fmt: skip
        yield f"pass@k {evaluation.pass_at_k}, its verdicts give {more}"


def check_scores(run: Verified) -> None:
    """What the history says of each evaluation against what the store says, and what follows from its verdicts."""
    differences: list[str] = []
    genomes = {record.genome.genome_id: record for record in run.of(GenomeRecord)}
    rows: list[tuple[str, Any]] = [(record.name, record) for record in run.of(BaselineRecord)]
    rows += list(genomes.items())
    for final in run.of(FinalRecord):
        rows += [(f"{line.name} held-out", line) for line in final.held_out]
        rows += [(f"{final.champion} repeat {line.replicate}", line) for line in final.repeats]
    for label, record in rows:
        evaluation = run.store.read_evaluation(record.evaluation_digest)
        try:
            if evaluation is not None:
                differences += [f"{label}: {text}" for text in _compared(run, record, evaluation)]
        except OSError as error:
            run.note("scores", f"{label}: not checked: {first_line(error)}")
    try:
        differences += _monitor(run, genomes)
    except (CoralError, OSError) as error:
        run.note("scores", f"the monitor's are not checked: {first_line(error)}")
    run.say("scores", differences, f"{len(rows)} lines of scores agree with the store")


def _monitor(run: Verified, genomes: dict[str, GenomeRecord]) -> Iterator[str]:
    for record in run.of(GenerationRecord):
        best = genomes.get(record.best or "")
        if best is not None and run.config.problems.monitor:
            job = as_recorded(run, run.planner.of(best.genome, "monitor"))
            found = run.store.read_evaluation(job.digest())
            if found is None:
                yield f"generation {record.generation}: the monitor {_lost(run, 'evaluation', job.digest())}"
            elif found.pass_at_1 != record.monitor_pass_at_1:
                yield f"generation {record.generation}: monitor pass@1 {record.monitor_pass_at_1} in history.jsonl, {found.pass_at_1} in the store"


def _compared(run: Verified, record: Any, evaluation: Evaluation) -> Iterator[str]:
    scored = evaluation.infeasible is None
    bugs = [item for item in evaluation.records if not item.retention]
    pairs: list[tuple[str, Any, Any]] = [("scores", record.scores, evaluation.scores)]
    if hasattr(record, "infeasible"):
        pairs.append(("infeasible", record.infeasible, evaluation.infeasible))
    if hasattr(record, "reason"):
        pairs.append(("reason", record.reason, evaluation.reason))
    baseline = isinstance(record, BaselineRecord)
    if hasattr(record, "fitness"):
        value = fitness(evaluation.scores, run.config.scoring.weights) if scored else None
        pairs.append(("fitness", record.fitness, value))
    pairs.append(("pass@1", record.pass_at_1, evaluation.pass_at_1 if scored or baseline or hasattr(record, "bugs") else None))  # fmt: skip
    if hasattr(record, "trainable_parameters"):
        pairs.append(("trainable parameters", record.trainable_parameters, evaluation.trainable_parameters))
    if hasattr(record, "passed"):
        repaired = len({item.problem_id for item in bugs} & set(evaluation.passed))
        pairs.append(("bugs repaired", record.passed, repaired))
        if scored:  # an infeasible evaluation holds no problem; how many there are is then asked of the split below
            pairs.append(("bugs", record.bugs, len(bugs)))
        else:
            sealed = sum(not problem.retention for problem in run.planner.problems("held_out"))
            pairs.append(("bugs of the split", record.bugs, sealed))
    yield from (f"{name} {one} in history.jsonl, {other} in the store" for name, one, other in pairs if one != other)


def check_search(run: Verified) -> None:
    """The search once more, told the recorded scores: it must ask for the recorded genomes and find the recorded champion."""
    try:
        carried = freeze_start(
            run.folder, run.config
        ).genomes  # of a run with a history: read and checked, never written
    except StoreError as error:
        run.say("search", [first_line(error)], "")
        return
    base = run.run.base_model
    seeded = for_model(run.config, base).model_copy(update={"seed": run.identity.run_seed})
    search = make_search(seeded, carried, default_lora_of(base))
    objectives = [name for name, role in run.config.scoring.roles.items() if role == "objective"]
    told: list[GenomeRecord] = []
    number = 0
    for record in run.records:
        if isinstance(record, GenomeRecord):
            told.append(record)
        elif isinstance(record, GenerationRecord):
            wrong = _generation(search, record, told, objectives)
            if wrong:
                run.say("search", [f"generation {number}: {text}" for text in wrong], "")
                run.note("search", "later generations were not played again: they follow from this one")
                return
            told, number = [], number + 1
    differences = list(_left_over(run, search, told))
    for final in run.of(FinalRecord):
        best = search.best()
        if best is None or best.genome.genome_id != final.champion:
            differences.append(f"champion {final.champion} in history.jsonl, the search finds {best.genome.genome_id if best else 'none'}")  # fmt: skip
        if not search.done or search.reason != final.reason:
            differences.append(f"the search ended with {final.reason!r} in history.jsonl, played again with {search.reason!r}")  # fmt: skip
    run.say("search", differences, f"{number} generations played again: same genomes, same front, same champion")


def _left_over(run: Verified, search: Any, told: Sequence[GenomeRecord]) -> Iterator[str]:
    """Genomes after the last generation: a run that goes on may have some of the next, and one that has ended has none."""
    if told and (run.of(FinalRecord) or search.done):
        yield f"{len(told)} genomes after the last generation in history.jsonl, from {told[0].genome.genome_id} on; the search asks for none"
    elif told:
        asked = [genome for genome in search.ask()][: len(told)]
        if asked != [line.genome for line in told]:
            yield "the genomes after the last generation in history.jsonl are not those that the search asks for"


def _generation(search: Any, record: GenerationRecord, told: Sequence[GenomeRecord], objectives: Sequence[Any]) -> list[str]:  # fmt: skip
    if search.done:
        return ["the search had ended before it"]
    asked = search.ask()
    if len(asked) != len(told):
        return [f"{len(told)} genomes in history.jsonl, the search asks for {len(asked)}"]
    for genome, line in zip(asked, told, strict=True):
        if genome != line.genome:
            return [f"genome {line.genome.genome_id} is not the one that the search asks for"]
    search.tell([
        Scored(genome=r.genome, scores=None if r.infeasible else r.scores, fitness=r.fitness, infeasible=r.infeasible)
        for r in told
    ])  # fmt: skip
    best, front = search.best(), search.front()
    values = [r.fitness for r in told if r.fitness is not None]
    pairs = (
        ("best", record.best, best.genome.genome_id if best else None),
        ("best fitness", record.best_fitness, best.fitness if best else None),
        ("mean fitness", record.mean_fitness, statistics.fmean(values) if values else None),
        ("front", record.front, tuple(scored.genome.genome_id for scored in front)),
        ("hypervolume", record.hypervolume, hypervolume([s.scores for s in front if s.scores is not None], objectives)),
        ("unique adapters", record.unique_adapters, len({line.genome.heavy.digest() for line in told})),
    )
    return [f"{name} {one} in history.jsonl, {other} played again" for name, one, other in pairs if one != other]
