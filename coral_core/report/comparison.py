"""Two runs side by side: what was configured differently, whose champion is better and how sure, what each cost."""

from typing import Any

from pydantic import Field

from coral_core.config import RunConfig
from coral_core.frozen import Frozen
from coral_core.jobs.jobs import Evaluation
from coral_core.report.build_report import build_report
from coral_core.report.content import Contender, Gap, GenerationLine, Report, Totals
from coral_core.report.evidence import Repeats, Spending
from coral_core.report.history_records import History
from coral_core.report.paired import compare
from coral_core.report.wording import gap_line, state_text
from coral_core.runs.run_folder import RunFolder
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
    """`one` (A) against `other` (B); either may still be under way."""
    (folder_a, store_a), (folder_b, store_b) = one, other
    a, b = build_report(folder_a, store_a), build_report(folder_b, store_b)
    config_a, config_b = folder_a.config(), folder_b.config()
    why_not = _why_not(a, b)
    gap = None
    if not why_not:
        ours, theirs = _held_out(folder_a, store_a), _held_out(folder_b, store_b)
        why_not = _gone(a, ours) or _gone(b, theirs)
        gap = _gap(a, b, ours, theirs)
    return Comparison(
        a=_side(a),
        b=_side(b),
        configuration=_differences(_leaves(config_a), _leaves(config_b)),
        versions=_differences(a.versions, b.versions),
        comparable=not why_not,
        why_not=why_not,
        gap=gap,
        text=gap_line(f"Champion of {a.run_id} less champion of {b.run_id}", gap, "the first")
        if gap is not None and not why_not
        else why_not,
        fitness_comparable=_same_fitness(a, b, config_a, config_b),
        generations=_generations(a, b),
    )


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one flat one with dotted keys.

    >>> leaves({"search": {"population": 8}, "seed": 0})
    {'search.population': 8, 'seed': 0}
    """
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found.update(leaves(inner, f"{prefix}.{key}" if prefix else str(key)))
    return found


def _leaves(config: RunConfig) -> dict[str, Any]:
    return leaves(config.model_dump(mode="json", exclude={"runs": True, "store": {"path"}}))


def _differences(one: dict[str, Any], other: dict[str, Any]) -> tuple[Difference, ...]:
    keys = list(dict.fromkeys([*one, *other]))
    return tuple(
        Difference(key=key, a=one.get(key), b=other.get(key)) for key in keys if one.get(key) != other.get(key)
    )


def _side(report: Report) -> Side:
    return Side(**{name: getattr(report, name) for name in Side.model_fields})


def _why_not(a: Report, b: Report) -> str:
    for report in (a, b):
        if report.champion is None or report.champion.held_out_pass_at_1 is None:
            if report.status == "finished":
                return f"Not comparable: the champion of {report.run_id} has no score on the held-out bugs. See What failed in its report."
            return f"Not comparable: {report.run_id} {state_text(report.status)} and has not opened its held-out split yet."
    one, other = (report.problems.get("digests", {}).get("held_out") for report in (a, b))
    if one is None or other is None:
        return "Not comparable: a history does not name its held-out problems."
    if one != other:
        return (
            f"Not comparable by bug: the runs have different held-out problems (digests {one[:12]} and {other[:12]}). "
            "Give both the same problems section to compare their champions."
        )
    return ""


def _held_out(folder: RunFolder, store: Store) -> Evaluation | None:
    line = History.of(folder).held_out("champion")
    return store.read_evaluation(line.evaluation_digest) if line else None


def _gone(report: Report, evaluation: Evaluation | None) -> str:
    if evaluation is not None:
        return ""
    return f"Not comparable by bug: the champion's held-out evaluation of {report.run_id} has left its store. Run it again to make it anew."


def _gap(a: Report, b: Report, ours: Evaluation | None, theirs: Evaluation | None) -> Gap | None:
    if a.champion is None or b.champion is None:
        return None
    difference = (a.champion.held_out_pass_at_1 or 0.0) - (b.champion.held_out_pass_at_1 or 0.0)
    return compare(difference, ours.repaired() if ours else None, theirs.repaired() if theirs else None)


def _same_fitness(a: Report, b: Report, config_a: RunConfig, config_b: RunConfig) -> bool:
    one, other = (report.problems.get("digests", {}).get("fitness") for report in (a, b))
    limits_a, limits_b = (config.scoring.judge.model_dump(exclude={"workers"}) for config in (config_a, config_b))
    return one is not None and one == other and config_a.scoring.weights == config_b.scoring.weights and limits_a == limits_b  # fmt: skip


def _generations(a: Report, b: Report) -> tuple[PerGeneration, ...]:
    one = {line.generation: line.best_fitness for line in a.generations}
    other = {line.generation: line.best_fitness for line in b.generations}
    return tuple(
        PerGeneration(generation=number, a=one.get(number), b=other.get(number)) for number in sorted({*one, *other})
    )
