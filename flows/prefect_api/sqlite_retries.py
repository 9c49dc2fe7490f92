"""Retries inside the local Prefect server where SQLite was busy.

SQLite allows one writer at a time and refuses a transaction that has read data which another one has changed since. This
happens within minutes while lanes work. Prefect 3.8 answers such a request with 503. Its own clients retry it, but a
browser does not, so a click on Run in the UI is lost. Prefect also drops an event after four tries within milliseconds,
so an automation misses the end of a lane and takes it for lost. A refused transaction was rolled back and can be repeated.

`retrying` wraps the server's application. This module is also the server's event broker
(PREFECT_SERVER_EVENTS_MESSAGING_BROKER). Not covered: other servers, which should use Postgres.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prefect.server.utilities.messaging import Message, MessageHandler
from prefect.server.utilities.messaging import memory as prefect_memory
from prefect.server.utilities.messaging.memory import Publisher, break_topic, ephemeral_subscription

__all__ = ["Consumer", "Publisher", "break_topic", "ephemeral_subscription", "retrying"]

AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds before each retry; the outcome of the last one is final."""


class Consumer(prefect_memory.Consumer):
    """Prefect's consumer of events, which calls a handler again where SQLite was busy."""

    async def run(self, handler: MessageHandler) -> None:
        async def retried(message: Message) -> None:
            for pause in PAUSES:
                try:
                    return await handler(message)
                except Exception as error:
                    if not _is_busy(error):
                        raise
                await asyncio.sleep(pause)
            return await handler(message)

        await super().run(retried)


def _is_busy(error: BaseException | None) -> bool:
    """Whether `error`, or one of its causes, is SQLite's refusal because the database is busy."""
    while error is not None:
        cause = getattr(error, "orig", error)  # SQLAlchemy keeps the driver's error there
        if isinstance(cause, sqlite3.OperationalError) and cause.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            return True
        error = error.__cause__ or error.__context__
    return False


def retrying(app: App) -> App:
    """Wrap an ASGI application so that a request that it answers with 503 is repeated after `PAUSES`."""

    async def retried(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        body = [await receive()]
        while body[-1].get("more_body"):
            body.append(await receive())
        for pause in PAUSES:
            if not await _refused(app, dict(scope), _replay(body, receive), send):
                return None
            await asyncio.sleep(pause)
        return await app(scope, _replay(body, receive), send)

    return retried


async def _refused(app: App, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> bool:
    """Run one request. True when `app` answered with 503; that answer is then not sent."""
    refused = False

    async def unless_refused(message: AsgiMessage) -> None:
        nonlocal refused
        refused = refused or (message["type"] == "http.response.start" and message["status"] == 503)
        if not refused:
            await send(message)

    try:
        await app(scope, receive, unless_refused)
    except Exception:  # after its answer the server raises the error again, for its log
        if not refused:
            raise
    return refused


def _replay(body: list[AsgiMessage], receive: Receive) -> Receive:
    """A `receive` that returns the messages of `body` again, then new ones (a disconnect)."""
    rest = iter(body)

    async def replayed() -> AsgiMessage:
        return next(rest, None) or await receive()

    return replayed
