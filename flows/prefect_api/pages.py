"""Whole lists from the Prefect API, which gives them in pages.

A server refuses a page that is larger than its own setting (PREFECT_SERVER_API_DEFAULT_LIMIT, 200 unless somebody changed
it), and gives that many when none is asked for.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import httpx

Row = TypeVar("Row")

PAGE = 200


class LimitRefusedError(Exception):
    """The server gives no pages of that size."""


def all_pages(read: Callable[[int | None, int], Sequence[Row]]) -> list[Row]:
    """All rows of a query, each once, also when rows move between the pages meanwhile.

    Args:
        read: Called with limit (None: the server's) and offset; gives the rows from there.
    """
    found: dict[Any, Row] = {}
    limit: int | None = PAGE
    offset = 0
    while True:
        try:
            rows = read(limit, offset)
        except (LimitRefusedError, httpx.HTTPStatusError) as error:
            if limit is None or (isinstance(error, httpx.HTTPStatusError) and error.response.status_code != 422):
                raise
            limit = None
            continue
        found |= {_key(row): row for row in rows}
        offset += len(rows)
        if not rows or (limit is not None and len(rows) < limit):
            return list(found.values())


def _key(row: Any) -> Any:
    if isinstance(row, dict):
        return row["id"] if "id" in row else row["name"]
    return row.id
