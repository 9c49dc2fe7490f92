"""`coral status`: pools, lanes, jobs, store and evolutions on one screen."""

import json
import statistics
import time
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from coral_core.queue import JobQueue, LaneNote
from coral_core.store import Store
from flows.cli.installation import use_api
from flows.cli.places import AsJson, Runs, size

HOUR = 3600.0
FRESH_SECONDS = 30.0
"""A lane whose note is older counts as offline here: this command looks once and cannot wait for a beat."""


def status(
    *,
    runs: Runs = "runs",
    store: Annotated[str | None, Parameter(help="The store; RUNS/store by default.")] = None,
    watch: Annotated[bool, Parameter(help="Look again every 2 seconds.", negative=())] = False,
    as_json: AsJson = False,
) -> None:
    """Show where pools, lanes and evolutions stand."""
    use_api()
    place = store or f"{runs}/store"
    if as_json:
        print(json.dumps(snapshot(place, runs), indent=1))
        return
    out = Console(highlight=False)
    if not watch:
        out.print(_screen(snapshot(place, runs)))
        return
    with Live(console=out, refresh_per_second=1) as live:
        while True:
            live.update(_screen(snapshot(place, runs)))
            time.sleep(2)


def snapshot(place: str, runs: str) -> dict[str, Any]:
    """Everything as plain data; the same with --json."""
    from flows.installation.look import look_at_pools

    store = Store(place)
    notes = list(JobQueue(store, "training").lanes.notes())
    pools = []
    for pool in look_at_pools():
        line: dict[str, Any] = {"name": pool.name, "limit": pool.limit, "paused": pool.paused}
        line["workers_online"] = pool.workers_online
        if pool.queue is None:
            line |= {"queued": pool.queued, "running": pool.running, "lanes_online": pool.running}
        else:
            line |= _queue(JobQueue(store, pool.queue), [n for n in notes if n.queue == pool.queue])
            line["lanes_starting"] = pool.queued
        line["utilisation"] = round(line["running"] / pool.limit, 3) if pool.limit else None
        pools.append(line)
    return {"schema_version": 1, "pools": pools, "store": _store(store), "evolutions": _evolutions(runs)}


def _queue(queue: JobQueue, notes: list[LaneNote]) -> dict[str, Any]:
    claims = {claim.digest for claim in queue.claims()}
    now = time.time()
    online = [note for note in notes if note.state != "ended" and now - note.seen < FRESH_SECONDS]
    done = [served for note in notes if now - note.seen < HOUR for served in note.served.values()]
    seconds = [served.seconds / served.jobs for served in done if served.jobs]
    return {
        "queued": len(queue.open_digests() - claims),
        "running": len(claims),
        "lanes_online": len(online),
        "completed_last_hour": sum(served.jobs for served in done),
        "failed": len(queue.all_failed()),
        "work_seconds_mean": round(statistics.fmean(seconds), 3) if seconds else None,
    }


def _store(store: Store) -> dict[str, Any]:
    entries = list(store.entries()) if store.root.is_dir() else []
    return {
        "path": str(store.root),
        "adapters": sum(entry.kind == "adapter" for entry in entries),
        "evaluations": sum(entry.kind == "evaluation" for entry in entries),
        "bytes": sum(entry.bytes for entry in entries),
    }


def _evolutions(runs: str) -> list[dict[str, Any]]:
    from coral_core.errors import CoralError
    from coral_core.report.gather import run_line
    from coral_core.run import run_folders

    lines = []
    for folder in run_folders(runs)[-10:]:
        try:
            lines.append(run_line(folder).model_dump(mode="json"))
        except (CoralError, OSError, ValueError, KeyError):
            continue
    return lines


def _screen(data: dict[str, Any]) -> Group:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("pool", "queued", "running", "lanes", "starting", "workers", "used", "done/h", "failed", "mean"):
        table.add_column(name, justify="left" if name == "pool" else "right", no_wrap=True)
    for pool in data["pools"]:
        workers = pool["workers_online"]
        mean = pool.get("work_seconds_mean")
        table.add_row(
            pool["name"] + (" (paused)" if pool["paused"] else ""),
            str(pool["queued"]),
            str(pool["running"]),
            f"{pool['lanes_online']}/{pool['limit'] or '∞'}",
            str(pool.get("lanes_starting", "–")),
            str(workers) if workers else "[red]0[/]",
            "–" if pool["utilisation"] is None else f"{pool['utilisation']:.0%}",
            str(pool.get("completed_last_hour", "–")),
            str(pool.get("failed", "–")),
            "–" if mean is None else f"{mean:.1f} s",
        )
    store = data["store"]
    words = f"{store['adapters']} adapters, {store['evaluations']} evaluations, {size(store['bytes'])}"
    evolutions = Table(box=None, pad_edge=False, show_header=False)
    for line in data["evolutions"]:
        best = line.get("best_fitness")
        done = 0 if line["generation"] is None else line["generation"] + 1
        evolutions.add_row(
            line["run_id"],
            line["status"],
            f"generation {done} of {line['generations']}",
            "" if best is None else f"best {best:.3f}",
        )
    return Group(table, Text(""), Text(f"store  {store['path']}: {words}"), Text(""), evolutions)
