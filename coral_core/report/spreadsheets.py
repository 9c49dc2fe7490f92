"""genomes.csv and generations.csv: the history as tables, a row per genome and per generation.

Text cells that a spreadsheet would run as a formula (they begin with ``=``, ``+``, ``-`` or ``@``) are quoted, since
reasons hold untrusted text.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any

from coral_core.report.content import GenerationLine
from coral_core.report.history_records import History
from coral_core.untrusted import visible


def genome_rows(history: History) -> list[dict[str, Any]]:
    """A row per genome: lineage, genes, scores, digests, or why it has no score. All rows have the same columns."""
    objectives = sorted({name for record in history.genomes.values() for name in record.scores})
    rows = []
    for record in history.genomes.values():
        genome = record.genome
        rows.append({
            "genome_id": genome.genome_id, "generation": genome.generation, "slot": genome.slot,
            "operator": genome.lineage.operator, "parents": " ".join(genome.lineage.parents),
            **{gene: value for gene, value in genome.heavy if gene != "warm_start"},
            "target_modules": "+".join(genome.heavy.target_modules), "trainings": genome.heavy.trainings(), **dict(genome.light),
            "fitness": record.fitness, "pass_at_1": record.pass_at_1,
            **{name: record.scores.get(name) for name in objectives},
            "trainable_parameters": record.trainable_parameters, "infeasible": record.infeasible, "reason": record.reason,
            "training_digest": record.training_digest, "evaluation_digest": record.evaluation_digest,
        })  # fmt: skip
    return rows


def genomes_csv(history: History) -> bytes:
    """Every genome, as `genome_rows`."""
    return _csv(genome_rows(history))


def generations_csv(lines: Sequence[GenerationLine]) -> bytes:
    """Every generation: the keys of `generations[]` in report.json."""
    return _csv([dict(line) for line in lines])


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else (), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    return ("'" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else "") + visible(value)
