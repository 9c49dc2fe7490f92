"""The report of one run as a document: search space, champion, tests, progress, genes, failures, cost, reproduction.

Its only source is the `Report`. Pictures are drawn when a writer asks for them. A difference that the paired test
cannot distinguish from noise is labelled so.
"""

from functools import partial
from shlex import quote

from coral_core.report.content import Gap, PreviousRun, Report
from coral_core.report.document import (
    Answer,
    Block,
    Code,
    Document,
    Facts,
    Link,
    Listing,
    Parts,
    Picture,
    Pictures,
    Section,
    Table,
    blocks,
    text,
)
from coral_core.report.gene_importance import FEWEST, TRAININGS
from coral_core.report.pictures import fitness_picture, marginal_picture, pareto_picture
from coral_core.report.wording import (
    NAMES,
    contenders,
    gap_rows,
    heavy_text,
    light_text,
    number,
    plural,
    share,
    span,
    splits_text,
    state_text,
    whole,
    with_count,
)
from coral_core.runs.records import Phase
from coral_core.runs.run_reader import ParetoPoint

TONES = {"better": "better", "worse": "worse", "not distinguishable": "noise", "default LoRA itself": "noise"}
FITNESS_PICTURE, PARETO_PICTURE = "pictures/fitness.png", "pictures/pareto.png"
MEANINGS = {
    "fixed": "every case passes",
    "partial": "some cases still fail",
    "regressed": "a case that worked fails now",
    "echo": "the buggy code came back unchanged",
    "syntax": "it does not parse",
    "no-function": "it does not define the function",
    "time-out": "it ran out of work or time",
    "crash": "its top level raised, its process ended early, or it answered what the judge does not read",
}
BASELINES = {
    "quick": "The default LoRA is the customary one (search.baselines: quick). A LoRA with tuned rank, modules and learning rate was not tried; it may be stronger.",
    "tuned": "The default LoRA is the customary one. The tuned LoRA is the best of the usual ones on the fitness split (search.baselines: tuned).",
}
PARTS = {
    Phase.BASELINES: "baselines", Phase.SEARCHING: "search", Phase.HELD_OUT: "held-out split and seed repeats"
}  # fmt: skip
DEVICE = {
    "computing": "busy",
    "loading": "loading",
    "judging": "waiting for the judge",
    "idle": "waiting for jobs and the store",
    "waiting": "waiting",
}
"""States of `DeviceTime`, and their names in the report."""
MAIN_SCORES = ("bugfix", "retention", "cost")


def run_document(report: Report, patches: Section | None = None) -> Document:
    """The report of a run, finished or not.

    Args:
        report: What is known of the run.
        patches: The champion's patches on the held-out split (`patches.held_out_patches`).
    """
    sections = (
        _searched(report), _won(report), _sure(report), _progress(report), _why(report), _lineage(report), patches,
        _verdicts(report), _cost(report), _failures(report), _reproduce(report),
    )  # fmt: skip
    why = report.error or report.reason
    status = f"{report.status}: {why}" if why else str(report.status)
    head = blocks(
        text(f"{report.strategy} on {report.base_model_name}, seed {report.seed}, edition {report.edition} · {status}", style="soft"),
        Answer(report.answer.text, TONES.get(report.answer.verdict, ""), headline(report)),
        text(*previous_parts(report.previous)),
    )  # fmt: skip
    return Document(report.run_id, head, tuple(section for section in sections if section and section.blocks))


def headline(report: Report) -> Parts:
    """The state of the run and its best result, in one or two sentences."""
    champion = report.champion
    if champion is None:
        found = "no genome has a score" if report.generations else "no generation is finished"
        return (f"The run {state_text(report.status)}; {found} yet.",)
    name = Code(champion.genome_id or "")
    if champion.held_out_pass_at_1 is None:
        after = f"The run {state_text(report.status)} after {plural(len(report.generations), 'generation')}. Best so far is "
        return (after, name, f", which repairs {share(champion.fitness_pass_at_1)} of the fitness bugs.")
    rivals = [f"the {rival} {share(found.held_out_pass_at_1)}" for rival, found in contenders(report)[1:]]
    return ("The champion ", name, f" repairs {with_count(champion)} of the held-out bugs; {', '.join(rivals)}.")


def previous_parts(previous: PreviousRun | None) -> Parts:
    """One line about the previous run; empty if there was none."""
    if previous is None:
        return ()
    comparable = {"other problems": previous.same_problems, "another base model": previous.same_base_model}
    other = [what for what, same in comparable.items() if same is False]
    return (
        "Started from the population of " if previous.started_from else "The run before: ",
        Link(previous.run_id),
        " (champion ",
        Code(previous.champion),
        f", fitness {number(previous.fitness)}, {share(previous.held_out_pass_at_1)} of its held-out bugs).",
        f" It had {' and '.join(other)}: the numbers do not compare." if other else "",
    )


