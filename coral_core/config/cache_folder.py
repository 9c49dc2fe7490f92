"""Where this user's caches lie: recordings of package tests, base models by name."""

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Absolute path of one cache, whether it exists or not.

    Args:
        kind: Name of the cache, such as ``recordings``.

    Returns:
        ``$CORAL_HOME/<kind>``; else ``coral-x/<kind>`` below ``$XDG_CACHE_HOME`` or ``~/.cache``.
    """
    home = os.environ.get("CORAL_HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    base = Path(home) if home else Path(cache) / "coral-x"
    return base.expanduser().absolute() / kind
