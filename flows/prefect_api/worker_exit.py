"""A flow run outlives the worker that started it.

A process worker reads what its flow runs print, through pipes. After its death the next line that Prefect's console
handler prints would raise SystemExit (rich's answer to a broken pipe): a training of half an hour, or an evolution of
days, would end with a process that neither needs. The flow runs beat and report for themselves, so they can go on.
"""

import functools
import os
import select
import stat
import threading

STARTED_BY_WORKER = "PREFECT__FLOW_RUN_ID"
"""Workers set it in the processes and containers that they start."""


@functools.cache
def outlive_worker() -> None:
    """From here on, what this process prints goes nowhere once nobody reads it; once is enough.

    Does nothing in a process that no worker started: `coral evolve | head` ends as any command does.
    """
    pipes = [number for number in (1, 2) if _is_pipe(number)]
    if STARTED_BY_WORKER in os.environ and pipes:
        threading.Thread(target=_watch, args=(pipes,), name="output", daemon=True).start()


def _is_pipe(number: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(number).st_mode)
    except OSError:
        return False


def _watch(pipes: list[int]) -> None:
    """Wait for pipes to lose their reader, and put the null device in their place."""
    poll = select.poll()
    for number in pipes:
        poll.register(number, 0)  # errors are reported unasked
    for _ in pipes:
        for number, _ in poll.poll()[:1]:
            poll.unregister(number)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)
