"""A package whose functions each make another kind of trouble: each is refused with its reason, and the others stay."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from coral_core.problem_sources.package import cache as ready_module
from coral_core.problem_sources.package.cache import Recording, recording_of
from coral_core.problem_sources.package.discovery import discover
from coral_core.problems.values import decode

pytestmark = pytest.mark.slow(reason="a recording of functions that each make another kind of trouble, with their bugs")
ODD = Path(__file__).parent / "odd_package"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("odd")
    shutil.copytree(ODD, made / "own")
    with (made / "own" / "odd.py").open("a") as file:
        file.write(f"\n\ndef long_sum(n):\n    return n + {' + '.join(['1'] * 1500)}\n")
    with (made / "own" / "test_odd.py").open("a") as file:
        file.write("\n\ndef test_long_sum():\n    assert odd.long_sum(1) == 1501\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CORAL_HOME", str(made / "home"))
        yield made / "own"


@pytest.fixture(scope="module")
def recording(folder: Path) -> Recording:
    return recording_of(str(folder))


def test_no_trouble_is_anybody_elses(recording: Recording) -> None:
    assert not recording.failed and recording.passed > 20
    assert {usable.definition.name for usable in recording.usable} == {
        "words", "tagged", "add_up", "totals", "drain", "tally", "grouped", "ordered", "nested", "countdown", "raises_liar",
        "leave", "die", "cached", "dict_of_set", "sum_of_set", "nan_of", "instance", "money", "Odd.__init__",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("endless", "holds more than 4000 items"),
        ("takes_instance", "none of its cases detects any bug"),
        ("liar", "every case has the same outcome"),
        ("named", r"outside the value language: result: a value of type odd.\ud800"),
        ("thousands", "holds more than 4000 items"),
        ("big", "an int of more than 10,000 bits"),
        ("down", "every case has the same outcome"),
        ("circle", "nested more than 60 levels deep"),
        ("chance", "it depends on chance or state"),
        ("surrogate", "not valid UTF-8"),
        ("imaginary", "a value of type complex"),
        ("order_of_set", "the order of sets"),
        ("long_sum", "its text cannot be taken apart"),
    ],
)
def test_each_trouble_has_its_reason(recording: Recording, name: str, reason: str) -> None:
    (refusal,) = [refusal for refusal in recording.refused if refusal.name == name]
    assert reason in refusal.reason


def test_lists_that_look_like_tags_are_recorded_as_they_are(recording: Recording) -> None:
    (words,) = [usable for usable in recording.usable if usable.definition.key.endswith(":words")]
    found = {decode(case.arguments[0]): decode(case.value) for case in words.cases}
    assert found["f x"] == ["f", "x"] and found["i 5"] == ["i", "5"]
    assert all(case.tolerance is None and case.relative_tolerance is None for case in words.cases)


def test_floats_have_a_tolerance_of_their_own(recording: Recording) -> None:
    (totals,) = [usable for usable in recording.usable if usable.definition.key.endswith(":totals")]
    assert {(case.tolerance, case.relative_tolerance) for case in totals.cases} == {(1e-12, 1e-11)}


def test_arguments_after_an_exception_are_recorded(recording: Recording) -> None:
    (drain,) = [usable for usable in recording.usable if usable.definition.key.endswith(":drain")]
    after = {
        str(decode(case.arguments[0])): (case.exception, decode(case.mutated[0]))
        for case in drain.cases[:7]
        if case.mutated
    }
    assert after["[]"] == ("ValueError", []) and after["[-1, 2]"] == ("KeyError", [2])
    assert after["[3, 4]"] == (None, [3, 4, 2])


def test_it_is_read_again_as_it_was_written(folder: Path, recording: Recording) -> None:
    assert recording_of(str(folder)) == recording


def test_an_error_that_nobody_foresaw_refuses_one_function(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORAL_HOME", str(tmp_path))
    real = ready_module.cases_of

    def broken(found: object, calls: object) -> object:
        if getattr(found, "name", "") == "words":
            raise ZeroDivisionError("\ud800\nof ours")
        return real(found, calls)  # type: ignore[arg-type]

    monkeypatch.setattr(ready_module, "cases_of", broken)
    made = recording_of(str(folder))
    (refusal,) = [refusal for refusal in made.refused if refusal.name == "words"]
    assert refusal.reason == r"its calls cannot be made into cases (ZeroDivisionError: \ud800 of ours)"
    assert any(usable.definition.key == "odd.py:tagged" for usable in made.usable)


def test_a_function_that_cannot_be_taken_apart_is_found(folder: Path) -> None:
    (found,) = [item for item in discover(folder) if item.name == "long_sum"]
    assert found.line > 1 and "RecursionError" in found.reason
