"""The comparison of two runs as a page of its own, and its rows as text for the terminal too."""

import json
from typing import Any

from coral_core.report.comparison import Comparison, Difference, Side
from coral_core.report.html_page import TONES, environment
from coral_core.report.markdown import heavy_text, light_text, number, share, with_count
from coral_core.report.pictures import BLUE, ORANGE, as_data_uri, canvas, legend, png

Rows = list[tuple[str, ...]]


def comparison_page(found: Comparison) -> str:
    """The page; needs nothing else and asks no server for anything."""
    page: str = environment().get_template("comparison.html.j2").render(
        found=found,
        tone=TONES.get(found.gap.verdict, "") if found.gap else "",
        champions=champion_rows(found),
        configuration=difference_rows(found.configuration),
        versions=difference_rows(found.versions),
        generations=generation_rows(found),
        cost=cost_rows(found),
        curve=as_data_uri(_curve(found)) if found.generations else "",
    )  # fmt: skip
    return page


def champion_rows(found: Comparison) -> Rows:
    """Both champions, a line per fact."""

    def facts(side: Side) -> dict[str, str]:
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
            "trainable parameters": f"{champion.trainable_parameters or 0:,}",
            "heavy genes": heavy_text(champion.heavy),
            "light genes": light_text(champion.light),
        }  # fmt: skip

    one, other = facts(found.a), facts(found.b)
    return [(name, one.get(name, "–"), other.get(name, "–")) for name in dict.fromkeys([*one, *other])]


def difference_rows(differences: tuple[Difference, ...]) -> Rows:
    return [(item.key, _plain(item.a), _plain(item.b)) for item in differences]


def generation_rows(found: Comparison) -> Rows:
    return [(str(line.generation), number(line.a), number(line.b)) for line in found.generations]


def cost_rows(found: Comparison) -> Rows:
    """Work and money, a line per unit."""

    def facts(side: Side) -> dict[str, str]:
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

    one, other = facts(found.a), facts(found.b)
    return [(name, one.get(name, "–"), other.get(name, "–")) for name in dict.fromkeys([*one, *other])]


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
