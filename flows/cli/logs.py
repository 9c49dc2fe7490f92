"""`coral logs`: what a run, or one genome of it, said."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from coral_core.errors import ConfigError
from coral_core.runs.records import GenomeRecord
from coral_core.runs.run_folder import RunFolder, find_run
from flows.cli.markup import words
from flows.cli.places import AsJson, Runs, store_of

if TYPE_CHECKING:
    from flows.observe.log_lines import JobFailure, Line
    from flows.prefect_api.client import RestClient

LOOK_SECONDS = 1.0
COLOURS = {"debug": "dim", "info": "", "warning": "yellow", "error": "red", "critical": "red"}


def logs(
    run: str,
    /,
    *,
    genome: Annotated[str | None, Parameter(help="Only what concerns this genome, its lanes' lines too.")] = None,
    follow: Annotated[bool, Parameter(help="Go on until the run ends.", negative=())] = False,
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
    from flows.observe.log_lines import LEVELS, Reader, digests_of, failures_of, lanes_of

    folder = find_run(runs, run)
    store = store_of(folder)
    out = Console(highlight=False, soft_wrap=True)
    with _api_of(folder) as api:
        reader = Reader(api, folder, debug=level == "debug")
        seen: list[Line] = []  # of the evolution; they tell the digests of a genome that is under way
        lines: list[Line] = []
        digests: list[str] = []
        while True:
            ended = reader.over
            new = reader.new()
            if genome is not None:
                seen += new
                digests = digests_of(folder, genome, seen)
                if not follow and not digests:
                    raise ConfigError(
                        f"--genome {genome}: {folder.run_id} has no such genome (yet)", remedy=_known(folder)
                    )
                new = reader.about(genome, new, digests, lanes_of(store), now=follow)
            new = [line for line in new if LEVELS[line.level] >= LEVELS[level]]
            lines += new
            for line in new if follow or not as_json else ():
                _print(out, line, as_json)
            if not follow or ended:
                break
            time.sleep(LOOK_SECONDS)
    failures = failures_of(store, digests) if genome is not None else []
    if as_json and not follow:
        print(json.dumps(_document(folder, genome, digests, lines, failures), indent=1))
    elif not as_json:
        _print_failures(out, folder, genome, failures)


def _document(
    folder: RunFolder, genome: str | None, digests: list[str], lines: "list[Line]", failures: "list[JobFailure]"
) -> dict[str, object]:
    return {
        "schema_version": 1,
        "run_id": folder.run_id,
        "genome_id": genome,
        "digests": digests,
        "lines": [line.model_dump(exclude={"log_id"}) for line in lines],
        "failures": [failure.model_dump() for failure in failures],
    }


def _known(folder: RunFolder) -> str:
    """Genomes that there are, for a name that is none of them."""
    known = [record.genome.genome_id for record in folder.history() if isinstance(record, GenomeRecord)]
    return f"It has {known[0]} to {known[-1]}." if known else "Its first generation is under way."


def _print(out: Console, line: "Line", as_json: bool) -> None:
    if as_json:
        print(json.dumps({"schema_version": 1, **line.model_dump(exclude={"log_id"})}), flush=True)
        return
    clock = time.strftime("%m-%d %H:%M:%S", time.localtime(line.time))
    first, *rest = line.message.splitlines() or [""]
    mark = "" if line.level == "info" else f"{line.level}: "
    said = words(mark + first, COLOURS[line.level])
    out.print(Text.assemble((f"{clock}  ", "dim"), words(f"{line.source:<18} ", "cyan"), said))
    for more in rest:
        out.print(words(f"{'':<35}{more}", COLOURS[line.level]))


def _print_failures(out: Console, folder: RunFolder, genome: str | None, failures: "list[JobFailure]") -> None:
    for record in folder.history() if genome is not None else []:
        if isinstance(record, GenomeRecord) and record.genome.genome_id == genome and record.infeasible:
            out.print(words(f"{genome} is infeasible ({record.infeasible}): {record.reason}", "yellow"))
    for number, failure in enumerate(failures, 1):
        where = f"lane {failure.lane} on {failure.host or 'an unnamed machine'}"
        out.print(words(f"\nfailed try {number}: {failure.kind} {failure.digest[:12]} in {where}", "red"))
        out.print(words(failure.message))
        if failure.traceback:
            out.print(words(failure.traceback.rstrip(), "dim"))


@contextlib.contextmanager
def _api_of(folder: RunFolder) -> "Iterator[RestClient]":
    """The API that knows the run: the one it ran on, the configured one, or the local server, started for this.

    Raises:
        ConfigError: none of them knows it.
    """
    from flows.prefect_api.api_errors import KeyRefusedError
    from flows.prefect_api.client import RestClient
    from flows.prefect_api.local_server import api
    from flows.prefect_api.settings import configured_api

    ids = folder.flow_run_ids()
    if not ids:
        raise ConfigError(
            f"{folder.run_id}: run.json names no flow run, so there is no log", remedy=f"Its files: {folder.path}"
        )
    was = str(folder.facts().get("api") or "")
    refused: KeyRefusedError | None = None
    for url in dict.fromkeys(filter(None, (was, configured_api(), _of_up()))):
        with RestClient(url) as found:
            try:
                knows = _knows(found, ids[-1])
            except KeyRefusedError as error:
                refused = refused or error
                continue
            if knows:
                yield found
                return
    if not configured_api():
        Console(stderr=True, highlight=False).print(
            "starting the local Prefect server, which keeps the log ...", style="dim"
        )
        with api() as url, RestClient(url) as found:
            if _knows(found, ids[-1]):
                yield found
                return
    if refused is not None:
        raise refused
    raise ConfigError(
        f"{folder.run_id}: its log is at {was or 'an API that run.json does not name'}, which does not answer or has forgotten it",
        remedy="Set PREFECT_API_URL, or CORAL_HOME where its local server was.",
    )


def _knows(api: "RestClient", flow_run_id: str) -> bool:
    """Does this API answer, and has it this flow run? Raises `KeyRefusedError`."""
    from flows.prefect_api.api_errors import ApiError, KeyRefusedError

    try:
        return api.flow_run(flow_run_id) is not None
    except KeyRefusedError:
        raise
    except ApiError:
        return False


def _of_up() -> str:
    from flows.installation.local_stack import read_state

    return str(read_state().get("url") or "")
