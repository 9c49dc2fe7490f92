"""A comparison of strategies as a document, and its files: comparison.json, .html, .md and two pictures."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from coral_core.atomic_write import write_atomic
from coral_core.comparison.summary import (
    CURVES,
    MEASURES,
    Band,
    Curve,
    Standing,
    StrategyComparison,
    Test,
    Verdict,
    unit_of,
)
from coral_core.errors import StoreError
from coral_core.report.document import Answer, Document, Facts, Picture, Pictures, Section, Table, blocks, text
from coral_core.report.html_page import html_page
from coral_core.report.markdown import markdown
from coral_core.report.pictures import BLACK, BLUE, GREEN, GREY, ORANGE, canvas, legend, png

COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", GREY, BLACK)
"""Of Okabe and Ito, the baseline's first; further variants repeat them with another style of line."""
STYLES = ("-", "--", ":", "-.")
BANDED = 3
"""Variants at most whose curves have bands: more would hide each other."""
TONES = {Verdict.BETTER: "better", Verdict.WORSE: "worse"}
Of = TypeVar("Of", Standing, Test)
FILES = ("comparison.html", "comparison.md", "comparison.json")


def comparison_page(comparison: StrategyComparison) -> Document:
    """The document that page, Markdown and terminal show."""
    shown = comparison
    names = ", ".join(variant.name for variant in shown.variants[:4]) + (", …" if len(shown.variants) > 4 else "")
    found = (
        Section("end", f"At {_budget(shown)}", blocks(*_standings(shown), text(_about_intervals(shown), style="soft small"))),
        Section("tests", f"Against {shown.baseline}", blocks(*_tests(shown.tests), text(ABOUT_TESTS, style="soft small"))),
        Section("curves", "Over the spent budget", blocks(_pictures(shown), _reached(shown))),
        Section("ablations", "Ablations", blocks(
            text("A variant of a strategy less the same strategy as configured: a negative difference says that what was changed helps."),
            *_tests(shown.ablations)) if shown.ablations else ()),
        Section("nothing", "What did not help", blocks(*map(text, _not_helped(shown)))),
        Section("limits", "What limits these results", blocks(*map(text, shown.notes))),
        Section("how", "What was compared", blocks(_variants(shown), _facts(shown), _charged(shown))),
    )  # fmt: skip
    always = ("limits", "how")
    return Document(
        f"Search strategies at {_budget(shown)}: {names}",
        tuple(_answers(shown)) if shown.seeds else (text("No seed has ended yet with all variants.", style="bad"),),
        tuple(section for section in found if section.blocks and (shown.seeds or section.anchor in always)),
    )


def write_comparison(comparison: StrategyComparison, folder: Path) -> None:
    """Write the page, its Markdown with pictures, and the data.

    Args:
        comparison: What was found.
        folder: Made if it is not there.

    Raises:
        StoreError: a file cannot be written.
    """
    document = comparison_page(comparison)
    pictures = [
        item
        for section in document.sections
        for block in section.blocks
        if isinstance(block, Pictures)
        for item in block.items
    ]
    files = {
        **{picture.address: picture.png for picture in pictures},
        "comparison.html": html_page(document).encode("utf-8", "backslashreplace"),
        "comparison.md": markdown(document).encode("utf-8", "backslashreplace"),
        "comparison.json": (comparison.model_dump_json(indent=1) + "\n").encode(),
    }
    try:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / name, data)
    except OSError as error:
        raise StoreError(
            f"{folder}: the comparison cannot be written ({error.strerror})",
            remedy="Choose another with --into FOLDER.",
        ) from error


# -- parts -------------------------------------------------------------------------------------


def _budget(shown: StrategyComparison) -> str:
    return f"{shown.budget.amount:,g} {unit_of(shown)}"


def _answers(shown: StrategyComparison) -> list[Answer]:
    """What the tests of the searched measures say, in sentences."""
    pairs = zip(shown.conclusions, shown.tests, strict=True)
    return [Answer(line, TONES.get(test.verdict, "noise")) for line, test in pairs if test.measure in CURVES]


def _standings(shown: StrategyComparison) -> Iterable[Table]:
    """A table per measure."""
    noise = "" if shown.where == "live" else ", without noise"
    for measure, standings in _by_measure(shown.standings):
        first = measure == "fitness"
        rows = [
            (each.variant, *_band(each.band, measure), *((_first(shown, each.variant, measure),) if first else ()))
            for each in standings
        ]
        columns = ("<variant", "median", "interval", *(("first generation",) if first else ()))
        yield Table(f"{MEASURES[measure].title.capitalize()}{noise}, over {_seeds(shown)}", columns, rows)


