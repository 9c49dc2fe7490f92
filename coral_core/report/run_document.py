"""The report of one run as a document: what was searched, what won, how sure, why, what failed, what it cost.

Says nothing that the `Report` does not hold; draws pictures only when a writer asks. Differences that the paired test
cannot tell from noise are called that.
"""

from shlex import quote

from coral_core.report.content import PreviousRun, Report
from coral_core.report.document import (
    Answer,
    Bar,
    Block,
    Bullets,
    Code,
    Details,
    Document,
    Facts,
    Link,
    Listing,
    PageOnly,
    Part,
    Parts,
    Picture,
    Pictures,
    Section,
    Table,
    blocks,
    text,
)
from coral_core.report.gene_importance import FEWEST
from coral_core.report.gene_pictures import described, marginal
from coral_core.report.history_records import History
from coral_core.report.lineage import drawing
from coral_core.report.patches import Patches
from coral_core.report.pictures import fitness_curve, pareto_front
from coral_core.report.repeats import repeats_text
from coral_core.report.wording import (
    NAMES,
    contenders,
    gap_lines,
    heavy_text,
    light_text,
    number,
    plural,
    repaired_text,
    share,
    splits_text,
    state_text,
    whole,
    with_count,
)

TONES = {"better": "better", "worse": "worse", "not distinguishable": "noise", "default LoRA itself": "noise"}
FITNESS_PICTURE, PARETO_PICTURE = "pictures/fitness.png", "pictures/pareto.png"
MEANINGS = (
    ("fixed", "every case passes"),
    ("partial", "some cases still fail"),
    ("regressed", "a case that worked fails now"),
    ("echo", "the buggy code came back unchanged"),
    ("syntax", "it does not parse"),
    ("no-function", "it does not define the function"),
    ("time-out", "it ran out of work or time"),
    ("crash", "its top level raised, its process ended early, or it answered what the judge does not read"),
)
MAIN_SCORES = ("bugfix", "retention", "cost")


def run_document(report: Report, history: History, patches: Patches | None = None) -> Document:
    """The report of a run, finished or not.

    Args:
        report: What is known of the run.
        history: Its records, for their digests.
        patches: The champion's patches on the held-out split; None before the end.
    """
    sections = (
        _searched(report),
        _won(report),
        _sure(report),
        *((_progress(report),) if report.generations else ()),
        _why(report),
        *((_lineage(report),) if report.lineage else ()),
        *((_patches(report, patches),) if patches is not None else ()),
        *((_ends(report),) if report.outcomes or report.bug_classes else ()),
        _cost(report),
        _failures(report),
        _reproduce(report, history),
    )
    why = report.error or report.reason
    status = f"{report.status}: {why}" if why else str(report.status)
    head = blocks(
        text(f"{report.strategy} on {report.base_model_name}, seed {report.seed}, edition {report.edition} · {status}", style="soft"),
        Answer(report.answer.text, TONES.get(report.answer.verdict, ""), headline(report)),
        text(*previous_parts(report.previous)),
        _cards(report),
    )  # fmt: skip
    return Document(report.run_id, head, sections)


def headline(report: Report) -> Parts:
    """One or two sentences: how far the run is and what it found."""
    champion = report.champion
    if champion is None:
        found = "no genome has a score" if report.generations else "no generation is finished"
        return (f"The run {state_text(report.status)}; {found} yet.",)
    name = Code(champion.genome_id or "")
    if champion.held_out_pass_at_1 is None:
        rate = champion.fitness_pass_at_1
        repairs = "" if rate is None else f", which repairs {share(rate)} of the fitness bugs"
        after = f"The run {state_text(report.status)} after {plural(len(report.generations), 'generation')}. Best so far is "
        return (after, name, f"{repairs}.")
    rivals = [
        f"the {rival} {share(found.held_out_pass_at_1)}"
        for rival, found in contenders(report)[1:]
        if found.held_out_pass_at_1 is not None
    ]
    return ("The champion ", name, f" repairs {'; '.join([repaired_text(champion), ', '.join(rivals)]).rstrip('; ')}.")


