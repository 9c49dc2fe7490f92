"""Whole lists, however the server cuts them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store
from flows.installation.pool_status import read_pools
from flows.observe import artifacts
from flows.prefect_api import client as prefect_client
from flows.prefect_api.api_errors import ApiError
from flows.prefect_api.client import RestClient, all_pages
from tests.monitoring.fake_api import FakeApi, serving


def refusal(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://x")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


@given(st.integers(0, 450), st.integers(1, 300), st.booleans())
@settings(deadline=None, max_examples=40)
def test_every_row_once(rows: int, page: int, plain: bool) -> None:
    calls: list[int | None] = []

    def read(limit: int | None, offset: int) -> list[Any]:
        calls.append(limit)
        if limit is not None and limit > page:
            raise ApiError("no", status=422) if plain else refusal(422)
        return [SimpleNamespace(id=number + 1) for number in range(rows)][offset : offset + (limit or page)]

    assert [row.id for row in all_pages(read)] == list(range(1, rows + 1))
    assert len(calls) <= rows // min(page, 200) + 3


def test_rows_that_move_between_pages_come_once() -> None:
    """A new one at the head shifts all others by one."""

    def read(limit: int | None, offset: int) -> list[Any]:
        rows = [SimpleNamespace(id=number + 1) for number in range(250)]
        return (rows if not offset else [SimpleNamespace(id="new"), *rows])[offset : offset + 200]

    assert [row.id for row in all_pages(read)] == list(range(1, 251))


def test_other_refusals_are_errors() -> None:
    def read(limit: int | None, offset: int) -> list[Any]:
        raise refusal(500)

    with pytest.raises(httpx.HTTPStatusError):
        all_pages(read)


@pytest.mark.parametrize(("refusals", "is_answered"), [(0, True), (1, True), (3, True), (4, False)])
def test_a_busy_server_is_asked_again(refusals: int, is_answered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_client, "BUSY_PAUSES", (0.0, 0.0, 0.0))
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        return httpx.Response(503) if len(asked) <= refusals else httpx.Response(200, json=3)

    with RestClient("http://127.0.0.1:9/api") as client:
        monkeypatch.setattr(client, "_http", httpx.Client(transport=httpx.MockTransport(answer)))
        if is_answered:
            assert client.count_flow_runs({}) == 3
        else:
            with pytest.raises(ApiError, match=r"503: Service Unavailable\. The server is busy"):
                client.count_flow_runs({})
    assert len(asked) == min(refusals + 1, 4)


@pytest.mark.parametrize("page", [1, 2, 7, 200])
def test_what_commands_see_does_not_depend_on_the_servers_pages(page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeApi()
    fake.workers["coral-a100"] = [fake.worker(f"w{number}", 12) for number in range(15)]
    monkeypatch.delenv("PREFECT_API_KEY", raising=False)
    fake.page = page
    with serving(fake) as url, RestClient(url) as api:
        looks = {look.name: look for look in read_pools(api)}
        assert all(look.present for look in looks.values())
        assert looks["coral-a100"].workers_online == 15
        assert len(api.automations()) == len(fake.automations)


class _Artifacts:
    """A server whose pages hold two artifacts."""

    def __init__(self, names: list[str]) -> None:
        self.there = [{"id": str(uuid4()), "key": name, "data": "[]"} for name in names]

    async def request(self, method: str, path: str, *, json: dict[str, Any]) -> httpx.Response:
        assert (method, path) == ("POST", "/artifacts/filter")
        return httpx.Response(200, json=self.there[json["offset"] : json["offset"] + 2])


@pytest.mark.parametrize("count", [0, 1, 2, 5])
async def test_artifacts_of_an_earlier_session_are_found_on_a_server_with_small_pages(
    tmp_path: Path, count: int
) -> None:
    folder, store = RunFolder(tmp_path / "run-e1"), Store(tmp_path / "store")
    folder.path.mkdir()
    (folder.path / "config.yaml").write_text("name: run")
    names = [f"generation-{number:03d}" for number in range(count)]
    publisher = artifacts.Publisher(folder, store, "")
    publisher._client = cast(Any, _Artifacts([f"run-e1-{name}" for name in names]))
    await publisher._begin()
    assert list(publisher._rows) == names
