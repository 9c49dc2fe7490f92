"""Editions of scheduled runs: each scheduled start has an edition of its own, and a restart of it has the same one."""

from datetime import UTC, datetime

from coral_core.config import RunConfig
from coral_core.errors import ConfigError
from coral_core.runs.run_folder import RunFolder, identify_run

LARGEST_EDITION = 999_999_999_999
"""A date with hour and minute has twelve digits."""


def check_edition(edition: int) -> None:
    """Raise `ConfigError` unless `edition` is from 1 to `LARGEST_EDITION`."""
    if not 1 <= edition <= LARGEST_EDITION:
        raise ConfigError(
            f"edition: {edition}: is no edition", remedy=f"Give a whole number from 1 to {LARGEST_EDITION}."
        )


def scheduled_edition(config: RunConfig, start: datetime) -> int:
    """Edition of a scheduled run: the date of its start (YYYYMMDD, UTC), or the date with hour and minute (YYYYMMDDHHMM).

    The longer number is taken when a run of another start has the shorter one. Two starts can share a UTC date even if a
    schedule runs once a day: 01:30 in Berlin is 00:30 UTC before the change to summer time and 23:30 UTC of the same date
    after it. A restart finds its folder by the start that ``run.json`` holds, and continues in it.

    Args:
        config: Configuration of the run.
        start: Scheduled start, with a time zone.
    """
    utc = start.astimezone(UTC)
    day, minute = int(utc.strftime("%Y%m%d")), int(utc.strftime("%Y%m%d%H%M"))
    folders = {edition: RunFolder.of(config, identify_run(config, edition)) for edition in (day, minute)}
    for edition, folder in folders.items():
        if (facts := folder.facts()) is not None and facts.scheduled == stamp(start):
            return edition
    return minute if folders[day].latest_start() else day


def stamp(start: datetime) -> str:
    """A scheduled start as run.json holds it: ISO 8601, UTC, to the second.

    >>> stamp(datetime(2026, 3, 29, 1, 30, tzinfo=UTC))
    '2026-03-29T01:30:00+00:00'
    """
    return start.astimezone(UTC).isoformat(timespec="seconds")
