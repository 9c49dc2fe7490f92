"""Ends flow runs on the work pools: cancels all of them (`coral down`), or lets a pool finish (`coral drain`)."""

import time
from collections.abc import Iterator

from pydantic import Field

from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from flows.installation.pool_templates import POOLS
from flows.prefect_api.api_errors import ApiError, ApiUnreachableError
from flows.prefect_api.client import LIVING, FlowRun, RestClient, flow_run_query

CANCEL_SECONDS = 30.0
"""Longest wait for cancelled flow runs to end."""


class Ended(Frozen):
    """Flow runs that were cancelled."""

    on_pools: int = Field(0, description="Number of flow runs on the pools.")
    evolutions: tuple[str, ...] = Field((), description="Evolutions that run elsewhere, for example in a terminal.")
    hanging: tuple[str, ...] = Field((), description="Those of `evolutions` that had not ended after half a minute.")
    problem: str = Field("", description="Reason why nothing could be cancelled, where the server refused.")


def cancel_everything(url: str, leave_local: bool) -> Ended:
    """Cancel all flow runs on the pools, and evolutions elsewhere that use them; wait until they have ended.

    Args:
        url: The API of the installation.
        leave_local: Do not cancel evolutions that use no pool (`infra.executor` is not work-pools).

    Returns:
        What was cancelled; nothing when the server cannot be reached, a `problem` when it refused.
    """
    try:
        with RestClient(url) as client:
            on_pools = client.flow_runs(flow_run_query(states=LIVING, pools=[pool.name for pool in POOLS]))
            elsewhere = [
                run
                for run in client.flow_runs(flow_run_query(states=LIVING, flow="evolve"))
                if not run.work_pool_name and not (leave_local and _executor(run) != "work-pools")
            ]
            for run in (*on_pools, *elsewhere):
                client.cancel_flow_run(run)
            left, deadline = [*on_pools, *elsewhere], time.monotonic() + CANCEL_SECONDS
            while left and time.monotonic() < deadline:
                time.sleep(0.5)
                left = client.flow_runs(flow_run_query(states=LIVING, ids=[run.id for run in left]))
            hanging = [run for run in left if not run.work_pool_name]
            for run in hanging:  # its process has probably died, so nothing else would record the end
                client.set_state(run.id, "CANCELLED", "coral down", force=True)
            return Ended(
                on_pools=len(on_pools),
                evolutions=tuple(run.name for run in elsewhere),
                hanging=tuple(run.name for run in hanging),
            )
    except ApiUnreachableError:
        return Ended()  # without a server there is nothing to cancel; `coral down` ends its workers and their flow runs
    except ApiError as error:
        return Ended(problem=str(error))


def _executor(run: FlowRun) -> str:
    try:
        return str(run.parameters["config"]["infra"]["executor"])
    except (KeyError, TypeError):
        return "work-pools"


def drain(url: str, pool: str, seconds: float) -> Iterator[str]:
    """Pause a work pool and wait until no flow run works there.

    Args:
        url: The API of the installation.
        pool: Name of the work pool.
        seconds: Longest wait; the pool stays paused when it is exceeded.

    Yields:
        Progress messages.

    Raises:
        ConfigError: There is no such pool, or flow runs still work after `seconds`.
        ApiError: The API cannot be reached or refuses.
    """
    with RestClient(url) as client:
        _pause(client, pool, True)
        yield f"paused {pool}"
        deadline = time.monotonic() + seconds
        left: set[str] | None = None
        begun = flow_run_query(states=[state for state in LIVING if state != "SCHEDULED"], pools=[pool])
        while running := {run.name for run in client.flow_runs(begun)}:
            if running != left:
                left = running
                yield f"waiting for {', '.join(sorted(running))}"
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{pool}: {len(running)} flow runs still work after {seconds / 60:.0f} minutes",
                    remedy="Raise --minutes, or: coral cancel",
                )
            time.sleep(1)


def undo_drain(url: str, pool: str) -> None:
    """Resume a work pool that `drain` paused.

    Args:
        url: The API of the installation.
        pool: Name of the work pool.

    Raises:
        ConfigError: There is no such pool.
        ApiError: The API cannot be reached or refuses.
    """
    with RestClient(url) as client:
        _pause(client, pool, False)


def _pause(client: RestClient, pool: str, paused: bool) -> None:
    if client.work_pool(pool) is None:
        raise ConfigError(f"{pool}: no such work pool", remedy=f"Known: {', '.join(p.name for p in POOLS)}.")
    client.pause_work_pool(pool, paused)
