import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.health.fake_api import FakeApi, serving

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))  # synthetic_run


@pytest.fixture
def fake() -> FakeApi:
    return FakeApi()


@pytest.fixture
def url(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving(fake) as found:
        yield found
