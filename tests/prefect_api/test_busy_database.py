"""Requests that a busy server refuses are put again, whole, and answered once."""

from typing import Any

import pytest

import flows.prefect_api.sqlite_retries
from flows.prefect_api.sqlite_retries import PAUSES, retrying


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
    monkeypatch.setattr(flows.prefect_api.sqlite_retries, "PAUSES", (0.0, 0.0, 0.0))
    app = Busy(refusals)
    sent = await ask(app)
    assert app.bodies == [b"abc"] * (refusals + 1)
    assert [message.get("status") for message in sent] == [201, None] and sent[1]["body"] == b"abc"


async def test_a_server_that_stays_busy_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.prefect_api.sqlite_retries, "PAUSES", (0.0,) * len(PAUSES))
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
