"""A run as parameters, metrics over generations, genomes and files: what experiment trackers take."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coral_core.bounded_read import look_at
from coral_core.report.comparison import leaves
from coral_core.report.content import Report, RunState
from coral_core.report.history_records import History
from coral_core.runs.run_folder import RunFolder

REPORT_FILES = ("report.html", "report.md", "report.json", "genomes.csv", "generations.csv")
RUN_FILES = ("history.jsonl", "config.yaml")


@dataclass(frozen=True)
class Tracked:
    """Everything that an export writes."""

    run_id: str
    group: str
    """Name of the configuration: runs of one name belong together."""
    status: RunState
    tags: dict[str, str]
    parameters: dict[str, Any]
    """Dotted configuration key -> value."""
    steps: tuple[tuple[int, dict[str, float]], ...]
    """Generation -> metrics."""
    final: dict[str, float]
    """Metrics of the whole run."""
    genomes: tuple["TrackedGenome", ...]
    files: tuple[Path, ...]
    started: float
    """Unix time of the first finished job, or of the run's folder."""
    seconds: float


@dataclass(frozen=True)
class TrackedGenome:
    """One genome with its genes and scores."""

    genome_id: str
    generation: int
    operator: str
    parents: str
    genes: dict[str, Any]
    metrics: dict[str, float]
    infeasible: str


def tracked(folder: RunFolder, report: Report, written: Path) -> Tracked:
    """The run in `folder`, whose report was `written` to a directory before."""
    history, config = History.of(folder), folder.config()
    jobs = [timing.finished for timing in folder.timings() if timing.type == "job"]
    return Tracked(
        run_id=report.run_id,
        group=report.name,
        status=report.status,
        tags={
            "coral.run_id": report.run_id,
            "coral.status": report.status,
            "coral.answer": report.answer.verdict,
            "coral.champion": report.champion.genome_id or "" if report.champion else "",
            "coral.numerics_class": report.numerics_class or "",
            **{f"coral.version.{name}": value for name, value in report.versions.items()},
        },
        parameters={**leaves(config.model_dump(mode="json")), "edition": report.edition},
        steps=tuple(
            (line.generation, _numbers(line.model_dump(exclude={"generation", "best"}))) for line in report.generations
        ),
        final=dict(_final(report)),
        genomes=tuple(_genomes(history)),
        files=tuple(
            path
            for path in (*(written / n for n in REPORT_FILES), *(folder.path / n for n in RUN_FILES))
            if (found := look_at(path)) is not None and stat.S_ISREG(found.st_mode)  # a link may lead anywhere
        ),
        started=min(jobs, default=folder.made()),
        seconds=report.totals.seconds,
    )


def _final(report: Report) -> Iterator[tuple[str, float]]:
    for name in ("champion", "base_model", "default_lora", "generation_0_median"):
        contender = getattr(report, name)
        if contender is not None:
            kept = {"fitness", "fitness_pass_at_1", "held_out_pass_at_1", "trainable_parameters"}
            yield from ((f"{name}.{key}", value) for key, value in _numbers(contender.model_dump(include=kept)).items())
    gap = report.gaps.champion_minus_default_lora
    if gap is not None:
        yield from ((f"champion_minus_default_lora.{key}", value) for key, value in _numbers(gap.model_dump(include={"difference", "p_value"})).items())  # fmt: skip
    if report.repeats is not None:
        yield from ((f"repeats.{key}", value) for key, value in _numbers(report.repeats.model_dump(exclude={"lines"})).items())  # fmt: skip
    yield from ((f"totals.{key}", value) for key, value in _numbers(report.totals.model_dump()).items())
    if report.spending is not None:
        kept = {"gpu_hours", "money"}
        yield from ((f"spending.{key}", value) for key, value in _numbers(report.spending.model_dump(include=kept)).items())  # fmt: skip


def _genomes(history: History) -> Iterator[TrackedGenome]:
    for name, record in history.genomes.items():
        genome = record.genome
        heavy, light = genome.heavy.model_dump(mode="json"), genome.light.model_dump(mode="json")
        yield TrackedGenome(
            genome_id=name,
            generation=genome.generation,
            operator=genome.lineage.operator,
            parents=" ".join(genome.lineage.parents),
            genes={**heavy, **light, "target_modules": "+".join(genome.heavy.target_modules)},
            metrics=_numbers({"fitness": record.fitness, "pass_at_1": record.pass_at_1, "trainable_parameters": record.trainable_parameters, **record.scores}),
            infeasible=f"{record.infeasible}: {record.reason}" if record.infeasible else "",
        )  # fmt: skip


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """The values that are numbers; what is not known is left out."""
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
