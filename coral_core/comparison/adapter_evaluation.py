"""Evaluates any PEFT adapter against its base model, and against the champion of a run, paired by bug.

The adapter is checked (coral_core/lm/given_adapter.py), copied into the store under the digest of its content, and evaluated by
the same jobs as the genomes of a run. A second call finds everything in the store. Not covered: whether somebody else's
adapter was trained on the problems.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from coral_core.bounded_read import open_file
from coral_core.config import RunConfig
from coral_core.errors import AdapterError, ConfigError, ProblemError
from coral_core.evolution.job_runner import Planner
from coral_core.execution import make_executor
from coral_core.execution.executor import Executor
from coral_core.frozen import Frozen
from coral_core.genome import LightGenes, neutral
from coral_core.jobs.jobs import Evaluation, EvaluationJob, GivenAdapter, TrainedAdapter
from coral_core.lm.given_adapter import (
    WEIGHTS,
    WEIGHTS_BYTES,
    AdapterOnDisk,
    check_base,
    decoding_of,
    read_given_adapter,
)
from coral_core.report.build_report import build_report
from coral_core.report.content import Gap
from coral_core.report.history_records import History
from coral_core.report.paired import compare, share_interval
from coral_core.report.wording import gap_text
from coral_core.runs.run_folder import RunFolder, find_run
from coral_core.store.store import Store

TestedSplit = Literal["fitness", "monitor", "held_out"]
MakeExecutor = Callable[[RunConfig, Store, str], Executor]


class EvaluatedAdapter(Frozen):
    """The adapter, the base model or the champion on the problems."""

    name: Literal["adapter", "base_model", "champion"]
    genome_id: str | None = Field(None, description="Of the champion.")
    training_digest: str = Field(description="Digest of the adapter in the store; `none` for the base model.")
    evaluation_digest: str
    light: LightGenes = Field(description="Decoding.")
    infeasible: str | None = Field(None, description="Stable word; it has no scores then.")
    reason: str = ""
    pass_at_1: float | None = Field(description="Share of the bugs repaired; null when infeasible.")
    interval: tuple[float, float] | None = Field(description="95 % interval of pass_at_1 (Wilson).")
    repaired: int = Field(description="Bugs that the first sample repairs.")
    scores: dict[str, float]
    trainable_parameters: int


class AdapterEvaluation(Frozen):
    """An adapter against its base model and, where a run is given, against its champion."""

    schema_version: int = 1
    path: str = Field(description="Folder of the adapter.")
    base_model_name: str
    base_content_id: str
    numerics_class: str
    source: str = Field(description="Problem source.")
    split: TestedSplit
    problems: int = Field(description="All problems of the split.")
    bugs: int = Field(description="Those that are not right already.")
    problems_digest: str
    run_id: str | None = Field(description="The run whose champion is compared.")
    lines: tuple[EvaluatedAdapter, ...] = Field(description="base_model, adapter, and champion with a run.")
    adapter_minus_base_model: Gap | None = Field(description="`champion` in the keys of a gap is the first of both.")
    adapter_minus_champion: Gap | None

    def line(self, name: str) -> EvaluatedAdapter | None:
        """The line called `name`; None without a run for the champion."""
        return next((line for line in self.lines if line.name == name), None)

    def texts(self) -> list[str]:
        """The comparisons in words."""
        gaps = (("base model", self.adapter_minus_base_model), ("champion", self.adapter_minus_champion))
        return [f"Adapter less {name}: {gap_text(gap)}" for name, gap in gaps if gap is not None]


def evaluate_adapter(
    path: str | Path,
    config: RunConfig,
    *,
    run: str | Path | RunFolder | None = None,
    split: TestedSplit = "held_out",
    same_base: bool = False,
    make_executor: MakeExecutor = make_executor,
) -> AdapterEvaluation:
    """Evaluate a PEFT adapter, made by CORAL-X or not, against its base model and against a run's champion.

    The adapter decodes as generation_config.json beside it says, which CORAL-X exports; without one greedily, as the base
    model does. Everything is looked up in the store first.

    Args:
        path: Folder of the adapter: LoRA or DoRA in safetensors, as PEFT's `save_pretrained` writes it.
        config: Names problems, base model, judge, store and executor. With `run`, seeds and prompt are those of the run.
        run: Folder of a run (or ``runs/latest``) on the same base model, whose champion is compared; None: no champion.
        split: The problems to evaluate on. Genomes of a run were chosen on its fitness split, which flatters its champion.
        same_base: The base model that the adapter names is the one of `config` under another name.
        make_executor: Called with configuration, store and run id; another one runs the jobs elsewhere.

    Raises:
        ConfigError: the adapter cannot be used or is of another base model (names both), or the run has no champion.
        ProblemError: the split holds no problem.
        CoralError: a base model, problem or store cannot be used, or a job failed in all its attempts.

    Example:
        >>> evaluate_adapter("no-such-adapter", RunConfig(), run=None)
        Traceback (most recent call last):
        coral_core.errors.ConfigError: no-such-adapter: there is no such folder. Give the folder that PEFT's save_pretrained wrote.
    """
    folder = run if isinstance(run, RunFolder) or run is None else _found(Path(run))
    path = Path(path).expanduser()
    adapter = read_given_adapter(path, config.base_model)
    most = config.genes.light.token_limit.high
    light = decoding_of(path, most) or neutral(most)
    store = Store(config.store.path)
    with make_executor(config, store, "by-hand") as executor:
        planner = _planner(config, folder, executor)
        base = planner.base("evaluation")
        check_base(adapter, config.base_model, base.content_id, same_base)
        champion = champion_of(folder, store) if folder is not None else None
        problems = planner.problems(split)
        if not problems:
            raise ProblemError(
                f"problems.source: {config.problems.source}: no problem in the split {split}",
                remedy="Choose another with --split, or add problems of this split.",
            )
        given = store_given(store, adapter, base.content_id, base.parameters)
        found = executor.submit_evaluation(planner.evaluation(None, split=split)).result()
        if split == "fitness":
            planner.base_passes = found.passed
        jobs = {"adapter": _job(planner, given, light, split)}
        if champion is not None:
            jobs["champion"] = _job(planner, champion[1], champion[2], split)
        futures = {name: executor.submit_evaluation(job) for name, job in jobs.items()}
        try:
            results = {name: future.result() for name, future in futures.items()}
        except AdapterError as error:
            raise ConfigError(
                f"{path}: does not fit {config.base_model.name}, or is damaged: {error.problem}",
                remedy="Set base_model.name to the base model of the adapter, or copy the adapter anew.",
            ) from error
    evaluations = {"base_model": found, **results}
    lights = {
        "base_model": neutral(config.genes.light.token_limit.high),
        **{name: job.light for name, job in jobs.items()},
    }
    bugs = {problem.problem_id for problem in problems if not problem.retention}
    return AdapterEvaluation(
        path=str(path),
        base_model_name=config.base_model.name,
        base_content_id=base.content_id,
        numerics_class=base.numerics_class,
        source=config.problems.source,
        split=split,
        problems=len(problems),
        bugs=len(bugs),
        problems_digest=jobs["adapter"].problems_digest,
        run_id=folder.run_id if folder is not None else None,
        lines=tuple(
            _line(name, evaluation, lights[name], bugs, champion[0] if champion and name == "champion" else None)
            for name, evaluation in evaluations.items()
        ),
        adapter_minus_base_model=_gap(evaluations["adapter"], found),
        adapter_minus_champion=_gap(evaluations["adapter"], evaluations["champion"]) if champion else None,
    )


def store_given(store: Store, adapter: AdapterOnDisk, content: str, base_parameters: int) -> GivenAdapter:
    """Copy a checked adapter into the store, unless it is there.

    Args:
        store: The store.
        adapter: The adapter.
        content: Content id of its base model.
        base_parameters: Parameters of the base model.

    Raises:
        ConfigError: its weights changed since they were checked.
        StoreError: the store cannot be written.
    """
    digest = adapter.digest(content)
    given = GivenAdapter(digest=digest, heavy=adapter.heavy)
    store.prepare()
    if store.read_adapter(digest) is not None:
        return given
    scratch = store.scratch()
    try:
        (scratch / "adapter_config.json").write_bytes(adapter.canonical_config())
        copied = copy_checked(adapter.folder / WEIGHTS, scratch / WEIGHTS)
    except OSError as error:
        store.discard(scratch)
        raise store.unwritable(error) from error
    if copied != adapter.weights:
        store.discard(scratch)
        raise ConfigError(f"{adapter.folder}: its weights changed while they were read", remedy="Wait until they are written, and try again.")  # fmt: skip
    record = TrainedAdapter(
        training_digest=digest, trainable_parameters=adapter.parameters, base_parameters=base_parameters,
        warnings=("given by a user: CORAL-X did not train it",),
    )  # fmt: skip
    store.publish_adapter(digest, scratch, record)
    return given


def copy_checked(source: Path, target: Path) -> str:
    """Copy a file. Returns the SHA-256 of what was copied."""
    total = hashlib.sha256()
    with open_file(source.resolve(), WEIGHTS_BYTES) as original, target.open("wb") as copy:
        while block := original.read(1 << 20):
            total.update(block)
            copy.write(block)
    return total.hexdigest()


def _found(path: Path) -> RunFolder:
    return find_run(path.parent, str(path) if (path / "run.json").exists() else path.name)


def _planner(config: RunConfig, folder: RunFolder | None, executor: Executor) -> Planner:
    """The planner for this machine, or the lanes of the executor; with a run it has its seed and its prompt."""
    lanes = executor.identities(config)
    if folder is None:
        return Planner.of_config(config, lanes)
    record = History.of(folder).run
    if record is None:
        raise ConfigError(f"{folder.run_id}: has not begun, so it has no champion", remedy="See: coral progress")
    if record.base_model.content_id != lanes.evaluation.content_id:
        raise ConfigError(
            f"{folder.run_id}: was run on {record.base_model.name} ({record.base_model.content_id[:12]}), and the base model here is "
            f"{config.base_model.name} ({lanes.evaluation.content_id[:12]})",
            remedy="Champion and adapter are compared on one base model: leave --config out, or put the run's files there.",
        )
    return Planner(config, folder.sound_facts().identity, lanes, record.prompt)


def champion_of(folder: RunFolder, store: Store) -> tuple[str, GivenAdapter, LightGenes]:
    """Genome id, adapter and decoding of a run's champion (the best so far while the run is not finished).

    Args:
        folder: The run.
        store: Holds the adapter.

    Raises:
        ConfigError: there is no champion yet, or its adapter is not (or no longer) sound in the store.
    """
    champion = build_report(folder, store).champion
    if champion is None or champion.heavy is None or champion.light is None or not champion.genome_id:
        raise ConfigError(f"{folder.run_id}: has no champion yet", remedy=f"See: coral progress {folder.run_id}")
    digest = str(champion.training_digest)
    if store.read_adapter(digest) is None:
        raise ConfigError(
            f"{folder.run_id}: the adapter {digest[:12]} of its champion is missing or broken in {store.root}",
            remedy="Run the evolution again: it trains it anew.",
        )
    return champion.genome_id, GivenAdapter(digest=digest, heavy=champion.heavy), champion.light


def _job(planner: Planner, given: GivenAdapter, light: LightGenes, split: TestedSplit) -> EvaluationJob:
    """The evaluation of an adapter of the store; its digest is that which a run gives it, for one that a run trained."""
    job = planner.evaluation(None, light, split)
    passes = planner.base_passes if split == "fitness" else ()
    return job.model_copy(update={"given": given, "base_passes": passes})


def _line(
    name: str, evaluation: Evaluation, light: LightGenes, bugs: set[str], genome_id: str | None
) -> EvaluatedAdapter:
    feasible = evaluation.infeasible is None
    return EvaluatedAdapter.model_validate(
        {
            "name": name,
            "genome_id": genome_id,
            "training_digest": evaluation.training_digest,
            "evaluation_digest": evaluation.evaluation_digest,
            "light": light,
            "infeasible": evaluation.infeasible,
            "reason": evaluation.reason,
            "pass_at_1": evaluation.pass_at_1 if feasible else None,
            "interval": share_interval(evaluation.pass_at_1, len(bugs)) if feasible and bugs else None,
            "repaired": len(bugs & set(evaluation.passed)),
            "scores": evaluation.scores,
            "trainable_parameters": evaluation.trainable_parameters,
        }
    )


def _gap(one: Evaluation, other: Evaluation) -> Gap | None:
    if one.infeasible or other.infeasible:
        return None
    return compare(one.pass_at_1 - other.pass_at_1, one.repaired(), other.repaired())
