"""Where a run's store is, and the options that several commands share."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coral_core.durations import clock as clock
from coral_core.run import RunFolder
from coral_core.store import Store

Runs = Annotated[str, Parameter(help="Directory that holds the runs.")]
AsJson = Annotated[bool, Parameter(name="--json", help="Print JSON (keys: docs/json.md).", negative=())]


def store_of(folder: RunFolder) -> Store:
    """The store of a run; a relative path is tried from here, then from where the runs lie."""
    path = folder.config().store.path
    if "://" not in path and not Path(path).expanduser().is_absolute() and not Path(path).exists():
        for root in (folder.path.parent.parent, folder.path.parent):
            if (root / path).exists():
                return Store(root / path)
    return Store(path)


def size(count: float) -> str:
    """Bytes for a reader."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
