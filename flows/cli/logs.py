"""`coral logs`: the log lines of a run, or of one genome, from the Prefect API that the run used."""

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from coral_core.queue.queue import JobQueue
from coral_core.runs.records import GenomeRecord, JobTiming
from coral_core.runs.run_folder import RunFolder, find_run
from coral_core.store.store import Store
from flows.cli.markup import echo, print_json, words
from flows.cli.places import AsJson, Runs, store_of

if TYPE_CHECKING:
    from flows.prefect_api.client import RestClient

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
COLOURS = {"debug": "dim", "info": "", "warning": "yellow", "error": "red", "critical": "red"}
MARGIN_SECONDS = 10.0
"""Lanes' lines about a genome are searched between the evolution's first and last line about it, with this margin."""
DIGITS = 12
"""Number of digits of a digest in log lines."""


class LoggedLine(Frozen):
    """One line of a log: Unix time, level, name of its flow run, text."""

    time: float
    level: str
    source: str
    message: str


def logs(
    run: str,
    /,
    *,
    genome: Annotated[str | None, Parameter(help="Only what concerns this genome, its lanes' lines too.")] = None,
    level: Annotated[
        Literal["debug", "info", "warning", "error"], Parameter(help="Lines of this level and above.")
    ] = "info",
    runs: Runs = "runs",
    as_json: AsJson = False,
) -> None:
    """Show the log lines of RUN's evolution and generations; with --genome also its lanes' lines and its failures.

    Args:
        run: Id of a run, the beginning of one, `latest`, or the path of its folder.
    """
    folder = find_run(runs, run)
    store = store_of(folder)
    record, digests = _find_genome(folder, genome) if genome else (None, [])
    with _api_of(folder) as api:
        lowest = min(LEVELS[level], LEVELS["info"])  # lines that show when a genome was at work are of level info
        lines = _lines(api, folder, lowest)
        if genome:
            lines = _about(api, store, lines, genome, digests, lowest)
    lines = [line for line in lines if LEVELS[line.level] >= LEVELS[level]]
    failures = _failures(store, digests)
    if as_json:
        print_json({"schema_version": 1, "run_id": folder.run_id, "genome_id": genome, "digests": digests,
                    "lines": lines, "failures": failures})  # fmt: skip
        return
    for line in lines:
        _print(line)
    if record is not None and record.infeasible:
        echo(words(f"{genome} is infeasible ({record.infeasible}): {record.reason}", "yellow"))
    for number, failure in enumerate(failures, 1):
        where = f"lane {failure['lane']} on {failure['host'] or 'an unnamed machine'}"
        echo(words(f"\nfailed try {number}: {failure['kind']} {failure['digest'][:DIGITS]} in {where}", "red"))
        echo(words(failure["message"]), words(failure["traceback"].rstrip(), "dim"))


def _find_genome(folder: RunFolder, genome: str) -> tuple[GenomeRecord | None, list[str]]:
    """Record of the genome (None: not yet) and digests of its finished jobs. Raises `ConfigError` where there is neither."""
    history = folder.history()
    record = next((r for r in history if isinstance(r, GenomeRecord) and r.genome.genome_id == genome), None)
    done = [record.training_digest, record.evaluation_digest] if record else []
    done += [job.digest for job in folder.timings() if isinstance(job, JobTiming) and job.label.split()[0] == genome]
    if not done:
        from flows.cli.show import no_such_genome

        raise no_such_genome(genome, folder)
    return record, [digest for digest in dict.fromkeys(done) if digest != "none"]


def _lines(api: "RestClient", folder: RunFolder, level: int) -> list[LoggedLine]:
    """Lines of the run's sessions and of their generations, sorted by time."""
    from flows.prefect_api.client import flow_run_query

    ids = folder.flow_run_ids()
    found = [*api.flow_runs(flow_run_query(ids=ids)), *api.flow_runs(flow_run_query(parents=ids))]
    names = {run.id: "evolution" if run.id in ids else run.name for run in found}
    return _read(api, names, level) if names else []