def _first(shown: StrategyComparison, name: str, measure: str) -> str:
    mine = [each.first_generation for each in shown.outcomes if each.variant == name]
    values = [value for value in mine if value is not None]
    return _band(Band.of(values), measure)[0] if values else "–"


def _about_intervals(shown: StrategyComparison) -> str:
    lowest = min((standing.band.confidence for standing in shown.standings), default=0.0)
    intervals = f"Intervals of medians are exact, with a confidence of at least {lowest:.1%}." if lowest else "One seed has no interval."  # fmt: skip
    bias = "Best fitness is the highest measured, which is biased upwards for every variant; held-out pass@1 is that of the champion, and unbiased."
    return (
        f"{intervals} First generation: best fitness in generation 0. {bias if shown.where == 'live' else ''}".strip()
    )


ABOUT_TESTS = (
    "Differences are paired by seed. A12: the probability that a run of the variant ends higher than one of the other, ties counted "
    "half; 0.5 is no difference, 0.56 a small, 0.64 a medium, 0.71 a large one; behind it a 95 % bootstrap interval. p: Wilcoxon's "
    "signed-rank test, two-sided and exact, corrected for the number of variants (Holm)."
)
SHORT = {Verdict.NO_DIFFERENCE: "none shown", Verdict.TOO_FEW_SEEDS: "not tested"}


def _tests(tests: Sequence[Test]) -> Iterable[Table]:
    """A table per measure."""
    several = len({test.against for test in tests}) > 1
    for measure, found in _by_measure(tests):
        rows = [
            (
                f"{test.variant}, of {test.against}" if several else test.variant,
                *_band(test.difference, measure, "+"),
                f"{test.a12:.2f}",
                f"{test.a12_low:.2f} to {test.a12_high:.2f}" if test.a12_low is not None else "–",
                "–"
                if test.p_corrected is None
                else "<0.0001"
                if test.p_corrected < 0.0001
                else f"{test.p_corrected:.2g}",
                SHORT.get(test.verdict, str(test.verdict)),
            )
            for test in found
        ]
        against = "" if several else f" less that of {found[0].against}"
        columns = ("<variant", "median", "interval", "A12", "interval", "p", "<difference")
        yield Table(f"{MEASURES[measure].title.capitalize()}{against}", columns, rows)


def _by_measure(found: Sequence[Of]) -> Iterable[tuple[str, list[Of]]]:
    for measure in MEASURES:
        if mine := [each for each in found if each.measure == measure]:
            yield measure, mine


def _band(band: Band, measure: str, sign: str = "") -> tuple[str, str]:
    """Median and interval as text; differences with a `sign` "+"."""
    digits = f"{sign}.{4 if measure == 'hypervolume' else 3}f"
    interval = f"{band.low:{digits}} to {band.high:{digits}}" if band.seeds > 1 else "–"
    return f"{band.median:{digits}}", interval


def _seeds(shown: StrategyComparison) -> str:
    return f"{len(shown.seeds)} seed{'s' if len(shown.seeds) != 1 else ''}"


def _pictures(shown: StrategyComparison) -> Pictures:
    wanted = {
        measure: [curve for curve in shown.curves if curve.measure == measure and any(curve.bands)]
        for measure in CURVES
    }
    order = [shown.baseline, *(variant.name for variant in shown.variants if variant.name != shown.baseline)]
    banded = ", with intervals over seeds" if len(shown.variants) <= BANDED else ""
    return Pictures(
        tuple(
            Picture(
                f"{MEASURES[measure].title.capitalize()}: median of {_seeds(shown)} over {unit_of(shown)} spent{banded}",
                f"{MEASURES[measure].title} of each variant over {unit_of(shown)} spent; the ends are in the table above",
                lambda curves=curves, measure=measure: draw(curves, order, MEASURES[measure].title, f"{unit_of(shown)} spent"),  # type: ignore[misc]
                address=f"pictures/{measure}.png",
            )
            for measure, curves in wanted.items()
            if curves
        )
    )  # fmt: skip


