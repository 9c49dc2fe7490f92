"""The process of a flow run: how it was started, and how it ends. Imports Prefect only where a flow runs.

* Parameters of a run that a worker started come from the server and are held to allowed folders (`served`, `roots`).
* A run outlives its worker (`outlive_worker`).
* A run ends when it is cancelled or receives SIGTERM (`until_cancelled`).
* A process that shuts down does not wait for a server that does not answer (`limit_retries`, `drain`, `leave`).
"""

import asyncio
import contextlib
import functools
import logging
import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flows.prefect_api.settings import STARTED_BY_WORKER

if TYPE_CHECKING:
    from coral_core.lanes.allowed_paths import Roots

log = logging.getLogger("coral.evolve")

LOOK_SECONDS = 3.0
DRAIN_SECONDS = 5.0
ANYIO_WORKER = "AnyIO worker thread"
"""Name of the threads of `anyio.to_thread`."""


# -- how it was started --------------------------------------------------------------------


def served() -> bool:
    """Whether the parameters of this flow run come from the server. One of two signs is enough.

    Any user who can start flow runs may have written the parameters of a run that a worker, `prefect flow-run execute` or
    a served deployment started. `coral evolve` and Python code call the flow in their own process, with their own
    arguments and rights. The parameters themselves have no influence on the answer.
    """
    from prefect.runtime import deployment

    return STARTED_BY_WORKER in os.environ or bool(deployment.id)


def roots() -> "Roots | None":
    """The folders that parameters of this flow run may name; None where they are the caller's own. Raises `ConfigError`."""
    from coral_core.lanes.allowed_paths import Roots  # late: it imports all sources of problems

    return Roots.of_environment() if served() else None


@functools.cache
def outlive_worker() -> None:
    """From now on, discard output to a pipe without a reader. Further calls do nothing.

    A process worker reads the output of its flow runs through pipes. After its death the next line of Prefect's console
    handler would raise SystemExit (rich's reaction to a broken pipe) and end a training of half an hour. Does nothing in
    a process that no worker started: ``coral evolve | head`` ends like any command.
    """
    pipes = [number for number in (1, 2) if _is_pipe(number)]
    if STARTED_BY_WORKER in os.environ and pipes:
        threading.Thread(target=_discard_unread, args=(pipes,), name="output", daemon=True).start()


def _is_pipe(number: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(number).st_mode)
    except OSError:
        return False


def _discard_unread(pipes: list[int]) -> None:
    """Wait until pipes lose their reader, and replace each by the null device."""
    poll = select.poll()
    for number in pipes:
        poll.register(number, 0)  # errors are always reported
    for _ in pipes:
        for number, _ in poll.poll()[:1]:
            poll.unregister(number)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)


# -- cancel and SIGTERM --------------------------------------------------------------------


async def until_cancelled(work: Coroutine[Any, Any, None], flow_run_id: str) -> bool:
    """Run `work` to its end, or until its flow run is cancelled.

    A worker ends the process of a cancelled run by SIGTERM. A run that was started from a terminal has no worker and
    polls the API itself.

    Args:
        work: The work; cancelled with the flow run.
        flow_run_id: The flow run; "": there is none to poll.

    Returns:
        True when the flow run was cancelled before `work` had ended.

    Raises:
        TerminationSignal: The process received SIGTERM; `work` was cancelled.
    """
    from prefect.exceptions import TerminationSignal

    with _termination() as terminated:
        main = asyncio.create_task(work)
        watchers = [asyncio.create_task(_cancelled(flow_run_id)), asyncio.create_task(terminated.wait())]
        try:
            await asyncio.wait({main, *watchers}, return_when=asyncio.FIRST_COMPLETED)
            if main.done():
                main.result()
                return False
            if terminated.is_set():
                raise TerminationSignal(signal.SIGTERM)
            return True
        finally:
            for task in (main, *watchers):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await asyncio.gather(main, *watchers, return_exceptions=True)


@contextlib.contextmanager
def _termination() -> Iterator[asyncio.Event]:
    """An event that SIGTERM sets. Prefect's own handler raises in whatever code the event loop is running: in one of
    Prefect's own tasks the signal would only end that task."""
    terminated = asyncio.Event()
    before = signal.getsignal(signal.SIGTERM)
    try:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    except (ValueError, RuntimeError):  # not in the main thread: signals do not arrive here
        yield terminated
        return
    try:
        yield terminated
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)


async def _cancelled(flow_run_id: str) -> None:
    """Return as soon as the API says that the run is cancelled."""
    from prefect.states import Running

    from flows.prefect_api.prefect_client import ANSWER_SECONDS, async_client, believed_lost, retries

    if not flow_run_id:
        await asyncio.Event().wait()
    running: Any = Running()
    with retries(0):  # the loop asks again anyway, and a cancel must not wait for the pauses between retries
        async with async_client(ANSWER_SECONDS) as client:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                try:
                    state = (await client.read_flow_run(flow_run_id)).state  # type: ignore[arg-type]
                    if believed_lost(state):
                        log.warning("this evolution was recorded as lost while it ran: the record is corrected")
                        await client.set_flow_run_state(flow_run_id, running, force=True)
                except Exception as error:
                    log.debug("the API does not answer: %s", error)
                    continue
                if state is not None and (state.is_cancelling() or state.is_cancelled()):
                    return
                if state is not None and state.is_running():
                    running = Running(name=state.name, message=state.message)


# -- shutdown without an answering server --------------------------------------------------


@dataclass
class _Shutdown:
    """State of the shutdown of this process."""

    cause: BaseException | None = None
    undelivered: bool = False
    lasting: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


_shutdown = _Shutdown()


def limit_retries(cause: BaseException) -> None:
    """From now on, retry calls of Prefect's client in this context only once, including its last report on the flow run.

    Otherwise Prefect's client would try for over an hour (PREFECT_CLIENT_MAX_RETRIES) to reach a server that does not
    answer, and the process would not end.

    Args:
        cause: The exception that ends the evolution (Ctrl-C, SIGTERM); see `shutdown_cause`.
    """
    from flows.prefect_api.prefect_client import retries

    _shutdown.cause = cause
    _shutdown.lasting.enter_context(retries(1))


def shutdown_cause() -> BaseException | None:
    """The exception that ended the evolution, as given to `limit_retries`; None when it was not called."""
    return _shutdown.cause


def drain() -> None:
    """Let Prefect send its last log lines and events while the server still runs; waits `DRAIN_SECONDS` for each."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        outcome = worker.drain_all(timeout=DRAIN_SECONDS)
        if isinstance(outcome, tuple) and outcome[1]:
            _shutdown.undelivered = True


def leave(code: int) -> None:
    """Exit at once if `drain` left data that Prefect would try to send at exit, or if a thread would never end; else return.

    anyio ends its worker threads by a callback of the event loop that used them. A loop that is stopped by a signal may
    close before it, and Python would wait for the thread forever.

    Args:
        code: Exit code.
    """
    if _shutdown.undelivered or any(thread.name == ANYIO_WORKER for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
