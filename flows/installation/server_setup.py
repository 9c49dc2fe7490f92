"""Sets up a Prefect server for CORAL-X: work pools, automations and deployments. Running it again changes only what differs."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import ConcurrencyOptions, DeploymentSchedule, WorkPool
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from flows.installation.notices import Installed, Notices, receiver
from flows.installation.pool_templates import FILES, POOLS, Place, PoolSpec, recorded, template
from flows.prefect_api.prefect_client import connected_client

SCHEDULE_KEYS = {"cron", "day_or", "interval", "anchor_date", "rrule", "timezone"}
"""Keys of a schedule in `prefect.yaml` that say when it runs."""
KEPT_KEYS = {"schedule", "active", "slug", "parameters", "max_scheduled_runs"}
"""Fields that are kept of a schedule that was added on the server."""


class Step(Frozen):
    """One object that set-up checked, and what it did."""

    what: str
    action: str


def setup(
    place: Place | None,
    dry_run: bool = False,
    notices: Notices | None = None,
    resume: bool = False,
    only_notices: bool = False,
) -> Iterator[Step]:
    """Create or update pools, automations and deployments as this version needs them.

    Args:
        place: Options that templates are rendered with; None: for each pool those that the last set-up recorded.
        dry_run: Change nothing; yield what would be done.
        notices: What is reported, and where to; None: as it is installed.
        resume: Resume paused pools; otherwise it is only reported that they are paused.
        only_notices: Set up only automations and their notification block.

    Yields:
        Each step, when it is done.

    Raises:
        ApiError: The API cannot be reached.
        ConfigError: A pool of that name has another type or no record, or `notices` cannot be set up.
    """
    notices = notices or Notices()
    notices.check()
    file = yaml.safe_load((FILES / "prefect.yaml").read_text("utf-8"))
    with connected_client() as client:
        for spec in () if only_notices else POOLS:
            yield from _pool(client, spec, place, dry_run, resume)
        installed = Installed(client)
        block, what, action = receiver(client, notices, installed, dry_run)
        yield Step(what=what, action=action)
        for automation in installed.wanted(notices, block):
            yield Step(what=f"automation {automation.name}", action=installed.apply(automation, dry_run))
        for entry in () if only_notices else file["deployments"]:
            yield _deployment(client, entry, file["pull"], dry_run)


def _pool(
    client: SyncPrefectClient, spec: PoolSpec, place: Place | None, dry_run: bool, resume: bool
) -> Iterator[Step]:
    found = _found(client, spec.name)
    place = place or (recorded(spec.name, found.base_job_template) if found else None)
    if place is None:
        raise ConfigError(
            f"work pool {spec.name}: does not exist, so no options are recorded (--as-installed)",
            remedy="Run coral setup with the options of your set-up.",
        )
    wanted = template(spec, place)
    if found is None and not dry_run:
        new = WorkPoolCreate(
            name=spec.name,
            type=place.infrastructure,
            base_job_template=wanted,
            concurrency_limit=spec.limit,
            description=spec.description,
        )
        try:
            client.create_work_pool(new)
        except ObjectAlreadyExists:  # another set-up, at the same time
            found = _found(client, spec.name)
    what = f"work pool {spec.name}"
    if found is None:
        yield Step(what=what, action="would create" if dry_run else "created")
        return
    if found.type != place.infrastructure:
        raise ConfigError(
            f"{what}: is of type {found.type}, and {place.infrastructure} is asked for",
            remedy=f"Delete it first (prefect work-pool delete {spec.name}), or set up with --type {found.type}.",
        )
    if (found.base_job_template, found.description) == (wanted, spec.description):
        yield Step(what=what, action="is as it should be")
    else:
        if not dry_run:
            client.update_work_pool(spec.name, WorkPoolUpdate(base_job_template=wanted, description=spec.description))
        yield Step(what=what, action="would update" if dry_run else "updated")
    if found.is_paused and resume:
        client.update_work_pool(spec.name, WorkPoolUpdate(is_paused=False))
        yield Step(what=f"{what}, which was paused", action="resumed")
    elif found.is_paused:  # reported, since no lane starts there although everything is installed
        yield Step(what=f"{what}: no lane starts before coral drain {spec.name} --undo", action="is paused")


def _found(client: SyncPrefectClient, name: str) -> WorkPool | None:
    try:
        return client.read_work_pool(name)
    except ObjectNotFound:
        return None


def _deployment(
    client: SyncPrefectClient, entry: dict[str, Any], pull_steps: list[dict[str, Any]], dry_run: bool
) -> Step:
    """Create or update one deployment of `prefect.yaml`. Its schedules go with the same request, so none is lost."""
    name = f"{entry['name']}/{entry['name']}"
    try:
        schedules = client.read_deployment_schedules(client.read_deployment_by_name(name).id)
        action = "update"
    except ObjectNotFound:
        schedules, action = [], "create"
    if not dry_run:
        flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"], use_placeholder_flow=False)
        limit = entry.get("concurrency_limit")
        client.create_deployment(
            client.create_flow(flow),
            entry["name"],
            version=version("coral-x"),
            entrypoint=entry["entrypoint"],
            description=entry["description"],
            tags=entry["tags"],
            parameters=entry.get("parameters"),
            parameter_openapi_schema=parameter_schema(flow).model_dump(exclude_unset=True),
            enforce_parameter_schema=True,
            concurrency_limit=limit and limit["limit"],
            concurrency_options=limit and ConcurrencyOptions(collision_strategy=limit["collision_strategy"]),
            pull_steps=pull_steps,
            work_pool_name=entry["work_pool"]["name"],
            schedules=_schedules(entry.get("schedules", []), schedules),
        )
    return Step(what=f"deployment {name}", action=f"would {action}" if dry_run else f"{action}d")


def _schedules(own: list[dict[str, Any]], there: list[DeploymentSchedule]) -> list[DeploymentScheduleCreate]:
    """Schedules of the file, switched on or off as on the server, and schedules that were added on the server."""
    switches = {schedule.slug: schedule.active for schedule in there}
    made = [
        {key: each[key] for key in ("slug", "active", "parameters") if key in each}
        | {"schedule": {key: each[key] for key in SCHEDULE_KEYS & each.keys()}}
        | ({"active": switches[each["slug"]]} if each["slug"] in switches else {})
        for each in own
    ]
    slugs = {each["slug"] for each in own}
    made += [each.model_dump(include=KEPT_KEYS) for each in there if each.slug not in slugs]
    return [DeploymentScheduleCreate.model_validate(each) for each in made]
