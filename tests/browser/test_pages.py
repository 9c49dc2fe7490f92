"""The pages of a finished evolution: nothing breaks, pictures have pixels, tables have rows.

Each page is kept as a picture, in both interfaces of Prefect, wide and narrow, light and dark (`shots`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.browser.conftest import Open
from tests.pools.conftest import Pools

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

UIS = {"first": "", "second": "/v2"}
LOOKS = {
    "wide": {"width": 1440, "height": 1400},
    "wide-dark": {"width": 1440, "height": 1400, "dark": True},
    "narrow": {"width": 420, "height": 1400},
    "narrow-dark": {"width": 420, "height": 1400, "dark": True},
}
PICTURES = """async () => {
    const seen = [];
    for (const image of document.querySelectorAll('img')) {
        if (!image.src.startsWith('data:')) continue;
        await image.decode();
        const canvas = document.createElement('canvas');
        canvas.width = Math.min(image.naturalWidth, 800);
        canvas.height = Math.min(image.naturalHeight, 800);
        const context = canvas.getContext('2d', {willReadFrequently: true});
        context.drawImage(image, 0, 0, canvas.width, canvas.height);
        const pixels = new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
        seen.push({width: image.naturalWidth, shown: image.getBoundingClientRect().width, colours: new Set(pixels).size,
                   bytes: image.src.length, name: image.alt});
    }
    return seen;
}"""


@dataclass(frozen=True)
class Shown:
    """A finished evolution as the server shows it."""

    ui: str
    api: str
    run: Path
    flow_run: str

    def artifacts(self) -> dict[str, dict[str, Any]]:
        """The newest artifact (`latest_id`) of each key, without the run's id in front of it."""
        asked = {"artifacts": {"key": {"like_": f"{self.run.name}-"}}, "limit": 200}
        found = httpx.post(f"{self.api}/artifacts/latest/filter", json=asked).json()
        return {item["key"].removeprefix(f"{self.run.name}-"): item for item in found}


@pytest.fixture(scope="session")
def shown(installation: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    home, url = installation
    pools = Pools(home, tmp_path_factory.mktemp("shown"), url)
    result = pools.evolve("--set", "search.generations=3")
    assert result.returncode == 0, result.stdout + result.stderr
    flow_run = re.search(r'"flow_run_id":\s*"([^"]+)"', (pools.run / "run.json").read_text())
    assert flow_run is not None
    yield Shown(url.removesuffix("/api"), url, pools.run, flow_run[1])


def pictures(page: Page) -> list[dict[str, Any]]:
    """The pictures that are drawn into the page; none of them may be blank or stand out of it."""
    page.wait_for_function("() => [...document.querySelectorAll('img')].every(image => image.complete)")
    seen: list[dict[str, Any]] = page.evaluate(PICTURES)
    for picture in seen:
        assert picture["width"] > 0 and picture["colours"] > 3, f"a blank picture: {picture}"
        assert 0 < picture["shown"] <= page.viewport_size["width"], f"wider than the page: {picture}"  # type: ignore[index]
    return seen


def test_what_there_is_to_see(shown: Shown) -> None:
    """Keys that people link to, as flows/observe/artifacts.py lists them."""
    found = shown.artifacts()
    generations = {f"generation-{number:03d}" for number in range(3)}
    assert {"progress", "summary", "leaderboard", "pictures"} | generations == set(found)
    assert found["progress"]["type"] == "progress" and found["progress"]["data"] == 100.0


@pytest.mark.parametrize("look_name", LOOKS)
@pytest.mark.parametrize("ui", UIS)
def test_the_run_page(shown: Shown, look: Open, shots: Path, ui: str, look_name: str) -> None:
    page = look(f"{shown.ui}{UIS[ui]}/runs/flow-run/{shown.flow_run}", **LOOKS[look_name])
    page.get_by_text("Completed").first.wait_for()
    page.get_by_text("of the fitness bugs").first.wait_for()  # a line of the run's log
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(500)  # the timeline is drawn last
    page.screenshot(path=shots / f"run-{ui}-{look_name}.png")


@pytest.mark.parametrize("look_name", LOOKS)
@pytest.mark.parametrize("ui", UIS)
def test_every_artifact(shown: Shown, look: Open, shots: Path, ui: str, look_name: str) -> None:
    drawn: dict[str, int] = {}
    for key, artifact in sorted(shown.artifacts().items()):
        if re.fullmatch(r"generation-00[1-9]", key):
            continue  # they look like the first
        page = look(f"{shown.ui}{UIS[ui]}/artifacts/artifact/{artifact['latest_id']}", **LOOKS[look_name])
        page.get_by_text(key, exact=False).first.wait_for()
        page.wait_for_timeout(300)  # the page has its data; it may still be laying it out
        page.screenshot(path=shots / f"artifact-{key}-{ui}-{look_name}.png")
        drawn[key] = len(pictures(page))
        if artifact["type"] == "table":
            assert page.locator("table tbody tr").count() >= 4, "a row per genome"
        if artifact["type"] == "markdown":
            assert drawn[key] == artifact["data"].count("data:image"), "every picture that is written is drawn"
            assert page.locator("table tr").count() > 1 or "\n|" not in artifact["data"]
        page.close()
    assert drawn["summary"] > 0 and drawn["pictures"] >= 5


def test_the_report_page(shown: Shown, look: Open, shots: Path) -> None:
    page_file = shown.run / "report.html"
    for name, options in LOOKS.items():
        page = look(page_file.as_uri(), **options)
        page.screenshot(path=shots / f"report-{name}.png", full_page=True)
        assert pictures(page)
        assert page.locator("table tr").count() > 4
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth"), (
            f"{name}: the page scrolls sideways"
        )
        assert not [
            r
            for r in page.evaluate("() => performance.getEntriesByType('resource').map(r => r.name)")
            if r.startswith("http")
        ]
