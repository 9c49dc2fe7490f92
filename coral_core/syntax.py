"""Parsing for threads: `ast.parse`, one at a time.

CPython before 3.11.8 and 3.12.1 counts the depth of the tree under construction in one
place for all threads (gh-106905). Lanes are threads, and two that parse at once now and
then raise "SystemError: AST constructor recursion depth mismatch". Seen once in about a
hundred evaluations. Threads of libraries (Prefect's, in a flow) do not ask for the lock:
hence the tries.
"""

import ast
import contextlib
import threading
from collections.abc import Iterator

_one_at_a_time = threading.RLock()
TRIES = 5


def parse(source: str | bytes) -> ast.Module:
    """The tree of `source`. Raises what `ast.parse` raises."""
    with _one_at_a_time:
        for _ in range(TRIES - 1):
            try:
                return ast.parse(source)
            except SystemError:  # a thread of a library parsed at the same time
                continue
        return ast.parse(source)


@contextlib.contextmanager
def parsing() -> Iterator[None]:
    """Held around a library that parses by itself."""
    with _one_at_a_time:
        yield


def depth(tree: ast.AST) -> int:
    """Nodes within each other, counted without recursion: what is nested deeply breaks those who visit it by calls."""
    deepest, waiting = 0, [(tree, 1)]
    while waiting:
        node, level = waiting.pop()
        deepest = max(deepest, level)
        waiting += [(child, level + 1) for child in ast.iter_child_nodes(node)]
    return deepest
