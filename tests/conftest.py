"""The order of the tests and their distribution over workers; the server and the finished run that many tests share."""

from typing import Any

import pytest

from tests.rehearsal_runs import coral as coral
from tests.rehearsal_runs import finished as finished
from tests.rehearsal_runs import home as home
from tests.rehearsal_runs import shared as shared

POOLS = "tests/pools/"
OWN_INSTALLATION = ("tests/pools/test_key.py", "tests/pools/test_deploy.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, so that none is left for the end: work pools, what waits for a server, engines with torch."""
    waiting = {item.path for item in items if item.get_closest_marker("server")}
    items.sort(
        key=lambda item: (
            not item.nodeid.startswith(POOLS),
            item.path not in waiting,
            not item.nodeid.startswith("tests/lm/"),
        )
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file goes to one worker; in `make test`, all of tests/pools that shares an installation goes to one."""
    if "not slow" not in config.option.markexpr:
        return None
    from xdist.scheduler import LoadScopeScheduling

    class OneInstallation(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return POOLS if file.startswith(POOLS) and file not in OWN_INSTALLATION else file

    return OneInstallation(config, log)
