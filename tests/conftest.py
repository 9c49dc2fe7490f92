"""Order of the tests, and the server and the finished run that tests of several folders share."""

import pytest

from tests.rehearsal_runs import coral as coral
from tests.rehearsal_runs import finished as finished
from tests.rehearsal_runs import home as home


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that wait for servers come first, so that no long one is left for the end."""
    waiting = {item.path for item in items if item.get_closest_marker("server")}
    items.sort(key=lambda item: item.path not in waiting)
