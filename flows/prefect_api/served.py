"""Whose word the parameters of this flow run are: the Prefect server's, or those of the person whose process this is.

A flow run that a worker, `prefect flow-run execute` or a served deployment started has parameters that anybody may have
written who can start flow runs; they are held to the roots of this machine (`coral_core.lanes.allowed_paths`). `coral evolve` and
Python code call the flow in their own process, with their own arguments and rights. Nothing that comes with a flow
run's parameters takes part in the decision.
"""

import os

from prefect.runtime import deployment

from coral_core.lanes.allowed_paths import Roots
from flows.prefect_api.worker_exit import STARTED_BY_WORKER


def served() -> bool:
    """Do the parameters come from the server? Also where only one of two signs says so."""
    return STARTED_BY_WORKER in os.environ or bool(deployment.id)


def roots() -> Roots | None:
    """What the parameters of this flow run are held to; None where they are the caller's own. Raises `ConfigError`."""
    return Roots.of_environment() if served() else None
