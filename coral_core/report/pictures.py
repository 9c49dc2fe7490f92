"""The two pictures of a report, as small PNGs: fitness by generation, and the Pareto front.

White background and the Okabe-Ito colours, so that they read on light and dark pages and
for colour-blind readers. matplotlib is imported when a picture is drawn, not before.
"""

import base64
import io
from typing import TYPE_CHECKING, Any

from coral_core.report.content import Evaluated, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#767676", "#222222"
SIZE = (5.4, 3.2)
DPI = 100
LIMIT = 15_000
"""Most bytes of a picture: it is embedded in Prefect artifacts of every generation."""
MOST_POINTS = 120


def fitness_curve(report: Report) -> bytes:
    """Best and mean fitness, and the champion's pass@1 on the monitor split, by generation."""
    figure, axes = _canvas()
    numbers = [line.generation + 1 for line in report.generations]
    series: list[tuple[str, list[float | None], str, str]] = [
        ("best fitness", [line.best_fitness for line in report.generations], BLUE, "o-"),
        ("mean fitness", [line.mean_fitness for line in report.generations], GREY, "s--"),
        ("monitor bugs repaired", [line.monitor_pass_at_1 for line in report.generations], ORANGE, "^-"),
    ]
    for label, values, colour, style in series:
        points = [(number, value) for number, value in zip(numbers, values, strict=True) if value is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=5, linewidth=1.6)
    for name, contender in (("default LoRA", report.default_lora), ("base model", report.base_model)):
        if contender is not None and contender.fitness is not None:
            style = "-." if name == "default LoRA" else ":"
            axes.axhline(contender.fitness, color=GREEN, linestyle=style, linewidth=1.1, label=f"{name}, fitness")
    axes.set_xlabel("generation")
    axes.set_ylabel("fitness, share of bugs")
    axes.set_ylim(0, 1)
    if numbers:
        axes.set_xlim(0.7, max(numbers) + 0.3)
        if len(numbers) <= 12:
            axes.set_xticks(numbers)
    _legend(axes)
    return _png(figure)


def pareto_front(report: Report) -> bytes:
    """Bugfix against trainable parameters; colour is retention, a ring marks the front, a cross the champion."""
    figure, axes = _canvas()
    points = _thinned([point for point in report.evaluated if "bugfix" in point.scores])
    if points:
        sizes = all(point.trainable_parameters > 0 for point in points)
        x = [float(point.trainable_parameters) if sizes else point.scores.get("cost", 0.0) for point in points]
        y = [point.scores["bugfix"] for point in points]
        colours = [point.scores.get("retention", 0.0) for point in points]
        drawn = axes.scatter(x, y, c=colours, cmap="cividis", vmin=0, vmax=1, s=34, linewidths=0, zorder=2)
        front = [index for index, point in enumerate(points) if point.on_front]
        axes.scatter(
            [x[i] for i in front],
            [y[i] for i in front],
            s=90,
            facecolors="none",
            edgecolors=ORANGE,
            linewidths=1.5,
            label="Pareto front",
            zorder=3,
        )
        best = [i for i, point in enumerate(points) if report.champion and point.genome_id == report.champion.genome_id]
        axes.scatter(
            [x[i] for i in best],
            [y[i] for i in best],
            s=50,
            marker="x",
            color=ORANGE,
            linewidths=1.8,
            label="champion",
            zorder=4,
        )
        if sizes:
            from matplotlib.ticker import EngFormatter

            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            if max(x) < 8 * min(x):  # less than a decade: only minor ticks would be there, so they need numbers
                axes.xaxis.set_minor_formatter(EngFormatter(sep=""))
        axes.set_xlabel("trainable parameters" if sizes else "cost score (1 is cheapest)")
        figure.colorbar(drawn, ax=axes, label="retention")
        _legend(axes)
    axes.set_ylabel("bugfix")
    axes.set_ylim(0, 1)
    return _png(figure)


def as_data_uri(png: bytes) -> str:
    """The picture inside a text: what Markdown in the Prefect UI shows without a file server."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _thinned(points: list[Evaluated]) -> list[Evaluated]:
    """The front and an even choice of the rest: hundreds of overlapping points say nothing and do not compress."""
    rest = [point for point in points if not point.on_front]
    step = max(1, -(-len(rest) // MOST_POINTS))
    return rest[::step] + [point for point in points if point.on_front][-MOST_POINTS:]


def _canvas() -> "tuple[Figure, Any]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor("white")
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=BLACK, labelsize=9)
    return figure, axes


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=True, facecolor="white", edgecolor="#E4E4E4", framealpha=0.9, loc="best")


def _png(figure: "Figure") -> bytes:
    """PNG with a palette; fewer colours, then fewer pixels, when it would not fit."""
    from PIL import Image

    raw = io.BytesIO()
    figure.savefig(raw, format="png", metadata={"Software": None})
    image = Image.open(raw).convert("RGB")
    small = b""
    for colours, scale in ((64, 1.0), (32, 1.0), (16, 1.0), (16, 0.75), (8, 0.6)):
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
