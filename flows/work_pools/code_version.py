"""Which code this is, for machines that must agree."""

import hashlib
import platform
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import coral_core
import flows


@lru_cache(maxsize=1)
def code_version() -> str:
    """Package, a digest of the files that decide results, and Python, which verdicts depend on.

    Between two commits the package's version is the same: without the digest a lane of another checkout would publish
    other results under the same digests.
    """
    return f"CORAL-X {version('coral-x')}, code {code_digest()}, on Python {platform.python_version()}"


def code_digest() -> str:
    """Stands for the contents of coral_core/**/*.py and flows/lane.py, by their names in the package."""
    core, lane = Path(coral_core.__file__).parent, Path(flows.__file__).parent / "lane.py"
    files = {path.relative_to(core.parent).as_posix(): path for path in core.rglob("*.py")} | {"flows/lane.py": lane}
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        total.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:12]
