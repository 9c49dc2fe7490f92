"""A server on SQLite that is too busy for a request is asked again, before anybody hears of it.

SQLite lets one connection write at a time, and refuses a transaction that read before another one wrote. Prefect answers
503 then, which its own clients try again and a browser does not: a click on Run in the UI would come to nothing, more
often than not while lanes work. The refused transaction was rolled back, so that the same request can be put again.
Not covered: servers that are not ours (`coral setup`), which belong on Postgres.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds before each further try; with the last one's answer the caller has to live."""


def ask_again(app: App) -> App:
    """`app`, with requests that it answers by 503 put to it again."""

    async def asked(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        body = [await receive()]
        while body[-1].get("more_body"):
            body.append(await receive())
        for pause in PAUSES:
            if not await _refused(app, dict(scope), _again(body, receive), send):
                return None
            await asyncio.sleep(pause)
        return await app(scope, _again(body, receive), send)

    return asked


async def _refused(app: App, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> bool:
    """Whether `app` answered by 503, which is then not sent."""
    refused = False

    async def unless_refused(message: Message) -> None:
        nonlocal refused
        refused = refused or (message["type"] == "http.response.start" and message["status"] == 503)
        if not refused:
            await send(message)

    try:
        await app(scope, receive, unless_refused)
    except Exception:  # after its answer to an error the server raises it once more, for its log
        if not refused:
            raise
    return refused


def _again(body: list[Message], receive: Receive) -> Receive:
    """Gives `body` from its beginning, then what comes after it (the caller hanging up)."""
    rest = iter(body)

    async def replayed() -> Message:
        return next(rest, None) or await receive()

    return replayed