def _searched(report: Report) -> Section:
    scope = report.searched
    tuned = [
        (f"{line.name} (chosen)" if line.chosen else line.name, share(line.pass_at_1), number(line.fitness), line.infeasible or "")
        for line in report.tuned
    ]  # fmt: skip
    further = f" ({scope.warm_starts} of them trained further from another)" if scope.warm_starts else ""
    space = [(gene.gene.replace("_", " "), gene.kind, gene.values) for gene in scope.space]
    return Section("searched", "What was searched", blocks(
        text(
            f"Strategy {scope.strategy}, up to {plural(scope.generations, 'generation')} of {plural(scope.population, 'genome')}: "
            f"{plural(scope.genomes, 'distinct genome')} on {plural(scope.adapters, 'adapter')}{further}, out of "
            f"{scope.combinations:,} combinations of heavy genes. Problems: {report.problems.get('source')} "
            f"({splits_text(report) or 'not counted yet'})."
        ),
        *(text(note) for note in report.problems.get("notes", ())),
        Table("Candidates and ranges of the genes", ("<gene", "<kind", "<<values"), space, folded=True),
        Table("Candidates for the tuned LoRA, on the fitness split", ("<candidate", "fitness bugs", "fitness", "<infeasible"), tuned),
    ), shown="files")  # fmt: skip


def _won(report: Report) -> Section:
    champion = report.champion
    columns = ("<", "held-out bugs", "fitness bugs", "fitness", "trainable parameters", "<genome")
    rows = [
        (name, with_count(found), share(found.fitness_pass_at_1), number(found.fitness),
         whole(found.trainable_parameters), found.genome_id or "–")
        for name, found in contenders(report)
    ]  # fmt: skip
    genes: Parts = ()
    scores: list[tuple[str, str, str]] = []
    luckier = ""
    if champion is not None and champion.fitness is not None:
        front = [point for point in report.pareto_front if (point.fitness or 0.0) > champion.fitness]
        if front:
            most = max(front, key=lambda point: point.fitness or 0.0)
            luckier = (
                f"{most.genome_id} measured a larger fitness, {number(most.fitness)}. Among the genomes that meet the final thresholds, the "
                "champion is chosen by more than one lucky measurement: by a second training of the finalists, else by results of similar genomes."
            )
    if champion is not None:
        genes = ("The champion: ", Code(heavy_text(champion.heavy)), "; ", Code(light_text(champion.light)),
                 ". Its adapter in the store is ", Code((champion.training_digest or "")[:12]),
                 ", exported to champion/ beside this report." if report.status == "finished" else ".")  # fmt: skip
        held_out = champion.held_out_scores
        scores = [(name, number(value), number(held_out.get(name))) for name, value in sorted(champion.scores.items())]
    longer = ""
    if champion is not None and champion.heavy is not None and (trainings := champion.heavy.trainings()) > 1:
        longer = (
            f"Its adapter was trained {trainings} times, one after the other (search.variation.warm_start_rate), and so was the "
            f"{NAMES['longer_lora']}; the other LoRAs were trained once."
        )
    return Section("won", "What won, and against what", blocks(
        Table("Champion and what it must beat, bugs repaired", columns, rows, "champion"),
        text(BASELINES[report.baselines]),
        text(*genes),
        *(text(note) for note in (longer, luckier) if note),
        Table("The champion's scores", ("<objective", "fitness split", "held-out split"), scores),
    ))  # fmt: skip


FINALISTS = (
    "The last generation trained the best genomes again, with other random numbers. The champion has the genes with the best mean of "
    "both trainings, and is the fitter of their two adapters."
)


def _p_value(report: Report, name: str) -> str:
    """p of the champion against the contender with this name in texts; a dash where there is no test."""
    keys = {text: key for key, text in NAMES.items()}
    gap: Gap | None = getattr(report.gaps, f"champion_minus_{keys[name]}", None)
    return "–" if gap is None or gap.p_value is None else f"{gap.p_value:.2g}"


