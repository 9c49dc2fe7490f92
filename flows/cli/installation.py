"""`coral setup`, `coral up`, `coral down`, `coral drain`: the installation that work pools need."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from flows.installation.pools import Infrastructure, Place

if TYPE_CHECKING:
    from flows.installation.notices import Notices
    from flows.installation.setup import Step

console = Console(highlight=False, soft_wrap=True, markup=False)


@Parameter(name="*")
@dataclass(frozen=True)
class Notify:
    """Options of notices; what is not given stays as it is installed."""

    notify_url: Annotated[
        str | None, Parameter(help="Where notices are posted, as JSON with a text.", env_var="CORAL_NOTIFY_URL")
    ] = None
    notify_block: Annotated[
        str | None, Parameter(help="TYPE/NAME of a notification block in place of a URL; none: no notices.")
    ] = None
    no_progress_minutes: Annotated[
        float | None, Parameter(help="Minutes without a finished job that are told; 45 at first.")
    ] = None
    crashed_lanes: Annotated[
        int | None, Parameter(help="Lanes of a kind crashed within 10 minutes that are told; 3 at first.")
    ] = None

    def notices(self) -> "Notices":
        from pydantic import SecretStr

        from flows.installation.notices import Notices

        return Notices(
            url=SecretStr(self.notify_url) if self.notify_url else None,
            block=self.notify_block,
            no_progress_minutes=self.no_progress_minutes,
            crashed_lanes=self.crashed_lanes,
        )


NOTHING_ASKED = Notify()


def setup(
    *,
    type: Annotated[Infrastructure, Parameter(help="What lanes run in.")] = "process",
    workdir: Annotated[Path | None, Parameter(help="Where processes start; this folder by default.")] = None,
    store: Annotated[str, Parameter(help="Folder of runs and store in every container.")] = "/data",
    api_url: Annotated[str | None, Parameter(help="The API as containers reach it.")] = None,
    control_image: Annotated[str, Parameter(help="Image of evolutions.")] = "coral-x-control:latest",
    lane_image: Annotated[str, Parameter(help="Image of lanes.")] = "coral-x-lane:latest",
    pull_policy: Annotated[str, Parameter(help="When images are pulled.")] = "IfNotPresent",
    network: Annotated[str, Parameter(help="Docker network mode.")] = "bridge",
    namespace: Annotated[str, Parameter(help="Kubernetes namespace of lanes.")] = "coral",
    claim: Annotated[str, Parameter(help="Kubernetes volume claim that holds the store.")] = "coral-store",
    gpus: Annotated[bool, Parameter(help="Give lanes a GPU each.")] = True,
    notify: Notify = NOTHING_ASKED,
    only_notices: Annotated[
        bool, Parameter(help="Leave pools and deployments alone: only automations and where notices go.", negative=())
    ] = False,
    dry_run: Annotated[bool, Parameter(help="Say what would be done.", negative=())] = False,
) -> None:
    """Make or update work pools, automations and deployments on the configured Prefect API."""
    url = use_api()
    from flows.installation.setup import set_up_notices
    from flows.installation.setup import setup as run

    notices = notify.notices()
    if only_notices:
        _say(set_up_notices(notices, dry_run))
        return
    place = Place(
        infrastructure=type,
        workdir=str((workdir or Path.cwd()).absolute()),
        store=store,
        api_url=api_url or url,
        control_image=control_image,
        lane_image=lane_image,
        pull_policy=pull_policy,
        network=network,
        namespace=namespace,
        claim=claim,
        gpus=gpus,
    )
    _say(run(place, dry_run, notices))


def _say(steps: Iterable["Step"]) -> None:
    for step in steps:
        console.print(f"{step.action:<20} {step.what}")


def up(
    *,
    port: Annotated[int, Parameter(help="Port of the local Prefect server.")] = 4200,
    workdir: Annotated[Path | None, Parameter(help="Where evolutions and lanes start; this folder by default.")] = None,
) -> None:
    """Start a complete installation on this machine: server, pools, workers, deployments."""
    from flows.local_server import join

    started = time.perf_counter()
    url = join(port)
    from flows.installation.daily import start_workers
    from flows.installation.setup import setup as run

    console.print(f"server       {url.removesuffix('/api')}")
    for step in run(Place(workdir=str((workdir or Path.cwd()).absolute()))):
        console.print(f"{step.action:<12} {step.what}")
    for worker in start_workers(url):
        console.print(f"{'worker':<12} {worker['pool']}, process {worker['pid']}, log {worker['log']}")
    console.print(
        f"up after {time.perf_counter() - started:.0f} s. Run: coral evolve configs/quickstart.yaml --executor work-pools; end with: coral down"
    )


def down() -> None:
    """End what `coral up` started: lanes, workers, server. Finished work stays."""
    from flows.installation.daily import end_workers, read_state
    from flows.local_server import leave

    state = read_state()
    if not state:
        console.print("nothing is up")
        leave()
        return
    os.environ["PREFECT_API_URL"] = state["url"]
    from flows.installation.ending import cancel_everything

    cancelled = cancel_everything()
    if cancelled:
        console.print(f"cancelled {cancelled} flow runs")
    for what in end_workers():
        console.print(f"ended {what}")
    leave()
    console.print("ended the server. Finished work is in the store.")


def drain(
    pool: str,
    /,
    *,
    minutes: Annotated[float, Parameter(help="How long to wait for lanes to finish what they do.")] = 60,
    undo: Annotated[
        bool, Parameter(help="Take work again; a worker of coral up is started again.", negative=())
    ] = False,
) -> None:
    """Let a pool's lanes finish their jobs, take no new ones, then stop its local worker.

    Args:
        pool: Name of the work pool.
        minutes: How long to wait for lanes to finish what they do.
        undo: Take work again; a worker of coral up is started again.
    """
    url = use_api()
    from flows.installation.daily import end_workers, read_state, start_workers
    from flows.installation.ending import drain as run
    from flows.installation.ending import undo_drain

    if undo:
        undo_drain(pool)
        console.print(f"pool {pool} takes work again")
        if read_state().get("url") == url:
            start_workers(url)
        return
    for line in run(pool, minutes * 60):
        console.print(line)
    for what in end_workers({pool}):
        console.print(f"ended {what}")
    console.print(f"pool {pool} is paused and idle. Go on with: coral drain {pool} --undo")


def use_api() -> str:
    """The configured API, else the one of `coral up`."""
    from coral_core.errors import ConfigError
    from flows.installation.daily import read_state
    from flows.local_server import configured_api

    url = configured_api() or read_state().get("url")
    if not url:
        raise ConfigError("no Prefect API is configured and nothing is up. Run coral up, or set PREFECT_API_URL.")
    os.environ["PREFECT_API_URL"] = url
    return str(url)
