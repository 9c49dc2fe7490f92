"""Events that a busy database refuses are handled later, and not lost."""

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

import flows.prefect_api.sqlite_retries
from flows.prefect_api.sqlite_retries import PAUSES


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
    assert isinstance(flows.prefect_api.sqlite_retries, BrokerModule) and sum(PAUSES) > 3
    monkeypatch.setattr(flows.prefect_api.sqlite_retries, "PAUSES", (0.0,) * len(PAUSES))
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
    monkeypatch.setattr(flows.prefect_api.sqlite_retries, "PAUSES", (30.0,))
    assert await handled(2, ValueError("a bug")) == [b"paused"] * 3
