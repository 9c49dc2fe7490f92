"""Checks of the store: it exists, can be written, is the one that lanes use, has room, and its ledger can be read."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from coral_core.errors import CoralError, StoreError
from coral_core.ledger import Ledger
from coral_core.queue.lane_board import lane_name
from coral_core.queue.queue import JobQueue
from coral_core.store.store import Store
from flows.monitoring.finding import Check, first
from flows.monitoring.server_checks import LaneRun, ServerStatus

LEAST_BYTES = 1e9
"""Less free space is bad: an adapter of a 7B model at rank 64 takes 0.2 GB, and two lanes may publish at once."""
LITTLE_BYTES = 10e9
START_SECONDS = 120.0
"""A lane beats at the latest this long after its flow run became Running, which is after the image was pulled."""


def storage_checks(store: Store, server: ServerStatus | None, used: bool) -> Iterator[Check]:
    """All checks of this module.

    Args:
        store: The store.
        server: State of the server; None: the API cannot be used.
        used: Whether there are runs; then a missing store is bad, as it is where lanes work for it.
    """
    lanes = server.lanes if server is not None else None
    if store.is_prepared or used or any(Path(lane.store) == store.root for lane in lanes or ()):
        yield writable(store)
    else:
        text = "it is made by the first evolution; if there was one, mount it, or name the right one with --store"
        yield Check("store writable", "note", f"{store.root} holds no store yet", text)
    if store.is_prepared:
        yield shared(store, lanes)
    yield disk(store)
    yield ledger(store)


def writable(store: Store) -> Check:
    """Checks that a file can be written to the store, synced to disk and removed."""
    name = "store writable"
    if not store.is_prepared:
        found = f"{store.root}: {'no store' if store.root.is_dir() else 'no such directory'}"
        text = "nothing was ever stored there, or it is not mounted"
        return Check(name, "bad", found, text, "mount it, or name the right one with --store")
    started = time.perf_counter()
    try:
        store.probe()
    except CoralError as error:
        return Check.of_error(name, error, "results cannot be published: lanes end with an error")
    milliseconds = 1000 * (time.perf_counter() - started)
    return Check(name, "ok", str(store.root), f"a file became durable in {milliseconds:.0f} ms")


def shared(store: Store, lanes: Sequence[LaneRun] | None) -> Check:
    """Checks that the lanes that run for this store write their notes into it, and not into another directory.

    Args:
        store: The store.
        lanes: Lanes that run; None: not known, because the API cannot be used.
    """
    name, queue = "store shared", JobQueue(store, "training")
    if not (queue.top / "installation.json").exists():
        text = "it gets one when the first evolution on work pools uses it"
        return Check(name, "note", f"{store.root} has no name", text)
    try:
        installation = queue.installation()[:12]
    except CoralError as error:
        return Check.of_error(name, error, "lanes refuse a store without its name")
    if lanes is None:
        return Check(name, "note", f"name {installation}", "which lanes run cannot be read without the API")
    mine = [lane for lane in lanes if lane.installation == installation]
    away = [
        lane.name
        for lane in mine
        if lane.seconds > START_SECONDS and queue.lanes.read(lane_name(lane.queue, lane.flow_run_id)) is None
    ]
    if away:
        return Check(
            name,
            "bad",
            f"{first(away)} run for this store and write nothing into it",
            "they see another directory at that path, or hang before their first beat",
            "mount the same directory at the same path on every machine and in every container",
        )
    hosts = sorted({note.host for note in queue.lanes.notes(since=time.time() - 86400) if note.host})
    text = f"lanes of {first(hosts) or 'no machine'} have written here within a day"
    return Check(name, "ok", f"name {installation}, {len(mine)} lanes run for it", text)


def disk(store: Store) -> Check:
    """Checks that the disk of the store has at least `LEAST_BYTES` free."""
    name, place = "disk space", existing(store.root)
    try:
        free = os.statvfs(place)
    except OSError as error:
        return Check(name, "bad", f"{place}: {error.strerror}", todo="check the mount")
    room = free.f_bavail * free.f_frsize
    found = f"{room / 1e9:.1f} GB free at {place}"
    todo = (
        "free space, or remove adapters that no run needs; finished work is kept when the disk is full, and lanes end"
    )
    if room < LEAST_BYTES:
        return Check(name, "bad", found, "the next adapters will not fit", todo)
    if room < LITTLE_BYTES:
        return Check(name, "note", found, f"less than {LITTLE_BYTES / 1e9:.0f} GB", todo)
    return Check(name, "ok", found)


def existing(path: Path) -> Path:
    """`path`, or the closest folder above it that exists."""
    return next((folder for folder in (path, *path.parents) if folder.exists()), path)


def ledger(store: Store) -> Check:
    """Checks that the ledger can be read; evolutions with a limit are paused while it cannot."""
    try:
        accounts = Ledger(store).accounts()
    except StoreError as error:
        text = "evolutions with a limit are paused, and what was spent is not known"
        return Check.of_error("ledger", error, text)
    return Check(
        "ledger", "ok", f"{len(accounts)} accounts of lanes" if accounts else "no lane has booked anything yet"
    )
