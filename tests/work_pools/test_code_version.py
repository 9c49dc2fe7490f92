"""Two checkouts of one version are told apart, and two places with one code are not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coral_core.errors import ConfigError
from flows.work_pools import code_version as version
from flows.work_pools.code_version import code_digest, code_version

ROOT = Path(__file__).parents[2]
ASK = "import sys; sys.path.insert(0, sys.argv[1]); from flows.work_pools.code_version import code_version; print(code_version())"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages in another folder, as an image has them."""
    place = tmp_path_factory.mktemp("site-packages")
    for package in ("coral_core", "flows"):
        shutil.copytree(ROOT / package, place / package)
    return place


def asked(place: Path) -> str:
    done = subprocess.run([sys.executable, "-c", ASK, str(place)], capture_output=True, text=True, check=True, cwd="/")
    return done.stdout.strip()


def test_the_same_code_elsewhere_is_the_same(elsewhere: Path) -> None:
    assert asked(elsewhere) == code_version()
    assert code_digest() in code_version()


@pytest.mark.parametrize("file", ["coral_core/lanes/lane.py", "coral_core/judge/judge.py", "flows/lane.py"])
def test_a_changed_file_that_decides_results_is_seen(elsewhere: Path, file: str) -> None:
    before = (elsewhere / file).read_bytes()
    (elsewhere / file).write_bytes(before + b"\n# another commit\n")
    try:
        assert asked(elsewhere) != code_version()
    finally:
        (elsewhere / file).write_bytes(before)


def test_what_only_shows_results_may_differ(elsewhere: Path) -> None:
    (elsewhere / "flows" / "artifacts.py").write_text('"""Another."""\n')
    assert asked(elsewhere) == code_version()


def test_a_lane_with_another_code_names_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from flows.lane import train_adapters

    evolution = code_version()
    version.code_version.cache_clear()
    monkeypatch.setattr(version, "code_digest", lambda: "another-code")
    try:
        with pytest.raises(ConfigError) as raised:
            train_adapters.fn(str(tmp_path), code=evolution)
    finally:
        version.code_version.cache_clear()
    assert "another-code" in str(raised.value) and evolution in str(raised.value)
