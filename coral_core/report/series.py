"""A run as experiment trackers take it: parameters, metrics by generation, genomes and files."""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coral_core.bounded_read import look_at
from coral_core.report.comparison import leaves
from coral_core.report.content import Report
from coral_core.report.history_records import History
from coral_core.report.spreadsheets import genome_rows
from coral_core.runs.records import JobTiming
from coral_core.runs.run_folder import RunFolder
from coral_core.runs.sessions import RunState

REPORT_FILES = ("report.html", "report.md", "report.json", "genomes.csv", "generations.csv")
RUN_FILES = ("history.jsonl", "config.yaml")
_CONTENDER = {"fitness", "fitness_pass_at_1", "held_out_pass_at_1", "trainable_parameters"}
FINAL: dict[str, Any] = {
    **dict.fromkeys(
        ("champion", "base_model", "default_lora", "tuned_lora", "longer_lora", "generation_0_median"), _CONTENDER
    ),
    "gaps": {
        f"champion_minus_{key}": {"difference", "p_value"} for key in ("default_lora", "tuned_lora", "longer_lora")
    },
    "repeats": True,
    "totals": True,
    "spending": {"gpu_hours", "money"},
}
"""Parts of the report whose numbers are metrics of the whole run."""


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
    genomes: list[dict[str, Any]]
    """A row per genome, as in genomes.csv."""
    files: tuple[Path, ...]
    started: float
    """Unix time of the first finished job, or of the run's folder."""
    seconds: float


def tracked(folder: RunFolder, report: Report, written: Path) -> Tracked:
    """Collect a run for an experiment tracker.

    Args:
        folder: The run's folder.
        report: The report of the run.
        written: The folder that holds the files of the report; missing files are left out.
    """
    jobs = [timing.finished for timing in folder.timings() if isinstance(timing, JobTiming)]
    files = (*(written / name for name in REPORT_FILES), *(folder.path / name for name in RUN_FILES))
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
        parameters={**leaves(folder.config().model_dump(mode="json")), "edition": report.edition},
        steps=tuple((line.generation, numbers(dict(line), "generation")) for line in report.generations),
        final=numbers(leaves(report.model_dump(include=FINAL))),
        genomes=genome_rows(History.of(folder)),
        files=tuple(path for path in files if _is_file(path)),
        started=min(jobs, default=folder.latest_start()),
        seconds=report.totals.seconds,
    )


def _is_file(path: Path) -> bool:
    """Whether `path` is a regular file. Links are refused, since they may point anywhere."""
    status = look_at(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def numbers(values: dict[str, Any], *without: str) -> dict[str, float]:
    """The numeric values as floats; booleans, None and texts are left out.

    Args:
        values: Name -> value.
        *without: Names to leave out.

    Example:
        >>> numbers({"generation": 3, "fitness": 0.5, "best": "g3-1", "error": None}, "generation")
        {'fitness': 0.5}
    """
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and key not in without
    }