def _sure(report: Report) -> Section:
    gaps, repeated = gap_rows(report), report.repeats
    shares = [
        (name, with_count(found), span(found.held_out_interval), _p_value(report, name))
        for name, found in contenders(report) if gaps
    ]  # fmt: skip
    repeats: list[tuple[str, ...]] = []
    summary = "The champion was not repeated with other seeds. It was the best of many, so its score on the fitness split holds some luck. Set search.champion_repeats to see how much."
    if repeated is not None:
        lost = (
            f" {len(repeated.lines) - repeated.n} of {len(repeated.lines)} repeats had no score."
            if repeated.n < len(repeated.lines)
            else ""
        )
        above = (
            ""
            if repeated.above_default is None
            else f" {repeated.above_default} of {repeated.n} repeats are above the default LoRA."
        )
        summary = f"The champion's genes trained and evaluated anew with other seeds; the champion itself was chosen as the best of many.{above}{lost}"
        repeats = [
            ("champion itself", number(repeated.own_fitness), share(repeated.own_pass_at_1), ""),
            *((f"seed {line.replicate}", number(line.fitness), share(line.pass_at_1), f"{line.infeasible}: {line.reason}" if line.infeasible else "")
              for line in repeated.lines),
            (f"mean of {plural(repeated.n, 'repeat')}", number(repeated.mean_fitness), share(repeated.mean_pass_at_1), ""),
            ("standard deviation", number(repeated.sd_fitness), share(repeated.sd_pass_at_1), ""),
        ]  # fmt: skip
    return Section("sure", "How sure", blocks(
        Table("Shares of the held-out bugs, and p of the champion against each", ("<", "held-out bugs", "95 % interval", "p"), shares),
        Facts(gaps) if gaps else text("The held-out split has not been opened: there is no test yet."),
        text(
            "Paired by held-out bug: only bugs that one repairs and the other does not say which is better (exact two-sided "
            f"sign test). The sealed split was opened {plural(report.held_out_openings or 0, 'time')}.", style="soft small",
        ) if gaps else None,
        text(summary) if repeated or report.status == "finished" else None,
        Table("The champion with other seeds, on the fitness split", ("<repeat", "fitness", "bugs repaired", "<<note"), repeats),
        text(FINALISTS) if report.finalists else None,
        Table("Finalists, on the fitness split", ("<genome", "<trained again as", "fitness", "fitness again", "mean"), [
            (line.genome_id, line.again, number(line.fitness), number(line.fitness_again), number(line.mean_fitness))
            for line in report.finalists
        ]),
        text(report.base_check.text),
    ))  # fmt: skip


def _progress(report: Report) -> Section:
    lines = report.generations
    generations = [
        (line.generation, line.best or "–", number(line.best_fitness), number(line.mean_fitness), share(line.best_pass_at_1),
         share(line.monitor_pass_at_1), number(line.hypervolume), line.front_size, line.unique_adapters, line.infeasible)
        for line in lines
    ]  # fmt: skip
    front = [
        (point.genome_id, number(point.fitness), *(number(point.scores.get(name)) for name in MAIN_SCORES),
         whole(point.trainable_parameters), heavy_text(point.heavy), light_text(point.light))
        for point in sorted(report.pareto_front, key=lambda point: -(point.fitness or 0.0))
    ]  # fmt: skip
    points = []
    for genome in report.evaluated:
        bugfix, retention, cost = (genome.scores.get(name, 0.0) for name in MAIN_SCORES)
        shown = (genome.fitness or 0.0, genome.trainable_parameters, genome.on_front)
        points.append(ParetoPoint(genome.genome_id, bugfix, retention, cost, *shown))
    keys = ("tuned_lora", "default_lora", "base_model")
    baselines = {NAMES[key]: found.fitness for key in keys if (found := getattr(report, key))}
    champion = report.champion.genome_id if report.champion else None
    spread = f"Bugfix against trainable parameters of {plural(len(points), 'genome')}, {len(front)} of them on the Pareto front"
    pictures = (
        Picture("Fitness by generation", "Best and mean fitness by generation; the table below has the numbers",
                lambda: fitness_picture(lines, baselines), FITNESS_PICTURE),
        Picture("Every genome, and the Pareto front", spread, lambda: pareto_picture(points, champion), PARETO_PICTURE, scale=True),
    )  # fmt: skip
    columns = ("gen.", "<best so far", "best fitness", "mean fitness", "fitness bugs", "monitor bugs", "volume", "front", "adapters", "infeasible")  # fmt: skip
    return Section("progress", "How the search went", blocks(
        Pictures(pictures if lines else ()),
        Table("Generations (volume: hypervolume of the front)", columns, generations),
        Table("Pareto front, fittest first", ("<genome", "fitness", *MAIN_SCORES, "parameters", "<<heavy genes", "<<light genes"), front),
    ))  # fmt: skip


