"""Is the store there, can it be written, do lanes see the same one, and is there room?"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from coral_core.errors import CoralError
from coral_core.frozen import Frozen
from coral_core.queue import JobQueue, lane_name
from coral_core.store.store import Store
from flows.installation.pool_status import QUEUES
from flows.monitoring.finding import Check, first
from flows.prefect_api.api_errors import ApiError
from flows.prefect_api.client import RestClient, flow_run_query

LEAST_BYTES = 1e9
"""Less room than this is bad: an adapter of a 7B model at rank 64 takes 0.2 GB, and two lanes publish at once."""
LITTLE_BYTES = 10e9
START_SECONDS = 120.0
"""A lane has begun to beat by then; image pulls come before its flow run is Running."""


class LaneRun(Frozen):
    """A lane's flow run that is Running, as the API has it."""

    flow_run_id: str
    name: str
    queue: str
    store: str = Field(description="Path of the store that it was started with.")
    installation: str = Field(description="First digits of the store's name.")
    seconds: float = Field(description="Since it began to run.")


def look_at_lanes(url: str) -> list[LaneRun]:
    """Lanes that run now, from any evolution. Raises `ApiError`."""
    query = flow_run_query(states=["RUNNING"], tags=["coral-lane"], pools=list(QUEUES))
    with RestClient(url) as api:
        found = []
        for run in api.flow_runs(query):
            tags = {tag.partition(":")[0]: tag.partition(":")[2] for tag in run.tags}
            found.append(
                LaneRun(
                    flow_run_id=run.id,
                    name=run.name,
                    queue=QUEUES.get(run.work_pool_name or "", "training"),
                    store=str(run.parameters.get("store", "")),
                    installation=tags.get("store", ""),
                    seconds=api.age(run.start_time) if run.start_time is not None else 0.0,
                )
            )
        return found


def storage_checks(store: Store, url: str | None, used: bool) -> Iterator[Check]:
    """All checks of this file; `used`: there are runs, so that there should be a store. So there should where lanes run."""
    runs: list[LaneRun] | None = None
    why = "there is no API"
    if url is not None:
        try:
            runs = look_at_lanes(url)
        except ApiError as error:
            why = str(error).splitlines()[0]
    used = used or any(Path(run.store) == store.root for run in runs or ())
    if not store.is_prepared and not used:
        text = "it is made by the first evolution; if there was one, mount it, or name the right one with --store"
        yield Check("store writable", "note", f"{store.root} holds no store yet", text)
    else:
        yield writable(store)
        yield shared(store, runs, why)
    yield disk(store)


def writable(store: Store) -> Check:
    """Can an entry be written, made durable and removed?"""
    name = "store writable"
    if not store.is_prepared:
        text = "nothing was ever stored there, or it is not mounted"
        return Check(
            name,
            "bad",
            f"{store.root}: {'no store' if store.root.is_dir() else 'no such directory'}",
            text,
            "mount it, or name the right one with --store",
        )
    started = time.perf_counter()
    try:
        store.probe()
    except CoralError as error:
        return Check.of_error(name, error, "results cannot be published: lanes end with an error")
    seconds = time.perf_counter() - started
    if seconds > 2:
        text = f"a small file took {seconds:.1f} s to become durable: the file system is slow or overloaded"
        return Check(name, "note", str(store.root), text)
    return Check(name, "ok", str(store.root), f"a file became durable in {1000 * seconds:.0f} ms")


def shared(store: Store, runs: list[LaneRun] | None, why: str = "") -> Check:
    """Do the lanes that run see this very store? A lane of it writes its note here; one that does not is elsewhere."""
    name = "store shared"
    queue = JobQueue(store, "training")
    if not (queue.top / "installation.json").exists():
        text = "it gets one when the first evolution on work pools uses it"
        return Check(name, "note", f"{store.root} has no name", text)
    try:
        installation = queue.installation()
    except CoralError as error:
        return Check.of_error(name, error, "lanes refuse a store without its name")
    if runs is None:
        return Check(
            name, "note", f"name {installation[:12]}", f"which lanes run could not be looked at without the API: {why}"
        )
    mine = [run for run in runs if run.installation == installation[:12]]
    away = [
        run for run in mine
        if run.seconds > START_SECONDS and queue.lanes.read(lane_name(run.queue, run.flow_run_id)) is None
    ]  # fmt: skip
    if away:
        return Check(
            name,
            "bad",
            f"{first([run.name for run in away])} run for this store and write nothing into it",
            "they see another directory at that path, or hang before their first beat",
            "mount the same directory at the same path on every machine and in every container",
        )
    others = sorted({run.store for run in runs} - {run.store for run in mine})
    hosts = sorted({note.host for note in queue.lanes.notes(since=time.time() - 86400) if note.host})
    text = (
        f"lanes of {first(hosts)} have written here within a day" if hosts else "no lane has written here within a day"
    )
    if others:
        text += f"; other lanes use {first(others)}"
    return Check(name, "ok", f"name {installation[:12]}, {len(mine)} lanes run for it", text)


def disk(store: Store) -> Check:
    """Is there room for more?"""
    place = store.root
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = os.statvfs(place)
    except OSError as error:
        return Check("disk space", "bad", f"{place}: {error.strerror}", todo="check the mount")
    return _room(str(place), free.f_bavail * free.f_frsize, free.f_favail, free.f_files)


def _room(place: str, room: float, names: int, most_names: int) -> Check:
    found = f"{room / 1e9:.1f} GB free at {place}"
    todo = (
        "free space, or remove adapters that no run needs; finished work is kept when the disk is full, and lanes end"
    )
    if room < LEAST_BYTES or (most_names and names < 1000):
        text = "the next adapters will not fit" if room < LEAST_BYTES else f"only {names} file names are left"
        return Check("disk space", "bad", found, text, todo)
    if room < LITTLE_BYTES:
        return Check("disk space", "note", found, f"less than {LITTLE_BYTES / 1e9:.0f} GB", todo)
    return Check("disk space", "ok", found)
