"""Artifacts of an evolution in the Prefect UI; derived from its files, never read back.

Keys (stable; RUN is the run id, docs/progress.md shows them):

    RUN-progress          progress bar, moves with every finished job
    RUN-summary           state of the run, with the Pareto front and the fitness curve
    RUN-leaderboard       table of the fittest genomes
    RUN-pictures          all five pictures
    RUN-generation-NNN    table of that generation's genomes

Each is one row that is updated in place, so the database does not grow with the run. Rows of an earlier session are
deleted once new ones exist. The progress bar is written after each finished job, the others at the start, at the end, and
in between after `ROUND_JOBS` jobs and `ROUND_SECONDS`: at most two calls of the API per job. An error of the API is logged
and never stops the search.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import threading
import time
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.exceptions import PrefectHTTPStatusError

from coral_core.evolution.listener import Listener
from coral_core.ledger import Ledger
from coral_core.report import live_report
from coral_core.runs.progress import Progress, progress_of
from coral_core.runs.records import Outcome
from coral_core.runs.run_folder import RunFolder
from coral_core.runs.run_reader import RunReading
from coral_core.store.store import Store
from flows.prefect_api.prefect_client import async_client

log = logging.getLogger("coral.artifacts")

ROUND_JOBS = 6
ROUND_SECONDS = 5.0
"""Tables, pictures and the summary are written after this many finished jobs and seconds."""
LOOK_SECONDS = 15.0
"""Interval of reading the files while no job ends."""
FINISHED_SECONDS, STOPPED_SECONDS = 45.0, 5.0
"""Longest wait for the last artifacts at the end of a finished run, and of any other."""
NAMES = ("progress", "summary", "leaderboard", "pictures", "generation-")


class Publisher(Listener):
    """Publishes the artifacts of one run: one update in flight at a time, always of the latest state of the files.

    Use it as an asynchronous context manager around the evolution; on exit it publishes the last state.

    Args:
        folder: The run.
        store: Its store, which holds results and ledger.
        flow_run_id: Flow run that the artifacts belong to; "": none.
    """

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
        self._drawn = 0
        """Finished generations that the pictures show."""
        self._paused = ""
        self._round_due = (0, 0.0)
        """Jobs and monotonic time from which the next round may be written."""
        self._lock = threading.Lock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._client: PrefectClient | None = None
        self._warned = ""
        self._over = False
        self._patience = STOPPED_SECONDS

    def changed(self, progress: Progress) -> None:
        """Wake the publisher, since the files may have changed."""
        self._wake.set()

    def ended(self, progress: Progress, outcome: Outcome, error: str) -> None:
        if outcome == "finished":
            self._patience = FINISHED_SECONDS

    def generation_run(self, number: int, flow_run_id: str) -> None:
        """Show the table of a generation on the page of another flow run.

        Args:
            number: The generation, from 0.
            flow_run_id: Its flow run; "": the table stays with the evolution's.
        """
        if flow_run_id:
            self._generation_runs[number] = UUID(flow_run_id)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._over = True
        self._wake.set()
        await asyncio.wait(
            {self._task}, timeout=STOPPED_SECONDS
        )  # cancelling a create request could create its row twice
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self.finish()

    async def finish(self) -> None:
        """Publish the last state of the files; gives up after some seconds."""
        try:
            async with asyncio.timeout(self._patience), async_client() as self._client:
                await self._update(last=True)
        except Exception as error:
            self._warn(error)

    async def _follow(self) -> None:
        pause = 0.0
        while not self._over:
            try:
                async with async_client() as self._client:
                    while not self._over:
                        await self._update()
                        pause = 0.0
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(LOOK_SECONDS):
                                await self._wake.wait()
                        self._wake.clear()
            except Exception as error:  # artifacts must never stop the search
                self._warn(error)
                pause = min(60.0, 2 * pause + 1)
                await asyncio.sleep(pause)

    def _warn(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if text != self._warned:
            log.warning("artifacts in the Prefect UI are not up to date: %s", text)
        self._warned = text

    # -- one update ------------------------------------------------------------------------

    async def _update(self, last: bool = False) -> None:
        """Read the files, then publish the artifacts that are due; with `last`, all of them."""
        if not self._begun:
            await self._begin()
        progress, jobs = await asyncio.to_thread(self._read)
        await self._put("progress", "progress", progress.percent, "Jobs done of the jobs that the run needs at most.")
        now, (due_jobs, due_time) = time.monotonic(), self._round_due
        if last or (jobs >= due_jobs and now >= due_time):
            self._round_due = jobs + ROUND_JOBS, now + ROUND_SECONDS
            await self._show_generations()
            await self._show_pictures(progress.generations_done)
            await self._put(
                "leaderboard", "table", live_report.leaderboard(self._reading), "The fittest genomes so far."
            )
            await self._show_summary(progress)
        elif progress.paused != self._paused:
            await self._show_summary(progress)
        self._paused = progress.paused

    def _read(self) -> tuple[Progress, int]:
        """The progress, and the number of jobs that have ended."""
        with self._lock:  # an update that was cancelled may still be reading
            reading = self._reading.refresh()
            jobs = sum(sums.done + sums.found for sums in reading.work.jobs.values())
            return progress_of(reading, self._ledger), jobs

    async def _show_summary(self, progress: Progress) -> None:
        text = live_report.summary(progress, self._reading, self._pictures)
        words = "Final result." if progress.status == "finished" else "Where the evolution stands."
        await self._put("summary", "markdown", text, words)

    async def _show_pictures(self, done: int) -> None:
        if done != self._drawn:
            self._pictures = await asyncio.to_thread(self._draw)
            self._drawn = done
            text = live_report.pictures_markdown(self._pictures)
            await self._put("pictures", "markdown", text, "How the run goes, in pictures.")

    def _draw(self) -> dict[str, str]:
        live_report.prepare()
        with self._lock:
            return {name: live_report.draw(name, self._reading) for name in live_report.PICTURES}

    async def _show_generations(self) -> None:
        """Publish a table for each finished generation that has none with this content."""
        for number, lines in sorted(self._reading.unseen.items()):
            name, run = f"generation-{number:03d}", self._generation_runs.get(number)
            await self._put(name, "table", live_report.genome_rows(lines), f"Genomes of generation {number}.", run)
            del self._reading.unseen[number]
            self._rows.pop(name, None)
            self._shown.pop(name, None)
            self._generation_runs.pop(number, None)

    # -- the API ---------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Find rows of earlier sessions: finished generations keep theirs, the others are replaced."""
        rows: list[dict[str, Any]] = []
        query = {"artifacts": {"key": {"like_": f"{self._prefix}-"}}, "sort": "UPDATED_DESC"}
        while page := (await self._request("POST", "/artifacts/filter", json=query | {"offset": len(rows)})).json():
            rows += page
        for row in rows:
            name, row_id = str(row["key"]).removeprefix(f"{self._prefix}-"), UUID(row["id"])
            if name.startswith("generation-") and name not in self._rows:
                self._rows[name], self._shown[name] = row_id, _mark(row["data"])
            elif name.startswith(NAMES):
                self._old.setdefault(name, []).append(row_id)
        self._begun = True

    async def _put(self, name: str, kind: str, data: Any, words: str, flow_run_id: UUID | None = None) -> None:
        """Publish `data` as artifact `name`: update its row, or create one and delete those of earlier sessions."""
        value = json.dumps(data) if kind == "table" else data
        mark = _mark(value)
        if self._shown.get(name) == mark:
            return
        row, body = self._rows.get(name), {"data": value, "description": words}
        # not by Prefect's own method, which also emits an event with the data, and events are kept
        if row is None or not await self._reaches("PATCH", row, json=body):
            run = flow_run_id or self._flow_run_id
            made = ArtifactCreate(key=f"{self._prefix}-{name}", type=kind, flow_run_id=run, **body)
            response = await self._request("POST", "/artifacts/", json=made.model_dump(mode="json"))
            self._rows[name] = UUID(response.json()["id"])
        self._shown[name] = mark
        while older := self._old.get(name):
            await self._reaches("DELETE", older[-1])
            older.pop()

    async def _reaches(self, method: str, row: UUID, **content: Any) -> bool:
        """Change or delete a row; False when it is gone."""
        try:
            await self._request(method, "/artifacts/{id}", path_params={"id": row}, **content)
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 404:
                raise
            return False
        return True

    async def _request(self, method: Any, path: Any, **content: Any) -> Any:
        assert self._client is not None
        return await self._client.request(method, path, **content)


def _mark(data: object) -> str:
    """Digest of some content, kept in its place for comparison."""
    return hashlib.sha256(str(data).encode()).hexdigest()
