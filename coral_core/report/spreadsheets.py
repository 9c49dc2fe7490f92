"""genomes.csv and generations.csv: the history as tables, a row per genome and per generation.

Cells that a spreadsheet would run as a formula (they begin with ``=``, ``+``, ``-`` or ``@`` and are no number) are
quoted: a reason may hold anything.
"""

import csv
import io
from collections.abc import Iterable, Sequence

from coral_core.report.content import GenerationLine
from coral_core.report.history_records import History
from coral_core.untrusted import visible

HEAVY = ("rank", "alpha", "dropout", "target_modules", "adapter", "learning_rate")
LIGHT = ("temperature", "top_p", "top_k", "repetition_penalty", "token_limit", "sampling")


def genomes_csv(history: History) -> bytes:
    """Every genome: lineage, genes, scores, digests, or why it has no score."""
    objectives = sorted({name for record in history.genomes.values() for name in record.scores})
    header = ["genome_id", "generation", "slot", "operator", "parents", *HEAVY, *LIGHT, "fitness", "pass_at_1", *objectives,
              "trainable_parameters", "infeasible", "reason", "training_digest", "evaluation_digest"]  # fmt: skip
    rows = []
    for record in history.genomes.values():
        genome = record.genome
        heavy, light = genome.heavy.model_dump(), genome.light.model_dump()
        heavy["target_modules"] = "+".join(genome.heavy.target_modules)
        rows.append([
            genome.genome_id, genome.generation, genome.slot, genome.lineage.operator, " ".join(genome.lineage.parents),
            *(heavy[name] for name in HEAVY), *(light[name] for name in LIGHT), record.fitness, record.pass_at_1,
            *(record.scores.get(name) for name in objectives), record.trainable_parameters, record.infeasible, record.reason,
            record.training_digest, record.evaluation_digest,
        ])  # fmt: skip
    return _csv(header, rows)


def generations_csv(lines: Sequence[GenerationLine]) -> bytes:
    """Every generation: the keys of `generations[]` in report.json."""
    header = list(GenerationLine.model_fields)
    return _csv(header, ([getattr(line, name) for name in header] for line in lines))


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    return ("'" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else "") + visible(value)
