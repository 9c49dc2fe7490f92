"""Reads JSON that nobody vouches for: files of runs and stores, which people, crashes and other programs may have changed."""

import json
from typing import Any


def json_object(text: str | bytes) -> dict[str, Any]:
    """The object that `text` holds.

    Raises:
        ValueError: it is no JSON, no object, or nested too deeply to be read.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"an object was expected, not {str(found)[:40]!r}")
    return found
