from collections.abc import Iterator

import pytest

from tests.monitoring.fake_api import FakeApi, serving


@pytest.fixture
def fake() -> FakeApi:
    return FakeApi()


@pytest.fixture
def url(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving(fake) as found:
        yield found
