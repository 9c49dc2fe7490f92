"""The checks of a run that need neither judge nor model, as a table.

A check yields one text per difference. It raises `UncheckedError` if it cannot be made; any other exception counts as a
difference.
"""

import json
import logging
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from coral_core.bounded_read import RECORD, look_at, read_file, sha256_of
from coral_core.errors import BaseModelError, ConfigError, CoralError, EngineError, StoreError
from coral_core.evolution.loop import tuned_choice
from coral_core.evolution.start_from import freeze_start
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.jobs.job_content import split_digest
from coral_core.jobs.jobs import Evaluation, EvaluationJob, TrainedAdapter
from coral_core.json_object import json_object, json_value
from coral_core.judge.judge import Verdict
from coral_core.lm.base_model import identify
from coral_core.lm.baselines import tuned_loras
from coral_core.lm.targets import default_lora_of, for_model
from coral_core.lm.vllm_interpreter import vllm_settings
from coral_core.problems.problem import Problem, Split
from coral_core.report.build_report import build_report
from coral_core.report.export import WEIGHTS, genome_files
from coral_core.runs.records import (
    SCHEMA_VERSION,
    BaselineRecord,
    FinalRecord,
    GenerationRecord,
    GenomeRecord,
    LineName,
    RunRecord,
    SessionTiming,
    baseline_names,
    line_names,
)
from coral_core.runs.run_folder import identify_run, versions
from coral_core.scoring.objectives import bugfix, cost, pass_at_more, retention
from coral_core.search.selection import fitness, hypervolume
from coral_core.search.strategy import Scored, Search, StrategyError, make_search
from coral_core.store.store import WEIGHTS_BYTES, Kind, first_line
from coral_core.untrusted import in_a_line, visible
from coral_core.verification.findings import Expected, Verified, value_differences
from coral_core.verification.replay import problem_differences

HARMLESS = ("platform", "machine", "prefect")
"""Versions that change no result: platform, machine and orchestrator."""
SPLITS: tuple[Split, ...] = ("fitness", "monitor", "held_out")
ALWAYS = ("python", "coral-x", "numpy", "ruff", "bandit", "moocore", "prefect")
"""Versions that every run records, also one that has torch in its lanes only."""
IN_DIGESTS = {"ruff": "ruff", "bandit": "bandit", "interpreter": "python"}
"""Version in an evaluation's digest -> its name in run.json."""
ROUNDING = 1e-9

log = logging.getLogger("coral.verify")


class UncheckedError(Exception):
    """A check cannot be made; the text says why."""


def check_all(run: Verified) -> list[Expected]:
    """Make all checks that need no judge and no model, and add their findings to `run`.

    Returns:
        The evaluations that the history names, from which a sample for `judge_again` can be drawn.
    """
    for name, check, fine in CHECKS:
        differences: list[str] = []
        try:
            for text in check(run):
                differences.append(text)
        except UncheckedError as reason:
            run.note(name, str(reason))
            continue
        except Exception as error:  # data that breaks a check has not passed it
            log.debug("the check of %s failed", name, exc_info=True)
            differences.append(f"cannot be checked: {in_a_line(error)}")
        counts = {"evaluations": len(run.expected), "generations": len(run.of(GenerationRecord))}
        run.say(name, differences, fine.format(**counts))
    return run.expected


# -- identity, inputs and digests -------------------------------------------------------------


def check_versions(run: Verified) -> Iterator[str]:
    """Compare installed versions with recorded ones."""
    here = versions()
    yield from (f"{name}: run.json names no version of it" for name in ALWAYS if name not in run.recorded_versions)
    for name, recorded in run.recorded_versions.items():
        text = f"{name}: recorded {recorded}, here {here.get(name, 'not installed')}"
        if here.get(name) != recorded and name in HARMLESS:
            run.note("versions", f"{text} (changes no result)")
        elif here.get(name) != recorded:
            yield text