def _about(
    api: "RestClient", store: Store, lines: Sequence[LoggedLine], genome: str, digests: Sequence[str], level: int
) -> list[LoggedLine]:
    """Lines of the evolution that name a genome, and lines of lanes that name one of its digests, sorted by time.

    They are filtered here, since the text search of a server on SQLite before 3.44 fails.
    """
    from flows.prefect_api.client import flow_run_query

    named = re.compile(rf"(?<![\w-]){re.escape(genome)}(?![\w-])")
    mine = [line for line in lines if named.search(line.message)]
    # any lane of the store may have trained an adapter that several evolutions needed
    lanes = [note.flow_run_id for note in JobQueue(store, "training").lanes.notes() if note.flow_run_id]
    if not mine or not lanes:
        return mine
    names = {run.id: run.name for run in api.flow_runs(flow_run_query(ids=lanes))}
    first, last = mine[0].time - MARGIN_SECONDS, mine[-1].time + MARGIN_SECONDS
    of_lanes = _read(api, names, level, _iso(first), _iso(last))
    mine += [line for line in of_lanes if any(digest[:DIGITS] in line.message for digest in digests)]
    return sorted(mine, key=lambda line: line.time)


def _read(api: "RestClient", names: dict[str, str], level: int, *span: str) -> list[LoggedLine]:
    return [
        LoggedLine(
            time=row.timestamp.timestamp(),
            level=next((name for name, number in reversed(LEVELS.items()) if row.level >= number), "debug"),
            source=names.get(row.flow_run_id or "", ""),
            message=row.message,
        )
        for row in api.log_lines(sorted(names), level, *span)
    ]


def _iso(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat()


def _failures(store: Store, digests: Sequence[str]) -> list[dict[str, Any]]:
    """Failed attempts of jobs that are still in the queue; only the last attempt of a job has a traceback."""
    from flows.cli.jobs import listed_jobs

    return [
        {"kind": job.ticket.kind, "digest": job.ticket.digest, **failure.model_dump(exclude={"others_done"})}
        | {"traceback": job.failed.traceback if job.failed and failure is job.ticket.failures[-1] else ""}
        for job in (listed_jobs(store) if digests else ())
        if job.ticket.digest in digests
        for failure in job.ticket.failures
    ]


def _print(line: LoggedLine) -> None:
    clock = time.strftime("%m-%d %H:%M:%S", time.localtime(line.time))
    mark = "" if line.level == "info" else f"{line.level}: "
    first, *rest = (mark + line.message).splitlines() or [""]
    colour = COLOURS[line.level]
    echo(Text.assemble((f"{clock}  ", "dim"), words(f"{line.source:<18} ", "cyan"), words(first, colour)))
    echo(*(words(f"{'':<35}{more}", colour) for more in rest))


@contextlib.contextmanager
def _api_of(folder: RunFolder) -> "Iterator[RestClient]":
    """A client of the API that has the run: the configured one, the one it used, or the local server, started for this.

    Raises:
        ConfigError: None of them has it.
    """
    from flows.installation.local_stack import read_state
    from flows.prefect_api.client import RestClient
    from flows.prefect_api.local_server import api
    from flows.prefect_api.settings import configured_api

    ids, facts = folder.flow_run_ids(), folder.facts()
    was = facts.api if facts else ""
    if not ids:
        raise ConfigError(
            f"{folder.run_id}: run.json names no flow run, so there is no log", remedy=f"Its files: {folder.path}"
        )
    known = configured_api() or str(read_state().get("url") or "")
    url = next((url for url in dict.fromkeys((known, was)) if url and _knows(url, ids[-1])), None)
    with contextlib.ExitStack() as stack:
        if url is None and not configured_api():
            note = "starting the local Prefect server, which keeps the log ..."
            Console(stderr=True, highlight=False).print(note, style="dim")
            local = stack.enter_context(api())
            url = local if _knows(local, ids[-1]) else None
        if url is None:
            raise ConfigError(
                f"{folder.run_id}: its log is at {was or 'an API that run.json does not name'}, which does not answer or has forgotten it",
                remedy="Set PREFECT_API_URL, or CORAL_HOME where its local server was.",
            )
        yield stack.enter_context(RestClient(url))


def _knows(url: str, flow_run_id: str) -> bool:
    """Whether an API answers and has a flow run. Raises `KeyRefusedError`."""
    from flows.prefect_api.api_errors import ApiError, KeyRefusedError
    from flows.prefect_api.client import RestClient

    try:
        with RestClient(url) as api:
            return api.flow_run(flow_run_id) is not None
    except KeyRefusedError:
        raise
    except ApiError:
        return False
