"""The report of a running evolution: five pictures and Markdown, made from a `RunReading`.

They are drawn again and again while the run goes on. They therefore use only what the reading holds: no evaluation is
opened and no history is parsed again. Not covered: the report at the end (run_document.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coral_core.report.markdown import markdown
from coral_core.report.pictures import (
    BLACK,
    BLUE,
    GREY,
    as_data_uri,
    blank,
    canvas,
    draw_curves,
    fitness_picture,
    pareto_picture,
    plain,
    png,
    whole_numbers,
)
from coral_core.report.progress_document import progress_document
from coral_core.report.wording import NAMES, heavy_text, light_text
from coral_core.runs.progress import COLUMNS, Progress, lane_use
from coral_core.runs.run_reader import GeneSpread, KnownGenome, RunReading

MOST_STEPS = 60
"""Generations in the picture of genes; of a longer run every second, third, ... is shown."""
SHARES = ("dora", "sampling")
LIGHT_ORANGE = "#F0A870"
DRIFTING = {
    "rank": "rank", "alpha": "alpha", "dropout": "dropout", "learning_rate": "learning rate",
    "modules": "modules", "dora": "share DoRA", "sampling": "share sampling", "temperature": "temperature",
}  # fmt: skip
"""Gene -> title of its plot."""
LOGARITHMIC = {"rank": 2, "alpha": 2, "learning_rate": 10}
"""Gene -> base of its axis."""


def _fitness(reading: RunReading) -> bytes:
    return fitness_picture(reading.generations, {NAMES[name]: row.fitness for name, row in reading.baselines.items()})


def _pareto(reading: RunReading) -> bytes:
    points = [replace(point, on_front=name in reading.front) for name, point in reading.points.items()]
    return pareto_picture(points, reading.champion.genome_id if reading.champion else None)


def _hypervolume(reading: RunReading) -> bytes:
    return draw_curves({"hypervolume": [line.hypervolume for line in reading.generations]}, "hypervolume of the front")


def _drift(reading: RunReading) -> bytes:
    """Mean and span of each gene by generation."""
    figure = blank((6.4, 3.5))
    figure.subplots_adjust(left=0.065, right=0.985, top=0.93, bottom=0.135, wspace=0.38, hspace=0.26)
    lines = reading.generations
    shown = lines[:: -(-len(lines) // MOST_STEPS)] if lines else []
    for place, (gene, title) in enumerate(DRIFTING.items(), 1):
        axes = figure.add_subplot(2, 4, place)
        plain(axes)
        axes.grid(visible=False)
        axes.tick_params(labelsize=7, length=2, pad=2)
        axes.set_title(title, fontsize=9, color=BLACK, pad=3)
        known = {line.generation: line.genes[gene] for line in shown if gene in line.genes}
        if known:
            _band(axes, gene, known)
            whole_numbers(axes, len(lines), 3)
        if place <= 4:
            axes.tick_params(labelbottom=False)  # the row below has the same axis, and each figure costs bytes
    figure.text(0.5, 0.02, "generation (line: mean, band: smallest to largest)", fontsize=9, color=BLACK, ha="center")
    return png(figure)


def _band(axes: Any, gene: str, known: Mapping[int, GeneSpread]) -> None:
    """One gene: a line for the mean, a band from the smallest to the largest."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    numbers, spreads = list(known), known.values()
    least, mean, most = ([getattr(spread, name) for spread in spreads] for name in ("least", "mean", "most"))
    if base := LOGARITHMIC.get(gene):
        axes.set_yscale("log", base=base)
        axes.yaxis.set_major_locator(LogLocator(base, (1,) if base == 2 else (1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    else:
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=gene == "modules"))
    if gene in SHARES:
        axes.set_ylim(-0.03, 1.03)
        axes.set_yticks([0, 0.5, 1])
    else:
        axes.fill_between(numbers, least, most, color="#CFE3F1", linewidth=0, antialiased=False)
    axes.plot(numbers, mean, color=BLUE, linewidth=1.5, marker="o" if len(numbers) == 1 else None, markersize=3)


def _lanes(reading: RunReading) -> bytes:
    """Busy lanes of each kind over the latest session that did work, with the lanes that there may be at most."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = canvas()
    use = lane_use(reading)
    if use is not None:
        whole = COLUMNS * use.seconds_per_column
        units = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
        unit, name = next((unit for unit in units if whole > 2 * unit[0]), units[-1])
        edges = [n * use.seconds_per_column / unit for n in range(COLUMNS + 1)]
        below = [0.0] * COLUMNS
        lanes = (("training", use.training, BLUE), ("evaluation", use.evaluation, LIGHT_ORANGE))
        for kind, columns, colour in lanes:
            busy = [under + more for under, more in zip(below, columns, strict=True)]
            axes.stairs(busy, edges, baseline=below, fill=True, color=colour, label=kind, antialiased=False)
            below = busy
        if use.at_most:
            axes.axhline(use.at_most, color=GREY, linestyle=":", linewidth=1.1, label="lanes at most")
        axes.set_xlim(0, edges[-1])
        axes.set_xlabel(f"{name} since the session began")
        axes.set_ylim(0, max(1.0, *below, use.at_most or 0) * 1.25)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend(fontsize=8, frameon=False, loc="upper center", ncols=3)
    axes.set_ylabel("busy lanes")
    return png(figure)


PICTURES: Mapping[str, tuple[str, Callable[[RunReading], bytes]]] = {
    "fitness": ("Fitness by generation", _fitness),
    "pareto": ("Pareto front", _pareto),
    "hypervolume": ("Hypervolume by generation", _hypervolume),
    "drift": ("Genes by generation", _drift),
    "lanes": ("Busy lanes", _lanes),
}
"""Name -> title and drawing function."""


def prepare() -> None:
    """Import the drawing libraries, so that the first picture does not wait for them."""
    import matplotlib.figure  # noqa: F401
    import PIL.Image  # noqa: F401


def draw(name: str, reading: RunReading) -> str:
    """Draw one picture.

    Args:
        name: A key of `PICTURES`.
        reading: The run as read last.

    Returns:
        A PNG as a data URI.
    """
    return as_data_uri(PICTURES[name][1](reading))


def pictures_markdown(pictures: Mapping[str, str]) -> str:
    """Markdown with one heading and image per picture; `pictures` maps names of `PICTURES` to addresses."""
    shown = [(title, pictures[name]) for name, (title, _) in PICTURES.items() if name in pictures]
    return "\n\n".join(f"## {title}\n\n![{title}]({address})" for title, address in shown) + "\n"


def summary(progress: Progress, reading: RunReading, pictures: Mapping[str, str]) -> str:
    """The state of a run as Markdown.

    Args:
        progress: Where the run stands.
        reading: The run as read last; gives the table of generations.
        pictures: Name of a picture -> its address; fitness and Pareto front are shown if they are there.
    """
    main = {name: pictures[name] for name in ("fitness", "pareto") if name in pictures}
    text = markdown(progress_document(progress, reading.generations))
    return f"{text}\n{pictures_markdown(main)}" if main else text


def leaderboard(reading: RunReading) -> list[dict[str, Any]]:
    """A row per leading genome of the finished generations, with its place from 1; columns as in `genome_rows`."""
    return [{"place": place} | cells for place, cells in enumerate(genome_rows(reading.leaders), 1)]


def genome_rows(lines: Sequence[KnownGenome]) -> list[dict[str, Any]]:
    """A row per genome. All rows have the same columns, since the Prefect UI takes the columns from the first row.

    Scores come first, because narrow windows cut rows off; genes and parents follow.
    """
    names = sorted({name for line in lines for name in line.scores})
    reasons = any(line.infeasible for line in lines)
    return [
        {"genome": line.genome_id, "fitness": None if line.fitness is None else round(line.fitness, 4)}
        | {name: round(line.scores[name], 3) if name in line.scores else None for name in names}
        | ({"infeasible": line.infeasible or ""} if reasons else {})
        | {
            "heavy genes": heavy_text(line.heavy),
            "light genes": light_text(line.light),
            "parameters": line.trainable_parameters,
            "from": line.operator,
            "parents": ", ".join(line.parents),
        }
        for line in lines
    ]
