"""The progress board: Prefect artifacts derived from what finished, never read back.

Keys (stable; RUN is the run id):

    RUN-progress          progress bar, moves with every finished job
    RUN-generation-NNN    table of that generation's genomes
    RUN-summary           where the run stands, Pareto front and fitness curve as pictures
"""

import asyncio
import contextlib
import logging
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)

from coral_core.report.markdown import summary_markdown
from coral_core.search.base import Scored
from coral_core.store import Store
from flows.session import Session

log = logging.getLogger("coral.artifacts")


class Publisher:
    """Moves the progress bar: one update in flight at a time, always with the latest numbers."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._shown = -1.0

    def changed(self) -> None:
        self._wake.set()

    async def __aenter__(self) -> Self:
        key = f"{self._session.folder.run_id}-progress"
        artifact: UUID = await acreate_progress_artifact(0.0, key=key, description="Jobs done of the jobs expected.")
        self._task = asyncio.create_task(self._follow(artifact))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is None:
            return
        if kind is None:
            self._wake.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    while self._wake.is_set() or self._shown < 100.0:
                        await asyncio.sleep(0.02)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _follow(self, artifact: UUID) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            board = self._session.board
            percent = 100.0 * min(1.0, board.jobs_done / max(1, board.jobs_expected))
            if percent == self._shown:
                continue
            try:
                await aupdate_progress_artifact(artifact, progress=round(percent, 1))
                self._shown = percent
            except Exception as error:  # the board must never stop the search
                log.warning("the progress artifact could not be updated: %s", error)
                await asyncio.sleep(1)


async def generation_table(session: Session, number: int, results: list[Scored]) -> None:
    """A row per genome of the generation: genes, scores, state."""
    await acreate_table_artifact(
        [_row(scored) for scored in results],
        key=f"{session.folder.run_id}-generation-{number:03d}",
        description=f"Genomes of generation {number}.",
    )


def _row(scored: Scored) -> dict[str, Any]:
    genome = scored.genome
    heavy, light = genome.heavy, genome.light
    row: dict[str, Any] = {
        "genome": genome.genome_id,
        "state": scored.infeasible or "evaluated",
        "fitness": None if scored.fitness is None else round(scored.fitness, 4),
        "from": genome.lineage.operator,
        "parents": ", ".join(genome.lineage.parents),
        "adapter": heavy.adapter,
        "rank": heavy.rank,
        "alpha": heavy.alpha,
        "dropout": heavy.dropout,
        "modules": " ".join(name.removesuffix("_proj") for name in heavy.target_modules),
        "learning rate": heavy.learning_rate,
        "decoding": f"sampling T={light.temperature:.2f} p={light.top_p:.2f} k={light.top_k}"
        if light.sampling
        else "greedy",
    }
    row.update({name: round(value, 3) for name, value in sorted((scored.scores or {}).items())})
    return row


async def summary(session: Session, final: bool = False) -> None:
    """Where the run stands, with pictures as data URIs (inline SVG is stripped by the UI)."""
    text = await asyncio.to_thread(summary_markdown, session.folder, Store(session.store.root))
    await acreate_markdown_artifact(
        text,
        key=f"{session.folder.run_id}-summary",
        description="Final result." if final else "Where the evolution stands.",
    )