def check_identity(run: Verified) -> Iterator[str]:
    """Check that the run's identity follows from its configuration, and that the base model is still the same."""
    recorded, fresh, history = run.identity, identify_run(run.config, run.identity.edition), run.run
    for name in ("run_id", "config_digest", "run_seed"):
        if getattr(recorded, name) != getattr(fresh, name):
            yield f"{name}: run.json says {getattr(recorded, name)}, config.yaml gives {getattr(fresh, name)}"
    if run.folder.run_id != recorded.run_id:
        run.note("identity", f"the folder is called {run.folder.run_id}, the run {recorded.run_id}")
    if history.identity != recorded:
        yield f"history.jsonl is of run {history.identity.run_id}, run.json of {recorded.run_id}"
    pairs = (("name", history.name, run.config.name), ("strategy", history.strategy, run.config.search.strategy))
    yield from value_differences(pairs, "in config.yaml")
    try:
        here = identify(run.config.base_model, vllm_settings(run.config))
    except (BaseModelError, ConfigError, EngineError) as error:
        run.note("identity", f"the base model is not here, so its content is not checked ({first_line(error)})")
        return
    for name in ("content_id", "name", "parameters", "modules", "sets"):
        one, other = getattr(history.base_model, name), getattr(here, name)
        if one != other:
            yield f"base model: history.jsonl says {one} ({name}), here it is {other}"
    if here.numerics_class != history.numerics:
        text = f"numerics class: recorded {history.numerics!r}, here {here.numerics_class!r}; results need not repeat bit for bit"
        run.note("identity", text)


def check_problems(run: Verified) -> Iterator[str]:
    """Check that the configuration still gives the problems of the run."""
    recorded, config = run.run.problems, run.config.problems
    if recorded.get("source") != config.source:
        yield f"source: history.jsonl says {recorded.get('source')}, config.yaml {config.source}"
    try:
        for name in SPLITS:
            digest, count = (_of(recorded, kind, name) for kind in ("digests", "counts"))
            found = (split_digest(config, name), len(run.planner.problems(name)))
            if (digest, count) != found:
                yield f"{name} split: recorded {digest} of {count} problems, config.yaml gives {found[0]} of {found[1]}"
    except (CoralError, OSError) as error:
        text = f"the problems are not here, so nothing that needs them is checked ({first_line(error)})"
        raise UncheckedError(text) from None


def _of(recorded: dict[str, Any], kind: str, split: str) -> Any:
    table = recorded.get(kind)
    return table.get(split) if isinstance(table, dict) else None


def check_digests(run: Verified) -> Iterator[str]:
    """Compare every digest in the history with the one recomputed from the configuration; fills `run.expected`."""
    expected: list[Expected] = []
    try:
        for label, record, heavy, light, split, replicate in _lines(run):
            job = with_recorded_versions(run, run.planner.evaluation(heavy, light, split, replicate))
            expected.append(Expected(label, record.training_digest, record.evaluation_digest, job))
            if label == "base_model":  # the problems that it repairs are part of the later jobs
                base = run.store.read_evaluation(record.evaluation_digest)
                if base is None:
                    run.note("digests", "the base model's evaluation has left the store; digests that name what it repairs may differ")  # fmt: skip
                run.planner.base_passes = base.passed if base else ()
    except (CoralError, OSError) as error:
        raise UncheckedError(f"not recomputed: {first_line(error)}") from None
    run.expected = expected
    for item in expected:
        training, evaluation = item.job.training.digest() if item.job.training else "none", item.job.digest()
        if training != item.training_digest:
            yield f"{item.label}: training digest {item.training_digest[:16]} in history.jsonl, its genes give {training[:16]}"
        elif evaluation != item.evaluation_digest:
            yield f"{item.label}: evaluation digest {item.evaluation_digest[:16]} in history.jsonl, its job gives {evaluation[:16]}"


Line = tuple[str, Any, HeavyGenes | None, LightGenes | None, Split, int]
"""Label of an evaluation, its record in the history, and the inputs of its job: genes, split, replicate."""


def _lines(run: Verified) -> Iterator[Line]:
    """Every evaluation that the history names, in the order in which the evolution asks for them."""
    genomes = run.genomes
    grid = tuned_loras(run.run.base_model)
    baselines: dict[str, BaselineRecord] = {record.name: record for record in run.of(BaselineRecord)}
    adapters: dict[str, HeavyGenes | None] = {"base_model": None, "default_lora": default_lora_of(run.run.base_model)}
    adapters |= {name: record.heavy for name, record in baselines.items() if name == "tuned_lora"}
    for name in baseline_names(run.config.search):
        if name in baselines:
            for candidate in baselines[name].candidates:
                yield f"{name} {candidate.name}", candidate, grid.get(candidate.name), None, "fitness", 0
            yield name, baselines[name], adapters[name], None, "fitness", 0
    for genome_id, record in genomes.items():
        yield genome_id, record, record.genome.heavy, record.genome.light, "fitness", 0
    for final in run.of(FinalRecord):
        usual = adapters.get("tuned_lora") or adapters["default_lora"]
        if usual is not None and (best := genomes.get(final.champion)) is not None:
            adapters["longer_lora"] = usual.repeated(best.genome.heavy.trainings())
        for line in final.held_out:
            owner = genomes.get(genomes_of_lines(run, final)[line.name] or "")
            if owner is not None:
                yield f"{line.name} held-out", line, owner.genome.heavy, owner.genome.light, "held_out", 0
            elif line.name in adapters:
                yield f"{line.name} held-out", line, adapters[line.name], None, "held_out", 0
        if (champion := genomes.get(final.champion)) is not None:
            genes = champion.genome
            for repeat in final.repeats:
                label = f"{final.champion} repeat {repeat.replicate}"
                yield label, repeat, genes.heavy, genes.light, "fitness", repeat.replicate


