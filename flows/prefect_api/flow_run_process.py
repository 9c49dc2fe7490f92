"""The process of a flow run: who started it, and how it ends. Imports Prefect only where a flow runs.

* Parameters of a run that a worker started are the server's word (`served`, `roots`).
* A run outlives its worker (`outlive_worker`).
* A run notices that it is cancelled or gets SIGTERM (`until_cancelled`).
* A process that is told to end does not wait for a server that is away (`limit_retries`, `drain`, `leave`).
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


# -- who started it ------------------------------------------------------------------------


def served() -> bool:
    """Do the parameters of this flow run come from the server? Also true where only one of two signs says so.

    A run that a worker, `prefect flow-run execute` or a served deployment started has parameters that anybody may have
    written who can start flow runs. `coral evolve` and Python code call the flow in their own process, with their own
    arguments and rights. Nothing that comes with a flow run's parameters takes part in the decision.
    """
    from prefect.runtime import deployment

    return STARTED_BY_WORKER in os.environ or bool(deployment.id)


def roots() -> "Roots | None":
    """The folders that the parameters of this flow run are held to; None where they are the caller's own. Raises `ConfigError`."""
    from coral_core.lanes.allowed_paths import Roots  # late: it knows all sources of problems

    return Roots.of_environment() if served() else None


@functools.cache
def outlive_worker() -> None:
    """From here on, output that nobody reads is discarded; one call is enough.

    A process worker reads the output of its flow runs through pipes. After its death the next line that Prefect's
    console handler prints would raise SystemExit (rich's answer to a broken pipe) and end a training of half an hour.
    Does nothing in a process that no worker started: ``coral evolve | head`` ends as any command does.
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
    """Wait for pipes to lose their reader, and replace them by the null device."""
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
    """Run `work` to its end; True when the flow run was cancelled first and `work` was ended.

    A worker ends the process of a cancelled run by SIGTERM; a run that was started from a terminal has no worker and
    asks the API itself.

    Raises:
        TerminationSignal: the process got SIGTERM; `work` was ended.
    """
    from prefect.exceptions import TerminationSignal

    with _termination() as terminated:
        main = asyncio.create_task(work)
        looks = [asyncio.create_task(_cancelled(flow_run_id)), asyncio.create_task(terminated.wait())]
        try:
            await asyncio.wait({main, *looks}, return_when=asyncio.FIRST_COMPLETED)
            if main.done():
                main.result()
                return False
            if terminated.is_set():
                raise TerminationSignal(signal.SIGTERM)
            return True
        finally:
            for task in (main, *looks):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await asyncio.gather(main, *looks, return_exceptions=True)


@contextlib.contextmanager
def _termination() -> Iterator[asyncio.Event]:
    """An event that SIGTERM sets. Prefect's own handler raises wherever the event loop happens to be; in one of
    Prefect's own tasks the signal would end that task and nothing else."""
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
    with retries(0):  # it is asked again anyway, and a cancel must not wait for the pauses between tries
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


# -- an end while the server is away -------------------------------------------------------


@dataclass
class _Shutdown:
    """How this process ends."""

    cause: BaseException | None = None
    undelivered: bool = False
    lasting: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


_shutdown = _Shutdown()


def limit_retries(cause: BaseException) -> None:
    """From here on calls of Prefect's client in this context are tried twice, its last report on the flow run included.

    Prefect's client would try for over an hour (PREFECT_CLIENT_MAX_RETRIES) to reach a server that is away, and the
    process would not end.

    Args:
        cause: What told the evolution to end (Ctrl-C, SIGTERM); see `shutdown_cause`.
    """
    from flows.prefect_api.prefect_client import retries

    _shutdown.cause = cause
    _shutdown.lasting.enter_context(retries(1))


def shutdown_cause() -> BaseException | None:
    """What the evolution was told to end by; None when it was not."""
    return _shutdown.cause


def drain() -> None:
    """Let Prefect send its last log lines and events while the server is still there."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        outcome = worker.drain_all(timeout=DRAIN_SECONDS)
        if isinstance(outcome, tuple) and outcome[1]:
            _shutdown.undelivered = True


def leave(code: int) -> None:
    """End the process at once if `drain` left something that Prefect would go on trying to send at exit; else return."""
    if _shutdown.undelivered:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
