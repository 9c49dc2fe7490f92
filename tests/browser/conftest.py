"""A headless Chromium, and the installation of tests/pools that it looks at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # collected by every pytest, installed by `make test-browser` alone
    from playwright.sync_api import Browser, Page

from tests.pools.conftest import installation as installation
from tests.pools.conftest import pools as pools

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def chromium() -> str:
    """The browser of this machine, or the one that CORAL_CHROMIUM names."""
    asked = os.environ.get("CORAL_CHROMIUM")
    for name in (asked,) if asked else NAMES:
        if found := shutil.which(name):
            return found
    looked = f"CORAL_CHROMIUM={asked}" if asked else f"any of {', '.join(NAMES)} on PATH"
    raise FileNotFoundError(
        f"{looked}: no such browser. The browser tests need Chromium: apt-get install chromium, or set CORAL_CHROMIUM."
    )


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium()
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=options)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of pages go, to be looked at; CORAL_SHOTS names another folder."""
    folder = Path(os.environ.get("CORAL_SHOTS") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


Open = Callable[..., Any]


@pytest.fixture
def look(browser: Browser) -> Iterator[Open]:
    """Opens pages, wide and light unless told; an error of a page's scripts fails the test at its end."""
    errors: list[str] = []
    contexts = []

    def opened(url: str, *, width: int = 1280, height: int = 1000, dark: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(f"{page.url}: {error}"))
        page.goto(url)
        page.wait_for_load_state("networkidle")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not errors, errors