def with_recorded_versions(run: Verified, job: EvaluationJob) -> EvaluationJob:
    """Replace the installed versions of linters and interpreter in a job by the recorded ones.

    The check of versions reports their differences; digests must not report them again.

    Args:
        run: Gives the recorded versions; a version that is not recorded stays.
        job: The evaluation as planned here.
    """
    recorded = {name: run.recorded_versions.get(source, "") for name, source in IN_DIGESTS.items()}
    return job.model_copy(
        update={"versions": {name: recorded.get(name) or value for name, value in job.versions.items()}}
    )


# -- completeness -----------------------------------------------------------------------------


def genomes_of_lines(run: Verified, final: FinalRecord) -> dict[str, str | None]:
    """The genomes of the final table, derived from the genome records by the rules of the search.

    Args:
        run: The run.
        final: Its final record.

    Returns:
        Name of a line -> genome id; None for the lines of the baselines, which are of no genome.
    """
    first = sorted(
        (record.fitness, record.genome.genome_id)
        for record in run.of(GenomeRecord)
        if record.genome.generation == 0 and record.fitness is not None
    )
    median = first[(len(first) - 1) // 2][1] if first else final.champion
    owners: dict[str, str | None] = {"champion": final.champion, "generation_0_median": median}
    return dict.fromkeys(get_args(LineName)) | owners


def check_completeness(run: Verified) -> Iterator[str]:
    """Check that baselines, generations and the final table are there, once and in order.

    Missing records need a check of their own, since the others only see records that exist.
    """
    finals = run.of(FinalRecord)
    if not finals and any(isinstance(t, SessionTiming) and t.outcome == "finished" for t in run.folder.timings()):
        yield "no final record in history.jsonl, and timings.jsonl says that the run has finished"
    if (count := len(run.of(RunRecord))) != 1:
        yield f"{count} run records in history.jsonl, a run has one, at the beginning"
    for record in run.records:
        if record.schema_version != SCHEMA_VERSION:
            yield f"a {record.type} record of schema {record.schema_version} in history.jsonl, this is schema {SCHEMA_VERSION}"
    baselines = tuple(record.name for record in run.of(BaselineRecord))
    wanted_baselines, lines = baseline_names(run.config.search), line_names(run.config.search)
    if baselines != wanted_baselines[: len(baselines)] or (
        len(baselines) < len(wanted_baselines) and run.of(GenomeRecord)
    ):
        yield f"baselines {_list(baselines)} in history.jsonl, a run has {_list(wanted_baselines)}"
    yield from _tuned(run)
    numbers = [record.generation for record in run.of(GenerationRecord)]
    if numbers != list(range(len(numbers))):
        yield f"generations {_list(numbers)} in history.jsonl, a run counts from 0 without a gap"
    if len(finals) > 1 or (finals and run.records[-1] is not finals[0]):
        yield f"{len(finals)} final records in history.jsonl, a run has one, at the end"
    for final in finals:
        names = tuple(line.name for line in final.held_out)
        if names != lines:
            yield f"held-out lines {_list(names)} in history.jsonl, the final table has {_list(lines)}"
        for line in final.held_out:
            if line.genome_id != (owner := genomes_of_lines(run, final)[line.name]):
                yield f"{line.name} held-out: of {line.genome_id or 'no genome'} in history.jsonl, it is of {owner or 'no genome'}"
        if final.held_out_openings != 1:
            yield f"{final.held_out_openings} openings of the held-out split in history.jsonl, a run opens it once"
        replicates, wanted = [line.replicate for line in final.repeats], run.config.search.champion_repeats
        if replicates != list(range(1, wanted + 1)):
            yield f"seed repeats {_list(replicates)} in history.jsonl, config.yaml asks for 1 to {wanted}"


def _tuned(run: Verified) -> Iterator[str]:
    """Check that the tuned LoRA was chosen from the whole grid, by the champion rule."""
    grid = tuned_loras(run.run.base_model)
    for record in run.of(BaselineRecord):
        if record.name != "tuned_lora":
            if record.candidates or record.heavy:
                yield f"{record.name}: candidates in history.jsonl, only the tuned LoRA has some"
            continue
        found = {candidate.name: candidate.heavy for candidate in record.candidates}
        if list(found.items()) != list(grid.items()) or len(found) != len(record.candidates):
            yield f"tuned_lora: candidates {_list(found)} in history.jsonl, the base model has {_list(grid)}"
            continue
        best = tuned_choice(record.candidates, run.config.scoring)
        pairs = (
            (name, getattr(record, name), getattr(best, name))
            for name in ("heavy", "training_digest", "evaluation_digest")
        )
        yield from (f"tuned_lora: {text}" for text in value_differences(pairs, "chosen from its candidates"))


def _list(items: Iterable[object]) -> str:
    return ", ".join(map(str, items)) or "none"


def check_champion(run: Verified) -> Iterator[str]:
    """Compare the exported champion: its weights with the store, its genome and decoding with the history."""
    final, folder = next(iter(run.of(FinalRecord)), None), run.folder.path / "champion"
    record = run.genomes.get(final.champion) if final else None
    if record is None or look_at(folder) is None:
        raise UncheckedError("champion/: no exported adapter here, so none is checked")
    source = run.store.adapter_path(record.training_digest)
    for name in WEIGHTS:
        try:
            exported, stored = _sum(folder / name, folder), _sum(source / name, run.store.root)
        except OSError as error:
            yield f"champion/{name} cannot be compared: {first_line(error)}"
            continue
        if exported != stored:
            yield f"champion/{name} is not that of adapter {record.training_digest[:16]} in the store"
    report = build_report(run.folder, run.store)
    files = genome_files(report.run_id, report.champion, report.lineage) if report.champion else {}
    for name, content in files.items():
        try:
            exported_content = json_object(read_file(folder / name, RECORD, folder))
        except (OSError, ValueError) as error:
            yield f"champion/{name} cannot be read: {first_line(error)}"
            continue
        if exported_content != json_value(json.dumps(content)):
            keys = [key for key in {**exported_content, **content} if exported_content.get(key) != content.get(key)]
            yield f"champion/{name} is not what history and store give: {', '.join(map(visible, keys[:3])) or 'other keys'}"


def _sum(path: Path, below: Path) -> str | None:
    try:
        return sha256_of(path, WEIGHTS_BYTES, below)
    except FileNotFoundError:
        return None


# -- results ----------------------------------------------------------------------------------


def check_store(run: Verified) -> Iterator[str]:
    """Check that every adapter and evaluation is in the store, is sound, and fits its job."""
    adapters: dict[str, TrainedAdapter | None] = {"none": None}
    for item in run.expected:
        evaluation = run.store.read_evaluation(item.evaluation_digest)
        if item.training_digest not in adapters:
            adapters[item.training_digest] = run.store.read_adapter(item.training_digest)
            if adapters[item.training_digest] is None:
                yield f"{item.label}: {_missing(run, 'adapter', item.training_digest)}"
        if evaluation is None:
            yield f"{item.label}: {_missing(run, 'evaluation', item.evaluation_digest)}"
        else:
            differences = _job_differences(run, item, evaluation, adapters[item.training_digest])
            yield from (f"{item.label}: in the store, {text}" for text in differences)


def _missing(run: Verified, kind: Kind, digest: str) -> str:
    return f"{kind} {digest[:16]} is {'broken in' if run.store.holds(kind, digest) else 'not in'} the store {run.store.root}"


def _job_differences(run: Verified, item: Expected, evaluation: Evaluation, adapter: TrainedAdapter | None) -> Iterator[str]:  # fmt: skip
    """Differences between an evaluation and what its job can produce."""
    if evaluation.training_digest != item.training_digest:
        yield f"it is of adapter {evaluation.training_digest[:16]}, not of {item.training_digest[:16]}"
    if evaluation.split != item.job.split:
        yield f"it is of the split {evaluation.split}, not of {item.job.split}"
    if adapter is not None and adapter.infeasible and evaluation.infeasible != adapter.infeasible:
        yield f"its adapter is infeasible ({adapter.infeasible}), and it is not"
    if evaluation.infeasible is not None:
        return  # an infeasible evaluation keeps no patches to check
    trained = adapter.trainable_parameters if adapter else 0
    known = adapter is not None or item.training_digest == "none"
    if known and evaluation.trainable_parameters != trained:
        yield f"{evaluation.trainable_parameters} trainable parameters, its adapter has {trained}"
    try:
        problems = run.planner.problems(item.job.split)
    except (CoralError, OSError):
        return  # reported by the check of the problems
    others = list(problem_differences(problems, item.job, evaluation))
    yield from others or _verdict_differences(run, item, evaluation, problems)


def _verdict_differences(run: Verified, item: Expected, evaluation: Evaluation, problems: Sequence[Problem]) -> Iterator[str]:  # fmt: skip
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
        "score bugfix": statistics.fmean(values) if values else 0.0,
        "score retention": retention(problems, verdicts, item.job.base_passes),
        "score cost": cost(evaluation.trainable_parameters, run.run.base_model.parameters),
        **{f"pass@{k}": value for k, value in pass_at_more(bugs).items()},
    }
    stored = {f"score {name}": value for name, value in evaluation.scores.items()}
    stored |= {f"pass@{k}": value for k, value in evaluation.pass_at_k.items()}
    more = {f"pass@{k}" for k in evaluation.pass_at_k}
    for name in sorted(again.keys() | more):
        one, other = stored.get(name), again.get(name)
        if one is None or other is None or abs(one - other) > ROUNDING:
            yield f"{name} {one}, its verdicts give {other}"


