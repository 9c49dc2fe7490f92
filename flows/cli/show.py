"""`coral show RUN GENOME`: genes, lineage, scores, and every patch as a diff with its verdict."""

import difflib
import json
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from coral_core.config import RunConfig
from coral_core.errors import ConfigError
from coral_core.jobs.job_content import problem_set
from coral_core.jobs.jobs import Evaluation, ProblemRecord
from coral_core.problems.problem import Problem
from coral_core.prompting.templates import PromptTemplate, template_for
from coral_core.report.build_report import build_report, contender_of
from coral_core.report.content import Contender
from coral_core.report.history_records import History
from coral_core.report.patches import unified as unified
from coral_core.report.wording import heavy_text, light_text, number, share
from coral_core.runs.run_folder import RunFolder, find_run
from coral_core.store.store import Store
from flows.cli.markup import listing, marked, words
from flows.cli.places import AsJson, Runs, store_of

SplitName = Literal["fitness", "held-out"]


def show(
    run: str,
    genome: str = "champion",
    /,
    *,
    split: Annotated[
        SplitName,
        Parameter(help="held-out: of champion, base_model, default_lora, generation_0_median, after the end."),
    ] = "fitness",
    problem: Annotated[str | None, Parameter(help="Only the problems whose id contains this.")] = None,
    failed: Annotated[bool, Parameter(help="Only problems that are not right after the patch.", negative=())] = False,
    limit: Annotated[int, Parameter(help="Problems at most; 0 for all.")] = 5,
    runs: Runs = "runs",
    as_json: AsJson = False,
) -> None:
    """Show a genome: genes, lineage, scores, then patches and verdicts.

    Args:
        run: Id of the run, the beginning of one, `latest`, or the path of its folder.
        genome: Its id (g002-005), or champion, base_model, default_lora, generation_0_median.
    """
    folder = find_run(runs, run)
    store = store_of(folder)
    name, facts = _facts(folder, store, genome)
    digest = facts["held_out_evaluation_digest"] if split == "held-out" else facts["fitness_evaluation_digest"]
    if digest is None:
        raise ConfigError(
            f"{name}: no {split} evaluation in {folder.run_id}. Try --split fitness, or champion, base_model, default_lora after the end."
        )
    evaluation = store.read_evaluation(digest)
    records = _chosen(evaluation, problem, failed, limit)
    problems = _problems(folder.config(), "held_out" if split == "held-out" else "fitness") if records else {}
    base = folder.config().base_model
    prompt = template_for(base.name, base.prompt)
    shown = [_problem(record, problems.get(record.problem_id), evaluation, prompt) for record in records]
    if as_json:
        print(
            json.dumps(
                {
                    "schema_version": 1,
                    "run_id": folder.run_id,
                    "genome_id": name,
                    "split": split,
                    **facts,
                    "problems": shown,
                },
                indent=1,
            )
        )
        return
    out = Console(highlight=False)
    _print_facts(out, name, facts, split)
    if evaluation is None:
        gone = f"its evaluation {digest[:12]} is not (or no longer) sound in {store.root}: run again to make it"
        out.print(words(gone, "yellow"))
        return
    for item in shown:
        _print_problem(out, item)
    out.print(f"\n{len(shown)} of {len(evaluation.records)} {split} problems shown (--limit, --failed, --problem)")


def _facts(folder: RunFolder, store: Store, genome: str) -> tuple[str, dict[str, Any]]:
    """What history says of `genome`; raises `ConfigError` when it does not know it."""
    report = build_report(folder, store)
    named: dict[str, Contender | None] = {
        "champion": report.champion,
        "base_model": report.base_model,
        "default_lora": report.default_lora,
        "generation_0_median": report.generation_0_median,
    }
    if genome in named:
        contender = named[genome]
        if contender is None:
            raise ConfigError(f"{genome}: {folder.run_id} has not got that far. See: coral report {folder.run_id}")
        if contender.genome_id is None:
            return genome, {
                **contender.model_dump(mode="json", exclude={"genome_id"}),
                **dict.fromkeys(("lineage", "features", "infeasible")),
                "reason": "",
            }
        genome = contender.genome_id
    record = History.of(folder).genomes.get(genome)
    if record is None:
        known = list(History.of(folder).genomes)
        near = difflib.get_close_matches(genome, known, 3, 0.4) or known[:3]
        raise ConfigError(
            f"{genome}: no such genome in {folder.run_id} ({len(known)} there). Near: {', '.join(near)}, champion, base_model, default_lora."
        )
    held_out = next(
        (c for c in named.values() if c is not None and c.genome_id == genome and c.held_out_evaluation_digest), None
    )
    contender = held_out or contender_of(record, store)
    data = contender.model_dump(mode="json", exclude={"genome_id"})
    lineage = record.genome.lineage.model_dump(mode="json")
    features = record.genome.features.model_dump(mode="json") if record.genome.features else None
    return genome, {
        **data,
        "lineage": lineage,
        "features": features,
        "infeasible": record.infeasible,
        "reason": record.reason,
    }


