"""Exports adapters as PEFT folders with model cards: the champion (``runs/<id>/champion/``), and the Pareto front.

The weights are a checked copy from the store. Beside them lie the genome with its lineage
(genome.json) and its light genes as generation_config.json, which transformers reads.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from coral_core.atomic_write import new_folder
from coral_core.bounded_read import look_at, open_file
from coral_core.errors import ConfigError, StoreError
from coral_core.frozen import Frozen
from coral_core.json_object import json_object
from coral_core.report.build_report import contender_of, lineage_of
from coral_core.report.content import Ancestor, Contender, Report
from coral_core.report.history_records import History
from coral_core.report.model_card import CardFacts, adapter_card, genes_of
from coral_core.report.usage import generation_settings
from coral_core.runs.run_folder import RunFolder
from coral_core.search.selection import violation
from coral_core.store.store import WEIGHTS_BYTES, Store

WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")


class ExportedMember(Frozen):
    """A genome of the Pareto front whose adapter was exported."""

    genome_id: str
    path: str = Field(description="Folder of the adapter, in PEFT's layout.")
    champion: bool = Field(description="Whether it is the champion (the best so far while the run is not finished).")
    meets_thresholds: bool = Field(description="Whether it meets the final thresholds of the constraints.")
    fitness: float | None
    scores: dict[str, float] = Field(description="Objective -> score in [0, 1] on the fitness split.")
    trainable_parameters: int


class SkippedMember(Frozen):
    """A genome of the Pareto front that has no adapter."""

    genome_id: str
    reason: str


class FrontExport(Frozen):
    """The content of front.json, and what `coral export --front --json` prints."""

    schema_version: int = 1
    run_id: str
    path: str = Field(description="The folder that was written.")
    generation: int = Field(description="The generation after which this was the front.")
    exported: tuple[ExportedMember, ...]
    skipped: tuple[SkippedMember, ...]


def export_champion(folder: RunFolder, store: Store, report: Report) -> Path | None:
    """Write ``champion/`` of a finished run, replacing an earlier export.

    Args:
        folder: The run's folder.
        store: Holds the adapter.
        report: The report of the run.

    Returns:
        The folder ``champion/``; None if there is no champion.

    Raises:
        StoreError: the adapter is not (or no longer) sound in the store, or the folder cannot be written.
    """
    champion = report.champion
    if champion is None or champion.training_digest is None:
        return None
    check_stored(champion, store)
    target = folder.path / "champion"
    scratch = folder.path / f".champion.{os.getpid()}.tmp"
    facts = CardFacts.of(report, folder.config(), History.of(folder))
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        _write_adapter(scratch, store, facts, champion, report.lineage, "champion")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(scratch, target)
    except OSError as error:
        raise StoreError(
            f"{target}: the champion cannot be exported ({error.strerror})",
            remedy=f"Its adapter is in {store.adapter_path(champion.training_digest)}.",
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def export_front(folder: RunFolder, store: Store, report: Report, target: Path) -> FrontExport:
    """Write the adapter of every member of a run's Pareto front, each into a folder named for its genome.

    Members without an adapter (infeasible genomes) are skipped. Everything is checked before anything is written, and
    `target` appears complete or not at all.

    Args:
        folder: The run's folder.
        store: Holds the adapters.
        report: The report of the run.
        target: The folder to write; absent or empty.

    Returns:
        What was exported and what was skipped; also in front.json.

    Raises:
        ConfigError: `target` is not empty, the run has no front yet, or no member of it has an adapter.
        StoreError: an adapter is missing or broken in the store, or `target` cannot be written.
    """
    history = History.of(folder)
    if not history.front:
        raise ConfigError(
            f"{folder.run_id}: has no Pareto front yet, since none of its generations is finished",
            remedy=f"See: coral progress {folder.run_id}",
        )
    facts = CardFacts.of(report, folder.config(), history)
    members, skipped = [], []
    for name in history.front:
        record = history.genomes[name]
        reason = f"{record.infeasible}: {record.reason}" if record.infeasible else ""
        if not reason and (stored := check_stored(member := contender_of(record, store), store)):
            reason = stored
        if reason:
            skipped.append(SkippedMember(genome_id=name, reason=reason))
        else:
            members.append(member)
    if not members:
        raise ConfigError(
            f"{folder.run_id}: all {len(skipped)} genomes of its Pareto front are infeasible ({skipped[0].reason})",
            remedy="Nothing can be exported; see: coral report",
        )
    found = FrontExport(
        run_id=folder.run_id,
        path=str(target),
        generation=history.generations[-1].generation,
        exported=tuple(_exported(member, target, facts) for member in members),
        skipped=tuple(skipped),
    )
    with new_folder(target) as scratch:
        for member in members:
            name = str(member.genome_id)
            (scratch / name).mkdir()
            lineage = lineage_of(history, name)
            shown = report.champion if report.champion and report.champion.genome_id == name else member
            _write_adapter(scratch / name, store, facts, shown, lineage, name)
        (scratch / "front.json").write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return found


def _exported(member: Contender, target: Path, facts: CardFacts) -> ExportedMember:
    champion = facts.report.champion
    return ExportedMember(
        genome_id=str(member.genome_id),
        path=str(target / str(member.genome_id)),
        champion=champion is not None and champion.genome_id == member.genome_id,
        meets_thresholds=violation(member.scores, facts.config.scoring, 1.0) == 0,
        fitness=member.fitness,
        scores=member.scores,
        trainable_parameters=member.trainable_parameters or 0,
    )


def check_stored(member: Contender, store: Store) -> str:
    """Why the store has no weights for a genome, which is infeasible then; empty when it has.

    Raises:
        StoreError: the adapter is not (or no longer) sound in the store.
    """
    digest = str(member.training_digest)
    adapter = store.read_adapter(digest)
    if adapter is None:
        raise StoreError(
            f"genome {member.genome_id}: its adapter {digest[:12]} is missing or broken in {store.root}",
            remedy="Run the evolution again: it trains it anew.",
        )
    return f"{adapter.infeasible}: {adapter.reason}" if adapter.infeasible else ""


def _write_adapter(
    scratch: Path, store: Store, facts: CardFacts, member: Contender, lineage: Sequence[Ancestor], name: str
) -> None:
    """Write the adapter of a genome, its JSON files and its card into the empty folder `scratch`. Raises `OSError`."""
    source = store.adapter_path(str(member.training_digest))
    for file in WEIGHTS:
        if look_at(source / file) is not None:
            with open_file(source / file, WEIGHTS_BYTES, store.root) as original, (scratch / file).open("wb") as copy:
                shutil.copyfileobj(original, copy)
    for file, content in genome_files(facts.report.run_id, member, lineage).items():
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (scratch / file).write_text(text, encoding="utf-8")
    base = facts.base(_named_base(scratch / WEIGHTS[0]) or facts.report.base_model_name)
    (scratch / "README.md").write_text(adapter_card(facts, member, lineage, base, name), encoding="utf-8")


def genome_files(run_id: str, member: Contender, lineage: Sequence[Ancestor]) -> dict[str, dict[str, Any]]:
    """The JSON files of an exported genome that follow from history and store; `coral verify` computes the champion's again.

    Args:
        run_id: The run.
        member: The genome, with heavy and light genes.
        lineage: The genome and what it descends from.

    Returns:
        File name -> content.
    """
    _, light = genes_of(member)
    return {
        "genome.json": {
            "schema_version": 1,
            "run_id": run_id,
            **member.model_dump(mode="json", exclude={"adapter_path"}),
            "lineage": [ancestor.model_dump(mode="json") for ancestor in lineage],
        },
        "generation_config.json": generation_settings(light) | {"repetition_penalty": light.repetition_penalty},
    }


def _named_base(adapter_config: Path) -> str | None:
    """The base model that an adapter's configuration names; None where it names none."""
    try:
        named = json_object(adapter_config.read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError):
        return None
    return named if isinstance(named, str) else None
