"""Pictures as small PNGs: curves by generation, Pareto front, marginal plots of genes; and shared drawing functions.

A white background and the Okabe-Ito colours keep them readable on light and dark pages and
for colour-blind readers. matplotlib is imported when a picture is drawn, not before.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from coral_core.report.content import GeneEffect
from coral_core.runs.run_reader import ParetoPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#767676", "#222222"
SIZE = (5.4, 3.2)
DPI = 100
LIMIT = 15_000
"""Most bytes of a picture: it is embedded in Prefect artifacts of every generation."""
SHARP = 180
"""Dots per inch of pictures that are shown at half their size, so that they are sharp on a phone."""
MOST_POINTS, MOST_DOTS = 120, 300
"""Genomes in the picture of the Pareto front beside the front; in the picture of one gene."""


class CurvePoint(Protocol):
    """A generation in the picture of fitness: of a report or of a reading."""

    @property
    def best_fitness(self) -> float | None: ...
    @property
    def mean_fitness(self) -> float | None: ...
    @property
    def monitor_pass_at_1(self) -> float | None: ...


def fitness_picture(lines: Sequence[CurvePoint], baselines: Mapping[str, float | None]) -> bytes:
    """Best fitness, mean fitness and monitor pass@1 by generation, with a horizontal line per baseline.

    Args:
        lines: The generations, in order from 0.
        baselines: Name -> fitness, in [0, 1]; None: no line.

    Returns:
        A PNG.
    """
    curves = {
        "best fitness": [line.best_fitness for line in lines],
        "mean fitness": [line.mean_fitness for line in lines],
        "monitor bugs repaired": [line.monitor_pass_at_1 for line in lines],
    }
    return draw_curves(curves, "fitness, share of bugs", baselines)


def draw_curves(
    curves: Mapping[str, Sequence[float | None]], label: str, levels: Mapping[str, float | None] | None = None
) -> bytes:
    """Draw values in [0, 1] by generation.

    Args:
        curves: Name -> one value per generation; None leaves a gap. At most three curves are drawn.
        label: Label of the y axis.
        levels: Name -> value of a horizontal line; None: no line. At most three lines are drawn.

    Returns:
        A PNG.
    """
    figure, axes = canvas()
    levels = levels or {}
    count = max(map(len, curves.values()), default=0)
    for (name, values), colour, style in zip(curves.items(), (BLUE, ORANGE, GREY), ("o-", "s--", "^-"), strict=False):
        points = [(number, value) for number, value in enumerate(values) if value is not None]
        if points:
            small = 5 if count <= 25 else 0
            axes.plot(*zip(*points, strict=True), style, color=colour, label=name, markersize=small, linewidth=1.6)
    for (name, value), style in zip(levels.items(), ("-.", ":", "--"), strict=False):
        if value is not None:
            axes.axhline(value, color=GREEN, linestyle=style, linewidth=1.1, label=name)
    axes.set_xlabel("generation")
    axes.set_ylabel(label)
    axes.set_ylim(0, _top([*(value for values in curves.values() for value in values), *levels.values()]))
    whole_numbers(axes, count)
    legend(axes)
    return png(figure)


def pareto_picture(genomes: Sequence[ParetoPoint], champion: str | None) -> bytes:
    """Bugfix against trainable parameters; colour is retention, a ring marks the Pareto front, a cross the champion.

    Args:
        genomes: All genomes with scores; of those off the front an even selection is drawn.
        champion: Genome id of the champion; None: no cross.

    Returns:
        A PNG.
    """
    figure, axes = canvas(measured=True)
    points = _thinned(genomes, champion)

    def scatter(chosen: Sequence[ParetoPoint], **style: Any) -> Any:
        return axes.scatter(
            [point.trainable_parameters for point in chosen], [point.bugfix for point in chosen], **style
        )

    if points:
        colours = [point.retention for point in points]
        drawn = scatter(points, c=colours, cmap="cividis", vmin=0, vmax=1, s=34, linewidths=0)
        front = [point for point in points if point.on_front]
        scatter(front, s=90, facecolors="none", edgecolors=ORANGE, linewidths=1.5, label="Pareto front", zorder=3)
        best = [point for point in points if point.genome_id == champion]
        scatter(best, s=50, marker="x", color=ORANGE, linewidths=1.8, label="champion", zorder=4)
        _by_decades(axes, [point.trainable_parameters for point in points])
        axes.set_xlabel("trainable parameters")
        figure.colorbar(drawn, ax=axes, label="retention")
        legend(axes)
    axes.set_ylabel("bugfix")
    axes.set_ylim(0, _top([point.bugfix for point in points]))
    return png(figure)


def marginal_picture(effect: GeneEffect) -> bytes:
    """Marginal plot of one gene: a dot per genome over its value of the gene, and the mean with its standard error."""
    figure, axes = canvas(measured=True)
    figure.set_size_inches(3.3, 2.3)
    points = effect.points[:: -(-len(effect.points) // MOST_DOTS)]
    places = [point.level + ((7 * number) % 11 - 5) / 40 for number, point in enumerate(points)]
    axes.scatter(places, [point.fitness for point in points], s=13, color=BLUE, alpha=0.55, linewidths=0, zorder=2)
    for number, level in enumerate(effect.levels):
        axes.plot([number - 0.3, number + 0.3], [level.mean, level.mean], color=ORANGE, linewidth=2.2, zorder=3)
        axes.errorbar(number, level.mean, level.error or 0, color=ORANGE, linewidth=1.3, capsize=2.5, zorder=3)
    labels = [level.value if len(level.value) <= 14 else f"{level.value[:13]}…" for level in effect.levels]
    axes.set_xticks(range(len(labels)), labels)
    if sum(map(len, labels)) > 34:
        axes.tick_params(axis="x", labelrotation=28)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.tick_params(labelsize=8)
    axes.set_ylabel("fitness", fontsize=8)
    return png(figure, SHARP)


def _top(shares: Sequence[float | None]) -> float:
    """Upper end of an axis of shares: 1, or less if all values are small."""
    most = max((share for share in shares if share is not None), default=1.0)
    return next(top for top in (0.1, 0.25, 0.5, 1.0) if 1.08 * most <= top or top == 1.0)


def _by_decades(axes: Any, values: Sequence[float]) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if max(values) < 8 * min(values):  # less than a decade has minor ticks only, so these get labels
        axes.xaxis.set_minor_formatter(EngFormatter(sep=""))


def as_data_uri(png: bytes) -> str:
    """A PNG as a data URI, which Markdown in the Prefect UI shows without a file server."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _thinned(points: Sequence[ParetoPoint], champion: str | None) -> list[ParetoPoint]:
    """The front, the champion and an even selection of the rest; hundreds of overlapping dots compress badly."""
    rest = [point for point in points if not point.on_front and point.genome_id != champion]
    front = [point for point in points if point.on_front][-MOST_POINTS:]
    best = [point for point in points if point.genome_id == champion and not point.on_front]
    return rest[:: max(1, -(-len(rest) // MOST_POINTS))] + front + best


def canvas(measured: bool = False) -> "tuple[Figure, Any]":
    """An empty figure and its axes; with `measured`, margins are fitted to the labels, which doubles the time."""
    figure = blank(SIZE, measured)
    if not measured:
        figure.subplots_adjust(left=0.125, right=0.97, top=0.95, bottom=0.155)
    axes = figure.add_subplot()
    plain(axes)
    return figure, axes


def blank(size: tuple[float, float], measured: bool = False) -> "Figure":
    """A white figure without axes.

    Args:
        size: Width and height in inches.
        measured: Whether margins are fitted to the labels (constrained layout).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained" if measured else None)
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Any) -> None:
    """Apply the common style to `axes`."""
    axes.set_facecolor("white")
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=BLACK, labelsize=9)


def whole_numbers(axes: Any, count: int, most: int = 8) -> None:
    """Set up an x axis of generations, numbered from 0 as in tables and genome ids.

    Args:
        axes: The matplotlib axes.
        count: Number of generations; 0 leaves the axis as it is.
        most: Most ticks on the axis.
    """
    from matplotlib.ticker import MaxNLocator

    if count:
        axes.set_xlim(-0.3, count - 0.7)
        if count <= most:
            axes.set_xticks(range(count))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(most, integer=True))


def legend(axes: Any) -> None:
    """Add a legend if anything drawn has a label."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=True, facecolor="white", edgecolor="#E4E4E4", framealpha=0.9, loc="best")


def png(figure: "Figure", dpi: int = DPI) -> bytes:
    """Render a figure as a PNG with a palette.

    Fewer colours, then fewer pixels are used while the result exceeds `LIMIT` bytes.

    Args:
        figure: The matplotlib figure.
        dpi: Dots per inch.
    """
    from PIL import Image

    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=dpi, metadata={"Software": None})
    image = Image.open(raw).convert("RGB")
    small = b""
    for colours, scale in ((64, 1.0), (32, 1.0), (16, 1.0), (12, 1.0), (16, 0.75), (8, 0.6)):
        size = (round(image.width * scale), round(image.height * scale))
        packed = io.BytesIO()
        shown = image if scale == 1 else image.resize(size, Image.Resampling.LANCZOS)
        shown.quantize(colours, dither=Image.Dither.NONE).save(packed, format="png", optimize=True)
        small = packed.getvalue()
        if len(small) <= LIMIT:
            break
    return small
