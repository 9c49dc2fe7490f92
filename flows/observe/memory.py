"""Memory of a process that runs for days: what was freed goes back to the operating system.

glibc gives each thread an arena of its own and, once a large block was freed, takes later ones from there, too. Pictures
and answers of the API need megabytes for a moment, in whatever thread; what stays of it in pieces made an evolution's
resident set creep up by memory that nobody used. Two settings and a trim from time to time keep it level
(benchmarks/long_run.py); with another C library nothing is done.
"""

import ctypes
import gc
import time

SECONDS = 15.0
"""Memory is not given back more often."""
ARENAS, LARGE = 2, 128 * 1024
"""Arenas at most; bytes from which a block is mapped by itself, and unmapped when it is freed."""
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h

_last = -SECONDS


def keep_level() -> None:
    """Settings for the process; to be called before it has many threads."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
        mallopt(_M_MMAP_THRESHOLD, LARGE)


def give_back() -> None:
    """Collect what only circles hold, then hand pages that were freed to the operating system."""
    global _last
    if time.monotonic() - _last < SECONDS:
        return
    _last = time.monotonic()
    gc.collect()  # by itself it comes late where much is alive: after a quarter of that was made anew
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
