"""The source `package`: functions become problems by the calls that their own tests make."""

import shutil
from pathlib import Path

import pytest

from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError
from coral_core.problem_sources.leak_guard import leaks
from coral_core.problem_sources.package.cache import Recording, recording_of
from coral_core.problem_sources.package.package_problems import load_package
from coral_core.problem_sources.source_conformance import complaints
from coral_core.problems.problem import ProblemSet

pytestmark = pytest.mark.usefixtures("home")
LIKE = Path(__file__).parent / "package_like"
SIZES = {"fitness": 20, "retention": 2, "monitor": 8, "held_out": 16, "pairs": 24}


@pytest.fixture(scope="module")
def shop(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(LIKE, tmp_path_factory.mktemp("own") / "shop"))


@pytest.fixture(scope="module")
def recording(shop: Path) -> Recording:
    return recording_of(str(shop))


def loaded(path: Path, **sizes: int) -> ProblemSet:
    return load_package(config(path, **sizes))


def config(path: Path, **sizes: int) -> ProblemsConfig:
    return ProblemsConfig.model_validate({"source": "package", "path": str(path), **SIZES, **sizes})


def test_covered_functions_are_usable(recording: Recording) -> None:
    names = {usable.definition.name for usable in recording.usable}
    assert {"with_tax", "discount", "cheapest", "total", "caesar", "windows"} <= names
    assert all(usable.bugs and len(usable.cases) >= 6 for usable in recording.usable)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("unused", "no passing test calls it"),
        ("_step", "no passing test calls it"),
        ("lottery", "gives another result when called again"),
        ("Cart.add", "no passing test calls it"),
    ],
)
def test_what_cannot_be_used_is_listed_with_the_reason(recording: Recording, name: str, reason: str) -> None:
    (refusal,) = [refusal for refusal in recording.refused if refusal.name == name]
    assert reason in refusal.reason
    assert (refusal.file, refusal.line > 0) == ("shop/prices.py", True)


def test_a_failing_test_counts_for_nothing(recording: Recording) -> None:
    assert recording.failed == ("tests/test_shop.py::test_that_fails",)
    (vowels,) = [usable for usable in recording.usable if usable.definition.key.endswith("count_vowels")]
    assert all(case.arguments != ("zzz",) or case.value == 0 for case in vowels.cases)


def test_examples_in_docstrings_are_recorded_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        "def double(n):\n    '''Twice n.\n\n    >>> [double(i) for i in range(8)]\n    [0, 2, 4, 6, 8, 10, 12, 14]\n    '''\n    return 2 * n\n"
    )
    (usable,) = recording_of(str(tmp_path)).usable
    assert usable.recorded == 8
    assert ">>>" not in usable.definition.source


def test_the_set_keeps_the_contract(shop: Path) -> None:
    assert complaints(load_package, config(shop)) == []


def test_sizes_are_as_asked_and_splits_share_nothing(shop: Path) -> None:
    problems = loaded(shop)
    bugs = [problem for problem in problems.fitness if not problem.retention]
    assert (len(bugs), len(problems.monitor), len(problems.held_out), len(problems.pairs)) == (20, 8, 16, 24)
    families = [
        {problem.family for problem in split} for split in (problems.fitness, problems.monitor, problems.held_out)
    ] + [{pair.family for pair in problems.pairs}]
    assert sum(map(len, families)) == len(set().union(*families))
    assert leaks(problems, near=True) == []


@pytest.mark.slow(reason="another recording")
def test_a_recording_is_used_again_and_made_anew_when_it_does_not_read(shop: Path, home: Path) -> None:
    before = loaded(shop)
    kept = sorted((home / "recordings").glob("*.json"))
    stamp = {path: path.stat().st_mtime_ns for path in kept}
    assert loaded(shop) == before
    assert {path: path.stat().st_mtime_ns for path in kept} == stamp
    for path in kept:
        path.write_text(path.read_text().replace('"fitness"', '"x"')[:-40])
    assert loaded(shop) == before


@pytest.mark.slow(reason="another recording")
def test_a_bug_that_no_test_sees_is_none(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("def same(n):\n    if n > 10 ** 9:\n        return n - 1\n    return str(n)\n")
    (tmp_path / "test_one.py").write_text(
        "from one import same\n\n\ndef test():\n    for n in range(12):\n        assert same(n) == str(n)\n"
    )
    (usable,) = recording_of(str(tmp_path)).usable
    assert all(bug.failing > 0 for bug in usable.bugs)
    assert len(usable.bugs) < 12


def test_more_than_there_is_is_refused_with_what_there_is(shop: Path) -> None:
    with pytest.raises(ConfigError, match=r"can supply .*held_out: \d+ \(asked: 900\)"):
        loaded(shop, held_out=900)


def test_an_empty_directory_and_one_without_tests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no Python file in it"):
        loaded(tmp_path)
    (tmp_path / "a.py").write_text("def f(a):\n    return a\n")
    with pytest.raises(ConfigError, match="0 usable functions"):
        loaded(tmp_path)
    with pytest.raises(ConfigError, match="no such directory"):
        loaded(tmp_path / "no")
