"""Whole lists, however the server cuts them."""

from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.installation.look import look_at_pools
from flows.installation.plain_api import PlainApi
from flows.pages import LimitRefusedError, all_pages
from tests.health.fake_api import FakeApi, serving


def refusal(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://x")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


@given(st.integers(0, 450), st.integers(1, 300), st.booleans())
@settings(deadline=None, max_examples=40)
def test_every_row_once(rows: int, page: int, plain: bool) -> None:
    calls: list[int | None] = []

    def read(limit: int | None, offset: int) -> list[dict[str, Any]]:
        calls.append(limit)
        if limit is not None and limit > page:
            raise LimitRefusedError if plain else refusal(422)
        return [{"id": number} for number in range(rows)][offset : offset + (limit or page)]

    assert [row["id"] for row in all_pages(read)] == list(range(rows))
    assert len(calls) <= rows // min(page, 200) + 3


def test_rows_that_move_between_pages_come_once() -> None:
    """A new one at the head shifts all others by one."""

    def read(limit: int | None, offset: int) -> list[dict[str, Any]]:
        rows = [{"id": number} for number in range(250)]
        return (rows if not offset else [{"id": "new"}, *rows])[offset : offset + 200]

    assert [row["id"] for row in all_pages(read)] == list(range(250))


def test_other_refusals_are_errors() -> None:
    def read(limit: int | None, offset: int) -> list[dict[str, Any]]:
        raise refusal(500)

    with pytest.raises(httpx.HTTPStatusError):
        all_pages(read)


@pytest.mark.parametrize("page", [1, 2, 7, 200])
def test_what_commands_see_does_not_depend_on_the_servers_pages(page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeApi()
    fake.workers["coral-a100"] = [fake.worker(f"w{number}", 12) for number in range(15)]
    monkeypatch.delenv("PREFECT_API_KEY", raising=False)
    fake.page = page
    with serving(fake) as url, PlainApi(url) as api:
        looks = {look.name: look for look in look_at_pools(api)}
        assert all(look.present for look in looks.values())
        assert looks["coral-a100"].workers_online == 15
        assert len(api.find_all("automations/filter")) == len(fake.automations)
