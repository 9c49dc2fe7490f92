"""The server's side of an installation: pools, automations, deployments. Run it as often as you like."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError

from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from flows.installation.notices import Installed, Notices, receiver
from flows.installation.pool_templates import POOLS, ROOT, Place, PoolSpec, template
from flows.installation.schedules import with_those_of_the_server
from flows.prefect_api.client import all_pages
from flows.prefect_api.prefect_client import connected_client

DEPLOYMENTS = (
    "evolve/evolve",
    "train-adapters/train-adapters",
    "evaluate-genomes/evaluate-genomes",
    "test-patches/test-patches",
)


class Step(Frozen):
    """One thing that set-up looked at."""

    what: str
    action: str


def setup(place: Place, dry_run: bool = False, notices: Notices | None = None, resume: bool = False) -> Iterator[Step]:
    """Bring the server to what this version needs, and say what was done.

    Args:
        place: What the pools' templates are rendered with.
        dry_run: Only say what would be done.
        notices: What is told, and where; left out: as it is installed.
        resume: Pools that are paused take work again; else it is only said that they do not.

    Raises:
        ApiError: the API cannot be reached.
        ConfigError: a pool of that name has other infrastructure, or `notices` ask for what is not there.
    """
    notices = notices or Notices()
    notices.check()
    with connected_client() as client:
        for pool in POOLS:
            yield Step(what=f"work pool {pool.name}", action=_pool(client, pool, place, dry_run))
            yield from _paused(client, pool.name, resume)
        yield from _notices(client, notices, dry_run)
        missing = [name for name in DEPLOYMENTS if not _has_deployment(client, name)]
        if not dry_run:
            _deploy(with_those_of_the_server(client, yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))))
    for name in DEPLOYMENTS:
        action = "create" if name in missing else "update"
        yield Step(what=f"deployment {name}", action=f"would {action}" if dry_run else f"{action}d")


def set_up_notices(notices: Notices, dry_run: bool = False) -> Iterator[Step]:
    """Automations and where they tell, nothing else. Raises as `setup`."""
    notices.check()
    with connected_client() as client:
        yield from _notices(client, notices, dry_run)


def _notices(client: SyncPrefectClient, notices: Notices, dry_run: bool) -> Iterator[Step]:
    installed = Installed(client)
    block, what, action = receiver(client, notices, installed, dry_run)
    yield Step(what=what, action=action)
    for automation in installed.wanted(notices, block):
        yield Step(what=f"automation {automation.name}", action=installed.bring(automation, dry_run))


def _pool(client: SyncPrefectClient, pool: PoolSpec, place: Place, dry_run: bool) -> str:
    wanted = template(pool, place)
    try:
        found = client.read_work_pool(pool.name)
    except ObjectNotFound:
        if not dry_run:
            new = WorkPoolCreate(
                name=pool.name,
                type=place.infrastructure,
                base_job_template=wanted,
                concurrency_limit=pool.limit,
                description=pool.description,
            )
            try:
                client.create_work_pool(new)
            except ObjectAlreadyExists:  # another set-up, at the same time
                return _pool(client, pool, place, dry_run)
        return "would create" if dry_run else "created"
    if found.type != place.infrastructure:
        raise ConfigError(
            f"work pool {pool.name}: is of type {found.type}, and {place.infrastructure} is asked for. Delete it first "
            f"(prefect work-pool delete {pool.name}), or set up with --type {found.type}."
        )
    if (found.base_job_template, found.description) == (wanted, pool.description):
        return "is as it should be"
    if not dry_run:
        client.update_work_pool(pool.name, WorkPoolUpdate(base_job_template=wanted, description=pool.description))
    return "would update" if dry_run else "updated"


def _paused(client: SyncPrefectClient, name: str, resume: bool) -> Iterator[Step]:
    """A pool that `coral drain` or somebody in the UI paused looks complete, and no lane would ever start there."""
    try:
        if not client.read_work_pool(name).is_paused:
            return
    except ObjectNotFound:  # a dry run, where it would be made
        return
    if resume:
        client.update_work_pool(name, WorkPoolUpdate(is_paused=False))
        yield Step(what=f"work pool {name}, which was paused", action="resumed")
    else:
        yield Step(what=f"work pool {name}: no lane starts before coral drain {name} --undo", action="is paused")


def make_missing_pools() -> list[str]:
    """Make the pools that the server has not got, for processes that start in this checkout; returns their names."""
    with connected_client() as client:
        there = {
            pool.name for pool in all_pages(lambda limit, offset: client.read_work_pools(limit=limit, offset=offset))
        }
        missing = [pool for pool in POOLS if pool.name not in there]
        for pool in missing:
            _pool(client, pool, Place(workdir=str(ROOT)), dry_run=False)
    return [pool.name for pool in missing]


def _has_deployment(client: SyncPrefectClient, name: str) -> bool:
    try:
        client.read_deployment_by_name(name)
        return True
    except (ObjectNotFound, PrefectHTTPStatusError):
        return False


def _deploy(wanted: dict[str, Any]) -> None:
    """`prefect deploy --all`, the command that people use too, from a file of this content."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file"]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(wanted, file, sort_keys=False)
        file.flush()
        environment = {**os.environ, "NO_COLOR": "1"}
        done = subprocess.run([*command, file.name], cwd=ROOT, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        tail = " | ".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise ConfigError(f"prefect deploy --all in {ROOT} failed: {tail}")