def check_scores(run: Verified) -> Iterator[str]:
    """Compare the scores in the history with those in the store."""
    for label, record, *_ in _lines(run):
        evaluation = run.store.read_evaluation(record.evaluation_digest)
        try:
            if evaluation is not None:
                yield from (
                    f"{label}: {text}" for text in value_differences(_scores(run, record, evaluation), "in the store")
                )
        except (CoralError, OSError) as error:
            run.note("scores", f"{label}: not checked: {first_line(error)}")
    try:
        yield from _monitor(run)
    except (CoralError, OSError) as error:
        run.note("scores", f"the monitor's are not checked: {first_line(error)}")


def _scores(run: Verified, record: Any, evaluation: Evaluation) -> Iterator[tuple[str, Any, Any]]:
    """Name, recorded value and expected value of each field that a record repeats from its evaluation."""
    scored = evaluation.infeasible is None
    bugs = [item for item in evaluation.records if not item.retention]
    rate = evaluation.pass_at_1 if scored or isinstance(record, BaselineRecord) or hasattr(record, "bugs") else None
    should = {
        "scores": evaluation.scores,
        "infeasible": evaluation.infeasible,
        "reason": evaluation.reason,
        "fitness": fitness(evaluation.scores, run.config.scoring.weights) if scored else None,
        "pass_at_1": rate,
        "trainable_parameters": evaluation.trainable_parameters,
        "passed": len({item.problem_id for item in bugs} & set(evaluation.passed)),
    }
    names = {"pass_at_1": "pass@1", "trainable_parameters": "trainable parameters", "passed": "bugs repaired"}
    yield from ((names.get(key, key), getattr(record, key), value) for key, value in should.items() if hasattr(record, key))  # fmt: skip
    if hasattr(record, "bugs"):
        # an infeasible evaluation holds no problems, so its bugs are counted in the split
        sealed = len(bugs) if scored else sum(not problem.retention for problem in run.planner.problems("held_out"))
        yield "bugs of the split", record.bugs, sealed


