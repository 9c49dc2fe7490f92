"""What passes plainly passes under recording, in ten public packages. They are fetched, never committed: make test-packages."""

from pathlib import Path

import pytest

from benchmarks.own_packages import PYTHON, lost_tests, plain, source_of
from coral_core.problem_sources.package.discovery import discover
from coral_core.problem_sources.package.recording import record

NAMES = (
    "cachetools", "inflection", "intervaltree", "isodate", "natsort", "parse", "python-slugify", "semver", "tabulate", "webcolors",
)  # fmt: skip


@pytest.mark.slow(reason="the tests of a public package, twice")
@pytest.mark.parametrize("name", NAMES)
def test_recording_disturbs_no_test(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    if source is None or not PYTHON.exists():
        pytest.skip(f"{name} is not fetched: make own-packages")
    passed = plain(source, tmp_path)["passed"]
    recorded = record(source, discover(source), python=str(PYTHON))
    assert passed and recorded.calls and not lost_tests(passed, recorded.tests)