def draw(curves: Sequence[Curve], order: Sequence[str], label: str, axis: str) -> bytes:
    """Draw curves of one measure over the spent budget.

    Args:
        curves: One per variant.
        order: Names of the variants; the first gets the first colour.
        label: Label of the y axis.
        axis: Label of the x axis.

    Returns:
        A PNG.
    """
    figure, axes = canvas(measured=True)
    axes.set_prop_cycle(None)
    for curve in sorted(curves, key=lambda each: order.index(each.variant)):
        place = order.index(curve.variant)
        colour, style = COLOURS[place % len(COLOURS)], STYLES[place // len(COLOURS) % len(STYLES)]
        found = [(spent, band) for spent, band in zip(curve.spent, curve.bands, strict=True) if band is not None]
        spent = [each for each, _ in found]
        axes.step(
            spent,
            [band.median for _, band in found],
            style,
            where="post",
            color=colour,
            label=curve.variant,
            linewidth=1.7,
        )
        if len(order) <= BANDED and found and found[0][1].seeds > 1:
            low, high = [band.low for _, band in found], [band.high for _, band in found]
            axes.fill_between(spent, low, high, step="post", color=colour, alpha=0.14, linewidth=0)
    axes.set_xlabel(axis)
    axes.set_ylabel(label)
    axes.set_xlim(0, max((curve.spent[-1] for curve in curves), default=1.0) * 1.01)
    legend(axes)
    return png(figure)


def _reached(shown: StrategyComparison) -> Table:
    def share(name: str, measure: Literal["fitness", "hypervolume"]) -> str:
        curve = next((each for each in shown.curves if (each.variant, each.measure) == (name, measure)), None)
        if curve is None or curve.reaches is None:
            return "never"
        return f"{curve.reaches:,g} ({curve.reaches / shown.budget.amount:.0%})"

    rows = [(variant.name, *(share(variant.name, measure) for measure in CURVES)) for variant in shown.variants]
    caption = f"{unit_of(shown).capitalize()} spent until the median is as high as that of {shown.baseline} at the end"
    return Table(caption, ("<variant", *(MEASURES[measure].title for measure in CURVES)), rows)


def _not_helped(shown: StrategyComparison) -> tuple[str, ...]:
    if shown.not_helped or not shown.tests:
        return shown.not_helped
    if all(test.verdict is Verdict.TOO_FEW_SEEDS for test in shown.tests):
        return ("Nothing can be said: there are too few seeds for a test.",)
    if any(test.verdict is not Verdict.BETTER for test in shown.tests):
        return (
            "Of what could be tested every variant is better than the baseline; for the rest there are too few seeds.",
        )
    return ("Every variant is better than the baseline in every measure.",)


def _variants(shown: StrategyComparison) -> Table:
    rows = [
        (variant.name, variant.strategy, ", ".join(variant.overrides) or "as configured") for variant in shown.variants
    ]
    return Table("Variants", ("<variant", "<strategy", "<<settings"), rows)


def _facts(shown: StrategyComparison) -> Facts:
    problems = ", ".join(
        f"{value} {name.replace('_', '-')}" for name, value in shown.problems.items() if name != "source"
    )
    return Facts(
        (
            ("Where", "live runs" if shown.where == "live" else f"played on the gene table {shown.where}"),
            ("Base model", shown.base_model_name),
            ("Problems", f"{shown.problems.get('source', '')}: {problems}" if problems else str(shown.problems.get("source", "–"))),
            ("Budget", f"{_budget(shown)} for each variant with each seed; a result that was in the store is charged what it first cost"),
            ("Seeds", ", ".join(map(str, shown.seeds)) if len(shown.seeds) <= 20 else f"{shown.seeds[0]} to {shown.seeds[-1]}"),
        )
    )  # fmt: skip


def _charged(shown: StrategyComparison) -> Table:
    rows = []
    for variant in shown.variants:
        charged = [each.charged for each in shown.outcomes if each.variant == variant.name]
        seconds = [each.gpu_seconds for each in charged if each.gpu_seconds is not None]
        money = [each.money for each in charged if each.money is not None]
        if charged:
            rows.append((
                variant.name,
                f"{sum(each.trainings for each in charged) / len(charged):,.1f}",
                f"{sum(each.evaluations for each in charged) / len(charged):,.1f}",
                f"{sum(seconds) / len(seconds):,.0f}" if seconds else "–",
                f"{sum(money) / len(money):,.2f}" if any(money) else "–",
            ))  # fmt: skip
    columns = ("<variant", "trainings", "evaluations", "lane seconds", shown.currency)
    return Table("Charged per run, on average", columns, rows)
