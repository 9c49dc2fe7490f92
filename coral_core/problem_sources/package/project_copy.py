"""A copy of a project in which its tests run, so that they change nothing of the original."""

import os
import shutil
from pathlib import Path

from coral_core.errors import ConfigError

LEFT_OUT = {
    ".git", ".hg", ".svn", ".tox", ".nox", ".venv", ".eggs", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__", "node_modules",
}  # fmt: skip
OUTPUT = ({"adapters", "evaluations", "ledger"}, {"history.jsonl", "run.json"})
"""What the folder of a store holds, and that of a run."""
MOST_BYTES = 1 << 30
MOST_FILES = 50_000


def copy_project(root: Path, to: Path) -> None:
    """Copy the files of a project, without histories, environments and caches.

    Links are copied as links; pipes, sockets and devices are left out.

    Args:
        root: The project.
        to: The new folder.

    Raises:
        ConfigError: it is too large, or cannot be read.
    """
    count = size = 0
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        folders[:] = [
            name
            for name in folders
            if name not in LEFT_OUT
            and not (here / name / "pyvenv.cfg").exists()
            and not (here == root and is_output(here / name))
        ]
        target = to / here.relative_to(root)
        target.mkdir(parents=True, exist_ok=True)
        for name in [*files, *(name for name in folders if (here / name).is_symlink())]:
            source = here / name
            if not (source.is_symlink() or source.is_file()):
                continue
            count, size = count + 1, size + source.lstat().st_size
            if count > MOST_FILES or size > MOST_BYTES:
                raise ConfigError(
                    f"problems.path: {root}: more than {MOST_FILES:,} files or {MOST_BYTES >> 20:,} MiB",
                    remedy="Give the directory of one project, without data and environments.",
                )
            try:
                shutil.copy2(source, target / name, follow_symlinks=False)
            except OSError as error:
                raise ConfigError(
                    f"problems.path: {root}: {source.relative_to(root)} cannot be copied ({error.strerror})",
                    remedy="Make it readable, or move it away.",
                ) from None


def is_output(folder: Path) -> bool:
    """Does a folder hold runs or a store of CORAL-X? They are no part of the project, and change while a run reads it.

    Args:
        folder: Directly below the project.
    """
    try:
        inside = [folder, *(Path(item.path) for item in os.scandir(folder) if item.is_dir(follow_symlinks=False))]
        return any(names <= set(os.listdir(path)) for path in inside for names in OUTPUT)
    except OSError:
        return False
