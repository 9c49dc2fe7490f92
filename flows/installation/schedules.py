"""Schedules of a server, which deploying again must leave as people made them.

`prefect deploy` writes the schedules of its file over the server's: one that somebody switched on is off again, and one
that somebody added may be gone. So set-up deploys from a file that has the server's. To put things right afterwards would
not do: who is killed in between leaves the nights without a run, and nobody would notice.
"""

from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.exceptions import ObjectNotFound


def with_those_of_the_server(client: SyncPrefectClient, file: dict[str, Any]) -> dict[str, Any]:
    """The content of a `prefect.yaml`, its schedules switched as on the server, and with those that were added there."""
    return file | {"deployments": [_deployment(client, entry) for entry in file["deployments"]]}


def _deployment(client: SyncPrefectClient, entry: dict[str, Any]) -> dict[str, Any]:
    flow = entry["entrypoint"].rpartition(".")[2].replace("_", "-")
    try:
        deployment = client.read_deployment_by_name(f"{flow}/{entry['name']}")
    except ObjectNotFound:
        return entry
    there = client.read_deployment_schedules(deployment.id)
    switches = {schedule.slug: schedule.active for schedule in there if schedule.slug}
    own = [each | {"active": switches.get(each["slug"], each["active"])} for each in entry.get("schedules", ())]
    slugs = {each["slug"] for each in own}
    added = [_as_in_a_file(each) for each in there if each.slug not in slugs]
    return entry | {"schedules": own + [each for each in added if each]}


def _as_in_a_file(made: DeploymentSchedule) -> dict[str, Any]:
    """Empty for one that never runs."""
    schedule = made.schedule
    if isinstance(schedule, CronSchedule):
        when: dict[str, Any] = {"cron": schedule.cron, "day_or": schedule.day_or}
    elif isinstance(schedule, IntervalSchedule):
        anchor = schedule.anchor_date
        when = {"interval": schedule.interval.total_seconds()} | ({"anchor_date": str(anchor)} if anchor else {})
    elif not isinstance(schedule, RRuleSchedule):
        return {}
    else:
        when = {"rrule": schedule.rrule}
    slug = {"slug": made.slug} if made.slug else {}
    return when | {"timezone": schedule.timezone, "active": made.active, "parameters": made.parameters} | slug
