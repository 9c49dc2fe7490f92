"""The `evolve` flow: the engine's evolution, shown in Prefect.

Each generation is a flow, each training and evaluation a cached task (flows/tasks.py); artifacts, events and the
flow run's state listen. Not covered: the loop itself (`coral_core.evolution`).
"""

import asyncio
from datetime import datetime
from typing import Any

from prefect import flow
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Cancelled

from coral_core.api import run_evolution
from coral_core.config import RunConfig
from coral_core.evolution.loop import Evolution
from coral_core.evolution.preflight import preflight
from coral_core.runs.editions import check_edition, scheduled_edition, stamp
from coral_core.runs.run_folder import identify_run
from flows.observe import artifacts, memory
from flows.observe.events import EventFeed
from flows.observe.pause_state import PauseState
from flows.observe.run_logging import logged_to
from flows.prefect_api.flow_run_process import limit_retries, outlive_worker, roots, until_cancelled
from flows.prefect_api.prefect_client import api_in_use
from flows.prefect_api.settings import without_secrets
from flows.tasks import PrefectSteps
from flows.work_pools import make_executor


@flow(name="evolve", flow_run_name="{config.name}", persist_result=False)
async def evolve(config: RunConfig, edition: int | None = None, overrides: list[str] | None = None) -> Any:
    """Search for the best adapter.

    Args:
        config: The whole configuration. In the Prefect UI it is this form; fields that are not changed keep the value shown.
        edition: Another number makes a new run with other seeds; a repeat of a number is a replay. Left out: the date
            (YYYYMMDD) for a scheduled run, with hour and minute for a second one of that date, else 1.
        overrides: Leave it out. `coral evolve` records here the values of --set, which `config` already contains.

    Returns:
        A dict with `run_id`, `champion` (id of a genome) and `folder` (path of the run); a state Cancelled when the flow
        run was cancelled.

    Raises:
        ConfigError: The configuration comes from the server and names a path outside the roots of this machine.
    """
    memory.limit_arenas()
    outlive_worker()
    if (held_to := roots()) is not None:
        held_to.check_config(config)
    if edition is not None:
        check_edition(edition)
    await asyncio.to_thread(preflight, config)
    flow_run_id, scheduled = str(flow_run.id or ""), _scheduled_start()
    if edition is None:
        edition = scheduled_edition(config, scheduled) if scheduled is not None else 1
    observed = _ObservedRun(flow_run_id)
    with logged_to(flow_run_id):
        folder = await run_evolution(
            config,
            edition,
            observed.run,
            make_executor,
            overrides=overrides or [],
            flow_run_id=flow_run_id,
            api=without_secrets(api_in_use()),
            scheduled=stamp(scheduled) if scheduled is not None else "",
        )
    run_id = identify_run(config, edition).run_id
    if folder is None:
        return Cancelled(message=f"cancelled; finished work is kept. Go on with: coral resume {run_id}")
    return {"run_id": run_id, "champion": observed.champion, "folder": str(folder.path)}


def _scheduled_start() -> datetime | None:
    """Time at which a schedule planned the start of this run; None for a run by hand."""
    return flow_run.scheduled_start_time if "auto-scheduled" in (flow_run.tags or []) else None


class _ObservedRun:
    """Runs one evolution with its artifacts, events and pause state."""

    def __init__(self, flow_run_id: str) -> None:
        self._flow_run_id = flow_run_id
        self.champion = ""

    async def run(self, evolution: Evolution) -> bool:
        """Run the evolution to its end. False when the flow run was cancelled first."""
        publisher = artifacts.Publisher(evolution.folder, evolution.store, self._flow_run_id)
        evolution.steps = PrefectSteps(evolution.store, publisher)
        evolution.listeners += [EventFeed(evolution.folder.run_id), publisher, PauseState(self._flow_run_id)]
        async with publisher:
            try:
                cancelled = await until_cancelled(evolution.run(), self._flow_run_id)
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit, TerminationSignal) as stop:
                limit_retries(stop)
                raise
        self.champion = evolution.champion
        return not cancelled
