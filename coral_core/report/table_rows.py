"""Rows of the tables of report.html: the `Report` as text, a function per table."""

from typing import Any

from coral_core.report.content import Contender, Report
from coral_core.report.history_records import History
from coral_core.report.markdown import NAMES, heavy_text, light_text, number, plural, share, with_count

Rows = list[tuple[object, ...]]


def named(report: Report) -> list[tuple[str, Contender]]:
    """Champion and what it must beat, as far as they are there."""
    found = {
        "champion": report.champion,
        "base_model": report.base_model,
        "default_lora": report.default_lora,
        "generation_0_median": report.generation_0_median,
    }
    return [(NAMES[name], contender) for name, contender in found.items() if contender is not None]


def cards(report: Report) -> list[dict[str, str]]:
    """The numbers on top."""
    rows = [
        {"number": share(contender.held_out_pass_at_1), "text": f"{name}: held-out bugs repaired"}
        for name, contender in named(report)[:3]
        if contender.held_out_pass_at_1 is not None
    ]
    gap = report.gaps.champion_minus_default_lora
    if gap is not None and gap.p_value is not None:
        rows.append({"number": f"{100 * gap.difference:+.1f}", "text": f"points over the default LoRA, p = {gap.p_value:.2g}"})  # fmt: skip
    if report.repeats is not None and report.repeats.mean_fitness is not None:
        found = report.repeats
        spread = "" if found.sd_fitness is None else f"± {found.sd_fitness:.3f} "
        text = f"{spread}fitness of the champion with {plural(found.n, 'other seed')}; chosen at {number(found.own_fitness)}"
        rows.append({"number": number(found.mean_fitness), "text": text})
    return rows


def contenders(report: Report) -> Rows:
    rows: Rows = []
    for name, found in named(report):
        parameters = "–" if found.trainable_parameters is None else f"{found.trainable_parameters:,}"
        rows.append((name, with_count(found),
                     share(found.fitness_pass_at_1), number(found.fitness), parameters, found.genome_id or "–"))  # fmt: skip
    return rows


def scores(report: Report) -> Rows:
    champion = report.champion
    if champion is None:
        return []
    return [
        (name, number(value), number(champion.held_out_scores.get(name)))
        for name, value in sorted(champion.scores.items())
    ]


def repeats(report: Report) -> Rows:
    found = report.repeats
    if found is None:
        return []
    rows: Rows = [
        ("champion itself", number(found.own_fitness), share(found.own_pass_at_1), "chosen as the best of many")
    ]
    rows += [
        (f"seed {line.replicate}", number(line.fitness), share(line.pass_at_1), f"{line.infeasible}: {line.reason}" if line.infeasible else "")
        for line in found.lines
    ]  # fmt: skip
    if found.mean_fitness is not None:
        rows.append((f"mean of {found.n} repeats", number(found.mean_fitness), share(found.mean_pass_at_1), ""))
    if found.sd_fitness is not None:
        rows.append(("standard deviation", number(found.sd_fitness), share(found.sd_pass_at_1), ""))
    return rows


def generations(report: Report) -> Rows:
    return [
        (
            line.generation, line.best or "–", number(line.best_fitness), number(line.mean_fitness), share(line.best_pass_at_1),
            share(line.monitor_pass_at_1), number(line.hypervolume), line.front_size, line.unique_adapters, line.infeasible,
        )
        for line in report.generations
    ]  # fmt: skip


def front(report: Report) -> Rows:
    ordered = sorted(report.pareto_front, key=lambda point: -(point.fitness or 0.0))
    return [
        (
            point.genome_id, number(point.fitness), *(number(point.scores.get(key)) for key in ("bugfix", "retention", "cost")),
            f"{point.trainable_parameters:,}", heavy_text(point.heavy), light_text(point.light),
        )
        for point in ordered
    ]  # fmt: skip


def genes(report: Report) -> list[dict[str, Any]]:
    rows = []
    for effect in report.genes:
        best = max(effect.levels, key=lambda level: level.mean)
        low, high = effect.interval
        rows.append(
            {
                "name": effect.gene.replace("_", " "),
                "percent": round(100 * effect.share),
                "share": f"{effect.share:.0%}",
                "interval": f"{low:.0%} to {high:.0%}",
                "p": f"{effect.p_value:.3f}",
                "genomes": effect.genomes,
                "verdict": "clear" if effect.clear else "not distinguishable",
                "best": f"{best.value} (mean {best.mean:.3f}, n = {best.genomes})",
            }
        )
    return rows


def operators(report: Report) -> Rows:
    rows: Rows = []
    for line in report.operators:
        change = "–" if line.mean_change is None else f"{line.mean_change:+.3f}"
        error = "" if line.error is None else f" ± {line.error:.3f}"
        improved = f"{line.improved} ({line.improved / line.compared:.0%})" if line.compared else "–"
        rows.append((line.operator, line.children, line.infeasible, line.compared or "–", improved, change + error,
                     number(line.best), line.new_champions))  # fmt: skip
    return rows


def ancestors(report: Report) -> Rows:
    return [
        (a.genome_id, a.operator, ", ".join(a.parents) or "–", number(a.fitness), share(a.pass_at_1))
        for a in report.lineage
    ]


def judged(report: Report) -> list[str]:
    return [name for name in NAMES if name in report.outcomes]


def outcomes(report: Report) -> Rows:
    words = sorted({word for counts in report.outcomes.values() for word in counts})
    return [(word, *(report.outcomes[name].get(word, 0) for name in judged(report))) for word in words]


def bug_classes(report: Report) -> Rows:
    return [
        (line.bug_class, line.bugs,
         *("–" if value is None else value for value in (line.champion, line.base_model, line.default_lora)))
        for line in report.bug_classes
    ]  # fmt: skip


def spending(report: Report) -> Rows:
    found = report.spending
    if found is None:
        return []
    rows: Rows = [
        ("lane hours", f"{found.gpu_hours:.3f}", "none" if found.limit_gpu_hours is None else f"{found.limit_gpu_hours:g}"),
        ("of these training", f"{found.training_hours:.3f}", ""),
        ("of these evaluation", f"{found.evaluation_hours:.3f}", ""),
    ]  # fmt: skip
    if found.money is not None:
        limit = "none" if found.limit_money is None else f"{found.limit_money:,.2f}"
        rows.append((f"money, {found.currency}", f"{found.money:,.2f}", limit))
    return rows


def failed(report: Report) -> Rows:
    return [
        (f"{job.kind} {job.digest[:12]}", job.queue, job.state, job.tries, job.lanes_lost, job.error, job.message)
        for job in report.failed_jobs
    ]


def tries(report: Report) -> Rows:
    return [
        (found.kind, found.error, found.count, found.jobs, found.done_later, found.message)
        for found in report.failed_tries
    ]


def digests(report: Report, history: History) -> Rows:
    rows: Rows = []
    if history.run is not None:
        rows += [
            ("configuration", history.run.identity.config_digest),
            ("base model content", history.run.base_model.content_id),
        ]
    for name, contender in named(report):
        for what in ("training", "fitness_evaluation", "held_out_evaluation"):
            value = getattr(contender, f"{what}_digest")
            if value:
                rows.append((f"{name}, {what.replace('_', ' ').replace('held out', 'held-out')}", value))
    return rows


def splits(report: Report) -> Rows:
    counts, found = report.problems.get("counts", {}), report.problems.get("digests", {})
    return [(name.replace("_", "-"), count, found.get(name, "–")) for name, count in counts.items()]
