"""The comparison of two runs as a document."""

import json
from typing import Any

from coral_core.report.comparison import Comparison, Side
from coral_core.report.content import Contender
from coral_core.report.document import Answer, Document, Picture, Pictures, Section, Table, blocks, text
from coral_core.report.pictures import draw_curves
from coral_core.report.run_document import TONES
from coral_core.report.wording import heavy_text, light_text, number, share, whole, with_count


def comparison_document(comparison: Comparison) -> Document:
    """Champions, configuration, best fitness by generation and cost of two runs."""
    sides = ("<A", "<B")
    champions, costs = (
        [(name, value, other[name]) for name, value in one.items()]
        for one, other in (
            (_champion(comparison.a), _champion(comparison.b)),
            (_cost(comparison.a), _cost(comparison.b)),
        )
    )
    curves = {"A": [line.a for line in comparison.generations], "B": [line.b for line in comparison.generations]}
    alt = "Best fitness by generation of both runs; the numbers are in the table below"
    pictures = (Picture("Best fitness by generation", alt, lambda: draw_curves(curves, "best fitness")),)
    sections = (
        Section("champions", "Champion against champion", blocks(
            Table(f"A is {comparison.a.run_id}, B is {comparison.b.run_id}", ("<", *sides), champions),
            None if comparison.fitness_comparable
            else text("Fitness is not comparable: fitness problems, weights or judge limits differ."))),
        Section("configuration", "What was configured differently", blocks(
            Table("Keys that differ, defaults included", ("<key", "<<A", "<<B"),
                  [(item.key, _plain(item.a), _plain(item.b)) for item in comparison.configuration]),
            None if comparison.configuration
            else text("The configurations are the same but for, at most, edition and folders."),
            Table("Versions and machine that differ", ("<key", "<<A", "<<B"),
                  [(item.key, _plain(item.a), _plain(item.b)) for item in comparison.versions]))),
        Section("generations", "Best fitness by generation", blocks(
            Pictures(pictures if comparison.generations else ()),
            Table("Best fitness so far", ("generation", "A", "B"),
                  [(line.generation, number(line.a), number(line.b)) for line in comparison.generations]))),
        Section("cost", "What each cost", blocks(Table("All sessions together", ("<", *sides), costs))),
    )  # fmt: skip
    tone = TONES.get(comparison.gap.verdict, "") if comparison.gap else ""
    return Document(f"{comparison.a.run_id} and {comparison.b.run_id}", (Answer(comparison.text, tone),), sections)


def _champion(side: Side) -> dict[str, str]:
    champion = side.champion or Contender()
    return {
        "status": side.status,
        "strategy": side.strategy,
        "seed, edition": f"{side.seed}, {side.edition}",
        "champion": champion.genome_id or "–",
        "held-out bugs repaired": with_count(champion),
        "by the default LoRA": with_count(side.default_lora or Contender()),
        "by the tuned LoRA": with_count(side.tuned_lora or Contender()),
        "fitness bugs repaired": share(champion.fitness_pass_at_1),
        "fitness": number(champion.fitness),
        "mean fitness with other seeds": number(side.repeats.mean_fitness if side.repeats else None),
        "trainable parameters": whole(champion.trainable_parameters),
        "heavy genes": heavy_text(champion.heavy),
        "light genes": light_text(champion.light),
    }


def _cost(side: Side) -> dict[str, str]:
    total, spent = side.totals, side.spending
    return {
        "trainings": f"{total.trainings:,}",
        "evaluations": f"{total.evaluations:,}",
        "sessions": f"{total.sessions:,}",
        "wall clock, s": f"{total.seconds:,.0f}",
        "CPU, s": f"{total.cpu_seconds:,.0f}",
        "tokens": f"{total.tokens:,}",
        "lane hours": number(spent.gpu_hours if spent else None),
        "money": f"{spent.money:,.2f} {spent.currency}" if spent and spent.money is not None else "–",
    }


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else "–" if value is None else json.dumps(value, ensure_ascii=False)
