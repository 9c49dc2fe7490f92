"""What a run's folder tells of the life of its evolution: that it lives, and why it ended before there was a session."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

from coral_core.errors import StoreError
from coral_core.runs.records import SessionTiming
from coral_core.runs.run_folder import BEAT_SECONDS, RunFolder
from coral_core.untrusted import in_a_line


@contextlib.asynccontextmanager
async def beating(folder: RunFolder) -> AsyncIterator[None]:
    """Tells other machines that the evolution lives."""

    async def beats() -> None:
        while True:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(folder.beat)
            await asyncio.sleep(BEAT_SECONDS)

    task = asyncio.create_task(beats())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(OSError):
            (folder.path / "beat").unlink(missing_ok=True)


@contextlib.contextmanager
def failure_noted(folder: RunFolder) -> Iterator[None]:
    """What fails here leaves the line of a session that failed, as what fails in a session does."""
    try:
        yield
    except Exception as error:
        line = SessionTiming(
            started=time.time(), seconds=0, trainings=0, evaluations=0, outcome="failed", error=in_a_line(error)
        )
        with contextlib.suppress(StoreError):  # the error itself is what matters
            folder.append_timing(line)
        raise
