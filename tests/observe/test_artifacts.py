"""Artifacts in the Prefect UI: stable keys, one row each, derived, cheap, and never in the way of the search."""

import asyncio
import base64
import io
import json
import re
import shutil
import urllib.request
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from PIL import Image

from coral_core.report.pictures import LIMIT
from coral_core.runs.progress import Progress
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store
from flows.observe import artifacts
from tests.rehearsal_runs import Coral

pytestmark = pytest.mark.server

NAME = "shown"
"""Artifacts are found by the run's name, and other tests of this session have runs on the same server."""
ON_A_SERVER = pytest.mark.slow(reason="a run; the tests below hold each artifact by an API that stands in")
KEYS = ["generation-000", "generation-001", "leaderboard", "pictures", "progress", "summary"]


@pytest.fixture(scope="module")
def finished(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Coral:
    coral = Coral(home, tmp_path_factory.mktemp("finished"))
    result = coral.evolve(name=NAME)
    assert result.returncode == 0, result.stderr
    return coral


def rows(home: Path, run_id: str) -> list[dict[str, Any]]:
    """All artifact rows of a run, superseded ones too."""
    url = json.loads((home / "server.json").read_text())["url"]
    body = {"artifacts": {"key": {"like_": f"{run_id}-"}}, "limit": 200}
    request = urllib.request.Request(
        f"{url}/artifacts/filter", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        found: list[dict[str, Any]] = json.loads(reply.read())
    return found


def by_name(home: Path, run_id: str) -> dict[str, dict[str, Any]]:
    found = {row["key"].removeprefix(f"{run_id}-"): row for row in rows(home, run_id)}
    assert len(found) == len(rows(home, run_id)), "a key has more than one row"
    return found


def pictures(markdown: str) -> list[bytes]:
    return [base64.b64decode(text) for text in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", markdown)]


@ON_A_SERVER
def test_a_finished_run_shows_itself_under_stable_keys(finished: Coral, home: Path) -> None:
    found = by_name(home, finished.run.name)
    assert sorted(found) == KEYS
    assert found["progress"]["data"] == 100.0
    assert "**Finished**" in found["summary"]["data"] and "## Best genome" in found["summary"]["data"]
    history = [json.loads(line) for line in finished.history().splitlines()]
    genomes = {row["genome"]["genome_id"]: row for row in history if row["type"] == "genome"}
    leaders = json.loads(found["leaderboard"]["data"])
    assert leaders[0]["fitness"] == max(row["fitness"] for row in leaders)
    assert [row["place"] for row in leaders] == list(range(1, len(leaders) + 1))
    for row in leaders:
        assert f" r{genomes[row['genome']]['genome']['heavy']['rank']} " in row["heavy genes"]
        assert row["bugfix"] == round(genomes[row["genome"]]["scores"]["bugfix"], 3)
    for number in (0, 1):
        table = json.loads(found[f"generation-{number:03d}"]["data"])
        assert [row["genome"] for row in table] == [name for name in genomes if name.startswith(f"g{number:03d}")]


@ON_A_SERVER
def test_pictures_are_small_and_have_pixels(finished: Coral, home: Path) -> None:
    found = by_name(home, finished.run.name)
    assert len(pictures(found["pictures"]["data"])) == 5
    assert len(pictures(found["summary"]["data"])) == 2
    for png in pictures(found["pictures"]["data"]) + pictures(found["summary"]["data"]):
        assert len(png) <= LIMIT
        image = Image.open(io.BytesIO(png)).convert("RGB")
        assert image.width >= 400 and len(set(image.resize((60, 40)).tobytes())) > 5


@pytest.mark.slow(reason="a run more")
def test_a_restart_leaves_one_row_per_key_and_keeps_finished_tables(finished: Coral, coral: Coral, home: Path) -> None:
    shutil.copytree(finished.runs, coral.runs)
    run_id = coral.run.name
    before = by_name(home, run_id)
    assert coral.evolve(name=NAME).returncode == 0
    after = by_name(home, run_id)
    assert sorted(after) == KEYS
    for name in ("generation-000", "generation-001"):
        assert after[name]["id"] == before[name]["id"]
    for name in ("progress", "summary", "leaderboard", "pictures"):
        assert after[name]["id"] != before[name]["id"], "each session's run page shows its own"
        assert after[name]["flow_run_id"] != before[name]["flow_run_id"]


class Api:
    """Stands in for Prefect's client; keeps rows, counts calls, fails when told to."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.calls = 0
        self.broken: Exception | None = None

    async def __aenter__(self) -> "Api":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def request(self, method: str, path: str, path_params: Any = None, json: Any = None) -> httpx.Response:
        self.calls += 1
        if self.broken:
            raise self.broken
        if path == "/artifacts/filter":
            return httpx.Response(200, json=[], request=httpx.Request(method, "http://x"))
        name = str(path_params["id"]) if path_params else str(uuid4())
        if method == "PATCH" and name not in self.rows:
            request = httpx.Request("PATCH", "http://x")
            from prefect.exceptions import PrefectHTTPStatusError

            raise PrefectHTTPStatusError("gone", request=request, response=httpx.Response(404, request=request))
        self.rows[name] = self.rows.get(name, {}) | json
        return httpx.Response(201, json={"id": name}, request=httpx.Request(method, "http://x"))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    api = Api()
    monkeypatch.setattr(artifacts, "async_client", lambda: api)
    return api


def replayed(finished: Coral, tmp_path: Path) -> tuple[RunFolder, Store, dict[str, list[str]]]:
    """A copy of a finished run whose files are still to be written, line by line."""
    folder = RunFolder(tmp_path / finished.run.name)
    shutil.copytree(finished.run, folder.path)
    lines = {}
    for name in ("history.jsonl", "timings.jsonl"):
        lines[name] = (folder.path / name).read_text().splitlines(keepends=True)
        (folder.path / name).write_text("")
    return folder, Store(folder.config().store.path), lines


def test_each_finished_job_costs_two_calls_at_most(finished: Coral, tmp_path: Path, api: Api) -> None:
    folder, store, lines = replayed(finished, tmp_path)

    async def follow() -> None:
        publisher = artifacts.Publisher(folder, store, "")
        publisher._client = api  # type: ignore[assignment]
        await publisher._update()
        start, jobs = api.calls, 0
        history = iter(lines["history.jsonl"])
        for line in lines["timings.jsonl"]:
            with (folder.path / "timings.jsonl").open("a") as file:
                file.write(line)
            with (folder.path / "history.jsonl").open("a") as file:
                file.write(next(history, ""))
            jobs += '"type":"job"' in line
            await publisher._update()
            assert api.calls - start <= 2 * jobs
        publisher.ended(Progress.model_construct(), "finished", "")
        await publisher.finish()

    asyncio.run(follow())
    shown = {row["key"].removeprefix(f"{folder.run_id}-"): row for row in api.rows.values()}
    assert sorted(shown) == KEYS, "one row each, updated in place"


def test_a_row_that_somebody_deleted_is_made_again(finished: Coral, tmp_path: Path, api: Api) -> None:
    folder, store, lines = replayed(finished, tmp_path)

    async def follow() -> None:
        publisher = artifacts.Publisher(folder, store, "")
        publisher._client = api  # type: ignore[assignment]
        await publisher._update()
        api.rows.clear()
        for name, content in lines.items():
            (folder.path / name).write_text("".join(content))
        publisher.ended(Progress.model_construct(), "finished", "")
        await publisher.finish()

    asyncio.run(follow())
    assert sorted(row["key"].removeprefix(f"{folder.run_id}-") for row in api.rows.values()) == KEYS


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), RuntimeError("of any kind")])
def test_an_api_that_fails_never_stops_the_search(
    finished: Coral, tmp_path: Path, api: Api, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    folder, store, _ = replayed(finished, tmp_path)
    api.broken = error

    async def search() -> str:
        publisher = artifacts.Publisher(folder, store, "")
        async with publisher:
            for _ in range(5):
                publisher.changed(Progress.model_construct())
                await asyncio.sleep(0.02)  # subject: a search that lasts
        return "done"

    assert asyncio.run(search()) == "done"
    assert "not up to date" in caplog.text
