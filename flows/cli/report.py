"""`coral report`: what a run found, as tables; refreshes report.html and the other files of a report."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coral_core.bounded_read import read_file
from coral_core.errors import ConfigError, StoreError
from coral_core.report.build_report import build_report
from coral_core.report.content import Contender, Report
from coral_core.report.markdown import gap_lines, headline, heavy_text, light_text, number, plural, share, with_count
from coral_core.report.previous import previous_text
from coral_core.report.repeats import repeats_text
from coral_core.runs.run_folder import RunFolder, find_run
from flows.cli.markup import marked, words
from flows.cli.places import AsJson, Runs, clock, store_of

PAGE_BYTES = 2**29


def report(
    run: str = "latest",
    other: str | None = None,
    /,
    *,
    html: Annotated[
        Path | None, Parameter(help="Write the page to this file (one run: it is always in its folder too).")
    ] = None,
    runs: Runs = "runs",
    as_json: AsJson = False,
) -> None:
    """Show what a run found and what it cost, or compare two runs; works while they are under way.

    Args:
        run: Id of the run, the beginning of one, `latest`, or the path of its folder.
        other: A second run, to compare the first one with.
    """
    folder = find_run(runs, run)
    if other is not None:
        from flows.cli.compare import compare

        compare(folder, find_run(runs, other), html, as_json)
        return
    found, problem = _refresh(folder)
    if as_json:
        print(json.dumps(found.model_dump(mode="json"), indent=1))
    else:
        print_report(folder, found)
    if html is not None:
        from coral_core.report.report_files import page_of

        # what could not be written is not there, or of another day
        page = page_of(folder, store_of(folder), found) if problem else _written(folder)
        write_page(html, page)
    if problem:
        Console(stderr=True, highlight=False).print(f"[yellow]warning[/]: {marked(problem)}")


def _written(folder: RunFolder) -> str:
    """The page that was just written. Raises `ConfigError`: somebody exchanged it."""
    path = folder.path / "report.html"
    try:
        return read_file(path, PAGE_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Run it again.") from None


def write_page(path: Path, page: str) -> None:
    """Write a page where the user wants it. Raises `ConfigError`."""
    try:
        path.write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(
            f"--html {path}: cannot be written ({error.strerror}). Give a file in a folder that is there."
        ) from error


def _refresh(folder: RunFolder) -> tuple[Report, str]:
    """The report, written beside the history; what could not be written is said and costs no numbers."""
    from coral_core.report.export import export_champion
    from coral_core.report.report_files import write_report

    store = store_of(folder)
    try:
        found = write_report(folder, store)
        if found.status == "finished" and not (folder.path / "champion").is_dir():
            export_champion(folder, store, found)  # the run died between its last record and the export
    except StoreError as error:
        return build_report(folder, store, why=True), str(error)
    return found, ""


def print_report(folder: RunFolder, report: Report | None = None) -> None:
    """Print the tables of a run and where its files lie."""
    found = report or build_report(folder, store_of(folder))
    out = Console(highlight=False)
    why = found.error or found.reason
    out.print(Text.assemble("\n", words(found.run_id, "bold"), words(f" {found.status}" + (f": {why}" if why else ""))))
    out.print(words(found.answer.text))
    out.print(words(headline(found).replace("`", "")))
    if found.previous is not None:
        out.print(words(previous_text(found.previous, link=False)))
    out.print()
    out.print(_contenders(found))
    for line in gap_lines(found):
        out.print(f"  {line}", markup=False)
    if found.repeats is not None:
        out.print(f"  {repeats_text(found.repeats)}", markup=False)
    out.print(f"  {found.base_check.text}", markup=False)
    if found.champion is not None:
        out.print(f"\nchampion  {heavy_text(found.champion.heavy)}; {light_text(found.champion.light)}", markup=False)
    if found.generations:
        out.print()
        out.print(_generations(found))
    if found.pareto_front:
        out.print()
        out.print(_front(found))
    if found.bug_classes:
        out.print()
        out.print(_bug_classes(found))
    for genome in found.infeasible:
        out.print(words(f"infeasible {genome.genome_id}: {genome.reason} ({genome.detail})"))
    for tries in found.failed_tries:
        out.print(
            words(
                f"failed     {plural(tries.count, 'try').replace('trys', 'tries')} of {plural(tries.jobs, tries.kind)}: {tries.error}: {tries.message}"
            )
        )
    out.print(
        f"\ncost      latest session {clock(found.seconds)}: {plural(found.counts.trainings, 'training')}, {plural(found.counts.evaluations, 'evaluation')}; "
        f"{plural(found.totals.sessions, 'session')} in all: {clock(found.totals.seconds)}, {found.totals.cpu_seconds:.0f} s CPU, {found.totals.tokens:,} tokens"
    )
    _where(out, folder)


def _where(out: Console, folder: RunFolder) -> None:
    names = [
        name
        for name in (
            "report.html",
            "report.md",
            "genomes.csv",
            "generations.csv",
            "champion",
            "history.jsonl",
            "config.yaml",
        )
        if (folder.path / name).exists()
    ]
    out.print(words(f"files     {folder.path}/ ({', '.join(names)})"), soft_wrap=True)


def _plain_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for position, name in enumerate(columns):
        table.add_column(name, justify="left" if position == 0 else "right", no_wrap=position == 0)
    return table


def _contenders(report: Report) -> Table:
    table = _plain_table("", "", "genome", "held-out bugs", "fitness bugs", "fitness", "parameters")
    rows: list[tuple[str, Contender | None]] = [
        ("champion", report.champion),
        ("base model", report.base_model),
        ("default LoRA", report.default_lora),
        ("median of gen. 0", report.generation_0_median),
    ]
    for name, contender in rows:
        if contender is None:
            continue
        table.add_row(
            name,
            words(contender.genome_id or "–"),
            with_count(contender),
            share(contender.fitness_pass_at_1),
            number(contender.fitness),
            "–" if contender.trainable_parameters is None else f"{contender.trainable_parameters:,}",
            style="bold" if name == "champion" else "",
        )
    return table


def _generations(report: Report) -> Table:
    table = _plain_table(
        "generations", "", "best", "fitness", "mean", "fitness bugs", "monitor bugs", "volume", "front", "adapters"
    )
    for line in report.generations:
        table.add_row(
            str(line.generation), line.best or "–", number(line.best_fitness), number(line.mean_fitness), share(line.best_pass_at_1),
            share(line.monitor_pass_at_1), number(line.hypervolume), str(line.front_size), str(line.unique_adapters),
        )  # fmt: skip
    return table


def _front(report: Report) -> Table:
    table = _plain_table(
        "Pareto front", "genome", "bugfix", "retention", "cost", "fitness", "parameters", "heavy genes"
    )
    for point in sorted(report.pareto_front, key=lambda point: -(point.fitness or 0.0)):
        scores = [number(point.scores.get(name)) for name in ("bugfix", "retention", "cost")]
        table.add_row(
            words(point.genome_id),
            *scores,
            number(point.fitness),
            f"{point.trainable_parameters:,}",
            heavy_text(point.heavy),
        )
    return table


def _bug_classes(report: Report) -> Table:
    table = _plain_table(
        "held-out bugs repaired, by class", "bug class", "bugs", "champion", "base model", "default LoRA"
    )
    for line in report.bug_classes:
        cells = ["–" if value is None else str(value) for value in (line.champion, line.base_model, line.default_lora)]
        table.add_row(words(line.bug_class), str(line.bugs), *cells)
    return table
