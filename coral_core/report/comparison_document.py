"""The comparison of two runs as a document."""

import json
from collections.abc import Callable
from typing import Any

from coral_core.report.comparison import Comparison, Difference, Side
from coral_core.report.document import Answer, Block, Document, Picture, Section, Table, blocks, text
from coral_core.report.pictures import BLUE, ORANGE, canvas, legend, png
from coral_core.report.run_document import TONES
from coral_core.report.wording import heavy_text, light_text, number, share, whole, with_count


def comparison_document(found: Comparison) -> Document:
    """Champions, configuration, best fitness by generation and cost of two runs."""
    champions = _side_by_side(f"A is {found.a.run_id}, B is {found.b.run_id}", found, _champion)
    incomparable = "Fitness is not comparable: fitness problems, weights or judge limits differ."
    same = "The configurations are the same but for, at most, edition and folders."
    generations = [(line.generation, number(line.a), number(line.b)) for line in found.generations]
    alt = "Best fitness by generation of both runs; the numbers are in the table below"
    sections = (
        Section("champions", "Champion against champion", "champions", blocks(
            champions, None if found.fitness_comparable else text(incomparable))),
        Section("configuration", "What was configured differently", "configuration", blocks(
            _differences("Keys that differ, defaults included", found.configuration) if found.configuration else text(same),
            _differences("Versions and machine that differ", found.versions))),
        Section("generations", "Best fitness by generation", "generations", blocks(
            Picture("Best fitness by generation", alt, lambda: _curve(found)) if generations else None,
            Table("Best fitness so far", ("generation", "A", "B"), generations))),
        Section("cost", "What each cost", "cost", blocks(_side_by_side("All sessions together", found, _cost))),
    )  # fmt: skip
    tone = TONES.get(found.gap.verdict, "") if found.gap else ""
    return Document(f"{found.a.run_id} and {found.b.run_id}", (Answer(found.text, tone),), sections)


def _side_by_side(caption: str, found: Comparison, facts: Callable[[Side], dict[str, str]]) -> Block:
    one, other = facts(found.a), facts(found.b)
    rows = [(name, one.get(name, "–"), other.get(name, "–")) for name in {**one, **other}]
    return Table(caption, ("<", "<A", "<B"), rows)


def _champion(side: Side) -> dict[str, str]:
    champion, again = side.champion, side.repeats
    about = {"status": side.status, "strategy": side.strategy, "seed, edition": f"{side.seed}, {side.edition}"}
    if champion is None:
        return about
    spread = "" if again is None or again.sd_fitness is None else f" ± {again.sd_fitness:.3f}"
    return about | {
        "champion": champion.genome_id or "–",
        "held-out bugs repaired": with_count(champion),
        "fitness bugs repaired": share(champion.fitness_pass_at_1),
        "fitness": number(champion.fitness),
        "fitness with other seeds": "–" if again is None else f"{number(again.mean_fitness)}{spread} (n = {again.n})",
        "trainable parameters": whole(champion.trainable_parameters),
        "heavy genes": heavy_text(champion.heavy),
        "light genes": light_text(champion.light),
    }


def _cost(side: Side) -> dict[str, str]:
    total, spent = side.totals, side.spending
    rows = {
        "trainings": f"{total.trainings:,}",
        "evaluations": f"{total.evaluations:,}",
        "sessions": f"{total.sessions:,}",
        "wall clock, s": f"{total.seconds:,.0f}",
        "CPU, s": f"{total.cpu_seconds:,.0f}",
        "tokens": f"{total.tokens:,}",
    }
    if spent is not None:
        rows["lane hours"] = f"{spent.gpu_hours:.3f}"
        if spent.money is not None:
            rows["money"] = f"{spent.money:,.2f} {spent.currency}"
    return rows


def _differences(caption: str, differences: tuple[Difference, ...]) -> Block:
    rows = [(item.key, _plain(item.a), _plain(item.b)) for item in differences]
    return Table(caption, ("<key", "<<A", "<<B"), rows)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else "–" if value is None else json.dumps(value, ensure_ascii=False)


def _curve(found: Comparison) -> bytes:
    figure, axes = canvas()
    series = (
        ("A", [(line.generation, line.a) for line in found.generations], BLUE, "o-"),
        ("B", [(line.generation, line.b) for line in found.generations], ORANGE, "s--"),
    )
    for label, pairs, colour, style in series:
        known = [(x, y) for x, y in pairs if y is not None]
        if known:
            axes.plot(*zip(*known, strict=True), style, color=colour, label=label, markersize=5, linewidth=1.6)
    axes.set_xlabel("generation")
    axes.set_ylabel("best fitness")
    axes.set_ylim(0, 1)
    if len(found.generations) <= 12:
        axes.set_xticks([line.generation for line in found.generations])
    legend(axes)
    return png(figure)
