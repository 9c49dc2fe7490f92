"""Formats numbers, genes and comparisons as text, alike in every report, table and screen."""

from coral_core.config.gene_space import module_text
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.jobs.jobs import DeviceTime
from coral_core.report.content import Contender, Gap, Report

NAMES = {
    "champion": "champion",
    "base_model": "base model",
    "default_lora": "default LoRA",
    "tuned_lora": "tuned LoRA",
    "longer_lora": "LoRA trained as often",
    "generation_0_median": "median of generation 0",
}
"""Key of the final table -> name in texts."""


def share(value: float | None) -> str:
    """A share of bugs in percent; a dash when it is not known.

    >>> share(0.3929), share(None)
    ('39.3%', '–')
    """
    return "–" if value is None else f"{value:.1%}"


def number(value: float | None) -> str:
    """A score with three digits; a dash when it is not known."""
    return "–" if value is None else f"{value:.3f}"


def span(interval: tuple[float, float] | None) -> str:
    """An interval of a share in percent; a dash when it is not known.

    >>> span((0.051, 0.1))
    '5.1% to 10.0%'
    """
    return "–" if interval is None else f"{share(interval[0])} to {share(interval[1])}"


def whole(value: int | None) -> str:
    """A count with thousands separated; a dash when it is not known."""
    return "–" if value is None else f"{value:,}"


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    Args:
        count: How many.
        noun: In the singular; its plural must end in a plain s.

    Example:
        >>> plural(1, "training"), plural(2, "training")
        ('1 training', '2 trainings')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def device_text(device: DeviceTime) -> str:
    """What a device did, in percent of its time; a dash when nothing is known.

    >>> device_text(DeviceTime(computing=83, loading=5, judging=9, idle=3))
    'busy 83 %, loading 5 %, waiting 12 % (for the judge 9 %, for jobs and the store 3 %)'
    """
    if not (found := {name: f"{value:.0%}".replace("%", " %") for name, value in device.shares().items()}):
        return "–"
    return (
        f"busy {found['computing']}, loading {found['loading']}, waiting {found['waiting']} "
        f"(for the judge {found['judging']}, for jobs and the store {found['idle']})"
    )


def heavy_text(heavy: HeavyGenes | None) -> str:
    """Heavy genes in one line."""
    if heavy is None:
        return "–"
    modules = module_text(heavy.target_modules)
    again = f" (trained again, number {heavy.repeat})" if heavy.repeat else ""
    kind = heavy.adapter if heavy.scaling == "lora" else f"{heavy.adapter} {heavy.scaling}"
    text = (
        f"{kind} r{heavy.rank} α{heavy.alpha:g} dropout {heavy.dropout:g} {modules} lr {heavy.learning_rate:g}{again}"
    )
    rates = [f"{earlier.learning_rate:g}" for earlier in heavy.chain()[:-1]]
    trainings = "training" if len(rates) == 1 else "trainings"
    return f"{text} (after {len(rates)} {trainings}: lr {', '.join(rates)})" if rates else text


def light_text(light: LightGenes | None) -> str:
    """Light genes in one line; under greedy decoding only those that have an effect."""
    if light is None:
        return "–"
    rest = f"penalty {light.repetition_penalty:.3g}, {light.token_limit} tokens"
    if not light.sampling:
        return f"greedy, {rest}"
    return f"sampling T {light.temperature:.3g} p {light.top_p:.3g} k {light.top_k}, {rest}"


def contenders(report: Report) -> list[tuple[str, Contender]]:
    """Name and scores of the champion and of its baselines; those without a record yet are left out."""
    lines = [(name, getattr(report, key)) for key, name in NAMES.items()]
    return [(name, contender) for name, contender in lines if contender is not None]


def with_count(contender: Contender) -> str:
    """Share of repaired held-out bugs, with the count by first samples if it is known: ``39.3% (112/285)``."""
    rate, repaired, bugs = contender.held_out_pass_at_1, contender.held_out_repaired, contender.held_out_bugs
    if rate is None or repaired is None or bugs is None:
        return share(rate)
    first = "" if abs(rate * bugs - repaired) < 1e-6 else "first samples: "
    return f"{share(rate)} ({first}{repaired}/{bugs})"


def state_text(status: str) -> str:
    """The state of a run as a predicate.

    >>> state_text("running"), state_text("failed")
    ('is running', 'has failed')
    """
    return "has failed" if status == "failed" else f"is {status}"


def gap_rows(report: Report) -> list[tuple[str, str]]:
    """One row per comparison of the champion: its name, and the gap as text."""
    gaps = [(name, getattr(report.gaps, f"champion_minus_{key}", None)) for key, name in NAMES.items()]
    return [(f"Champion less {name}", gap_text(gap)) for name, gap in gaps if gap is not None]


def gap_text(gap: Gap) -> str:
    """A gap in points with its paired test: ``+4.0 points, better (...)``; says so if it is within noise."""
    points = f"{100 * gap.difference:+.1f} points"
    if gap.p_value is None or gap.interval is None:
        return f"{points} (no paired test: an evaluation has left the store)"
    low, high = gap.interval
    verdict = gap.verdict if gap.distinguishable else "not distinguishable from noise"
    test = (
        f"{gap.only_champion} bugs only the first repairs, {gap.only_other} only the second; p = {gap.p_value:.2g}, "
        f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
    )
    if not gap.distinguishable and gap.resolution:
        test += f"; a difference of {gap.resolution} bugs would be needed"
    return f"{points}, {verdict} ({test})"


def splits_text(report: Report) -> str:
    """Problems by split: ``40 fitness, 30 held-out``; empty before they are counted."""
    counts = report.problems.get("counts", {})
    return ", ".join(f"{count} {name.replace('_', '-')}" for name, count in counts.items())