def _monitor(run: Verified) -> Iterator[str]:
    for record in run.of(GenerationRecord):
        best = run.genomes.get(record.best or "")
        if best is not None and run.config.problems.monitor:
            digest = with_recorded_versions(run, run.planner.of(best.genome, "monitor")).digest()
            evaluation = run.store.read_evaluation(digest)
            if evaluation is None:
                yield f"generation {record.generation}: the monitor {_missing(run, 'evaluation', digest)}"
            else:
                pair = ("monitor pass@1", record.monitor_pass_at_1, evaluation.pass_at_1)
                yield from (
                    f"generation {record.generation}: {text}" for text in value_differences([pair], "in the store")
                )


# -- search -----------------------------------------------------------------------------------


def check_search(run: Verified) -> Iterator[str]:
    """Replay the search with the recorded scores; it must give the recorded genomes, generations and champion."""
    try:
        carried = freeze_start(run.folder, run.config).genomes  # read and checked, never written
    except StoreError as error:
        yield first_line(error)
        return
    base = run.run.base_model
    seeded = for_model(run.config, base).model_copy(update={"seed": run.identity.run_seed})
    try:
        search = make_search(seeded, carried, default_lora_of(base))
    except (ConfigError, StrategyError) as error:
        raise UncheckedError(f"not played again: {first_line(error)}") from None
    if (recorded := run.run.strategy_version) != search.version:
        raise UncheckedError(
            f"not played again: the strategy was {recorded or 'unversioned'}, here is {search.version or 'unversioned'}"
        )
    objectives = [name for name, role in run.config.scoring.roles.items() if role == "objective"]
    genomes: list[GenomeRecord] = []
    for record in run.records:
        if isinstance(record, GenomeRecord):
            genomes.append(record)
        elif isinstance(record, GenerationRecord):
            wrong = list(_generation(search, record, genomes, objectives))
            yield from (f"generation {record.generation}: {text}" for text in wrong)
            if wrong:
                run.note("search", "later generations were not played again: they follow from this one")
                return
            genomes = []
    finals = run.of(FinalRecord)
    if genomes and (finals or search.done):
        yield f"{len(genomes)} genomes after the last generation in history.jsonl, from {genomes[0].genome.genome_id} on; the search asks for none"
    elif genomes and list(search.ask())[: len(genomes)] != [line.genome for line in genomes]:
        yield "the genomes after the last generation in history.jsonl are not those that the search asks for"
    for final in finals:
        best = search.best()
        pairs = [("champion", final.champion, best and best.genome.genome_id)]
        if search.done or (run.config.search.gpu_seconds is None and run.config.search.money is None):
            pairs.append(("reason of the end", final.reason, search.reason if search.done else None))
        else:
            run.note("search", "that its limit on the cost was reached: costs are not part of what is checked")
        yield from value_differences(pairs, "played again")


