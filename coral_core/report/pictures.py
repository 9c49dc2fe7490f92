"""Pictures as small PNGs: fitness by generation and the Pareto front; what others draw with is here too.

White background and the Okabe-Ito colours, so that they read on light and dark pages and
for colour-blind readers. matplotlib is imported when a picture is drawn, not before.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from coral_core.report.content import Report
from coral_core.runs.run_reader import ParetoPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#767676", "#222222"
SIZE = (5.4, 3.2)
DPI = 100
LIMIT = 15_000
"""Most bytes of a picture: it is embedded in Prefect artifacts of every generation."""
MOST_POINTS = 120


class CurvePoint(Protocol):
    """A generation in the picture of fitness: of a report or of a reading."""

    @property
    def best_fitness(self) -> float | None: ...
    @property
    def mean_fitness(self) -> float | None: ...
    @property
    def monitor_pass_at_1(self) -> float | None: ...


def fitness_curve(report: Report) -> bytes:
    """Best and mean fitness, and the champion's pass@1 on the monitor split, by generation."""
    named = (("default LoRA", report.default_lora), ("base model", report.base_model))
    return draw_fitness(report.generations, {name: found.fitness for name, found in named if found is not None})


def pareto_front(report: Report) -> bytes:
    """Bugfix against trainable parameters of all genomes with scores."""
    points = [
        ParetoPoint(
            genome_id=genome.genome_id,
            bugfix=genome.scores["bugfix"],
            retention=genome.scores.get("retention", 0.0),
            cost=genome.scores.get("cost", 0.0),
            fitness=genome.fitness or 0.0,
            trainable_parameters=genome.trainable_parameters,
            on_front=genome.on_front,
        )
        for genome in report.evaluated
        if "bugfix" in genome.scores
    ]
    return draw_pareto(points, report.champion.genome_id if report.champion else None)


def draw_fitness(lines: Sequence[CurvePoint], baselines: Mapping[str, float | None]) -> bytes:
    """Curves over generations, and a level line per baseline."""
    figure, axes = canvas()
    best, mean = [line.best_fitness for line in lines], [line.mean_fitness for line in lines]
    monitor = [line.monitor_pass_at_1 for line in lines]
    small = 5 if len(lines) <= 25 else 0
    for label, values, colour, style in (
        ("best fitness", best, BLUE, "o-"),
        ("mean fitness", mean, GREY, "s--"),
        ("monitor bugs repaired", monitor, ORANGE, "^-"),
    ):
        points = [(number, value) for number, value in enumerate(values) if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=small, linewidth=1.6)
    for name, value in baselines.items():
        if value is not None:
            style = "-." if name == "default LoRA" else ":"
            axes.axhline(value, color=GREEN, linestyle=style, linewidth=1.1, label=f"{name}, fitness")
    axes.set_xlabel("generation")
    axes.set_ylabel("fitness, share of bugs")
    axes.set_ylim(0, _top([*best, *mean, *monitor, *baselines.values()]))
    whole_numbers(axes, len(lines))
    legend(axes)
    return png(figure)


def draw_pareto(genomes: Sequence[ParetoPoint], champion: str | None) -> bytes:
    """Bugfix against trainable parameters; colour is retention, a ring marks the front, a cross the champion."""
    figure, axes = canvas(measured=True)
    points = _thinned(genomes, champion)
    if points:
        sizes = all(point.trainable_parameters > 0 for point in points)

        def xy(chosen: Sequence[ParetoPoint]) -> tuple[list[float], list[float]]:
            across = [float(point.trainable_parameters) if sizes else point.cost for point in chosen]
            return across, [point.bugfix for point in chosen]

        colours = [point.retention for point in points]
        drawn = axes.scatter(*xy(points), c=colours, cmap="cividis", vmin=0, vmax=1, s=34, linewidths=0)
        ring: dict[str, Any] = {"s": 90, "facecolors": "none", "edgecolors": ORANGE, "linewidths": 1.5}
        axes.scatter(*xy([point for point in points if point.on_front]), **ring, label="Pareto front", zorder=3)
        best = [point for point in points if point.genome_id == champion]
        axes.scatter(*xy(best), s=50, marker="x", color=ORANGE, linewidths=1.8, label="champion", zorder=4)
        if sizes:
            _by_decades(axes, xy(points)[0])
        axes.set_xlabel("trainable parameters" if sizes else "cost score (1 is cheapest)")
        figure.colorbar(drawn, ax=axes, label="retention")
        legend(axes)
    axes.set_ylabel("bugfix")
    axes.set_ylim(0, _top([point.bugfix for point in points]))
    return png(figure)


def _top(shares: Sequence[float | None]) -> float:
    """Upper end of an axis of shares: 1, or less where all are small."""
    most = max((share for share in shares if share is not None), default=1.0)
    return next(top for top in (0.1, 0.25, 0.5, 1.0) if 1.08 * most <= top or top == 1.0)


def _by_decades(axes: Any, values: Sequence[float]) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if max(values) < 8 * min(values):  # less than a decade: only minor ticks would be there, so they need numbers
        axes.xaxis.set_minor_formatter(EngFormatter(sep=""))


def as_data_uri(png: bytes) -> str:
    """The picture inside a text: what Markdown in the Prefect UI shows without a file server."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _thinned(points: Sequence[ParetoPoint], champion: str | None) -> list[ParetoPoint]:
    """The front, the champion and an even choice of the rest: hundreds of overlapping dots do not compress."""
    rest = [point for point in points if not point.on_front and point.genome_id != champion]
    front = [point for point in points if point.on_front][-MOST_POINTS:]
    best = [point for point in points if point.genome_id == champion and not point.on_front]
    return rest[:: max(1, -(-len(rest) // MOST_POINTS))] + front + best


def canvas(measured: bool = False) -> "tuple[Figure, Any]":
    """An empty figure and its axes. `measured`: margins as the labels need them, for twice the time."""
    figure = blank(SIZE, measured)
    if not measured:
        figure.subplots_adjust(left=0.125, right=0.97, top=0.95, bottom=0.155)
    axes = figure.add_subplot()
    plain(axes)
    return figure, axes


def blank(size: tuple[float, float], measured: bool = False) -> "Figure":
    """A white figure without axes; `size` in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained" if measured else None)
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Any) -> None:
    """The look of all axes."""
    axes.set_facecolor("white")
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=BLACK, labelsize=9)


def whole_numbers(axes: Any, count: int, most: int = 8) -> None:
    """An x axis of `count` generations, numbered from 0 as in tables and names of genomes."""
    from matplotlib.ticker import MaxNLocator

    if count:
        axes.set_xlim(-0.3, count - 0.7)
        if count <= most:
            axes.set_xticks(range(count))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(most, integer=True))


def legend(axes: Any) -> None:
    """A legend where there is something to explain."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=True, facecolor="white", edgecolor="#E4E4E4", framealpha=0.9, loc="best")


def png(figure: "Figure") -> bytes:
    """PNG with a palette; fewer colours, then fewer pixels, when it would not fit."""
    from PIL import Image

    raw = io.BytesIO()
    figure.savefig(raw, format="png", metadata={"Software": None})
    image = Image.open(raw).convert("RGB")
    small = b""
    for colours, scale in ((64, 1.0), (32, 1.0), (16, 1.0), (12, 1.0), (16, 0.75), (8, 0.6)):
        packed = io.BytesIO()
        shown = (
            image
            if scale == 1
            else image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        )
        shown.quantize(colours, dither=Image.Dither.NONE).save(packed, format="png", optimize=True)
        small = packed.getvalue()
        if len(small) <= LIMIT:
            break
    return small