def previous_parts(previous: PreviousRun | None) -> Parts:
    """One line about the run before; empty without one."""
    if previous is None:
        return ()
    fitness = "" if previous.fitness is None else f", fitness {number(previous.fitness)}"
    other = [
        what
        for what, same in (("other problems", previous.same_problems), ("another base model", previous.same_base_model))
        if same is False
    ]
    return (
        "Started from the population of " if previous.started_from else "The run before: ",
        Link(previous.run_id),
        " (champion ",
        Code(previous.champion),
        f"{fitness}, {share(previous.held_out_pass_at_1)} of its held-out bugs).",
        f" It had {' and '.join(other)}: the numbers do not compare." if other else "",
    )


def _cards(report: Report) -> Block | None:
    """The numbers on top of the page."""
    rows = [
        (share(found.held_out_pass_at_1), f"{name}: held-out bugs repaired")
        for name, found in contenders(report)[:3]
        if found.held_out_pass_at_1 is not None
    ]
    gap, repeats = report.gaps.champion_minus_default_lora, report.repeats
    if gap is not None and gap.p_value is not None:
        rows.append((f"{100 * gap.difference:+.1f}", f"points over the default LoRA, p = {gap.p_value:.2g}"))
    if repeats is not None and repeats.mean_fitness is not None:
        spread = "" if repeats.sd_fitness is None else f"± {repeats.sd_fitness:.3f} "
        seeds = f"{spread}fitness of the champion with {plural(repeats.n, 'other seed')}"
        rows.append((number(repeats.mean_fitness), f"{seeds}; chosen at {number(repeats.own_fitness)}"))
    return PageOnly("cards", rows) if rows else None


def _searched(report: Report) -> Section:
    found = report.searched
    space = [(gene.gene.replace("_", " "), gene.kind, gene.values) for gene in report.searched.space]
    return Section("searched", "What was searched", "what was searched", blocks(
        text(
            f"Strategy {found.strategy}, up to {plural(found.generations, 'generation')} of {plural(found.population, 'genome')}: "
            f"so far {plural(found.genomes, 'distinct genome')} on {plural(found.adapters, 'adapter')}, out of "
            f"{found.combinations:,} combinations of heavy genes. Problems: {report.problems.get('source')} "
            f"({splits_text(report) or 'not counted yet'})."
        ),
        Details("What each gene could be", (Table("Candidates and ranges of the genes", ("<gene", "<kind", "<<values"), space),)),
    ), shown="files")  # fmt: skip


def _won(report: Report) -> Section:
    champion = report.champion
    rows = [
        (name, with_count(found), share(found.fitness_pass_at_1), number(found.fitness),
         whole(found.trainable_parameters), found.genome_id or "–")
        for name, found in contenders(report)
    ]  # fmt: skip
    columns = ("<", "held-out bugs", "fitness bugs", "fitness", "trainable parameters", "<genome")
    table = Table("Champion and what it must beat, bugs repaired", columns, rows, "champion")
    if champion is None:
        return Section("won", "What won, and against what", "what won", blocks(table))
    scores = [
        (name, number(value), number(champion.held_out_scores.get(name)))
        for name, value in sorted(champion.scores.items())
    ]
    adapter = Code((champion.training_digest or "")[:12])
    exported = ", exported to champion/ beside this report." if report.status == "finished" else "."
    return Section("won", "What won, and against what", "what won", blocks(
        table,
        text(
            "The champion: ", Code(heavy_text(champion.heavy)), "; ", Code(light_text(champion.light)),
            ". Its adapter in the store is ", adapter, exported,
        ),
        Table("The champion's scores", ("<objective", "fitness split", "held-out split"), scores),
    ))  # fmt: skip


