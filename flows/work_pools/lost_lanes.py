"""Flow runs that the automation `coral: lost lanes` took for lost while they live.

Heartbeats do not arrive while the server is away. When it is back, a run without one for 90 seconds may be marked as
crashed before its next heartbeat comes. Who lives puts that right.
"""

from typing import Any

from prefect.client.schemas.objects import State

NO_HEARTBEAT = "No heartbeat for"
"""How the automation (`deployments/automations/lost-lanes.json`) begins its message."""


def believed_lost(state: "State[Any] | None") -> bool:
    """Was a flow run marked as crashed for want of heartbeats, and not by who saw its process end?"""
    return state is not None and state.is_crashed() and (state.message or "").startswith(NO_HEARTBEAT)
