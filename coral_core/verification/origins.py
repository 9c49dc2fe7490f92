"""Where a run's results come from: versions, identity, problems and digests, recomputed from the configuration."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from coral_core.errors import BaseModelError, CoralError, EngineError
from coral_core.jobs.job_content import split_digest
from coral_core.jobs.jobs import EvaluationJob
from coral_core.lm.base_model import identify
from coral_core.lm.targets import default_lora_of
from coral_core.problems.problem import Split
from coral_core.runs.records import BaselineRecord, FinalRecord, GenomeRecord
from coral_core.runs.run_folder import identify_run, versions
from coral_core.verification.completeness import BASELINES, owners
from coral_core.verification.findings import Expected, Verified, first_line

HARMLESS = ("platform", "machine", "prefect")
"""Versions that change no result: where a run runs, and what orchestrates it."""
SPLITS: tuple[Split, ...] = ("fitness", "monitor", "held_out")
ALWAYS = ("python", "coral-x", "numpy", "ruff", "bandit", "moocore", "prefect")
"""What every run has, also one whose lanes alone have torch."""
IN_DIGESTS = {"ruff": "ruff", "bandit": "bandit", "interpreter": "python"}
"""Versions that an evaluation's digest names -> what run.json calls them."""


def check_versions(run: Verified) -> None:
    """Installed against recorded."""
    here = versions()
    differences = []
    for name in (name for name in ALWAYS if name not in run.recorded_versions):
        differences.append(f"{name}: run.json names no version of it, and every run has one")
    for name, recorded in run.recorded_versions.items():
        found = here.get(name) or _installed(name)
        if found == recorded:
            continue
        text = f"{name}: recorded {recorded}, here {found or 'not installed'}"
        if name in HARMLESS:
            run.note("versions", f"{text} (changes no result)")
        else:
            differences.append(text)
    run.say("versions", differences, f"{len(run.recorded_versions)} versions compared, those that can change a result are the same")  # fmt: skip


def check_identity(run: Verified) -> None:
    """Does the run's identity follow from its configuration, and is the base model still the same?"""
    recorded, fresh = run.identity, identify_run(run.config, run.identity.edition)
    differences = []
    for name in ("run_id", "config_digest", "run_seed"):
        one, other = getattr(recorded, name), getattr(fresh, name)
        if one != other:
            differences.append(
                f"{name}: run.json says {one}, config.yaml gives {other}. The configuration was changed, or frozen by a "
                "version of CORAL-X with other keys."
            )
    if run.folder.run_id != recorded.run_id:
        run.note("identity", f"the folder is called {run.folder.run_id}, the run {recorded.run_id}")
    if run.run.identity != recorded:
        differences.append(f"history.jsonl is of run {run.run.identity.run_id}, run.json of {recorded.run_id}")
    for name, one, other in (("name", run.run.name, run.config.name), ("strategy", run.run.strategy, run.config.search.strategy)):  # fmt: skip
        if one != other:
            differences.append(f"{name}: history.jsonl says {one}, config.yaml {other}")
    run.say("identity", differences, f"run id, configuration digest and seed of {recorded.run_id} follow from config.yaml")  # fmt: skip
    try:
        here = identify(run.config.base_model)
    except (BaseModelError, EngineError) as error:
        run.note("identity", f"the base model is not here, so its content is not checked ({first_line(error)})")
        return
    base = run.run.base_model
    if here.content_id != base.content_id:
        run.say("identity", [f"base model {base.name}: recorded content {base.content_id[:16]}, here {here.content_id[:16]}"], "")  # fmt: skip
    elif any(getattr(here, name) != getattr(base, name) for name in ("name", "parameters", "modules", "sets")):
        run.say("identity", [f"base model: history.jsonl says {base.name} of {base.parameters} parameters in {', '.join(base.modules)}; it is {here.name} of {here.parameters} in {', '.join(here.modules)}"], "")  # fmt: skip
    elif here.numerics_class != run.run.numerics:
        run.note("identity", f"numerics class: recorded {run.run.numerics!r}, here {here.numerics_class!r}; results need not repeat bit for bit")  # fmt: skip


