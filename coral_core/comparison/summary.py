"""What a comparison says: curves over the spent budget, values at its end, tests against the baseline, ablations, sentences."""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from statistics import median
from typing import Literal, NamedTuple

from pydantic import Field

from coral_core.comparison.outcomes import Outcome
from coral_core.comparison.plan import UNITS, Budget, Plan, Variant
from coral_core.comparison.seed_statistics import (
    LEVEL,
    a12,
    a12_interval,
    effect,
    holm,
    median_interval,
    signed_ranks,
    smallest_p,
    wilcoxon,
)
from coral_core.frozen import Frozen
from coral_core.runs.run_folder import versions

STEPS = 48
"""Amounts at which curves over seconds or money have a value; those over trainings have one at each training."""


class Measure(NamedTuple):
    """A number per run that variants are compared by."""

    title: str
    value: Callable[[Outcome], float | None]


MEASURES = {
    "fitness": Measure("best fitness", lambda outcome: outcome.last.fitness if outcome.last else None),
    "hypervolume": Measure("hypervolume", lambda outcome: outcome.last.hypervolume if outcome.last else None),
    "held_out": Measure("held-out pass@1", lambda outcome: outcome.held_out),
    "repeats": Measure("fitness when trained anew", lambda outcome: outcome.repeats),
}
"""Key in JSON -> measure; those that no run has are left out."""
CURVES: tuple[Literal["fitness", "hypervolume"], ...] = ("fitness", "hypervolume")


