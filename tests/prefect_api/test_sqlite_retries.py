"""Where our server's SQLite is busy, requests are repeated whole and answered once, and events are handled later."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prefect.server.utilities.messaging import (
    BrokerModule,
    StopConsumer,
    create_cache,
    create_consumer,
    create_publisher,
)
from prefect.settings import PREFECT_MESSAGING_BROKER, temporary_settings
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from flows.prefect_api import sqlite_retries
from flows.prefect_api.sqlite_retries import PAUSES, retrying

# -- requests ------------------------------------------------------------------------------


class Busy:
    """Refuses the first `refusals` requests, as Prefect does: an answer, then the error itself."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["seen"] = True
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        self.bodies.append(body)
        refused = len(self.bodies) <= self.refusals
        await send({"type": "http.response.start", "status": 503 if refused else 201, "headers": []})
        await send({"type": "http.response.body", "body": b"no" if refused else body})
        if refused:
            raise RuntimeError("database is locked")


async def ask(app: Any, kind: str = "http") -> list[Any]:
    parts = [{"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.request", "body": b"c"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await retrying(app)({"type": kind}, receive, send)
    return sent


@pytest.mark.parametrize("refusals", [0, 1, 3])
async def test_it_is_asked_until_it_answers(refusals: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_retries, "PAUSES", (0.0, 0.0, 0.0))
    app = Busy(refusals)
    sent = await ask(app)
    assert app.bodies == [b"abc"] * (refusals + 1)
    assert [message.get("status") for message in sent] == [201, None] and sent[1]["body"] == b"abc"


async def test_a_server_that_stays_busy_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_retries, "PAUSES", (0.0,) * len(PAUSES))
    app = Busy(99)
    with pytest.raises(RuntimeError, match="locked"):
        await ask(app)
    assert len(app.bodies) == len(PAUSES) + 1


async def test_other_errors_are_not_asked_again() -> None:
    calls = []

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        calls.append(scope)
        await send({"type": "http.response.start", "status": 500, "headers": []})
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await ask(broken)
    assert len(calls) == 1


# -- events --------------------------------------------------------------------------------


async def handled(refusals: int, error: Exception) -> list[bytes | str]:
    """What comes through the broker, as the server makes it, to a handler that fails `refusals` times."""
    tried: list[bytes | str] = []

    async def handler(message: Any) -> None:
        tried.append(message.data)
        if len(tried) <= refusals:
            raise error
        raise StopConsumer(ack=True)

    with temporary_settings({PREFECT_MESSAGING_BROKER: "flows.prefect_api.sqlite_retries"}):
        consumer = create_consumer("patience", concurrency=1)
        async with create_publisher("patience", create_cache()) as publisher:
            await publisher.publish_data(b"paused", {"id": "1"})
        await asyncio.wait_for(consumer.run(handler), 20)
        await consumer.cleanup()
    return tried


async def test_an_event_waits_for_a_busy_database(monkeypatch: pytest.MonkeyPatch, locked: Exception) -> None:
    """More often than the four times that Prefect itself tries."""
    assert isinstance(sqlite_retries, BrokerModule) and sum(PAUSES) > 3
    monkeypatch.setattr(sqlite_retries, "PAUSES", (0.0,) * len(PAUSES))
    assert await handled(7, locked) == [b"paused"] * 8


@pytest.fixture
def locked(tmp_path: Path) -> Exception:
    """What SQLAlchemy raises where another connection writes."""
    path = f"sqlite:///{tmp_path / 'x.db'}"
    engine = create_engine(path, connect_args={"timeout": 0})
    with engine.connect() as writes, engine.connect() as waits:
        writes.execute(text("BEGIN IMMEDIATE"))
        with pytest.raises(OperationalError) as raised:
            waits.execute(text("BEGIN IMMEDIATE"))
    return raised.value


async def test_other_errors_are_prefects_own_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_retries, "PAUSES", (30.0,))
    assert await handled(2, ValueError("a bug")) == [b"paused"] * 3