AS_OFTEN = (
    " Trainings: how often an adapter was trained, one after the other. All other genes are compared among adapters that were trained as "
    "often, and their means are those of fitness less what the number of trainings gives."
)


def _why(report: Report) -> Section:
    clear = ", ".join(effect.gene.replace("_", " ") for effect in report.genes if effect.clear)
    verdict = f"Distinguishable from noise in this run: {clear or 'no gene'}."
    if not report.genes:
        verdict = f"Fewer than {FEWEST} distinct genomes have a score: too few to say anything about genes."
    genes, plots = [], []
    for effect in report.genes:
        name, best, (low, high) = (
            effect.gene.replace("_", " "),
            max(effect.levels, key=lambda level: level.mean),
            effect.interval,
        )
        genes.append((
            name, f"{effect.share:.0%}", f"{low:.0%} to {high:.0%}", f"{effect.p_value:.3f}", effect.genomes,
            "clear" if effect.clear else "not distinguishable", f"{best.value} (mean {best.mean:.3f}, n = {best.genomes})",
        ))  # fmt: skip
        means = "; ".join(f"{level.value}: {level.mean:.3f} (n = {level.genomes})" for level in effect.levels)
        plots.append(Picture(name, f"Fitness by {name}, mean per value: {means}", partial(marginal_picture, effect)))
    operators = [
        (line.operator, line.children, line.infeasible, line.compared or "–",
         f"{line.improved} ({line.improved / line.compared:.0%})" if line.compared else "–",
         "–" if line.mean_change is None else f"{line.mean_change:+.3f}" + ("" if line.error is None else f" ± {line.error:.3f}"),
         number(line.best), line.new_champions)
        for line in report.operators
    ]  # fmt: skip
    return Section("why", "Why: genes and operators", blocks(
        text(verdict),
        Table(
            "How much of the spread of fitness goes with each gene, taken alone",
            ("<gene", "share of variance", "95 % interval", "p", "genomes", "<verdict", "<best value"), genes,
        ),
        text(
            "Epsilon squared, adjusted for the number of values; interval by jackknife; p by 999 permutations; "
            "clear: after Holm's correction over all genes. A search visits good values more often, so genes that were bred "
            "together share credit: a hint where to look, not an experiment."
            + (AS_OFTEN if any(effect.gene == TRAININGS for effect in report.genes) else ""),
            style="soft small",
        ) if genes else None,
        Pictures(tuple(plots), small=True),
        Table(
            "Operators: children compared with their best parent",
            ("<operator", "children", "infeasible", "compared", "improved", "mean change", "best fitness", "new champions"), operators,
        ),
    ), shown="files")  # fmt: skip


def _lineage(report: Report) -> Section:
    rows = [
        (step.genome_id, step.operator, ", ".join(step.parents) or "–", number(step.fitness), share(step.pass_at_1))
        for step in report.lineage
    ]
    columns = ("<genome", "<made by", "<parents", "fitness", "fitness bugs")
    table = Table("The champion's ancestors, oldest first", columns, rows)
    return Section("lineage", "Lineage of the champion", blocks(table), shown="files")


def _verdicts(report: Report) -> Section:
    judged = [key for key in NAMES if key in report.outcomes]
    words = sorted({word for counts in report.outcomes.values() for word in counts})
    outcomes = [(word, *(report.outcomes[key].get(word, 0) for key in judged)) for word in words]
    repaired = ["champion", "base_model", "default_lora"]
    repaired += [key for key in ("tuned_lora", "longer_lora") if getattr(report, key)]
    classes = [
        (line.bug_class, line.bugs, *(whole(getattr(line, key)) for key in repaired)) for line in report.bug_classes
    ]
    return Section("ends", "Verdicts and bug classes", blocks(
        Table("Held-out bugs repaired, by class", ("<bug class", "bugs", *(NAMES[key] for key in repaired)), classes),
        Table("Verdicts of the judge on held-out problems (first samples)", ("<outcome", *(NAMES[key] for key in judged)), outcomes),
        Facts([(word, meaning) for word, meaning in MEANINGS.items() if word in words]),
    ))  # fmt: skip


