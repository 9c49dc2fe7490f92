"""What an evolution shows of itself in the Prefect UI: artifacts derived from its files, never read back.

Keys (stable; RUN is the run id, docs/progress.md shows them):

    RUN-progress          progress bar, moves with every finished job
    RUN-summary           where the run stands, with the Pareto front and the fitness curve
    RUN-leaderboard       table of the fittest genomes
    RUN-pictures          all five pictures
    RUN-generation-NNN    table of that generation's genomes

Each is one row that is updated in place, so the database does not grow with the run; rows that an earlier session left
are deleted once the new ones are there. Every finished job earns `CALLS` calls and `SECONDS` of work, and nothing but
the beginning and the end is done on credit: what cannot be afforded waits, and the newest state is shown when it can.
Whatever the API answers, the search goes on.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from coral_core.evolution.state import EvolutionState, Listener
from coral_core.ledger import Ledger
from coral_core.report import live_report as living
from coral_core.runs.progress import Progress, progress_of
from coral_core.runs.run_folder import RunFolder
from coral_core.runs.run_reader import RunReading
from coral_core.store.store import Store
from flows.prefect_api.client import PAGE
from flows.prefect_api.prefect_client import async_client

log = logging.getLogger("coral.artifacts")

CALLS = 2.0
SECONDS = 0.055
"""What a finished job earns: calls of the API, and time: that of the calls, and of the CPU for what they show."""
SUMMARY_SECONDS = 5.0
"""The summary is not written more often, unless a generation ends or the run is paused."""
LOOK_SECONDS = 15.0
"""The files are looked at so often when no job ends."""
PATIENCE = 45.0
"""Seconds that the end of a run waits for the last artifacts."""
END_SECONDS = 5.0
"""Seconds that an update under way has to come to its end."""
NAMES = ("progress", "summary", "leaderboard", "pictures", "generation-")


@dataclass
class Allowance:
    """What artifacts may cost: earned by finished jobs, spent by calls and by drawing."""

    calls: float = 0.0
    seconds: float = 0.0
    jobs: int = 0
    spent_calls: int = 0
    spent_seconds: float = 0.0

    def earn(self, jobs: int) -> None:
        self.jobs += jobs
        self.calls += CALLS * jobs
        self.seconds += SECONDS * jobs

    def spend(self, calls: int, seconds: float) -> None:
        self.calls -= calls
        self.seconds -= seconds
        self.spent_calls += calls
        self.spent_seconds += seconds

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """A request to the API."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.spend(1, time.perf_counter() - started)

    def affords(self, calls: int, seconds: float) -> bool:
        return self.calls >= calls and self.seconds >= seconds


