"""Compares two runs: configuration, champions with a paired test, best fitness by generation, cost."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from coral_core.config import RunConfig
from coral_core.frozen import Frozen
from coral_core.report.build_report import build_report
from coral_core.report.content import Contender, Gap, GenerationLine, Repeats, Report, Spending
from coral_core.report.paired import compare
from coral_core.report.wording import gap_text, state_text
from coral_core.runs.run_folder import RunFolder
from coral_core.runs.sessions import Totals
from coral_core.store.store import Store


class Side(Frozen):
    """One of the two runs."""

    run_id: str
    path: str
    status: str
    strategy: str
    seed: int
    edition: int
    base_model_name: str
    champion: Contender | None
    default_lora: Contender | None
    tuned_lora: Contender | None
    repeats: Repeats | None
    generations: tuple[GenerationLine, ...]
    totals: Totals
    spending: Spending | None


class Difference(Frozen):
    """One key with two values; null where a run does not have it."""

    key: str
    a: Any
    b: Any


class PerGeneration(Frozen):
    """Best fitness so far; null for a run that had no such generation."""

    generation: int
    a: float | None
    b: float | None


class Comparison(Frozen):
    """Everything that `coral report A B --json` prints."""

    schema_version: int = 1
    a: Side
    b: Side
    configuration: tuple[Difference, ...] = Field(description="Keys that differ, defaults included; folders left out.")
    versions: tuple[Difference, ...] = Field(description="Versions and machine that differ.")
    comparable: bool = Field(description="Are the champions measured on the same held-out problems?")
    why_not: str = Field(description="Why they are not; empty when they are.")
    gap: Gap | None = Field(description="A's champion (`champion`) less B's (`other`), paired by held-out bug.")
    text: str = Field(description="The gap in a sentence, or why there is none.")
    fitness_comparable: bool = Field(description="Same fitness problems, objectives' weights and judge limits.")
    generations: tuple[PerGeneration, ...]


def compare_runs(one: tuple[RunFolder, Store], other: tuple[RunFolder, Store]) -> Comparison:
    """Compare two runs, finished or not.

    Args:
        one: Folder and store of run A.
        other: Folder and store of run B.

    Raises:
        StoreError: a line of a history is broken.
    """
    a, b = build_report(*one), build_report(*other)
    configs = one[0].config(), other[0].config()
    gap, why_not = _gap((a, one[1]), (b, other[1]))
    text = f"Champion of {a.run_id} less champion of {b.run_id}: {gap_text(gap)}." if gap else why_not
    best = [{line.generation: line.best_fitness for line in report.generations} for report in (a, b)]
    return Comparison(
        a=_side(a),
        b=_side(b),
        configuration=_differences(*map(_leaves, configs)),
        versions=_differences(a.versions, b.versions),
        comparable=not why_not,
        why_not=why_not,
        gap=gap,
        text=text,
        fitness_comparable=_same_fitness(a, b, *configs),
        generations=tuple(
            PerGeneration(generation=number, a=best[0].get(number), b=best[1].get(number))
            for number in sorted({*best[0], *best[1]})
        ),
    )


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one with dotted keys.

    Args:
        value: A mapping; anything else is a leaf.
        prefix: Dotted key of `value` itself; empty at the top.

    Example:
        >>> leaves({"search": {"population": 8}, "seed": 0})
        {'search.population': 8, 'seed': 0}
    """
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(leaves(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _leaves(config: RunConfig) -> dict[str, Any]:
    return leaves(config.model_dump(mode="json", exclude={"runs": True, "store": {"path"}}))


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[Difference, ...]:
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return tuple(Difference(key=key, a=one.get(key), b=other.get(key)) for key in keys)


def _side(report: Report) -> Side:
    return Side(**{name: getattr(report, name) for name in Side.model_fields})


def _gap(*sides: tuple[Report, Store]) -> tuple[Gap | None, str]:
    """The gap between A's champion and B's; or None, and why they cannot be compared."""
    shares: list[dict[str, float]] = []
    rates: list[float] = []
    for report, store in sides:
        champion = report.champion
        if champion is None or champion.held_out_pass_at_1 is None or not champion.held_out_evaluation_digest:
            if report.status == "finished":
                return None, f"Not comparable: the champion of {report.run_id} has no score on the held-out bugs."
            return (
                None,
                f"Not comparable: {report.run_id} {state_text(report.status)} and has not opened its held-out split yet.",
            )
        evaluation = store.read_evaluation(champion.held_out_evaluation_digest)
        if evaluation is None:
            return (
                None,
                f"Not comparable: the champion's held-out evaluation of {report.run_id} has left its store. Run it again to make it anew.",
            )
        shares.append(evaluation.repaired())
        rates.append(champion.held_out_pass_at_1)
    one, other = (report.problems.get("digests", {}).get("held_out") for report, _ in sides)
    if one is None or one != other:
        return (
            None,
            "Not comparable by bug: the runs have different held-out problems. Give both the same problems section.",
        )
    return compare(rates[0] - rates[1], *shares), ""


def _same_fitness(a: Report, b: Report, config_a: RunConfig, config_b: RunConfig) -> bool:
    one, other = (report.problems.get("digests", {}).get("fitness") for report in (a, b))
    limits_a, limits_b = (config.scoring.judge.model_dump(exclude={"workers"}) for config in (config_a, config_b))
    return one is not None and one == other and config_a.scoring.weights == config_b.scoring.weights and limits_a == limits_b  # fmt: skip
