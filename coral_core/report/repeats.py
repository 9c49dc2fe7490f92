"""Seed repeats of the champion: how much of its score was luck."""

import statistics
from collections.abc import Sequence

from coral_core.report.evidence import RepeatLine, Repeats
from coral_core.report.history_records import History


def seed_repeats(history: History) -> Repeats | None:
    """The repeats of a finished run; None when there are none (search.champion_repeats 0, or not at the end yet)."""
    final = history.final
    champion = history.genomes.get(final.champion) if final else None
    if final is None or champion is None or not final.repeats:
        return None
    default = history.baselines.get("default_lora")
    scores = [line.fitness for line in final.repeats if line.fitness is not None]
    repaired = [line.pass_at_1 for line in final.repeats if line.pass_at_1 is not None]
    return Repeats(
        n=len(scores),
        lines=tuple(RepeatLine.model_validate(line, from_attributes=True) for line in final.repeats),
        own_fitness=champion.fitness,
        own_pass_at_1=champion.pass_at_1,
        mean_fitness=_mean(scores),
        sd_fitness=_sd(scores),
        mean_pass_at_1=_mean(repaired),
        sd_pass_at_1=_sd(repaired),
        above_default=(
            sum(score > default.fitness for score in scores) if default and default.fitness is not None else None
        ),
    )


def repeats_text(found: Repeats | None) -> str:
    """One or two sentences for readers."""
    if found is None:
        return "The champion was not repeated with other seeds, so its score on the fitness split holds some luck: it was the best of many. Set search.champion_repeats to see how much."
    if found.mean_fitness is None or found.own_fitness is None:
        return "None of the champion's repeats with other seeds could be scored: its genes are not reliable."
    spread = "" if found.sd_fitness is None else f" ± {found.sd_fitness:.3f} (standard deviation)"
    text = (
        f"Trained and evaluated anew with {found.n} other {'seed' if found.n == 1 else 'seeds'}, the champion's genes reach a fitness of "
        f"{found.mean_fitness:.3f}{spread} on the fitness split (n = {found.n}); the champion itself, chosen as the best of many, had {found.own_fitness:.3f}."
    )
    if found.above_default is not None:
        text += f" {found.above_default} of {found.n} repeats are above the default LoRA."
    lost = len(found.lines) - found.n
    return text + (f" {lost} of {len(found.lines)} repeats had no score." if lost else "")


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _sd(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
