"""Returns freed memory to the operating system, for a process that runs for days.

glibc gives each thread its own arena, and after a large block was freed it takes later large blocks from arenas too.
Pictures and answers of the API need megabytes for a moment, in any thread. The fragments that remain made the resident
set of an evolution grow by unused memory. Two settings and an occasional trim keep it level (benchmarks/long_run.py).
With another C library nothing is done.
"""

import ctypes
import gc
import time

SECONDS = 15.0
"""Shortest interval between two trims."""
ARENAS, LARGE = 2, 128 * 1024
"""Largest number of arenas; size in bytes from which a block gets its own mapping, which is unmapped when it is freed."""
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h

_last = -SECONDS


def limit_arenas() -> None:
    """Limit arenas and the mmap threshold of this process; call it before the process has many threads."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
        mallopt(_M_MMAP_THRESHOLD, LARGE)


def trim_heap() -> None:
    """Collect reference cycles, then trim the heap; does nothing within `SECONDS` of the last call."""
    global _last
    if time.monotonic() - _last < SECONDS:
        return
    _last = time.monotonic()
    gc.collect()  # the collector itself runs late with many live objects: after a quarter as many new ones
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
