"""Which edition of a configuration a run of a schedule is: a new one each time, and the same one when it is run again."""

from datetime import UTC, datetime

from coral_core.config import RunConfig
from coral_core.errors import ConfigError
from coral_core.runs.run_folder import RunFolder, identify_run

LARGEST_EDITION = 999_999_999_999
"""Dates with hour and minute have twelve digits."""


def check_edition(edition: int) -> None:
    """Raise `ConfigError` for a number that is no edition."""
    if not 1 <= edition <= LARGEST_EDITION:
        raise ConfigError(
            f"edition: {edition}: is no edition", remedy=f"Give a whole number from 1 to {LARGEST_EDITION}."
        )


def scheduled_edition(config: RunConfig, start: datetime) -> int:
    """Edition of the run that was scheduled for `start`: its date (YYYYMMDD, UTC), or the date with hour and minute.

    Two starts can share a date: at 01:30 in Berlin the last Sunday of March begins on the 29th and the next night on the
    29th too, by UTC. The second then finds the folder of the first, which names another start, and takes the longer
    number. A restart finds its own folder by the start, and goes on in it.
    """
    utc = start.astimezone(UTC)
    day, minute = int(utc.strftime("%Y%m%d")), int(utc.strftime("%Y%m%d%H%M"))
    folders = {edition: RunFolder.of(config, identify_run(config, edition)) for edition in (day, minute)}
    for edition, folder in folders.items():
        if (facts := folder.facts()) is not None and facts.scheduled == stamp(start):
            return edition
    return minute if folders[day].made() else day


def stamp(start: datetime) -> str:
    """A scheduled start as run.json holds it, whatever its time zone."""
    return start.astimezone(UTC).isoformat(timespec="seconds")
