"""`coral cancel` and `coral resume`: stop an evolution, from any machine, and resume it."""

import contextlib
import time
from typing import Annotated
from uuid import UUID

from cyclopts import Parameter
from rich.console import Console

from coral_core.atomic_write import write_atomic
from coral_core.config import RunConfig, dump_yaml, load_config
from coral_core.errors import ConfigError, StoreError
from coral_core.ledger import Ledger
from coral_core.queue.queue import both_queues
from coral_core.runs.run_folder import RunFolder, find_run, identify_run
from flows.cli.markup import marked, words
from flows.cli.places import Runs, enter_start_folder, store_of, with_absolute_folders

console = Console(highlight=False)


def cancel(
    run: str,
    /,
    *,
    runs: Runs = "runs",
    wait: Annotated[float, Parameter(help="Seconds to wait until it has ended.")] = 30,
) -> None:
    """Stop evolution RUN: its jobs in flight end, its finished work stays.

    Args:
        run: Id of a run, the beginning of one, `latest`, or the path of its folder.
        runs: Directory that holds the runs.
        wait: Seconds to wait until it has ended.
    """
    folder = find_run(runs, run)
    facts = folder.sound_facts()  # else nothing would be told to stop, and that is not to be called stopped
    if facts.flow_run_id and facts.api:
        _cancel_flow_run(facts.api, facts.flow_run_id)
    deadline = time.monotonic() + wait
    while (alive := folder.lives()) and time.monotonic() < deadline:
        time.sleep(0.2)
    dropped = 0 if alive else _withdraw(folder)
    if alive:
        console.print(words(f"{folder.run_id} was told to stop and has not ended yet"))
        raise SystemExit(1)
    if _has_finished(folder):
        console.print(words(f"{folder.run_id} has finished: there is nothing to stop"))
        return
    extra = f", {dropped} jobs withdrawn" if dropped else ""
    console.print(words(f"{folder.run_id} is stopped{extra}. Go on with: coral resume {folder.run_id}"))


def _has_finished(folder: RunFolder) -> bool:
    with contextlib.suppress(StoreError):  # commands that need the history report that it is broken
        return folder.last("final") is not None
    return False


def resume(
    run: str,
    /,
    *,
    set_: Annotated[
        list[str] | None,
        Parameter(name="--set", help="budget.key=value or infra.key=value in place of the run's.", negative=()),
    ] = None,
    runs: Runs = "runs",
    port: int = 0,
) -> None:
    """Go on with RUN as it was configured; finished work is not done again.

    A run that the budget has paused goes on with a raised limit: --set budget.evolution.money=50. While its
    process lives, the limit is put in force there and this command returns.

    Args:
        run: Id of a run, the beginning of one, `latest`, or the path of its folder.
        runs: Directory that holds the runs.
        port: Port of the local Prefect server; 0 takes a free one.
    """
    folder = find_run(runs, run)
    facts = folder.sound_facts()
    overrides = set_ or []
    config = load_config(folder.path / "config.yaml", overrides)
    identity = identify_run(config, facts.identity.edition)
    if identity.run_id != folder.run_id:
        raise ConfigError(
            f"--set {' '.join(overrides)}: with that it would be another run ({identity.run_id})",
            remedy="Only budget, infra and places can change while a run goes on; start a new one with coral evolve.",
        )
    if folder.lives():
        _refuse_other_settings(folder, overrides)
        _apply_budget(folder, config)
        return
    from flows.cli.evolve import run_it

    config = with_absolute_folders(folder, config, {item.partition("=")[0].strip() for item in overrides})
    file = folder.path.absolute() / "config.yaml"
    enter_start_folder(folder)
    run_it(config, file, identity.edition, [*facts.set, *overrides], port)


def _refuse_other_settings(folder: RunFolder, overrides: list[str]) -> None:
    """Refuse settings other than the budget: a running evolution reads only its budget again, before each job."""
    for item in overrides:
        if item.partition("=")[0].strip().split(".")[0] != "budget":
            raise ConfigError(
                f"--set {item}: {folder.run_id} is running, and only its budget can change while it does",
                remedy=f"Stop it first: coral cancel "
                f"{folder.run_id}; then give the same to coral resume {folder.run_id}",
            )


def _apply_budget(folder: RunFolder, config: RunConfig) -> None:
    """Change the budget of a running evolution; its lanes read it before their next job."""
    Ledger(store_of(folder)).set_budget(folder.run_id, config.budget)
    write_atomic(folder.path / "config.yaml", dump_yaml(config).encode())
    standing = Ledger(store_of(folder)).standing(folder.run_id)
    state = f"still held: {standing.closed}" if standing.closed else "it goes on"
    console.print(words(f"{folder.run_id} is running and has its budget: {state}. See: coral budget {folder.run_id}"))


def _cancel_flow_run(url: str, flow_run_id: str) -> None:
    """Ask the API to cancel the flow run, which the evolution or its worker notices. A failure is printed and ignored.

    The address comes from the run's folder, which any user may have written, so the API key is sent only to a known API.
    """
    from flows.installation.local_stack import read_state
    from flows.prefect_api.api_errors import ApiError, KeyRefusedError
    from flows.prefect_api.client import RestClient
    from flows.prefect_api.credentials import same_api
    from flows.prefect_api.local_server import living
    from flows.prefect_api.settings import configured_api, without_secrets

    try:
        UUID(flow_run_id)
    except ValueError:
        console.print(f"[yellow]run.json names no flow run[/] ({marked(flow_run_id[:100])}), so none is told")
        return
    trusted = any(same_api(url, own) for own in (configured_api(), read_state().get("url"), living()))
    try:
        with RestClient(url) as client:
            run = client.flow_run(flow_run_id)
            if run is None:
                console.print(f"[yellow]{marked(without_secrets(url))} does not know its flow run[/], so none is told")
            elif not run.has_ended:
                client.cancel_flow_run(run, "coral cancel")
    except ApiError as error:
        if trusted and isinstance(error, KeyRefusedError):
            raise
        console.print(f"[yellow]the flow run could not be told[/]: {marked(without_secrets(error.problem))}")
        if not trusted:
            console.print(
                "It was asked without your API key. If it is yours, set PREFECT_API_URL to it and cancel again."
            )


def _withdraw(folder: RunFolder) -> int:
    """Withdraw the tickets of an evolution that has ended, so that its lanes stop. Returns their number."""
    store = store_of(folder)
    if not (store.root / "queue").is_dir():
        return 0
    count = 0
    for queue in both_queues(store):
        for ticket in queue.waiting(folder.run_id):
            queue.withdraw(ticket)
            count += 1
    return count
