"""`coral show RUN GENOME`: genes, lineage, scores, and every patch as a diff with its verdict."""

from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console, RenderableType
from rich.text import Text

from coral_core.config import RunConfig
from coral_core.errors import ConfigError
from coral_core.jobs.job_content import problem_set
from coral_core.jobs.jobs import Evaluation, ProblemRecord
from coral_core.problems.problem import Problem
from coral_core.prompting.choice import resolve_prompt
from coral_core.prompting.templates import PromptTemplate
from coral_core.report.build_report import build_report, contender_of
from coral_core.report.content import Contender
from coral_core.report.document import Facts
from coral_core.report.history_records import History
from coral_core.report.patches import unified_diff
from coral_core.report.wording import NAMES, heavy_text, light_text, number, share
from coral_core.runs.records import GenomeRecord
from coral_core.runs.run_folder import RunFolder, find_run
from coral_core.store.store import Store
from flows.cli.markup import listing, marked, print_json, shown_blocks, words
from flows.cli.places import AsJson, Runs, store_of


def show(
    run: str,
    genome: str = "champion",
    /,
    *,
    split: Annotated[
        Literal["fitness", "held-out"],
        Parameter(
            help="held-out: of champion, base_model, default_lora, tuned_lora, longer_lora, generation_0_median, after the end."
        ),
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
        genome: Its id (g002-005), or champion, base_model, default_lora, tuned_lora, longer_lora, generation_0_median.
    """
    folder = find_run(runs, run)
    store = store_of(folder)
    name, contender, record = _find(folder, store, genome)
    digest = contender.held_out_evaluation_digest if split == "held-out" else contender.fitness_evaluation_digest
    if digest is None:
        raise ConfigError(
            f"{name}: no {split} evaluation in {folder.run_id}",
            remedy="Try --split fitness, or champion, base_model, default_lora, tuned_lora after the end.",
        )
    evaluation = store.read_evaluation(digest)
    chosen = _chosen(evaluation, problem, failed, limit) if evaluation else []
    config, run_record = folder.config(), History.of(folder).run
    prompt = (run_record and run_record.prompt) or resolve_prompt(config.base_model, None)
    shown = _problems(config, prompt, split, chosen, evaluation.passed if evaluation else ())
    if as_json:
        genome_facts = {
            "lineage": record.genome.lineage if record else None,
            "features": record.genome.features if record else None,
            "infeasible": record.infeasible if record else None,
            "reason": record.reason if record else "",
        }
        about = {"schema_version": 1, "run_id": folder.run_id, "split": split}
        print_json(about | contender.model_dump() | {"genome_id": name} | genome_facts | {"problems": shown})
        return
    out = Console(highlight=False)
    for part in (words(name, "bold"), *shown_blocks([Facts(_facts(contender, record, split))])):
        out.print(part)
    if evaluation is None:
        gone = f"its evaluation {digest[:12]} is not (or no longer) sound in {store.root}: run again to make it"
        out.print(words(gone, "yellow"))
        return
    for item in shown:
        _print_problem(out, item)
    out.print(f"\n{len(shown)} of {len(evaluation.records)} {split} problems shown (--limit, --failed, --problem)")


def _find(folder: RunFolder, store: Store, genome: str) -> tuple[str, Contender, GenomeRecord | None]:
    """Name, scores and record of the genome that `genome` names. Raises `ConfigError` when there is none."""
    report = build_report(folder, store)
    contenders: dict[str, Contender | None] = {name: getattr(report, name) for name in NAMES}
    if genome in contenders:
        found = contenders[genome]
        if genome == "tuned_lora" and report.baselines == "quick":
            raise ConfigError(
                f"tuned_lora: {folder.run_id} has none, since its search.baselines is quick",
                remedy="Run it with --set search.baselines=tuned, which is another run.",
            )
        if genome == "longer_lora" and report.longer_lora is None and report.held_out_openings:
            raise ConfigError(
                f"longer_lora: {folder.run_id} has none, since its champion was trained once",
                remedy="See default_lora or tuned_lora.",
            )
        if found is None:
            raise ConfigError(
                f"{genome}: {folder.run_id} has not got that far", remedy=f"See: coral report {folder.run_id}"
            )
        genome = found.genome_id or genome
    else:
        found = next((each for each in contenders.values() if each and each.genome_id == genome), None)
    genomes = History.of(folder).genomes
    record = genomes.get(genome)
    if found is None and record is None:
        raise no_such_genome(genome, folder)
    return genome, found or contender_of(record, store), record  # type: ignore[arg-type]


def no_such_genome(genome: str, folder: RunFolder) -> ConfigError:
    """The error for a name that no genome of a run has.

    Args:
        genome: The name, as the user gave it.
        folder: The run; its genomes stand in the remedy.
    """
    known = list(History.of(folder).genomes)
    there = f"It has {known[0]} to {known[-1]}" if known else "Its first generation is under way; it has"
    return ConfigError(f"{genome}: no such genome in {folder.run_id} (yet)", remedy=f"{there}, {', '.join(NAMES)}.")


def _chosen(evaluation: Evaluation, problem: str | None, failed: bool, limit: int) -> list[ProblemRecord]:
    named = [record for record in evaluation.records if problem is None or problem in record.problem_id]
    if problem is not None and not named:
        example = evaluation.records[0].problem_id if evaluation.records else "none"
        raise ConfigError(
            f"--problem {problem}: no such problem in this evaluation of {len(evaluation.records)}",
            remedy=f"An id looks like {example}.",
        )
    passed = set(evaluation.passed) if failed else set()
    return [record for record in named if record.problem_id not in passed][: limit or None]


def _problems(
    config: RunConfig, prompt: PromptTemplate, split: str, records: list[ProblemRecord], passed: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The records as JSON, with their problems, which are rebuilt from the configuration: the store keeps only patches."""
    if not records:
        return []
    found = problem_set(config.problems).split("held_out" if split == "held-out" else "fitness")
    known = {problem.problem_id: problem for problem in found}
    shown = []
    for record in records:
        problem: Problem | None = known.get(record.problem_id)
        shown.append(
            record.model_dump(mode="json", exclude={"samples"})
            | {
                "passed": record.problem_id in passed,
                "prompt": prompt.prompt(problem.buggy) if problem else None,
                "buggy": problem.buggy if problem else None,
                "reference": problem.reference if problem else None,
                "samples": [
                    sample.model_dump(mode="json")
                    | {"diff": unified_diff(problem.buggy, sample.patch) if problem else None}
                    for sample in record.samples
                ],
            }
        )
    return shown


def _facts(contender: Contender, record: GenomeRecord | None, split: str) -> list[tuple[str, str]]:
    rows = []
    if contender.heavy:
        rows += [("heavy genes", heavy_text(contender.heavy)), ("light genes", light_text(contender.light))]
    if record is not None:
        parents = ", ".join(record.genome.lineage.parents)
        rows.append(("made by", record.genome.lineage.operator + (f" of {parents}" if parents else "")))
    if record is not None and record.infeasible:
        rows.append(("infeasible", f"{record.infeasible}: {record.reason}"))
    else:
        scores = contender.held_out_scores if split == "held-out" else contender.scores
        rows += [
            ("fitness", number(contender.fitness)),
            ("repairs", f"{share(contender.fitness_pass_at_1)} of the fitness bugs, {share(contender.held_out_pass_at_1)} of the held-out bugs"),
            ("scores", f"{', '.join(f'{key} {value:.3f}' for key, value in sorted(scores.items()))} ({split})"),
        ]  # fmt: skip
    return rows + ([("adapter", contender.adapter_path)] if contender.adapter_path else [])


def _print_problem(out: Console, item: dict[str, Any]) -> None:
    mark = "[green]passed[/]" if item["passed"] else "[red]failed[/]"
    kind = "already right" if item["retention"] else item["bug_class"]
    out.print(f"\n[bold]{marked(item['problem_id'])}[/] {marked(kind)} {mark}")
    if item["prompt"] is not None:
        out.print(Text("  prompt", style="dim"), listing(item["prompt"], "python"), sep="\n")
    for which, sample in enumerate(item["samples"], 1):
        out.print(words(f"  patch {which} ({sample['extraction']})", "dim"))
        patch: RenderableType = listing(sample["patch"], "python")
        if sample["diff"] is not None:
            patch = listing(sample["diff"], "diff") if sample["diff"] else "  no change"
        out.print(patch)
        verdict = {key: value for key, value in sample["verdict"].items() if isinstance(value, (int, float, str))}
        outcome = verdict.pop("outcome", "unknown")
        out.print(
            words(f"  verdict: {', '.join([str(outcome), *(f'{key} {value}' for key, value in verdict.items())])}")
        )
        if sample["remark"]:
            out.print(words(f"  remark: {sample['remark']}"))