def _generation(search: Search, record: GenerationRecord, genomes: Sequence[GenomeRecord], objectives: Sequence[Any]) -> Iterator[str]:  # fmt: skip
    asked = [] if search.done else search.ask()
    if len(asked) != len(genomes):
        yield f"{len(genomes)} genomes in history.jsonl, the search asks for {len(asked)}"
        return
    for genome, line in zip(asked, genomes, strict=True):
        if genome != line.genome:
            yield f"genome {line.genome.genome_id} is not the one that the search asks for"
            return
    search.tell([
        Scored(genome=r.genome, scores=None if r.infeasible else r.scores, fitness=r.fitness, infeasible=r.infeasible)
        for r in genomes
    ])  # fmt: skip
    best, front = search.best(), search.front()
    values = [r.fitness for r in genomes if r.fitness is not None]
    pairs = (
        ("best", record.best, best.genome.genome_id if best else None),
        ("best fitness", record.best_fitness, best.fitness if best else None),
        ("mean fitness", record.mean_fitness, statistics.fmean(values) if values else None),
        ("front", record.front, tuple(scored.genome.genome_id for scored in front)),
        ("hypervolume", record.hypervolume, hypervolume([s.scores for s in front if s.scores is not None], objectives)),
        ("unique adapters", record.unique_adapters, len({line.genome.heavy.digest() for line in genomes})),
    )
    yield from value_differences(pairs, "played again")


CHECKS: tuple[tuple[str, Callable[[Verified], Iterator[str]], str], ...] = (
    ("versions", check_versions, "the versions that can change a result are those of the run"),
    ("identity", check_identity, "run id, configuration digest and seed follow from config.yaml"),
    ("problems", check_problems, "the problems of every split are those of the run"),
    (
        "completeness",
        check_completeness,
        "baselines, generations, final table and seed repeats, as far as the run has got, are all there, once",
    ),
    (
        "digests",
        check_digests,
        "{evaluations} evaluations and their trainings have the digests that the configuration gives",
    ),
    (
        "store",
        check_store,
        "{evaluations} evaluations and their adapters are in the store, every byte as published, each of its job; bugfix, "
        "retention, cost and pass@k follow from the stored verdicts",
    ),
    (
        "champion",
        check_champion,
        "champion/ holds the champion's adapter, byte for byte; genome.json and generation_config.json are its genes",
    ),
    ("scores", check_scores, "every line of scores in the history agrees with the store"),
    ("search", check_search, "{generations} generations played again: same genomes, same front, same champion"),
)
"""Name of a check, its function, and the text of its finding if there are no differences."""
