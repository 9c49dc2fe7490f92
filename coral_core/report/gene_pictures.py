"""Marginal plots: fitness by the value of one gene, a small picture per gene."""

import io

from coral_core.report.evidence import GeneEffect
from coral_core.report.pictures import BLUE, ORANGE, canvas

INCHES = (3.3, 2.3)
SHARP = 180
"""Dots per inch: these pictures are shown at half their size, so that they are sharp on a phone."""
COLOURS = 32
MOST_POINTS = 300
LONGEST_LABEL = 14


def marginal(effect: GeneEffect) -> bytes:
    """Every genome as a dot over its value of the gene; a bar is the mean with its standard error."""
    from PIL import Image

    figure, axes = canvas()
    figure.set_size_inches(*INCHES)
    step = -(-len(effect.points) // MOST_POINTS)
    points = effect.points[:: max(1, step)]
    spread = [((7 * number) % 11 - 5) / 40 for number in range(len(points))]
    axes.scatter(
        [point.level + shift for point, shift in zip(points, spread, strict=True)],
        [point.fitness for point in points],
        s=13,
        color=BLUE,
        alpha=0.55,
        linewidths=0,
        zorder=2,
    )
    for number, level in enumerate(effect.levels):
        axes.plot([number - 0.3, number + 0.3], [level.mean, level.mean], color=ORANGE, linewidth=2.2, zorder=3)
        if level.error is not None:
            axes.errorbar(number, level.mean, level.error, color=ORANGE, linewidth=1.3, capsize=2.5, zorder=3)
    labels = [level.value for level in effect.levels]
    short = [label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…" for label in labels]
    axes.set_xticks(range(len(labels)), short)
    if sum(map(len, short)) > 34:
        axes.tick_params(axis="x", labelrotation=28)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.tick_params(labelsize=8)
    axes.set_ylabel("fitness", fontsize=8)
    raw, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=SHARP, metadata={"Software": None})
    Image.open(raw).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(packed, format="png", optimize=True)
    return packed.getvalue()


def described(effect: GeneEffect) -> str:
    """The picture in words."""
    means = "; ".join(f"{level.value}: {level.mean:.3f} (n = {level.genomes})" for level in effect.levels)
    return f"Fitness by {effect.gene.replace('_', ' ')}, mean per value: {means}"
