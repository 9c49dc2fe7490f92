"""The version of the code, compared between the machines of a run."""

import hashlib
import platform
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import coral_core
import flows


@lru_cache(maxsize=1)
def code_version() -> str:
    """Version of the package, a digest of the files that decide results, and the version of Python, as one line.

    The package's version does not change between two commits. Without the digest a lane of another checkout would
    publish different results under the same job digests.
    """
    return f"CORAL-X {version('coral-x')}, code {code_digest()}, on Python {platform.python_version()}"


def code_digest() -> str:
    """First 12 hex digits of a SHA-256 over names and contents of coral_core/**/*.py and flows/lane.py."""
    core, lane = Path(coral_core.__file__).parent, Path(flows.__file__).parent / "lane.py"
    files = {path.relative_to(core.parent).as_posix(): path for path in core.rglob("*.py")} | {"flows/lane.py": lane}
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        total.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:12]
