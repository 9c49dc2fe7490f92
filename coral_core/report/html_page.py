"""report.html: the report as one page that needs nothing else, no network, no script.

Whatever comes from the store or from a model is hostile: Jinja escapes all of it, the page
forbids scripts and requests by its own policy, and no value is ever marked as safe.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from shlex import quote
from typing import Any

from coral_core.report import table_rows as rows
from coral_core.report.content import Report
from coral_core.report.gene_importance import FEWEST
from coral_core.report.gene_pictures import described, marginal
from coral_core.report.history_records import History
from coral_core.report.lineage import HIGH, WIDE, drawing
from coral_core.report.markdown import NAMES, again, gap_lines, headline, heavy_text, light_text, number, plural
from coral_core.report.patches import Patches
from coral_core.report.pictures import as_data_uri, fitness_curve, pareto_front
from coral_core.report.previous import previous_text
from coral_core.report.repeats import repeats_text
from coral_core.untrusted import visible

TONES = {"better": "better", "worse": "worse", "not distinguishable": "noise", "default LoRA itself": "noise"}
SECTIONS = {
    "searched": "what was searched",
    "won": "what won",
    "sure": "how sure",
    "progress": "how it went",
    "why": "why",
    "lineage": "lineage",
    "patches": "patches",
    "ends": "verdicts and bug classes",
    "cost": "cost",
    "failures": "failures",
    "reproduce": "how to reproduce",
}
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


def environment() -> Any:
    """Jinja with escaping on for everything, whatever a template is called."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("coral_core.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    found.globals.update(number=number, heavy=heavy_text, light=light_text, names=NAMES, version=own_version())
    return found


def _shown(value: Any) -> Any:
    """Control characters spelt out, which no page may hold and which turn the direction of a patch; what is escaped already is ours."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def own_version() -> str:
    try:
        return installed("coral-x")
    except PackageNotFoundError:
        return "(not installed)"


def run_page(report: Report, history: History, patches: Patches | None) -> str:
    """The page of one run, finished or not."""
    facts = _facts(report, history)
    shown = {
        "progress": bool(report.generations),
        "lineage": facts["lineage"] is not None,
        "patches": patches is not None,
        "ends": bool(report.outcomes or report.bug_classes),
    }
    sections = [(name, title) for name, title in SECTIONS.items() if shown.get(name, True)]
    page: str = (
        environment().get_template("run.html.j2").render(report=report, patches=patches, sections=sections, **facts)
    )
    return page


def _facts(report: Report, history: History) -> dict[str, Any]:
    """Everything that the template shows, as text."""
    return {
        "tone": TONES.get(report.answer.verdict, ""),
        "headline": headline(report).replace("`", ""),
        "cards": rows.cards(report),
        "before": previous_text(report.previous, link=False),
        "searched_text": _searched_text(report),
        "space": [(g.gene.replace("_", " "), g.kind, g.values) for g in report.searched.space],
        "contenders": rows.contenders(report),
        "scores": rows.scores(report),
        "gaps": gap_lines(report),
        "repeats_text": repeats_text(report.repeats),
        "repeats": rows.repeats(report),
        "pictures": _pictures(report) if report.generations else [],
        "generations": rows.generations(report),
        "front": rows.front(report),
        "genes_text": genes_text(report),
        "genes": [
            {**row, "source": as_data_uri(marginal(effect)), "alt": described(effect)}
            for row, effect in zip(rows.genes(report), report.genes, strict=True)
        ],
        "fewest": FEWEST,
        "operators": rows.operators(report),
        "lineage": drawing(report.lineage),
        "box": {"width": WIDE, "height": HIGH},
        "ancestors": rows.ancestors(report),
        "outcome_columns": ("<outcome", *(NAMES[name] for name in rows.judged(report))),
        "outcomes": rows.outcomes(report),
        "meanings": [pair for pair in MEANINGS if any(pair[0] in counts for counts in report.outcomes.values())],
        "classes": rows.bug_classes(report),
        "cost_text": _cost_text(report),
        "spending": rows.spending(report),
        "infeasible": [(genome.genome_id, genome.reason, genome.detail) for genome in report.infeasible],
        "failed": rows.failed(report),
        "tries": rows.tries(report),
        "commands": commands(report),
        "versions": list(report.versions.items()),
        "digests": rows.digests(report, history),
        "splits": rows.splits(report),
    }


def _pictures(report: Report) -> list[Mapping[str, object]]:
    first, last = report.generations[0], report.generations[-1]
    curve = (
        f"Fitness by generation: best {number(first.best_fitness)} in generation {first.generation}, {number(last.best_fitness)} in "
        f"generation {last.generation}; mean {number(first.mean_fitness)} and {number(last.mean_fitness)}. The table below has the numbers."
    )
    front = f"Bugfix against trainable parameters of {plural(len(report.evaluated), 'genome')}, {len(report.pareto_front)} of them on the Pareto front"
    return [
        {
            "source": as_data_uri(fitness_curve(report)),
            "alt": curve,
            "caption": "Fitness by generation",
            "scale": False,
        },
        {
            "source": as_data_uri(pareto_front(report)),
            "alt": front,
            "caption": "Every genome, and the Pareto front",
            "scale": True,
        },
    ]


def _searched_text(report: Report) -> str:
    found, counts = report.searched, report.problems.get("counts", {})
    data = ", ".join(f"{count} {name.replace('_', '-')}" for name, count in counts.items())
    return (
        f"Strategy {found.strategy}, up to {plural(found.generations, 'generation')} of {plural(found.population, 'genome')}: so far "
        f"{plural(found.genomes, 'distinct genome')} on {plural(found.adapters, 'adapter')}, out of {found.combinations:,} combinations of heavy genes. "
        f"Problems: {report.problems.get('source')} ({data or 'not counted yet'})."
    )


def genes_text(report: Report) -> str:
    """Which genes matter, in a sentence; that nothing is clear is said as plainly."""
    clear = [effect.gene.replace("_", " ") for effect in report.genes if effect.clear]
    if clear:
        return f"Clear from noise: {', '.join(clear)}. The other genes are not distinguishable from having no effect in this run."
    return "No gene's effect is distinguishable from noise in this run: too few genomes, or too little spread."


def _cost_text(report: Report) -> str:
    spent, own = report.totals, report.counts
    return (
        f"{plural(spent.trainings, 'training')} and {plural(spent.evaluations, 'evaluation')} in {plural(spent.sessions, 'session')}: "
        f"{spent.seconds:,.0f} s of wall clock, {spent.cpu_seconds:,.0f} s of CPU, {spent.tokens:,} tokens. The latest session took {report.seconds:,.0f} s "
        f"and did {plural(own.trainings, 'training')} and {plural(own.evaluations, 'evaluation')} itself; the rest was in the store."
    )


def commands(report: Report) -> str:
    """What to type to have the same again, to check it, and to look closer."""
    return "\n".join(
        (
            again(report),
            f"coral verify {quote(report.run_id)}",
            f"coral show {quote(report.run_id)} champion --split held-out",
        )
    )
