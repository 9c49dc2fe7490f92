"""The origin of a run's first population: nothing, or the last finished run of its name (`search.start_from`).

It is determined once, when the run's folder is made, and frozen there as ``start.json``, so that a resume or a replay
begins with the same genomes even if other runs have finished since. The first line of the history holds the digest of
``start.json``; a file that was changed later is refused. Only genes are carried over, not scores: carried genomes are
trained and evaluated like any other, under the new run's seed.
"""

import logging
import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from coral_core.atomic_write import refused_writes, write_atomic
from coral_core.bounded_read import RECORD, look_at, read_model
from coral_core.config import RunConfig
from coral_core.digest import digest
from coral_core.errors import CoralError, StoreError
from coral_core.frozen import Frozen
from coral_core.genome import Genome
from coral_core.runs.records import FinalRecord, GenomeRecord, RunRecord, StartRecord
from coral_core.runs.run_folder import RunFolder, run_folders
from coral_core.search.selection import nsga2_order
from coral_core.search.strategy import Scored

log = logging.getLogger("coral.start")

FILE = "start.json"
RESTORE = "Restore it, or run another edition."


class Previous(Frozen):
    """The last run of this name that had finished when this run was made."""

    run_id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$",
        description="Id of the run; its folder is beside this run's folder.",
    )
    champion: str
    fitness: float | None
    held_out_pass_at_1: float
    history_sha256: str = Field(description="Digest of its history, over canonical JSON.")
    base_content_id: str
    fitness_problems: str | None = Field(description="Digest of its fitness split; null when it recorded none.")


class Start(Frozen):
    """Content of ``start.json``."""

    schema_version: int = 1
    start_from: Literal["nothing", "last-champion"] = "nothing"
    previous: Previous | None = None
    genomes: tuple[Genome, ...] = Field((), description="Carried genomes, champion first; ids are RUN/GENOME.")
    passed_over: tuple[str, ...] = Field((), description="Runs that could not be read.")

    @property
    def text(self) -> str:
        """The origin as a sentence for people."""
        skipped = f" ({', '.join(self.passed_over)} could not be read.)" if self.passed_over else ""
        if self.start_from == "nothing":
            return "It starts from nothing."
        if self.previous is None:
            return f"It starts from nothing: no earlier run of this name has finished.{skipped}"
        return f"It starts from {self.previous.run_id}: its champion {self.previous.champion} and its best genomes.{skipped}"

    def record(self) -> StartRecord | None:
        """The record of this start for the history; None for a start from nothing."""
        if self.start_from == "nothing":
            return None
        return StartRecord(
            start_from=self.start_from,
            previous=self.previous.run_id if self.previous else None,
            sha256=digest(self.model_dump(mode="json")),
        )


def freeze_start(folder: RunFolder, config: RunConfig) -> Start:
    """The frozen start of a run; if it has none yet, determine it now and freeze it.

    Args:
        folder: Folder of the run.
        config: Its configuration.

    Raises:
        StoreError: ``start.json`` is missing, broken, or not the one that the run began with; or it cannot be written.
    """
    path = folder.path / FILE
    history = folder.history()
    recorded = history[0].start if history and isinstance(history[0], RunRecord) else None
    if look_at(path) is not None:
        start = _read(path)
    elif recorded is not None:
        raise StoreError(f"{path}: is gone, and {folder.run_id} began with it", remedy=RESTORE)
    else:
        start = find_start(config, folder.run_id)
        with refused_writes(path):
            write_atomic(path, (start.model_dump_json(indent=1) + "\n").encode())
    if history and recorded != start.record():
        raise StoreError(f"{path}: is not what {folder.run_id} began with (its history says otherwise)", remedy=RESTORE)
    return start


def read_start(folder: RunFolder) -> Start | None:
    """The frozen start, for reports; None when there is none or it cannot be read."""
    try:
        return _read(folder.path / FILE) if look_at(folder.path / FILE) is not None else None
    except StoreError:
        return None


def find_start(config: RunConfig, run_id: str) -> Start:
    """The start that a run would have now, from the last readable run of its name that has finished.

    The modification time of a history tells when its run finished, since a replay does not change the file.

    Args:
        config: Holds the folder of runs, the name of the run, the population size and `search.start_from`.
        run_id: Id of the run itself, which is left out.
    """
    own = re.compile(rf"{re.escape(config.name)}-[0-9a-f]{{10}}-e\d+")
    folders = [each for each in run_folders(config.runs) if own.fullmatch(each.run_id) and each.run_id != run_id]
    passed_over: list[str] = []
    previous: Previous | None = None
    genomes: tuple[Genome, ...] = ()
    for folder in sorted(folders, key=lambda each: (each.changed("history.jsonl"), each.run_id), reverse=True):
        try:
            if folder.last("final") is not None:
                previous, genomes = _carried(folder, config.search.population)
                break
        except (CoralError, OSError, ValueError, KeyError) as error:
            log.warning("%s could not be read and is passed over: %s", folder.run_id, error)
            passed_over.append(folder.run_id)
    return Start(
        start_from=config.search.start_from,
        previous=previous,
        genomes=genomes if config.search.start_from == "last-champion" else (),
        passed_over=tuple(passed_over),
    )


def _carried(folder: RunFolder, most: int) -> tuple[Previous, tuple[Genome, ...]]:
    """A finished run and at most `most` of its genomes: the champion, then the others by NSGA-II order, equal genes once."""
    history = folder.history()
    run, final = history[0], history[-1]
    if not isinstance(run, RunRecord) or not isinstance(final, FinalRecord):
        raise ValueError("its history does not begin with its run, or does not end with a final record")
    records = [record for record in history if isinstance(record, GenomeRecord)]
    distinct: dict[str, Scored] = {}
    for record in records:
        if record.scores:
            scored = Scored(genome=record.genome, scores=record.scores, fitness=record.fitness)
            distinct.setdefault(record.genome.genes_digest(), scored)
    # by the scoring of that run, because its scores are those of its own objectives
    ordered = nsga2_order(list(distinct.values()), folder.config().scoring, 1.0)
    champion = {record.genome.genome_id: record for record in records}[final.champion]
    ordered.sort(key=lambda item: item.genome.genes_digest() != champion.genome.genes_digest())
    genomes = tuple(
        scored.genome.model_copy(update={"genome_id": f"{folder.run_id}/{scored.genome.genome_id}"})
        for scored in ordered[:most]
    )
    previous = Previous(
        run_id=folder.run_id,
        champion=final.champion,
        fitness=champion.fitness,
        held_out_pass_at_1={line.name: line.pass_at_1 for line in final.held_out}["champion"],
        history_sha256=digest([record.model_dump(mode="json") for record in history]),
        base_content_id=run.base_model.content_id,
        fitness_problems=run.problems.get("digests", {}).get("fitness"),
    )
    return previous, genomes


def _read(path: Path) -> Start:
    try:
        return read_model(path, Start, RECORD)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({type(error).__name__})", remedy=RESTORE) from error
