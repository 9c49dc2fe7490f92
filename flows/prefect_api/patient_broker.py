"""Prefect's in-memory broker for events, which waits before it hands an event out again that SQLite was too busy for.

Prefect tries an event four times within milliseconds and then gives it up: an automation that never hears of a pause
tells of "no progress", and one that never hears of the end of a lane takes it for lost. Our own server names this
module as its broker (PREFECT_SERVER_EVENTS_MESSAGING_BROKER); servers that are not ours belong on Postgres.
Not covered: requests, which flows/prefect_api/busy_database.py puts again.
"""

import asyncio

from prefect.server.utilities.messaging import Message, MessageHandler
from prefect.server.utilities.messaging import memory as prefect_memory
from prefect.server.utilities.messaging.memory import Publisher, break_topic, ephemeral_subscription

from flows.prefect_api.busy_database import PAUSES

__all__ = ["Consumer", "Publisher", "break_topic", "ephemeral_subscription"]

BUSY = "database is locked"


class Consumer(prefect_memory.Consumer):
    """Prefect's, patient with SQLite."""

    async def run(self, handler: MessageHandler) -> None:
        await super().run(patient(handler))


def patient(handler: MessageHandler) -> MessageHandler:
    """`handler`, asked again after a pause where the database was busy; at last its error is raised."""

    async def handled(message: Message) -> None:
        for pause in PAUSES:
            try:
                return await handler(message)
            except Exception as error:
                if BUSY not in str(error):
                    raise
            await asyncio.sleep(pause)
        return await handler(message)

    return handled
