"""Which code this is, for machines that must agree."""

import platform
from functools import lru_cache
from importlib.metadata import version


@lru_cache(maxsize=1)
def code_version() -> str:
    """Package and Python, which verdicts depend on. What else changes results has versions of its own in each job."""
    return f"CORAL-X {version('coral-x')} on Python {platform.python_version()}"