class Verdict(StrEnum):
    """What the test of a variant says."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference shown"
    TOO_FEW_SEEDS = "too few seeds"


class Band(Frozen):
    """The median over seeds, and an interval of it."""

    median: float
    low: float
    high: float
    confidence: float = Field(description="Of the interval, in [0, 1]: 0.95 or a little more, less below 6 seeds.")
    seeds: int = Field(description="Seeds with a value.")

    @classmethod
    def of(cls, values: Sequence[float]) -> "Band":
        """The band of at least one value."""
        low, high, confidence = median_interval(values)
        return cls(median=median(values), low=low, high=high, confidence=confidence, seeds=len(values))


class Curve(Frozen):
    """A measure of one variant over the spent budget."""

    variant: str
    measure: Literal["fitness", "hypervolume"]
    spent: tuple[float, ...]
    bands: tuple[Band | None, ...] = Field(
        description="One per amount; null while a seed has no value yet, but for those that never get one."
    )
    reaches: float | None = Field(
        description="Amount at which the median is first as high as the baseline's at the end; null: never."
    )


class Standing(Frozen):
    """A measure of one variant with the whole budget."""

    variant: str
    measure: str
    band: Band


class Test(Frozen):
    """A variant against another one, paired by seed."""

    __test__ = False  # not a test class of pytest

    variant: str
    against: str
    measure: str
    pairs: int = Field(description="Seeds with a value of both.")
    difference: Band = Field(description="The variant's value less the other's.")
    a12: float = Field(description="Vargha and Delaney's A12: above 0.5 where the variant is better.")
    a12_low: float | None = Field(description="95 % bootstrap interval of A12; null for one pair.")
    a12_high: float | None
    signed_ranks: float = Field(
        description="Sum of the signed ranks of the differences: positive where the variant is better."
    )
    p: float | None = Field(description="Wilcoxon's signed-rank test, two-sided, exact; null for too few seeds.")
    p_corrected: float | None = Field(description="p corrected for the number of variants tested (Holm).")
    verdict: Verdict


class StrategyComparison(Frozen):
    """Everything that `coral compare CONFIG --json` prints."""

    schema_version: int = 1
    name: str
    where: str = Field(description="`live`, or the name of the gene table.")
    base_model_name: str
    problems: dict[str, int | str] = Field(description="Source and counts of the problems that all runs share.")
    budget: Budget
    currency: str
    seeds: tuple[int, ...] = Field(description="Seeds of which every variant has ended.")
    planned_seeds: tuple[int, ...]
    baseline: str
    variants: tuple[Variant, ...]
    standings: tuple[Standing, ...]
    tests: tuple[Test, ...] = Field(description="Each variant against the baseline; ablations are left out.")
    ablations: tuple[Test, ...] = Field(description="Each changed variant against the same strategy as configured.")
    curves: tuple[Curve, ...]
    conclusions: tuple[str, ...] = Field(description="One sentence per test.")
    not_helped: tuple[str, ...] = Field(description="What did not help, in sentences.")
    notes: tuple[str, ...] = Field(description="What limits these results.")
    outcomes: tuple[Outcome, ...]
    versions: dict[str, str]


def summarise(
    plan: Plan, outcomes: Iterable[Outcome], where: str, problems: dict[str, int | str]
) -> StrategyComparison:
    """Compare the outcomes of a plan.

    Args:
        plan: What was compared.
        outcomes: Those that there are. Seeds of which a variant is missing are left out, so that all comparisons are paired.
        where: `live`, or the name of the gene table.
        problems: Source and counts of the problems.
    """
    found = {(outcome.variant, outcome.seed): outcome for outcome in outcomes}
    names = [variant.name for variant in plan.variants]
    seeds = tuple(seed for seed in plan.seeds if all((name, seed) in found for name in names))
    by_variant = {name: [found[name, seed] for seed in seeds] for name in names}
    kept = [outcome for name in names for outcome in by_variant[name]]
    measures = [key for key, measure in MEASURES.items() if any(measure.value(outcome) is not None for outcome in kept)]
    changed = {variant.name: parent.name for variant in plan.variants if (parent := plan.parent(variant)) is not None}
    ablations = _tests(by_variant, list(changed.items()), measures)
    others = [(name, plan.baseline) for name in names if name != plan.baseline and name not in changed]
    tests = _tests(by_variant, others, measures)
    return StrategyComparison(
        name=plan.config.name,
        where=where,
        base_model_name=plan.config.base_model.name,
        problems=problems,
        budget=plan.budget,
        currency=plan.config.budget.currency,
        seeds=seeds,
        planned_seeds=plan.seeds,
        baseline=plan.baseline,
        variants=plan.variants,
        standings=tuple(_standings(by_variant, measures)),
        tests=tests,
        ablations=ablations,
        curves=tuple(_curves(by_variant, plan)) if seeds else (),
        conclusions=tuple(map(sentence, tests)),
        not_helped=tuple(_not_helped(tests, ablations)),
        notes=tuple(_notes(plan, seeds, kept)),
        outcomes=tuple(kept),
        versions=versions(),
    )


def _values(outcomes: Iterable[Outcome], measure: str) -> list[float | None]:
    return [MEASURES[measure].value(outcome) for outcome in outcomes]


def _standings(by_variant: dict[str, list[Outcome]], measures: Sequence[str]) -> Iterable[Standing]:
    for name, outcomes in by_variant.items():
        for measure in measures:
            if values := [value for value in _values(outcomes, measure) if value is not None]:
                yield Standing(variant=name, measure=measure, band=Band.of(values))


# -- tests -------------------------------------------------------------------------------------


def _tests(
    by_variant: dict[str, list[Outcome]], pairs: Sequence[tuple[str, str]], measures: Sequence[str]
) -> tuple[Test, ...]:
    """Tests of all pairs of variants; p values are corrected within each measure."""
    tests: list[Test] = []
    for measure in measures:
        of_measure = [test for pair in pairs if (test := _test(by_variant, *pair, measure)) is not None]
        corrected = iter(holm([test.p for test in of_measure if test.p is not None]))
        for test in of_measure:
            p = next(corrected) if test.p is not None else None
            tests.append(test.model_copy(update={"p_corrected": p, "verdict": _verdict(test, p)}))
    return tuple(tests)


def _test(by_variant: dict[str, list[Outcome]], name: str, against: str, measure: str) -> Test | None:
    """A test without its corrected p; None when no seed has both values."""
    both = zip(_values(by_variant[name], measure), _values(by_variant[against], measure), strict=True)
    pairs = [(ours, theirs) for ours, theirs in both if ours is not None and theirs is not None]
    if not pairs:
        return None
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    interval = a12_interval(ours, theirs) if len(pairs) > 1 else None
    return Test(
        variant=name,
        against=against,
        measure=measure,
        pairs=len(pairs),
        difference=Band.of([one - other for one, other in pairs]),
        a12=a12(ours, theirs),
        a12_low=interval and interval.low,
        a12_high=interval and interval.high,
        signed_ranks=signed_ranks(ours, theirs),
        p=wilcoxon(ours, theirs) if smallest_p(len(pairs)) < LEVEL else None,
        p_corrected=None,
        verdict=Verdict.TOO_FEW_SEEDS,
    )


def _verdict(test: Test, p: float | None) -> Verdict:
    if p is None:
        return Verdict.TOO_FEW_SEEDS
    if p >= LEVEL:
        return Verdict.NO_DIFFERENCE
    return Verdict.BETTER if test.signed_ranks > 0 else Verdict.WORSE  # the test is about these, whatever the median is


# -- curves ------------------------------------------------------------------------------------


def _curves(by_variant: dict[str, list[Outcome]], plan: Plan) -> Iterable[Curve]:
    budget = plan.budget
    count = int(budget.amount) if budget.unit == "trainings" else STEPS
    spent = tuple(budget.amount * step / count for step in range(1, count + 1))
    for measure in CURVES:
        bands = {name: [_band(outcomes, measure, amount) for amount in spent] for name, outcomes in by_variant.items()}
        goal = bands[plan.baseline][-1]
        for name, found in bands.items():
            reaches = next(
                (
                    amount
                    for amount, band in zip(spent, found, strict=True)
                    if goal and band and band.median >= goal.median
                ),
                None,
            )
            yield Curve(variant=name, measure=measure, spent=spent, bands=tuple(found), reaches=reaches)


def _band(outcomes: Sequence[Outcome], measure: Literal["fitness", "hypervolume"], spent: float) -> Band | None:
    outcomes = [each for each in outcomes if each.last is not None and getattr(each.last, measure) is not None]
    latest = [next((point for point in reversed(each.points) if point.spent <= spent), None) for each in outcomes]
    values = [value for point in latest if point is not None and (value := getattr(point, measure)) is not None]
    return Band.of(values) if values and len(values) == len(outcomes) else None


# -- sentences ---------------------------------------------------------------------------------


def sentence(test: Test) -> str:
    """A test in a sentence."""
    title, difference = MEASURES[test.measure].title, test.difference
    size = f"median difference {difference.median:+.4f}, A12 {test.a12:.2f}, {effect(test.a12)}"
    match test.verdict:
        case Verdict.TOO_FEW_SEEDS:
            span = f"{difference.low:+.4f} to {difference.high:+.4f}"
            return f"{test.variant} against {test.against}, {title}: {size}; over {_seeds(test.pairs)} {span}. Not tested: too few seeds."
        case Verdict.NO_DIFFERENCE:
            return f"{test.variant} against {test.against}, {title}: no difference shown ({size}, {_p(test)})."
    return f"{test.variant} is {test.verdict} than {test.against} in {title} ({size}, {_p(test)})."


def _p(test: Test) -> str:
    p = test.p_corrected
    return "no p" if p is None else "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def _seeds(count: int) -> str:
    return f"{count} seed" if count == 1 else f"{count} seeds"


def _not_helped(tests: Sequence[Test], ablations: Sequence[Test]) -> Iterable[str]:
    """Variants that are not better than the baseline; changes of a strategy that make it no worse."""
    wordings = (
        (tests, Verdict.NO_DIFFERENCE, "{variant} did not help in {measures}: no difference to {against} is shown."),
        (tests, Verdict.WORSE, "{variant} harmed {measures}: it is worse than {against}."),
        (ablations, Verdict.NO_DIFFERENCE, "{measures}: no effect is shown of what {variant} changes in {against}."),
        (
            ablations,
            Verdict.BETTER,
            "{measures}: {variant} is better than {against} as configured; what it changes harms.",
        ),
    )
    for found, verdict, wording in wordings:
        titles: dict[tuple[str, str], list[str]] = {}
        for test in found:
            if test.verdict is verdict:
                titles.setdefault((test.variant, test.against), []).append(MEASURES[test.measure].title)
        for (variant, against), measures in titles.items():
            line = wording.format(variant=variant, against=against, measures=" and ".join(measures))
            yield line[:1].upper() + line[1:] if wording.startswith("{measures}") else line


def _notes(plan: Plan, seeds: Sequence[int], outcomes: Sequence[Outcome]) -> Iterable[str]:
    if (count := len(seeds)) < len(plan.seeds):
        yield f"{count} of {len(plan.seeds)} seeds have ended; the others are not in these numbers."
    if count and smallest_p(count) >= LEVEL:
        yield (
            f"Too few seeds for a test: with {count} Wilcoxon's smallest possible p is {smallest_p(count):.2g}. Intervals are the "
            "range of the seeds. Give at least 6 seeds; 20 or more show differences of medium size."
        )
    for variant in plan.variants:
        mine = [outcome for outcome in outcomes if outcome.variant == variant.name and outcome.ended]
        if none := [outcome for outcome in mine if not outcome.points]:
            yield f"{variant.name} has no values with {_seeds(len(none))} of {count}, which its tests leave out: {none[0].ended}."
        early = [outcome for outcome in mine if outcome.points]
        if early:
            yield f"{variant.name} spent less than the budget with {_seeds(len(early))} of {count}: {early[0].ended}."
    if plan.budget.unit != "trainings":
        yield (
            f"A run ends with the generation that reaches {plan.budget}. Curves end at the budget; the held-out pass@1 is that of the "
            "champion at the end of that generation."
        )


def unit_of(comparison: StrategyComparison) -> str:
    """Name of the budget's unit: trainings, GPU seconds, or the currency."""
    return comparison.currency if comparison.budget.unit == "money" else UNITS[comparison.budget.unit]
