"""README.md of an exported adapter or merged model: front matter for the hub, how to load and to serve it, genes, scores, data, cost."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from coral_core.config import RunConfig
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.prompting.choice import resolve_prompt
from coral_core.prompting.templates import PromptTemplate
from coral_core.report.content import Ancestor, Contender, Report
from coral_core.report.history_records import History
from coral_core.report.markdown import table
from coral_core.report.serving import serving_text
from coral_core.report.usage import Base, base_of, loading_code, merged_loading_code
from coral_core.report.wording import gap_rows, heavy_text, light_text, number, splits_text, with_count
from coral_core.search.selection import violation
from coral_core.untrusted import code, inline


class CardFacts(NamedTuple):
    """What every card of one run has in common."""

    report: Report
    config: RunConfig
    prompt: PromptTemplate
    content_id: str
    """Identity of the base model in the run; empty where the history does not begin with it."""

    @classmethod
    def of(cls, report: Report, config: RunConfig, history: History) -> "CardFacts":
        """The facts of a run.

        Args:
            report: The report of the run.
            config: Configuration of the run.
            history: History of the run; names its base model, and the prompt template where that is no built-in one.
        """
        run = history.run
        prompt = (run and run.prompt) or resolve_prompt(config.base_model, None)
        return cls(report, config, prompt, run.base_model.content_id if run else "")

    def base(self, name: str) -> Base:
        """The base model as the adapter's own configuration names it."""
        return base_of(name, self.content_id, self.report.numerics_class or "")


def genes_of(member: Contender) -> tuple[HeavyGenes, LightGenes]:
    """Heavy and light genes of a champion or another genome, which has both."""
    assert member.heavy is not None and member.light is not None, "a genome has genes"
    return member.heavy, member.light


def adapter_card(facts: CardFacts, member: Contender, lineage: Sequence[Ancestor], base: Base, name: str) -> str:
    """README.md of an adapter folder.

    Args:
        facts: The run.
        member: The genome: the champion, or a member of the Pareto front.
        lineage: The genome and what it descends from.
        base: The base model.
        name: Name of the folder; the code loads it from there.
    """
    heavy, light = genes_of(member)
    loading = loading_code(base, facts.config.base_model, facts.prompt, heavy, light, name)
    parts = [
        _front_matter(base, heavy, "peft"),
        f"# Adapter `{member.genome_id}` of {inline(facts.report.run_id)}",
        f"A {heavy.adapter} adapter of {facts.config.base_model.name} that repairs single-function Python bugs, found by CORAL-X "
        f"({facts.report.strategy}). {_result(facts, member)}",
        _gaps(facts.report, member),
        "## How to load it\n\n```python\n" + loading + "```",
        f"The base model is {code(base.name)} ({f'commit {base.revision}' if base.revision else f'content {base.content_id[:16]}'}): "
        "an adapter fits no other weights and no other tokenizer. On the device of the run the code writes the tokens that "
        "were scored, unless it samples: the random numbers are others than the run's.",
        serving_text(base, facts.config.base_model, facts.prompt, heavy, light, name, facts.report.run_id, member.genome_id or name),
    ]  # fmt: skip
    return _joined([*parts, *_about(facts, member, lineage)])


def merged_card(facts: CardFacts, member: Contender, lineage: Sequence[Ancestor], base: Base, folder: Path) -> str:
    """README.md of a full model into which an adapter was merged.

    Args:
        facts: The run.
        member: The genome.
        lineage: The genome and what it descends from.
        base: The base model.
        folder: Folder of the merged model.
    """
    heavy, light = genes_of(member)
    parts = [
        _front_matter(base, heavy, "transformers"),
        f"# `{member.genome_id}` of {inline(facts.report.run_id)}, merged",
        f"{inline(base.name)} with a {heavy.adapter} adapter merged into its weights ({base.dtype}). It repairs single-function Python "
        f"bugs and was found by CORAL-X ({facts.report.strategy}). {_result(facts, member)}",
        _gaps(facts.report, member),
        "## How to load it\n\n```python\n" + merged_loading_code(base, facts.prompt, light, folder.name) + "```",
        "It needs neither PEFT nor the base model. In another dtype than this one the merged weights are rounded again, and texts "
        "may differ from those that were scored.",
        f"## How to serve it\n\n```bash\nvllm serve ./{folder.name} --dtype {base.dtype}\n```",
    ]  # fmt: skip
    return _joined([*parts, *_about(facts, member, lineage)])


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(base: Base, heavy: HeavyGenes, library: str) -> str:
    tags = ["code", "program-repair", "coral-x", heavy.adapter, *(["rslora"] if heavy.scaling == "rslora" else [])]
    front = {
        "base_model": base.name,
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": [*tags, *([library] if library == "peft" else [])],
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---"])


def _is_champion(report: Report, member: Contender) -> bool:
    return report.champion is not None and report.champion.genome_id == member.genome_id


def _result(facts: CardFacts, member: Contender) -> str:
    """What was measured of it, and on which split."""
    if _is_champion(facts.report, member) and member.held_out_pass_at_1 is not None:
        return f"It repairs {with_count(member)} of the held-out bugs."
    where = (
        "a member of the Pareto front, not the champion"
        if not _is_champion(facts.report, member)
        else "the best so far"
    )
    text = (
        f"It is {where}: its scores are those of the fitness split, by which genomes were chosen, and flatter it. "
        "The held-out split was not opened for it."
    )  # fmt: skip
    if violation(member.scores, facts.config.scoring, 1.0) > 0:
        text += " It does not meet the final thresholds of the constraints (`scoring.thresholds`)."
    return text


def _gaps(report: Report, member: Contender) -> str:
    rows = gap_rows(report) if _is_champion(report, member) else []
    return "\n".join(f"- {what}: {gap}." for what, gap in rows)


def _about(facts: CardFacts, member: Contender, lineage: Sequence[Ancestor]) -> list[str]:
    heavy, light = genes_of(member)
    report, config, spent = facts.report, facts.config, facts.report.totals
    return [
        "## Genes\n\n" + table(("", ""), [
            ("heavy genes", heavy_text(heavy)), ("light genes (decoding)", light_text(light)),
            ("trainable parameters", f"{member.trainable_parameters or 0:,}"),
        ]),
        "## Scores\n\n" + table(("objective", "fitness split", "held-out split"), [
            (name, number(value), number(member.held_out_scores.get(name))) for name, value in sorted(member.scores.items())
        ]),
        "## Lineage\n\n" + table(("genome", "made by", "parents", "fitness"), [
            (step.genome_id, step.operator, ", ".join(step.parents) or "–", number(step.fitness)) for step in lineage
        ]),
        "## Data, seed and cost\n\n"
        f"Trained on {config.problems.pairs} pairs of buggy and fixed functions (problem source {config.problems.source}, data seed "
        f"{config.problems.data_seed}); scored on {splits_text(report)} problems that share no function with them. For the "
        "built-in problems this measures transfer to new functions of known families, not to other code bases.",
        f"Run seed {report.seed}, edition {report.edition}. The whole run cost {spent.trainings} trainings and {spent.evaluations} "
        f"evaluations, {spent.seconds:.0f} s of wall clock, {spent.cpu_seconds:.0f} s of CPU, {spent.tokens:,} tokens. Numerics class: "
        f"{report.numerics_class}. Versions: {', '.join(f'{name} {value}' for name, value in report.versions.items())}.",
    ]  # fmt: skip