def _sure(report: Report) -> Section:
    gaps: tuple[Parts, ...] = tuple((line,) for line in gap_lines(report))
    opened = plural(report.held_out_openings or 0, "time")
    return Section("sure", "How sure", "how sure", blocks(
        Bullets(gaps) if gaps else text("The held-out split has not been opened: there is no test yet."),
        text(
            "Paired by held-out bug: only bugs that one repairs and the other does not say which is better (exact "
            f"two-sided sign test). The sealed split was opened {opened}.", style="soft small",
        ) if gaps else None,
        text(repeats_text(report.repeats)) if report.repeats or report.status == "finished" else None,
        Table("The champion with other seeds, on the fitness split", ("<repeat", "fitness", "bugs repaired", "<<note"), _repeats(report)),
        text(report.base_check.text),
    ))  # fmt: skip


def _repeats(report: Report) -> list[tuple[str, ...]]:
    found = report.repeats
    if found is None:
        return []
    rows: list[tuple[str, ...]] = [
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


def _progress(report: Report) -> Section:
    first, last = report.generations[0], report.generations[-1]
    curve = (
        f"Fitness by generation: best {number(first.best_fitness)} in generation {first.generation}, {number(last.best_fitness)} in "
        f"generation {last.generation}; mean {number(first.mean_fitness)} and {number(last.mean_fitness)}. The table below has the numbers."
    )
    spread = f"Bugfix against trainable parameters of {plural(len(report.evaluated), 'genome')}, {len(report.pareto_front)} of them on the Pareto front"
    generations = [
        (line.generation, line.best or "–", number(line.best_fitness), number(line.mean_fitness), share(line.best_pass_at_1),
         share(line.monitor_pass_at_1), number(line.hypervolume), line.front_size, line.unique_adapters, line.infeasible)
        for line in report.generations
    ]  # fmt: skip
    front = [
        (point.genome_id, number(point.fitness), *(number(point.scores.get(name)) for name in MAIN_SCORES),
         whole(point.trainable_parameters), heavy_text(point.heavy), light_text(point.light))
        for point in sorted(report.pareto_front, key=lambda point: -(point.fitness or 0.0))
    ]  # fmt: skip
    return Section("progress", "How the search went", "how it went", blocks(
        Pictures((
            Picture("Fitness by generation", curve, lambda: fitness_curve(report), FITNESS_PICTURE),
            Picture("Every genome, and the Pareto front", spread, lambda: pareto_front(report), PARETO_PICTURE, scale=True),
        )),
        Table("Generations (volume: hypervolume of the front)", ("gen.", "<best so far", "best fitness", "mean fitness", "fitness bugs", "monitor bugs", "volume", "front", "adapters", "infeasible"), generations),
        Table("Pareto front, fittest first", ("<genome", "fitness", *MAIN_SCORES, "parameters", "<<heavy genes", "<<light genes"), front),
    ))  # fmt: skip


def _why(report: Report) -> Section:
    operators = []
    for line in report.operators:
        change = "–" if line.mean_change is None else f"{line.mean_change:+.3f}"
        error = "" if line.error is None else f" ± {line.error:.3f}"
        improved = f"{line.improved} ({line.improved / line.compared:.0%})" if line.compared else "–"
        operators.append((line.operator, line.children, line.infeasible, line.compared or "–", improved, change + error,
                          number(line.best), line.new_champions))  # fmt: skip
    made = (
        "<operator",
        "children",
        "infeasible",
        "compared",
        "improved",
        "mean change",
        "best fitness",
        "new champions",
    )
    return Section("why", "Why: genes and operators", "why", blocks(
        *_genes(report), Table("Operators: children held against their best parent", made, operators)
    ), shown="files")  # fmt: skip


def _genes(report: Report) -> tuple[Block, ...]:
    """Which genes matter; that nothing is clear is said as plainly."""
    if not report.genes:
        return (text(f"Fewer than {FEWEST} distinct genomes have a score: too few to say anything about genes."),)
    clear = [effect.gene.replace("_", " ") for effect in report.genes if effect.clear]
    verdict = (
        f"Clear from noise: {', '.join(clear)}. The other genes are not distinguishable from having no effect in this run."
        if clear
        else "No gene's effect is distinguishable from noise in this run: too few genomes, or too little spread."
    )
    rows = []
    for effect in report.genes:
        best, (low, high) = max(effect.levels, key=lambda level: level.mean), effect.interval
        rows.append((
            effect.gene.replace("_", " "), Bar(effect.share), f"{low:.0%} to {high:.0%}", f"{effect.p_value:.3f}", effect.genomes,
            "clear" if effect.clear else "not distinguishable", f"{best.value} (mean {best.mean:.3f}, n = {best.genomes})",
        ))  # fmt: skip
    plots = tuple(
        Picture(effect.gene.replace("_", " "), described(effect), lambda effect=effect: marginal(effect))  # type: ignore[misc]
        for effect in report.genes
    )
    columns = ("<gene", "<share of variance", "95 % interval", "p", "genomes", "<verdict", "<best value")
    return (
        text(verdict),
        Table("How much of the spread of fitness goes with each gene, taken alone", columns, rows),
        text(
            "Epsilon squared, adjusted for the number of values; interval by delete-one jackknife; p by 999 permutations; "
            "clear: after Holm's correction over all genes. A search visits good values more often, so genes that were bred "
            "together share credit: a hint where to look, not an experiment.",
            style="soft small",
        ),
        Pictures(plots, small=True),
    )


def _lineage(report: Report) -> Section:
    rows = [
        (step.genome_id, step.operator, ", ".join(step.parents) or "–", number(step.fitness), share(step.pass_at_1))
        for step in report.lineage
    ]
    return Section("lineage", "Lineage of the champion", "lineage", blocks(
        PageOnly("lineage", drawing(report.lineage)),
        Table("Ancestors, oldest first", ("<genome", "<made by", "<parents", "fitness", "fitness bugs"), rows),
    ), shown="files")  # fmt: skip


def _patches(report: Report, found: Patches) -> Section:
    rest: Parts = ()
    if found.shown < found.total:
        rest = ("; the rest: ", Code(f"coral show {report.run_id} --split held-out --limit 0"))
    said = text(f"{found.shown} of {found.total} problems", *rest, f". {found.note}", style="soft small")
    title = "The champion's patches on held-out problems"
    return Section("patches", title, "patches", blocks(said, PageOnly("patches", found)), shown="page")


def _ends(report: Report) -> Section:
    judged = [key for key in NAMES if key in report.outcomes]
    words = sorted({word for counts in report.outcomes.values() for word in counts})
    outcomes = [(word, *(report.outcomes[key].get(word, 0) for key in judged)) for word in words]
    meanings = [(word, meaning) for word, meaning in MEANINGS if word in words]
    classes = [
        (line.bug_class, line.bugs, *map(whole, (line.champion, line.base_model, line.default_lora)))
        for line in report.bug_classes
    ]
    return Section("ends", "How patches ended", "verdicts and bug classes", blocks(
        Table("Held-out bugs repaired, by class", ("<bug class", "bugs", "champion", "base model", "default LoRA"), classes),
        Table("Verdicts of the judge on held-out problems (first samples)", ("<outcome", *(NAMES[key] for key in judged)), outcomes),
        Facts(meanings) if meanings else None,
    ))  # fmt: skip


def _cost(report: Report) -> Section:
    total, own, lanes = report.totals, report.counts, report.spending
    rows: list[tuple[str, str, str]] = []
    if lanes is not None:
        limit = "none" if lanes.limit_gpu_hours is None else f"{lanes.limit_gpu_hours:g}"
        rows = [
            ("lane hours", f"{lanes.gpu_hours:.3f}", limit),
            ("of these training", f"{lanes.training_hours:.3f}", ""),
            ("of these evaluation", f"{lanes.evaluation_hours:.3f}", ""),
        ]
        if lanes.money is not None:
            limit = "none" if lanes.limit_money is None else f"{lanes.limit_money:,.2f}"
            rows.append((f"money, {lanes.currency}", f"{lanes.money:,.2f}", limit))
    return Section("cost", "What it cost", "cost", blocks(
        text(
            f"{plural(total.trainings, 'training')} and {plural(total.evaluations, 'evaluation')} in {plural(total.sessions, 'session')}: "
            f"{total.seconds:,.0f} s of wall clock, {total.cpu_seconds:,.0f} s of CPU, {total.tokens:,} tokens. The latest session took "
            f"{report.seconds:,.0f} s and did {plural(own.trainings, 'training')} and {plural(own.evaluations, 'evaluation')} itself; "
            "the rest was in the store."
        ),
        Table("Lanes, by the store's ledger", ("<", "this run", "limit"), rows),
        text(lanes.problem, style="bad") if lanes else None,
    ))  # fmt: skip


def _failures(report: Report) -> Section:
    infeasible = [(genome.genome_id, genome.reason, genome.detail) for genome in report.infeasible]
    tries = [
        (found.kind, found.error, found.count, found.jobs, found.done_later, found.message)
        for found in report.failed_tries
    ]
    jobs = [
        (f"{job.kind} {job.digest[:12]}", job.queue, job.state, job.tries, job.lanes_lost, job.error, job.message)
        for job in report.failed_jobs
    ]
    scored = "Every genome has a score." if report.evaluated else "No genome has been evaluated yet."
    return Section("failures", "What failed", "failures", blocks(
        text(f"The latest session failed: {report.error}", style="bad") if report.error else None,
        Table("Genomes without a score", ("<genome", "<reason", "<<detail"), infeasible),
        text(scored) if not infeasible else None,
        Table("Tries that failed (most are made again, elsewhere)", ("<job", "<error", "tries", "jobs", "done later", "<<message"), tries),
        text("No try of a job failed.") if not tries else None,
        Table("Jobs of this run that failed in the queue", ("<job", "<queue", "<state", "tries", "lanes lost", "<error", "<<message"), jobs),
        text("No failed job of this run lies in the queue.") if not jobs else None,
    ))  # fmt: skip


def again(report: Report) -> str:
    """The commands that make the same run once more, with the population that it began with."""
    edition = f" --edition {report.edition}" if report.edition != 1 else ""
    begin = (
        f"mkdir -p {quote(f'runs/{report.run_id}')} && cp {quote(f'{report.path}/start.json')} {quote(f'runs/{report.run_id}')}/\n"
        if report.previous is not None and report.previous.started_from
        else ""
    )
    return f"{begin}coral evolve {quote(f'{report.path}/config.yaml')}{edition}"


def _reproduce(report: Report, history: History) -> Section:
    run = quote(report.run_id)
    commands = f"{again(report)}\ncoral verify {run}\ncoral show {run} champion --split held-out"
    overrides: list[Part] = ["It was started with "]
    for item in report.overrides:
        overrides += [Code(f"--set {item}"), ", "]
    overrides[-1] = " (contained in config.yaml)."
    digests: list[tuple[str, str]] = []
    if history.run is not None:
        digests = [
            ("configuration", history.run.identity.config_digest),
            ("base model content", history.run.base_model.content_id),
        ]
    for name, found in contenders(report):
        named = {"training": found.training_digest, "fitness evaluation": found.fitness_evaluation_digest,
                 "held-out evaluation": found.held_out_evaluation_digest}  # fmt: skip
        digests += [(f"{name}, {what}", value) for what, value in named.items() if value]
    counts, known = report.problems.get("counts", {}), report.problems.get("digests", {})
    splits = [(name.replace("_", "-"), count, known.get(name, "–")) for name, count in counts.items()]
    return Section("reproduce", "How to reproduce", "how to reproduce", blocks(
        Listing(commands),
        text("Results repeat bit for bit inside one numerics class: ", Code(report.numerics_class or "not known yet"), "."),
        text(*overrides) if report.overrides else None,
        Details("Versions, digests and problems", blocks(
            Table("Versions of the latest start", ("<what", "<<version"), list(report.versions.items())),
            Table("Digests", ("<what", "<<digest"), digests),
            Table("Problems", ("<split", "problems", "<<digest"), splits),
        )),
    ), shown="files")  # fmt: skip
