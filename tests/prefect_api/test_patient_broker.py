"""Events that a busy database refuses are handled later, and not lost."""

import asyncio
import sqlite3
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

import flows.prefect_api.patient_broker
from flows.prefect_api.busy_database import PAUSES


async def handled(refusals: int, error: Exception) -> list[bytes | str]:
    """What comes through the broker, as the server makes it, to a handler that fails `refusals` times."""
    tried: list[bytes | str] = []

    async def handler(message: Any) -> None:
        tried.append(message.data)
        if len(tried) <= refusals:
            raise error
        raise StopConsumer(ack=True)

    with temporary_settings({PREFECT_MESSAGING_BROKER: "flows.prefect_api.patient_broker"}):
        consumer = create_consumer("patience", concurrency=1)
        async with create_publisher("patience", create_cache()) as publisher:
            await publisher.publish_data(b"paused", {"id": "1"})
        await asyncio.wait_for(consumer.run(handler), 20)
        await consumer.cleanup()
    return tried


async def test_an_event_waits_for_a_busy_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """More often than the four times that Prefect itself tries."""
    assert isinstance(flows.prefect_api.patient_broker, BrokerModule) and sum(PAUSES) > 3
    monkeypatch.setattr(flows.prefect_api.patient_broker, "PAUSES", (0.0,) * len(PAUSES))
    assert await handled(7, sqlite3.OperationalError("database is locked")) == [b"paused"] * 8


async def test_other_errors_are_prefects_own_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.prefect_api.patient_broker, "PAUSES", (30.0,))
    assert await handled(2, ValueError("a bug")) == [b"paused"] * 3
