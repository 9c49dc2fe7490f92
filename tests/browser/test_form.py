"""The run form of the deployment `evolve` is the configuration: what is typed there is what runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from tests.browser.conftest import Open
from tests.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

UIS = {"first": "", "second": "/v2"}
SMALL = {
    ("Search", "Generations"): "1",
    ("Search", "Population"): "4",
    ("Base model", "Name"): "rehearsal",
    ("Problems", "Monitor"): "4",
    ("Problems", "Held out"): "12",
}
"""What makes it a run of seconds, typed into the form too."""


def field(page: Page, *path: str) -> Locator:
    """What lies under the labels of `path`, from the outside in."""
    place: Any = page.locator("body")
    for label in path:
        texts = " or ".join(f"normalize-space()='{text}'" for text in (label, f"{label} (Optional)"))
        place = place.locator(f"xpath=.//*[self::label or self::span][{texts}]/following::fieldset[1]").first
    return place


def form_of(url: str, ui: str) -> str:
    deployment = httpx.get(f"{url}/deployments/name/evolve/evolve").json()["id"]
    return f"{url.removesuffix('/api')}{UIS[ui]}/deployments/deployment/{deployment}/run"


def evolutions(url: str) -> set[str]:
    """Ids of all flow runs of `evolve`."""
    return {
        run["id"]
        for run in httpx.post(f"{url}/flow_runs/filter", json=dict(flows={"name": {"any_": ["evolve"]}})).json()
    }


def folder_of(url: str, flow_run: str) -> Path | None:
    """The run's folder: relative to where the control pool starts its processes."""
    template = httpx.get(f"{url}/work_pools/coral-control").json()["base_job_template"]
    runs = Path(template["job_configuration"]["working_dir"]) / "runs"
    notes = [note for note in runs.glob("*/run.json") if json.loads(note.read_text())["flow_run_id"] == flow_run]
    return notes[0].parent if notes else None


@pytest.mark.parametrize("ui", UIS)
def test_values_typed_into_the_form_are_what_runs(
    installation: tuple[Path, str], look: Open, shots: Path, ui: str
) -> None:
    _, url = installation
    typed = SMALL | {"first": {("Problems", "Fitness"): "16"}, "second": {("Problems", "Fitness"): "20"}}[ui]
    before = evolutions(url)
    page = look(form_of(url, ui))
    for path, value in typed.items():
        field(page, "config", *path).locator("input, textarea").fill(value)
    page.wait_for_timeout(1000)  # the second interface takes in what is typed a moment later, as people type
    page.screenshot(path=shots / f"form-{ui}.png")
    page.get_by_role("button", name="Submit").or_(page.get_by_role("button", name="Run", exact=True)).click()

    try:
        flow_run = until(lambda: evolutions(url) - before, 60, "the form started no run").pop()
    finally:
        page.screenshot(path=shots / f"form-{ui}-sent.png")

    def ended() -> str:
        state: str = httpx.get(f"{url}/flow_runs/{flow_run}").json()["state"]["type"]
        return state if state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else ""

    assert until(ended, 540, "the run did not end") == "COMPLETED"
    folder = folder_of(url, flow_run)
    assert folder is not None
    frozen = yaml.safe_load((folder / "config.yaml").read_text())
    for (section, key), value in typed.items():
        found = frozen[section.lower().replace(" ", "_")][key.lower().replace(" ", "_")]
        assert str(found) == value, f"{section} > {key} is {found}, and {value} was typed"
    assert frozen["infra"]["executor"] == "work-pools", "the deployment's own value stays"
    assert frozen["problems"]["pairs"] == 384, "what was not touched keeps its default"


@pytest.mark.parametrize("ui", UIS)
def test_the_form_speaks_the_words_of_the_configuration(installation: tuple[Path, str], look: Open, ui: str) -> None:
    page = look(form_of(installation[1], ui))
    field(page, "config", "Genes", "Light", "Temperature", "Low").wait_for()
    text = page.inner_text("body")
    assert not re.findall(r"\b\w+(?:Config|Space|Lanes|Range|Prices)\b", text), "names of classes are no labels"
    assert "not set" in text and "GPU hours" in text
    assert field(page, "config", "Genes", "Light", "Temperature", "Low").locator("input").input_value() == "0.1"
