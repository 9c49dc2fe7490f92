"""Reads log lines from the Prefect API: of a run's evolution and generations, and what lanes said of a genome's jobs."""

import re
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from pydantic import Field

from coral_core.frozen import Frozen
from coral_core.queue import JobQueue
from coral_core.queue.queue import both
from coral_core.runs.records import GenomeRecord, JobTiming
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store
from flows.prefect_api.client import PAGE, LogLine, RestClient, flow_run_query

MARGIN_SECONDS = 10.0
LATE_SECONDS = 30.0
DIGITS = 12
"""As many digits of a digest stand in log lines."""
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_SUBMITTED = re.compile(rf"^(?:training|evaluation) ([0-9a-f]{{{DIGITS}}}) of (\S+)")


class Line(Frozen):
    """One line of a log."""

    time: float = Field(description="Unix time.")
    level: str
    source: str = Field(description="Name of the flow run that said it.")
    message: str
    log_id: str = Field("", description="Prefect's id of the line.")


class JobFailure(Frozen):
    """One failed try of a genome's job, as it lies in the queue."""

    kind: str
    digest: str
    lane: str
    host: str
    error: str
    message: str
    alone: bool
    traceback: str = Field("", description="Of the last failed try only.")


class Reader:
    """Follows the log of one run.

    Args:
        api: An API that knows the run.
        folder: The run.
        debug: Read lines of level debug too; who reads drops what is below the level that is asked for.
    """

    def __init__(self, api: RestClient, folder: RunFolder, debug: bool = False) -> None:
        self._api = api
        self._folder = folder
        self._level = LEVELS["debug" if debug else "info"]
        self._names: dict[str, str] = {}
        self._seen: set[str] = set()
        self._mine: set[str] = set()
        self._newest = 0.0
        self._from, self._until = float("inf"), 0.0

    @property
    def over(self) -> bool:
        """Has the latest session ended, as far as the API knows?"""
        ids = self._folder.flow_run_ids()
        run = self._api.flow_run(ids[-1]) if ids else None
        return run is None or run.has_ended

    def new(self) -> list[Line]:
        """Lines of the evolution's sessions and their generations that came since the last call."""
        self._find_flow_runs()
        if not self._mine:
            return []
        after = _iso(self._newest - LATE_SECONDS) if self._newest else ""  # lines come in batches, some of them late
        lines = self._fresh(sorted(self._mine), after)
        self._newest = max([self._newest, *(line.time for line in lines)])
        return lines

    def about(
        self, genome: str, new: Iterable[Line], digests: Iterable[str], lanes: Iterable[str], now: bool = False
    ) -> list[Line]:
        """Of the lines `new` those that name `genome`, and those of `lanes` (flow run ids) that name a digest, by time.

        Filtered here and not by the server: its text search fails on SQLite before 3.44. So that this stays small, lanes'
        lines are read from the time in which the evolution speaks of the genome, or until `now`.
        """
        named = re.compile(rf"(?<![\w-]){re.escape(genome)}(?![\w-])")
        lines = [line for line in new if named.search(line.message)]
        if lines:
            times = [line.time for line in lines]
            self._from = min(self._from, *times)
            self._until = max(self._until, *times)
        if now:
            self._until = time.time()
        wanted = [digest[:DIGITS] for digest in digests]
        ids = sorted(set(lanes))
        if not ids or not wanted or self._until < self._from:
            return lines
        span = _iso(self._from - MARGIN_SECONDS), _iso(self._until + MARGIN_SECONDS)
        for start in range(0, len(ids), PAGE):
            fresh = self._fresh(ids[start : start + PAGE], *span)
            lines += [line for line in fresh if any(digest in line.message for digest in wanted)]
        return sorted(lines, key=lambda line: line.time)

    def _find_flow_runs(self) -> None:
        ids = self._folder.flow_run_ids()
        for query in (flow_run_query(ids=ids), flow_run_query(parents=ids)) if ids else ():
            for run in self._api.flow_runs(query):
                self._names[run.id] = "evolution" if run.id in ids else run.name
                self._mine.add(run.id)

    def _fresh(self, flow_run_ids: Sequence[str], after: str, before: str = "") -> list[Line]:
        rows = self._api.log_lines(flow_run_ids, self._level, after, before)
        rows = [row for row in rows if row.id not in self._seen]
        self._seen |= {row.id for row in rows}
        strange = sorted({row.flow_run_id for row in rows if row.flow_run_id} - self._names.keys())  # lanes
        for start in range(0, len(strange), PAGE):
            found = self._api.flow_runs(flow_run_query(ids=strange[start : start + PAGE]))
            self._names |= {run.id: run.name for run in found}
        return [_line(row, self._names.get(row.flow_run_id or "", "")) for row in rows]


def _iso(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat()


def _line(row: LogLine, source: str) -> Line:
    level = next((name for name, number in reversed(LEVELS.items()) if row.level >= number), "debug")
    return Line(time=row.timestamp.timestamp(), level=level, source=source, message=row.message, log_id=row.id)


def lanes_of(store: Store) -> list[str]:
    """Flow runs of the lanes of `store`; any may have trained an adapter that several evolutions wanted."""
    notes = JobQueue(store, "training").lanes.notes()
    return [note.flow_run_id for note in notes if note.flow_run_id]


def digests_of(folder: RunFolder, genome: str, lines: Iterable[Line]) -> list[str]:
    """Digests of the genome's jobs: from its record, from finished jobs, and, while it is under way, from the log."""
    found: dict[str, None] = {}
    for record in folder.history():
        if isinstance(record, GenomeRecord) and record.genome.genome_id == genome:
            found |= dict.fromkeys((record.training_digest, record.evaluation_digest))
    for timing in folder.timings():
        if isinstance(timing, JobTiming) and timing.label.split()[0] == genome:
            found[timing.digest] = None
    known = {digest[:DIGITS] for digest in found}
    for line in lines:
        match = _SUBMITTED.match(line.message)
        if match and match[2] == genome and match[1] not in known:
            found[match[1]] = None
    return [digest for digest in found if digest != "none"]


def failures_of(store: Store, digests: Iterable[str]) -> list[JobFailure]:
    """Failed tries of these jobs that still lie in the queue."""
    wanted = tuple(digests)
    if not wanted or not (store.root / "queue").is_dir():
        return []
    found = []
    for queue in both(store):
        lying = [(failed.ticket, failed.traceback) for failed in queue.all_failed()]
        lying += [(ticket, "") for run_id in queue.runs() for ticket in queue.waiting(run_id) if ticket.failures]
        for ticket, traceback in lying:
            if not ticket.digest.startswith(wanted):
                continue
            last = len(ticket.failures) - 1
            found += [
                JobFailure(
                    kind=ticket.kind,
                    digest=ticket.digest,
                    traceback=traceback if number == last else "",
                    **failure.model_dump(include=set(JobFailure.model_fields)),
                )
                for number, failure in enumerate(ticket.failures)
            ]
    return found
