"""`coral evolve`: runs an evolution on this machine and shows it live."""

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from coral_core.bounded_read import LINES, read_file
from coral_core.config import RunConfig, read_config
from coral_core.errors import ConfigError
from coral_core.evolution.preflight import check, preflight
from coral_core.json_object import json_object
from coral_core.runs.editions import LARGEST_EDITION
from coral_core.runs.run_folder import RunFolder, identify_run, next_edition
from coral_core.runs.run_lock import refuse_if_held
from coral_core.store.store import Store
from coral_core.untrusted import VisibleFormatter
from flows.cli.markup import marked, print_json
from flows.cli.places import AsJson, Overrides
from flows.cli.progress import watched
from flows.installation.local_stack import refuse_without_installation
from flows.prefect_api.flow_run_process import drain, shutdown_cause
from flows.prefect_api.local_server import api
from flows.prefect_api.settings import QUIET_CONSOLE, export_defaults, ui_url

TERMINATED = 128 + signal.SIGTERM


def evolve(
    config: Path | None = None,
    /,
    *,
    seed: Annotated[int | None, Parameter(help="Seed of the run, in place of the file's.")] = None,
    set_: Overrides = None,
    executor: Annotated[str | None, Parameter(help="inline, local or work-pools, in place of infra.executor.")] = None,
    edition: Annotated[int, Parameter(help="Number of the edition; a repeat of an edition is a replay.")] = 1,
    again: Annotated[bool, Parameter(help="A new run with the next edition number (new seeds).", negative=())] = False,
    dry_run: Annotated[bool, Parameter(help="Say what would run, start nothing.", negative=())] = False,
    port: Annotated[int, Parameter(help="Port of the local Prefect server; 0 takes a free one.")] = 0,
    keep_server: Annotated[bool, Parameter(help="Leave the local Prefect server running.", negative=())] = False,
    as_json: AsJson = False,
) -> None:
    """Evolve adapters as CONFIG says; run it again to resume or replay.

    Where no Prefect API is configured a local server is started for the run and ended
    with it. Finished work is in the store and is never done again.

    Args:
        config: The configuration: a file, or quickstart or production, which come with CORAL-X.
    """
    if config is None:
        raise ConfigError(
            "CONFIG: no configuration was given",
            remedy="Write one with coral init, or run the one that comes with CORAL-X: coral evolve quickstart",
        )
    overrides = [*(set_ or [])]
    if seed is not None:
        overrides.append(f"seed={seed}")
    if executor is not None:
        overrides.append(f"infra.executor={executor}")
    if not 1 <= edition <= LARGEST_EDITION:
        raise ConfigError(f"--edition {edition:.6g}: an edition is a whole number from 1 to {LARGEST_EDITION}.")
    loaded, places = read_config(config, overrides)
    if again:
        edition = next_edition(loaded.runs, loaded)
    if dry_run:
        from flows.cli.dry_run import dry_run as describe

        describe(loaded, edition, as_json, check(loaded, places))
        return
    preflight(loaded, places)
    Store(loaded.store.path).prepare()
    run_it(loaded, config, edition, overrides, port, keep_server, as_json)


def run_it(
    config: RunConfig,
    source: Path,
    edition: int,
    overrides: list[str],
    port: int = 0,
    keep_server: bool = False,
    as_json: bool = False,
) -> None:
    """Run an evolution in this process and show it; start a local server where no API is configured.

    Args:
        config: The whole configuration.
        source: File that it was read from, for the first line of output.
        edition: Edition of the run, from 1.
        overrides: Values of --set that `config` contains; recorded with the run.
        port: Port of the local server; 0 takes a free one.
        keep_server: Leave the local server running.
        as_json: Print the report as JSON to stdout, and all other output to stderr.

    Raises:
        ConfigError: Work pools are asked for, but no API is configured and `coral up` is not running.
        SystemExit: A signal stopped the run; 130 for Ctrl-C, 143 for SIGTERM.
    """
    out = Console(stderr=as_json, highlight=False, soft_wrap=True)
    folder = RunFolder.of(config, identify_run(config, edition))
    refuse_if_held(folder.path)
    if config.infra.executor == "work-pools":
        refuse_without_installation()
    out.print(f"run [bold]{marked(folder.run_id)}[/] from {marked(source)}")
    export_defaults(QUIET_CONSOLE)
    signal.signal(
        signal.SIGTERM, _terminated
    )  # after its flow Prefect passes SIGTERM on to the handler that was set before
    started = time.perf_counter()
    with api(port=port, keep=keep_server) as url:
        out.print(f"Prefect UI {ui_url(url)} (ready after {time.perf_counter() - started:.0f} s)")
        from flows.evolve import evolve as flow  # late: it imports Prefect, which reads its settings at import

        try:
            with _quiet_logs(), watched(folder, out):
                asyncio.run(flow(config, edition=edition, overrides=overrides))
        except BaseException as error:
            code = _stop_code(shutdown_cause() or error)  # `error` may be a later one, of a server that does not answer
            if code is None:
                raise
            out.print(f"[yellow]stopped[/]: finished work is kept. Go on with: coral resume {marked(folder.path)}")
            raise SystemExit(code) from None
        finally:
            drain()
    if as_json:
        print_json(json_object(read_file(folder.path / "report.json", LINES)))
        return
    from flows.cli.report import print_report

    print_report(folder)
    out.print(f"total {time.perf_counter() - started:.0f} s, server start included")


def _stop_code(error: BaseException) -> int | None:
    """Exit code of a requested stop (Ctrl-C, SIGTERM); None for an error."""
    from prefect.exceptions import CancelledRun, TerminationSignal

    if isinstance(error, KeyboardInterrupt | CancelledRun | asyncio.CancelledError):
        return 130
    ended = isinstance(error, TerminationSignal) or (isinstance(error, SystemExit) and error.code == TERMINATED)
    return TERMINATED if ended else None


def _terminated(*_: object) -> None:
    raise SystemExit(TERMINATED)


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """Print warnings of CORAL-X to stderr, one line each, while the body runs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(VisibleFormatter("%(levelname)s: %(message)s"))
    root = logging.getLogger("coral")
    root.addHandler(handler)
    root.propagate = False
    try:
        yield
    finally:
        root.removeHandler(handler)