def _cost(report: Report) -> Section:
    total, own, lanes = report.totals, report.counts, report.spending
    rows: list[tuple[str, str, str]] = []
    if lanes is not None:
        hours, money = lanes.limit_gpu_hours, lanes.limit_money
        rows = [
            ("lane hours", f"{lanes.gpu_hours:.3f}", "none" if hours is None else f"{hours:g}"),
            ("of these training", f"{lanes.training_hours:.3f}", ""),
            ("of these evaluation", f"{lanes.evaluation_hours:.3f}", ""),
        ]
        if lanes.money is not None:
            rows.append(
                (f"money, {lanes.currency}", f"{lanes.money:,.2f}", "none" if money is None else f"{money:,.2f}")
            )
    return Section("cost", "What it cost", blocks(
        text(
            f"{plural(total.trainings, 'training')} and {plural(total.evaluations, 'evaluation')} in {plural(total.sessions, 'session')}: "
            f"{total.seconds:,.0f} s of wall clock, {total.cpu_seconds:,.0f} s of CPU, {total.tokens:,} tokens. The latest session took "
            f"{report.seconds:,.0f} s and did {plural(own.trainings, 'training')} and {plural(own.evaluations, 'evaluation')} itself; "
            "the rest was in the store."
        ),
        Table("Work of this run by part; what other runs had put into the store cost nothing here", ("<", "trainings", "evaluations", "lane seconds", "CPU seconds"), [
            (PARTS[stage.phase], stage.trainings, stage.evaluations, f"{stage.seconds:,.0f}", f"{stage.cpu_seconds:,.0f}")
            for stage in report.stages
        ]),
        Table("Where the time of lanes went", ("<", "lane seconds", *DEVICE.values()), [
            (name, f"{device.seconds:,.0f}", *(f"{value:.1%}" for value in device.shares().values() if device.seconds))
            for name, device in (("training", report.device.training), ("evaluation", report.device.evaluation))
            if device.seconds
        ]),
        Table("Lanes, by the store's ledger", ("<", "this run", "limit"), rows),
        text(lanes.problem, style="bad") if lanes else None,
    ))  # fmt: skip


def _failures(report: Report) -> Section:
    infeasible = [(genome.genome_id, genome.reason, genome.detail) for genome in report.infeasible]
    tries = [(t.kind, t.error, t.count, t.jobs, t.done_later, t.message) for t in report.failed_tries]
    jobs = [
        (f"{job.kind} {job.digest[:12]}", job.queue, job.state, job.tries, job.lanes_lost, job.error, job.message)
        for job in report.failed_jobs
    ]
    tables = (
        Table("Genomes without a score", ("<genome", "<reason", "<<detail"), infeasible),
        Table("Tries that failed (most are made again, elsewhere)", ("<job", "<error", "tries", "jobs", "done later", "<<message"), tries),
        Table("Jobs of this run that failed in the queue", ("<job", "<queue", "<state", "tries", "lanes lost", "<error", "<<message"), jobs),
    )  # fmt: skip
    nothing = [table.caption for table in tables if not table.rows]
    empty: list[Block] = [text(f"None: {'; '.join(nothing)}.")] if nothing else []
    error = text(f"The latest session failed: {report.error}", style="bad") if report.error else None
    return Section("failures", "What failed", blocks(error, *tables, *empty))


def repeat_commands(report: Report) -> str:
    """Shell commands that repeat the run, from the same initial population."""
    edition = f" --edition {report.edition}" if report.edition != 1 else ""
    begin = ""
    if report.previous is not None and report.previous.started_from:
        folder = quote(f"runs/{report.run_id}")
        begin = f"mkdir -p {folder} && cp {quote(f'{report.path}/start.json')} {folder}/\n"
    return f"{begin}coral evolve {quote(f'{report.path}/config.yaml')}{edition}"


def _reproduce(report: Report) -> Section:
    run = quote(report.run_id)
    commands = f"{repeat_commands(report)}\ncoral verify {run}\ncoral show {run} champion --split held-out"
    overrides = " ".join(f"--set {item}" for item in report.overrides)
    digests = [
        (f"{name}, {what}", value)
        for name, found in contenders(report)
        for what, value in (("training", found.training_digest), ("fitness evaluation", found.fitness_evaluation_digest),
                            ("held-out evaluation", found.held_out_evaluation_digest))
        if value
    ]  # fmt: skip
    counts, known = report.problems.get("counts", {}), report.problems.get("digests", {})
    splits = [(name.replace("_", "-"), count, known.get(name, "–")) for name, count in counts.items()]
    return Section("reproduce", "How to reproduce", blocks(
        Listing(commands),
        text("Results repeat bit for bit inside one numerics class: ", Code(report.numerics_class or "not known yet"), "."),
        text("It was started with ", Code(overrides), " (contained in config.yaml).") if overrides else None,
        Table("Versions of the latest start", ("<what", "<<version"), list(report.versions.items()), folded=True),
        Table("Digests", ("<what", "<<digest"), digests, folded=True),
        Table("Problems", ("<split", "problems", "<<digest"), splits, folded=True),
    ), shown="files")  # fmt: skip
