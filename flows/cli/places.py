"""Options that several commands share, and the paths of a run's store and folder."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coral_core.config import RunConfig
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store

Runs = Annotated[str, Parameter(help="Directory that holds the runs.")]
AsJson = Annotated[bool, Parameter(name="--json", help="Print JSON (keys: docs/json.md).", negative=())]
Overrides = Annotated[
    list[str] | None, Parameter(name="--set", help="section.key=value in place of the file's; repeatable.", negative=())
]
StorePath = Annotated[str | None, Parameter(name="--store", help="The store; RUNS/store by default.")]


def store_of(folder: RunFolder) -> Store:
    """The store of a run. A relative path is resolved against the folder where the run was started.

    Where the store is not there, it is looked for below the working directory, beside the folder of runs and in it.
    """
    config = folder.config()
    path = config.store.path
    if not _is_relative(path):
        return Store(path)
    start = _started_in(folder, config)
    runs = _runs_of(folder)
    for root in ([start] if start else []) + [Path(), runs.parent, runs]:
        if (root / path).exists():
            return Store(root / path)
    return Store((start or Path()) / path)


def with_absolute_folders(folder: RunFolder, config: RunConfig, given: set[str]) -> RunConfig:
    """A copy of the configuration of a resumed run, with absolute paths of runs and store.

    Relative paths are resolved against the folder where the run was started; those that the user has just set, against the
    working directory.

    Args:
        folder: The run.
        config: Its configuration.
        given: Keys that the user has just set (`runs`, `store`, `store.path`).
    """
    if _is_relative(config.runs):
        runs = Path(config.runs).expanduser().absolute() if "runs" in given else _runs_of(folder)
        config = config.model_copy(update={"runs": str(runs)})
    if _is_relative(config.store.path):
        was_set = given & {"store", "store.path"}
        path = Path(config.store.path).expanduser().absolute() if was_set else store_of(folder).root.absolute()
        config = config.model_copy(update={"store": config.store.model_copy(update={"path": str(path)})})
    return config


def enter_start_folder(folder: RunFolder) -> None:
    """Make the folder where a run was started the working directory, if it is known and there.

    The other paths of a configuration (problems, a base model, a prompt template) are relative to it, and must stay as they
    are written: they are part of the run's identity.
    """
    start = _started_in(folder, folder.config())
    if start is not None and start.is_dir():
        os.chdir(start)


def _started_in(folder: RunFolder, config: RunConfig) -> Path | None:
    """Working directory of the run's start, derived from `config.runs`; None where that is absolute or the run was moved."""
    runs = _runs_of(folder)
    parts = Path(config.runs).parts
    if not _is_relative(config.runs) or not parts or ".." in parts or runs.parts[-len(parts) :] != parts:
        return None
    return Path(*runs.parts[: -len(parts)])


def _runs_of(folder: RunFolder) -> Path:
    """Absolute path of the folder of runs. Links are not resolved, since other machines may not have their targets."""
    path = folder.path.resolve() if ".." in folder.path.parts else folder.path.absolute()
    return path.parent


def _is_relative(path: str) -> bool:
    return "://" not in path and not Path(path).expanduser().is_absolute()


def size(count: float) -> str:
    """A number of bytes with a decimal unit.

    Example:
        >>> size(1234567)
        '1.2 MB'
    """
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
