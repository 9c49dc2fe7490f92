"""The flows of `prefect.yaml`, by the names that deployments keep.

Prefect looks for a deployment's work pool before any step of `prefect.yaml` runs, and right after it has imported the
flow. This module is therefore where `prefect deploy` on a server without pools gets them: those that are missing are made
as `coral setup` makes them by default, and what is there is left alone. Anywhere else importing it does nothing.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

_HOMES = {
    "evolve": "flows.evolve",
    "train_adapters": "flows.lane",
    "evaluate_genomes": "flows.lane",
    "test_patches": "flows.lane",
}


def __getattr__(name: str) -> Any:
    """A flow, imported when it is asked for: a lane starts sooner without the search."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def _deploying() -> bool:
    """Is this process `prefect deploy`?"""
    program, *arguments = sys.argv
    return "prefect" in Path(program).parts[-2:] and "deploy" in arguments


if _deploying():
    from flows.installation.server_setup import make_missing_pools

    for pool in make_missing_pools():
        print(f"made work pool {pool} for processes. For containers: prefect work-pool delete {pool}, then coral setup")
