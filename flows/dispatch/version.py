"""Which code this is, for machines that must agree."""

from functools import lru_cache
from importlib.metadata import version


@lru_cache(maxsize=1)
def code_version() -> str:
    """Version of the package. What changes results has versions of its own in each job."""
    return version("coral-x")