def check_problems(run: Verified) -> None:
    """Are the problems that the configuration names those of the run?"""
    recorded, config = run.run.problems, run.config.problems
    differences = []
    if recorded.get("source") != config.source:
        differences.append(f"source: history.jsonl says {recorded.get('source')}, config.yaml {config.source}")
    try:
        for name in SPLITS:
            digest, here = _of(recorded, "digests", name), split_digest(config, name)
            if here != digest:
                differences.append(f"{name} split: recorded {str(digest)[:16]}, config.yaml gives {here[:16]} here")
            count, found = _of(recorded, "counts", name), len(run.planner.problems(name))
            if found != count:
                differences.append(f"{name} split: recorded {count} problems, config.yaml gives {found} here")
    except (CoralError, OSError) as error:
        run.note("problems", f"the problems are not here, so nothing that needs them is checked ({first_line(error)})")
        return
    run.say("problems", differences, "the problems of every split are those of the run")


def _of(recorded: dict[str, Any], kind: str, split: str) -> Any:
    table = recorded.get(kind)
    return table.get(split) if isinstance(table, dict) else None


def check_digests(run: Verified) -> list[Expected]:
    """Every digest in the history, recomputed from the configuration by the planner."""
    expected: list[Expected] = []
    try:
        for label, record, job in _jobs(run):
            expected.append(Expected(label, record.training_digest, record.evaluation_digest, as_recorded(run, job)))
    except (CoralError, OSError) as error:
        run.note("digests", f"not recomputed: {first_line(error)}")
        return []
    differences = []
    for item in expected:
        training = item.job.training.digest() if item.job.training else "none"
        if training != item.training_digest:
            differences.append(f"{item.label}: training digest {item.training_digest[:16]} in history.jsonl, its genes give {training[:16]}")  # fmt: skip
        elif (evaluation := item.job.digest()) != item.evaluation_digest:
            differences.append(f"{item.label}: evaluation digest {item.evaluation_digest[:16]} in history.jsonl, its job gives {evaluation[:16]}")  # fmt: skip
    run.say("digests", differences, f"{len(expected)} evaluations and their trainings have the digests that the configuration gives")  # fmt: skip
    return expected


def _jobs(run: Verified) -> Iterator[tuple[str, Any, EvaluationJob]]:
    """What the evolution would ask for, in its order; the base model's passes come from the store."""
    planner, heavy = run.planner, default_lora_of(run.run.base_model)
    baselines: dict[str, BaselineRecord] = {record.name: record for record in run.of(BaselineRecord)}
    if "base_model" in baselines:
        yield "base_model", baselines["base_model"], planner.evaluation(None)
        base = run.store.read_evaluation(baselines["base_model"].evaluation_digest)
        if base is None:
            run.note("digests", "the base model's evaluation has left the store; digests that name what it repairs may differ")  # fmt: skip
        planner.base_passes = base.passed if base else ()
    if "default_lora" in baselines:
        yield "default_lora", baselines["default_lora"], planner.evaluation(heavy)
    genomes = {record.genome.genome_id: record for record in run.of(GenomeRecord)}
    for name, record in genomes.items():
        yield name, record, planner.of(record.genome)
    for final in run.of(FinalRecord):
        for line in final.held_out:
            owner = genomes.get(owners(run, final)[line.name] or "")
            if owner is not None:
                yield f"{line.name} held-out", line, planner.of(owner.genome, "held_out")
            elif line.name in BASELINES:
                adapter = heavy if line.name == "default_lora" else None
                yield f"{line.name} held-out", line, planner.evaluation(adapter, split="held_out")
        if (champion := genomes.get(final.champion)) is not None:
            genes = champion.genome
            for repeat in final.repeats:
                job = planner.evaluation(genes.heavy, genes.light, "fitness", repeat.replicate)
                yield f"{final.champion} repeat {repeat.replicate}", repeat, job


def as_recorded(run: Verified, job: EvaluationJob) -> EvaluationJob:
    """The job with the recorded versions of linters and interpreter, whose change is a finding of its own."""
    known = {name: run.recorded_versions.get(source, "") for name, source in IN_DIGESTS.items()}
    return job.model_copy(update={"versions": {name: known.get(name) or value for name, value in job.versions.items()}})


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
