"""Numbers, genes and comparisons in words, the same in every report, table and screen."""

from coral_core.config.gene_space import module_text
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.report.content import Contender, Gap, Report

NAMES = {
    "champion": "champion",
    "base_model": "base model",
    "default_lora": "default LoRA",
    "generation_0_median": "median of generation 0",
}
"""Keys of the final table -> how they are called."""


def share(value: float | None) -> str:
    """A share of bugs in percent; a dash when it is not known.

    >>> share(0.3929), share(None)
    ('39.3%', '–')
    """
    return "–" if value is None else f"{value:.1%}"


def number(value: float | None) -> str:
    """A score with three digits; a dash when it is not known."""
    return "–" if value is None else f"{value:.3f}"


def whole(value: int | None) -> str:
    """A count with thousands separated; a dash when it is not known."""
    return "–" if value is None else f"{value:,}"


def plural(count: int, noun: str, nouns: str = "") -> str:
    """A count and its noun.

    >>> plural(1, "training"), plural(2, "training"), plural(3, "try", "tries")
    ('1 training', '2 trainings', '3 tries')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {nouns or noun + 's'}"


def heavy_text(heavy: HeavyGenes | None) -> str:
    """Heavy genes in one line."""
    if heavy is None:
        return "–"
    modules = module_text(heavy.target_modules)
    return (
        f"{heavy.adapter} r{heavy.rank} α{heavy.alpha:g} dropout {heavy.dropout:g} {modules} lr {heavy.learning_rate:g}"
    )


def light_text(light: LightGenes | None) -> str:
    """Light genes in one line; under greedy decoding only those that have an effect."""
    if light is None:
        return "–"
    rest = f"penalty {light.repetition_penalty:.3g}, {light.token_limit} tokens"
    if not light.sampling:
        return f"greedy, {rest}"
    return f"sampling T {light.temperature:.3g} p {light.top_p:.3g} k {light.top_k}, {rest}"


def contenders(report: Report) -> list[tuple[str, Contender]]:
    """Name and scores of the champion and of what it must beat, as far as they are there."""
    found = [(name, getattr(report, key)) for key, name in NAMES.items()]
    return [(name, contender) for name, contender in found if contender is not None]


def repaired_text(found: Contender) -> str:
    """``112 of 285 held-out bugs (39.3%)``; with several samples a bug the count is of the first ones, and says so."""
    count, rate = f"{found.held_out_repaired} of {found.held_out_bugs} held-out bugs", share(found.held_out_pass_at_1)
    return (
        f"{count} ({rate})" if _one_sample(found) else f"{rate} of its tries at held-out bugs ({count} with the first)"
    )


def with_count(found: Contender) -> str:
    """``39.3% (112/285)``: share of repaired held-out bugs, and the count of first samples where it is known."""
    if found.held_out_bugs is None:
        return share(found.held_out_pass_at_1)
    first = "" if _one_sample(found) else "first tries: "
    return f"{share(found.held_out_pass_at_1)} ({first}{found.held_out_repaired}/{found.held_out_bugs})"


def _one_sample(found: Contender) -> bool:
    """Is the count what the share says?"""
    return abs((found.held_out_pass_at_1 or 0.0) * (found.held_out_bugs or 0) - (found.held_out_repaired or 0)) < 1e-6


def state_text(status: str) -> str:
    """``is running``, ``has failed``."""
    return "has failed" if status == "failed" else f"is {status}"


def gap_lines(report: Report) -> list[str]:
    """One sentence per comparison of the champion with another."""
    gaps = [(NAMES[key], getattr(report.gaps, f"champion_minus_{key}")) for key in list(NAMES)[1:]]
    return [gap_line(f"Champion less {name}", gap) for name, gap in gaps if gap is not None]


def gap_line(what: str, gap: Gap, one: str = "the champion") -> str:
    """``<what>: +4.0 points, better (...)``; a difference within noise is called that."""
    start = f"{what}: {100 * gap.difference:+.1f} points"
    if gap.p_value is None or gap.interval is None:
        return f"{start} (no paired test: an evaluation has left the store)."
    low, high = gap.interval
    test = f"{gap.only_champion} bugs only {one} repairs, {gap.only_other} only the other; p = {gap.p_value:.2g}, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
    if gap.distinguishable:
        return f"{start}, {gap.verdict} ({test})."
    need = (
        f"a difference of {gap.resolution} bugs would be needed"
        if gap.resolution
        else "too few bugs differ for any verdict"
    )
    return f"{start}, not distinguishable from noise ({test}; {need})."


def splits_text(report: Report) -> str:
    """Problems by split: ``40 fitness, 30 held-out``; empty before they are counted."""
    counts = report.problems.get("counts", {})
    return ", ".join(f"{count} {name.replace('_', '-')}" for name, count in counts.items())
