"""`coral problems check` says what was expected and what came, escaped and bounded; tables are wide off a terminal."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli.problems import LONGEST_SHOWN, UnfitError, check, leak_check

BOTH = {"buggy": "def f(a):\n    return a - 1", "reference": "def f(a):\n    return a + 1"}


def line(name: str, *cases: dict[str, Any], **changes: Any) -> dict[str, Any]:
    fields = {"type": "problem", "id": name, "split": "fitness", "entry_point": "f", **BOTH, "cases": list(cases)}
    return fields | changes


def checked(folder: Path, capsys: pytest.CaptureFixture[str], *lines: dict[str, Any], as_json: bool = False) -> str:
    file = folder / "bugs.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in lines))
    with pytest.raises(UnfitError):
        check("jsonl", root=file, as_json=as_json)
    return capsys.readouterr().out


CASES: dict[str, tuple[dict[str, Any], str, str, str, str]] = {
    "wrong": (line("wrong", {"arguments": [1], "value": 3}), "reference", "f(1)", "3", "2"),
    "raises": (line("raises", {"arguments": ["x"], "value": "y"}), "reference", "f('x')", "'y'", "raises TypeError"),
    "keywords": (
        line("keywords", {"arguments": [], "keywords": {"a": 1}, "exception": "KeyError"}),
        "reference", "f(a=1)", "raises KeyError", "2",
    ),
    "in place": (
        line("in place", {"arguments": [[2, 1]], "value": None, "mutated": [[2, 1]]}, reference="def f(a):\n    a.sort()"),
        "reference", "f([2, 1])", "None, arguments left alone", "None, arguments then ([1, 2])",
    ),
    "outside": (
        line("outside", {"arguments": [1], "value": 1}, reference="def f(a):\n    return 1j"),
        "reference", "f(1)", "1", "no plain value: a value of type complex",
    ),
    "setup": (
        line("setup", {"arguments": [1], "value": 2}, setup="import no_such_module"),
        "reference", "f(1)", "2", "not-run (running the patch raised ModuleNotFoundError)",
    ),
    "endless": (
        line("endless", {"arguments": [1], "value": 2}, reference="def f(a):\n    while True:\n        a += 1"),
        "reference", "f(1)", "2", "time-out (case 0 ran into the work limit)",
    ),
    "unseen": (line("unseen", {"arguments": [1], "value": 2}, buggy="def f(a):\n    return 1 + a"), "buggy", "f(1)", "2", "2"),
}  # fmt: skip


def test_each_unfit_case_says_what_was_expected_and_what_came(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(checked(tmp_path, capsys, *(each[0] for each in CASES.values()), as_json=True))
    told = {row["problem"]: row["failures"][0] for row in rows}
    assert {
        name: tuple(told[f"jsonl/{name}"][key] for key in ("side", "call", "expected", "found")) for name in CASES
    } == {name: each[1:] for name, each in CASES.items()}


def test_a_fit_problem_has_no_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = line("good", {"arguments": [1], "value": 2})
    rows = json.loads(checked(tmp_path, capsys, good, CASES["wrong"][0], as_json=True))
    assert [row["failures"] for row in rows if row["problem"] == "jsonl/good"] == [[]]


def test_what_is_shown_is_escaped_bounded_and_not_wrapped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a-name-" * 20
    long = line(
        name,
        *({"arguments": ["\x1b[31m[red]" + "x" * 5000], "value": number} for number in range(9)),
        reference="def f(a):\n    return '\\x1b]0;' + a",
    )
    out = checked(tmp_path, capsys, long)
    assert "\x1b" not in out and "[red]" in out
    shown = [row for row in out.splitlines() if row.startswith(("  expected", "  came"))]
    assert len(shown) == 6 and max(map(len, shown)) <= LONGEST_SHOWN + 40
    [row] = [row for row in out.splitlines() if row.startswith(f"{name} ")]
    assert row.split()[:3] == [name, "fitness", "unknown"]


def test_leak_check_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bugs.jsonl"
    file.write_text(json.dumps(line("good", {"arguments": [1], "value": 2})) + "\n")
    config = tmp_path / "c.yaml"
    config.write_text(f"problems: {{source: jsonl, path: {file}, pairs: 8}}\n")
    leak_check(config, as_json=True)
    data = json.loads(capsys.readouterr().out)
    assert set(data) == {"schema_version", "leaks", "refused", "accepted", "sizes"}