def _chosen(evaluation: Evaluation | None, problem: str | None, failed: bool, limit: int) -> list[ProblemRecord]:
    if evaluation is None:
        return []
    passed = set(evaluation.passed)
    records = [
        record
        for record in evaluation.records
        if (problem is None or problem in record.problem_id) and not (failed and record.problem_id in passed)
    ]
    if problem is not None and not records and not failed:
        example = evaluation.records[0].problem_id if evaluation.records else "none"
        raise ConfigError(
            f"--problem {problem}: no such problem in this evaluation of {len(evaluation.records)}. An id looks like {example}."
        )
    return records[:limit] if limit else records


def _problems(config: RunConfig, split: Literal["fitness", "held_out"]) -> dict[str, Problem]:
    """The problems by id, rebuilt from the configuration; the store keeps only what models wrote."""
    return {problem.problem_id: problem for problem in problem_set(config.problems).split(split)}


def _problem(
    record: ProblemRecord, problem: Problem | None, evaluation: Evaluation | None, prompt: PromptTemplate
) -> dict[str, Any]:
    samples = []
    for sample in record.samples:
        data = sample.model_dump(mode="json")
        data["diff"] = unified(problem.buggy, sample.patch) if problem else None
        samples.append(data)
    return {
        "problem_id": record.problem_id,
        "bug_class": record.bug_class,
        "retention": record.retention,
        "passed": evaluation is not None and record.problem_id in evaluation.passed,
        "prompt": prompt.prompt(problem.buggy) if problem else None,
        "buggy": problem.buggy if problem else None,
        "reference": problem.reference if problem else None,
        "samples": samples,
    }


def _print_facts(out: Console, name: str, facts: dict[str, Any], split: str) -> None:
    contender = Contender.model_validate({key: value for key, value in facts.items() if key in Contender.model_fields})
    out.print(words(name, "bold"))
    if contender.heavy:
        out.print(f"  heavy genes  {heavy_text(contender.heavy)}", markup=False)
        out.print(f"  light genes  {light_text(contender.light)}", markup=False)
    if facts.get("lineage"):
        parents = ", ".join(facts["lineage"]["parents"])
        out.print(
            f"  made by      {facts['lineage']['operator']}" + (f" of {parents}" if parents else ""), markup=False
        )
    if facts["infeasible"]:
        out.print(words(f"  infeasible   {facts['infeasible']}: {facts['reason']}"))
    else:
        scores = contender.held_out_scores if split == "held-out" else contender.scores
        out.print(f"  fitness      {number(contender.fitness)}, repairs {share(contender.fitness_pass_at_1)} of the fitness bugs, "
                  f"{share(contender.held_out_pass_at_1)} of the held-out bugs")  # fmt: skip
        out.print(
            words(
                f"  scores       {', '.join(f'{key} {value:.3f}' for key, value in sorted(scores.items()))} ({split})"
            )
        )
    if contender.adapter_path:
        out.print(words(f"  adapter      {contender.adapter_path}"), soft_wrap=True)


def _print_problem(out: Console, item: dict[str, Any]) -> None:
    mark = "[green]passed[/]" if item["passed"] else "[red]failed[/]"
    kind = "already right" if item["retention"] else item["bug_class"]
    out.print(f"\n[bold]{marked(item['problem_id'])}[/] {marked(kind)} {mark}")
    if item["prompt"] is not None:
        out.print(Text("  prompt", style="dim"))
        out.print(listing(item["prompt"], "python"))
    for index, sample in enumerate(item["samples"]):
        verdict = sample["verdict"]
        title = f"  patch{f' {index + 1}' if len(item['samples']) > 1 else ''} ({sample['extraction']})"
        out.print(words(title, "dim"))
        if sample["diff"] is None:
            out.print(listing(sample["patch"], "python"))
        elif sample["diff"]:
            out.print(listing(sample["diff"], "diff"))
        else:
            out.print("  no change")
        rest = ", ".join(
            f"{key} {value}"
            for key, value in verdict.items()
            if key != "outcome" and isinstance(value, (int, float, str))
        )
        out.print(words(f"  verdict: {verdict.get('outcome', 'unknown')}" + (f" ({rest})" if rest else "")))
        if sample["remark"]:
            out.print(words(f"  remark: {sample['remark']}"))