class Publisher(Listener):
    """Shows one run: one update in flight at a time, always with the latest state of the files."""

    def __init__(self, folder: RunFolder, store: Store, flow_run_id: str) -> None:
        self._reading = RunReading(folder, store, keep_generations=True)
        self._ledger = Ledger(store)
        self._flow_run_id = UUID(flow_run_id) if flow_run_id else None
        self._prefix = folder.run_id
        self._generation_runs: dict[int, UUID] = {}
        self._begun = False
        self._rows: dict[str, UUID] = {}
        self._shown: dict[str, str] = {}
        self._old: dict[str, list[UUID]] = {}
        self._pictures: dict[str, str] = {}
        self._drawn = dict.fromkeys(living.PICTURES, 0)
        self._takes = dict.fromkeys(living.PICTURES, 0.0)
        self._leaders = 0
        self._jobs: int | None = None
        self._lock = threading.Lock()
        self._summary_at = 0.0
        self._state: tuple[object, ...] = ()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._client: PrefectClient | None = None
        self._warned = ""
        self._over = False
        self.allowance = Allowance()

    def changed(self, state: EvolutionState) -> None:
        """Something may have been written."""
        self._wake.set()

    def generation_run(self, number: int, flow_run_id: str) -> None:
        """The flow run whose page shows the table of generation `number`."""
        if flow_run_id:
            self._generation_runs[number] = UUID(flow_run_id)

    # -- life ------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is None:
            return
        self._over = True
        self._wake.set()
        await asyncio.wait({self._task}, timeout=END_SECONDS)  # a row that is just being made must not be made twice
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def finish(self, patience: float = PATIENCE) -> None:
        """Show the last state, whatever it costs; gives up after `patience` seconds."""
        try:
            async with asyncio.timeout(patience), async_client() as client:
                self._client = client
                await self._update(last=True)
        except Exception as problem:
            self._warn(problem)
        finally:
            self._client = None

    async def _follow(self) -> None:
        pause = 0.0
        while True:
            try:
                async with async_client() as client:
                    self._client = client
                    while True:
                        await self._update()
                        pause = 0.0
                        if self._over:
                            return
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(LOOK_SECONDS):
                                await self._wake.wait()
                        self._wake.clear()
            except Exception as error:  # the board must never stop the search
                self._warn(error)
            finally:
                self._client = None
            if self._over:
                return
            pause = min(60.0, 2 * pause + 1)
            await asyncio.sleep(pause)

    def _warn(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if text != self._warned:
            log.warning("artifacts in the Prefect UI are not up to date: %s", text)
        self._warned = text

    # -- one update ------------------------------------------------------------------------

    async def _update(self, last: bool = False) -> None:
        """Read what is new, then show what has changed and can be afforded."""
        if not self._begun:
            await self._begin()
        progress, seconds = await asyncio.to_thread(self._read)
        self.allowance.spend(0, seconds)
        await self._show(progress, last)

    def _read(self) -> tuple[Progress, float]:
        """The progress, and what it took in seconds of this thread's CPU."""
        started = time.thread_time()
        with self._lock:  # an update that was cancelled may still be reading
            reading = self._reading.refresh()
            jobs = sum(sums.done + sums.found for sums in reading.jobs.values())
            if self._jobs is not None:
                self.allowance.earn(max(0, jobs - self._jobs))
            self._jobs = jobs
            return progress_of(reading, self._ledger), time.thread_time() - started

    async def _show(self, progress: Progress, last: bool) -> None:
        allow, done = self.allowance, progress.generations_done
        state = (progress.status, progress.phase, done, progress.paused)
        turned, self._state = state != self._state, state
        await self._put("progress", "progress", progress.percent, "Jobs done of the jobs that the run needs at most.")
        await self._show_generations(last)
        if await self._draw_stale(done, last):
            turned = True
            text = living.pictures_markdown(self._pictures)
            await self._put("pictures", "markdown", text, "How the run goes, in pictures.")
        due = time.monotonic() - self._summary_at >= SUMMARY_SECONDS
        if last or (turned and (progress.paused or allow.affords(1, 0))) or (due and allow.affords(3, 0)):
            text = living.summary(progress, self._reading, self._pictures)
            words = "Final result." if progress.status == "finished" else "Where the evolution stands."
            await self._put("summary", "markdown", text, words)
            self._summary_at = time.monotonic()
        if done != self._leaders and (last or allow.affords(3, 0)):
            await self._put("leaderboard", "table", living.leaderboard(self._reading), "The fittest genomes so far.")
            self._leaders = done

    async def _draw_stale(self, done: int, last: bool) -> bool:
        """Draw pictures of fewer generations than are done, oldest first, as far as they can be afforded."""
        stale = sorted((name for name in living.PICTURES if self._drawn[name] != done), key=self._drawn.__getitem__)
        drawn = False
        for name in stale:
            if not last and not self.allowance.affords(2, self._takes[name]):
                break
            self._pictures[name], seconds = await asyncio.to_thread(self._draw, name)
            self.allowance.spend(0, seconds)
            self._takes[name], self._drawn[name], drawn = seconds, done, True
        return drawn

    def _draw(self, name: str) -> tuple[str, float]:
        living.prepare()
        started = time.thread_time()
        with self._lock:
            picture = living.draw(name, self._reading)
        return picture, time.thread_time() - started

    async def _show_generations(self, last: bool) -> None:
        """A table for each generation that is finished and has none like it."""
        for number, lines in sorted(self._reading.unseen.items()):
            name, rows = f"generation-{number:03d}", living.genome_rows(lines)
            if self._shown.get(name) != _mark(rows):
                if not (last or self.allowance.affords(2, 0)):
                    return
                await self._put(
                    name, "table", rows, f"Genomes of generation {number}.", self._generation_runs.get(number)
                )
            del self._reading.unseen[number]
            self._rows.pop(name, None)
            self._shown.pop(name, None)
            self._generation_runs.pop(number, None)

    # -- the API ---------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Find what earlier sessions left; make the rows that there are from the start."""
        for row in await self._existing():
            name = str(row.key).removeprefix(f"{self._prefix}-")
            if name.startswith("generation-") and name not in self._rows:
                self._rows[name], self._shown[name] = row.id, _mark(row.data)  # finished: it needs no new row
            else:
                self._old.setdefault(name, []).append(row.id)
        self._begun = True

    async def _existing(self) -> list[Any]:
        """Rows of this run, newest first."""
        assert self._client is not None
        found: list[Any] = []
        chosen = ArtifactFilter(key=ArtifactFilterKey(like_=f"{self._prefix}-"))
        limit: int | None = PAGE
        while True:
            try:
                with self.allowance.call():
                    page = await self._client.read_artifacts(
                        artifact_filter=chosen, limit=limit, offset=len(found), sort=ArtifactSort.UPDATED_DESC
                    )
            except PrefectHTTPStatusError as error:
                if limit is None or error.response.status_code != 422:
                    raise
                limit = None  # the server gives smaller pages: its own size, until a page is empty
                continue
            found += page
            if not page or (limit is not None and len(page) < limit):
                break
        return [row for row in found if str(row.key).removeprefix(f"{self._prefix}-").startswith(NAMES)]

    async def _put(self, name: str, kind: str, data: Any, words: str, flow_run_id: UUID | None = None) -> None:
        """Show `data` under `name`: in place where there is a row, else in a new one, which replaces older ones."""
        mark = _mark(data)
        if self._shown.get(name) == mark:
            return
        value = json.dumps(data) if kind == "table" else data
        row = self._rows.get(name)
        if row is None or not await self._replace(row, value, words):
            self._rows[name] = await self._create(name, kind, value, words, flow_run_id or self._flow_run_id)
        self._shown[name] = mark
        while older := self._old.get(name):
            await self._delete(older[-1])
            older.pop()

    async def _create(self, name: str, kind: str, value: Any, words: str, flow_run_id: UUID | None) -> UUID:
        assert self._client is not None
        body = ArtifactCreate(
            key=f"{self._prefix}-{name}", type=kind, description=words, data=value, flow_run_id=flow_run_id
        )
        with self.allowance.call():
            response = await self._client.request("POST", "/artifacts/", json=body.model_dump(mode="json"))
        return UUID(response.json()["id"])

    async def _replace(self, row: UUID, value: Any, words: str) -> bool:
        """Write over a row; False when it is gone.

        By a plain request: Prefect's own method also emits an event that holds the data, and events stay.
        """
        assert self._client is not None
        body = {"data": value, "description": words}
        try:
            with self.allowance.call():
                await self._client.request("PATCH", "/artifacts/{id}", path_params={"id": row}, json=body)
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 404:
                raise
            return False
        return True

    async def _delete(self, row: UUID) -> None:
        assert self._client is not None
        with contextlib.suppress(ObjectNotFound), self.allowance.call():
            await self._client.delete_artifact(row)


def _mark(data: Any) -> str:
    """Tells whether two contents are the same, without keeping them."""
    text = data if isinstance(data, str) else json.dumps(data)
    return hashlib.sha256(text.encode()).hexdigest()
