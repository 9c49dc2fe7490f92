"""Order of the tests: files that wait for servers come first, so that no long one is left for the end."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    waiting = {item.path for item in items if item.get_closest_marker("server")}
    items.sort(key=lambda item: item.path not in waiting)
