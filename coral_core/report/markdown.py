"""report.md: the `Report` as Markdown, in plain words. (While a run goes on, living.py shows it.)

Differences that the paired test cannot tell from noise are called that.
"""

from collections.abc import Iterable, Mapping, Sequence
from shlex import quote

from coral_core.config.gene_space import module_text
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.report.content import Contender, Gap, Report
from coral_core.report.previous import previous_text
from coral_core.report.repeats import repeats_text
from coral_core.untrusted import code, inline

NAMES = {
    "champion": "champion",
    "base_model": "base model",
    "default_lora": "default LoRA",
    "generation_0_median": "median of generation 0",
}
PICTURES = {"fitness": "pictures/fitness.png", "pareto": "pictures/pareto.png"}


def report_markdown(report: Report, pictures: Mapping[str, str] = PICTURES) -> str:
    """The whole report; `pictures` maps fitness and pareto to addresses."""
    parts = [
        f"# {inline(report.run_id)}",
        f"**{report.answer.text}**",
        headline(report),
        previous_text(report.previous),
        "## Champion against what it must beat\n\n" + _contenders(report),
        "\n".join(f"- {line}" for line in gap_lines(report)),
        repeats_text(report.repeats) if report.repeats is not None else "",
        report.base_check.text,
        "## Fitness by generation\n\n" + f"![fitness by generation]({pictures['fitness']})\n\n" + _generations(report),
        "## Pareto front\n\n" + f"![Pareto front]({pictures['pareto']})\n\n" + _front(report),
        _champion(report),
        _bug_classes(report),
        _outcomes(report),
        _failures(report),
        _cost(report),
        _reproduce(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def headline(report: Report) -> str:
    """One or two sentences: how far the run is and what it found."""
    champion = report.champion
    if champion is None:
        found = "no genome has a score" if report.generations else "no generation is finished"
        return f"The run {stands(report.status)}; {found} yet."
    if champion.held_out_pass_at_1 is None:
        share = (
            ""
            if champion.fitness_pass_at_1 is None
            else f", which repairs {champion.fitness_pass_at_1:.1%} of the fitness bugs"
        )
        return f"The run {stands(report.status)} after {plural(len(report.generations), 'generation')}. Best so far is `{champion.genome_id}`{share}."
    text = f"The champion `{champion.genome_id}` repairs {repaired_text(champion)}"
    rivals = [
        f"the {NAMES[name]} {contender.held_out_pass_at_1:.1%}"
        for name, contender in _named(report)[1:]
        if contender is not None and contender.held_out_pass_at_1 is not None
    ]
    return text + (f"; {', '.join(rivals)}." if rivals else ".")


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


def stands(status: str) -> str:
    """``is running``, ``has failed``."""
    return "has failed" if status == "failed" else f"is {status}"


def gap_lines(report: Report) -> list[str]:
    """One sentence per comparison of the champion with another."""
    gaps: list[tuple[str, Gap | None]] = [
        ("base model", report.gaps.champion_minus_base_model),
        ("default LoRA", report.gaps.champion_minus_default_lora),
        ("median of generation 0", report.gaps.champion_minus_generation_0_median),
    ]
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


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; pipes inside cells are escaped."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines)


def share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def plural(count: int, noun: str) -> str:
    """``1 training``, ``2 trainings``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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


def _named(report: Report) -> list[tuple[str, Contender | None]]:
    return [
        ("champion", report.champion),
        ("base_model", report.base_model),
        ("default_lora", report.default_lora),
        ("generation_0_median", report.generation_0_median),
    ]


def _contenders(report: Report) -> str:
    rows = [
        (
            NAMES[name], contender.genome_id or "–", share(contender.held_out_pass_at_1), share(contender.fitness_pass_at_1),
            number(contender.fitness), "–" if contender.trainable_parameters is None else f"{contender.trainable_parameters:,}",
            *(number(contender.scores.get(key)) for key in ("bugfix", "retention", "cost")),
        )
        for name, contender in _named(report)
        if contender is not None
    ]  # fmt: skip
    return table(
        (
            "",
            "genome",
            "held-out bugs repaired",
            "fitness bugs repaired",
            "fitness",
            "trainable parameters",
            "bugfix",
            "retention",
            "cost",
        ),
        rows,
    )


def _generations(report: Report) -> str:
    rows = [
        (
            line.generation, line.best or "–", number(line.best_fitness), number(line.mean_fitness), share(line.best_pass_at_1),
            share(line.monitor_pass_at_1), number(line.hypervolume), line.front_size, line.unique_adapters, line.infeasible,
        )
        for line in report.generations
    ]  # fmt: skip
    header = (
        "generation",
        "best",
        "best fitness",
        "mean fitness",
        "fitness bugs",
        "monitor bugs",
        "hypervolume",
        "front",
        "adapters",
        "infeasible",
    )
    return table(header, rows) if rows else ""


def _front(report: Report) -> str:
    rows = [
        (
            point.genome_id, heavy_text(point.heavy), light_text(point.light), f"{point.trainable_parameters:,}",
            *(number(point.scores.get(key)) for key in ("bugfix", "retention", "cost")), number(point.fitness),
        )
        for point in sorted(report.pareto_front, key=lambda point: -(point.fitness or 0.0))
    ]  # fmt: skip
    header = ("genome", "heavy genes", "light genes", "parameters", "bugfix", "retention", "cost", "fitness")
    return table(header, rows) if rows else ""


def _champion(report: Report) -> str:
    champion = report.champion
    if champion is None:
        return ""
    scores = table(
        ("objective", "fitness split", "held-out split"),
        [
            (name, number(value), number(champion.held_out_scores.get(name)))
            for name, value in sorted(champion.scores.items())
        ],
    )
    rows = [
        (a.genome_id, inline(a.operator), ", ".join(a.parents) or "–", number(a.fitness), share(a.pass_at_1))
        for a in report.lineage
    ]
    return "\n\n".join(
        [
            "## The champion",
            f"`{champion.genome_id}`: {heavy_text(champion.heavy)}; {light_text(champion.light)}.",
            f"Adapter `{(champion.training_digest or '')[:12]}` in {code(champion.adapter_path or '–')}"
            + ("; exported to `champion/` beside this report." if report.status == "finished" else "."),
            scores,
            "Lineage, oldest first:",
            table(("genome", "made by", "parents", "fitness", "fitness bugs"), rows),
        ]
    )


def _bug_classes(report: Report) -> str:
    if not report.bug_classes:
        return ""
    rows = [
        (
            inline(line.bug_class),
            line.bugs,
            *("–" if value is None else value for value in (line.champion, line.base_model, line.default_lora)),
        )
        for line in report.bug_classes
    ]
    return "## Held-out bugs repaired, by class\n\n" + table(
        ("bug class", "bugs", "champion", "base model", "default LoRA"), rows
    )


def _outcomes(report: Report) -> str:
    if not report.outcomes:
        return ""
    words = sorted({word for counts in report.outcomes.values() for word in counts})
    names = [name for name in NAMES if name in report.outcomes]
    rows = [(inline(word), *(report.outcomes[name].get(word, 0) for name in names)) for word in words]
    return "## How patches ended (held-out problems, first samples)\n\n" + table(
        ("outcome", *(NAMES[name] for name in names)), rows
    )


def _failures(report: Report) -> str:
    """What failed, and why; empty when nothing did."""
    parts = [
        f"The latest session failed: {inline(report.error)}" if report.error else "",
        _infeasible(report),
        _tries(report),
    ]
    said = "\n\n".join(part for part in parts if part)
    return f"## What failed\n\n{said}" if said else ""


def _tries(report: Report) -> str:
    if not report.failed_tries:
        return ""
    rows = [
        (tries.kind, inline(tries.error), tries.count, tries.jobs, tries.done_later, inline(tries.message))
        for tries in report.failed_tries
    ]
    header = ("job", "error", "tries", "jobs", "done later", "message")
    return "Tries that failed (most are made again, elsewhere):\n\n" + table(header, rows)


def _infeasible(report: Report) -> str:
    if not report.infeasible:
        return ""
    rows = [(inline(genome.genome_id), inline(genome.reason), inline(genome.detail)) for genome in report.infeasible]
    return "Genomes without a score:\n\n" + table(("genome", "reason", "detail"), rows)


def _cost(report: Report) -> str:
    spent, own = report.totals, report.counts
    return (
        "## What it cost\n\n"
        f"{plural(spent.trainings, 'training')} and {plural(spent.evaluations, 'evaluation')} in {plural(spent.sessions, 'session')}: "
        f"{spent.seconds:.0f} s of wall clock, {spent.cpu_seconds:.0f} s of CPU, {spent.tokens:,} tokens. "
        f"The latest session took {report.seconds:.0f} s and did {plural(own.trainings, 'training')} and {plural(own.evaluations, 'evaluation')} itself; "
        "the rest was in the store."
    )


def again(report: Report) -> str:
    """What to type to have the same run once more, with the population that it began with."""
    edition = f" --edition {report.edition}" if report.edition != 1 else ""
    begin = (
        f"mkdir -p {quote(f'runs/{report.run_id}')} && cp {quote(f'{report.path}/start.json')} {quote(f'runs/{report.run_id}')}/\n"
        if report.previous is not None and report.previous.started_from
        else ""
    )
    return f"{begin}coral evolve {quote(f'{report.path}/config.yaml')}{edition}"


def _reproduce(report: Report) -> str:
    counts = report.problems.get("counts", {})
    data = ", ".join(f"{count} {name.replace('_', '-')}" for name, count in counts.items())
    changed = (
        f"\n\nIt was started with {', '.join(code(f'--set {item}') for item in report.overrides)} (contained in config.yaml)."
        if report.overrides
        else ""
    )
    opened = (
        f" The held-out split was opened {plural(report.held_out_openings, 'time')}."
        if report.held_out_openings
        else ""
    )
    versions = ", ".join(inline(f"{name} {value}") for name, value in report.versions.items())
    return (
        f"## How to reproduce\n\n```\n{again(report)}\n```\n\n"
        f"Seed {report.seed}, edition {report.edition}, strategy {report.strategy}, base model {inline(report.base_model_name)}, "
        f"problems {inline(str(report.problems.get('source')))} ({data or 'not counted yet'}).{opened} "
        f"Results repeat bit for bit inside one numerics class ({code(report.numerics_class or 'not known yet')}).{changed}\n\n"
        f"Versions: {versions}."
    )
