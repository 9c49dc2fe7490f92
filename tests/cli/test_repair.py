"""`coral repair`: proposals of a rehearsed model, judged or not, shown, and written only on request."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from coral_core.errors import ConfigError, ProblemError, StoreError
from coral_core.jobs.jobs import Cost
from coral_core.lm.engine_client import InlineEngine
from coral_core.lm.requests import Generated, Written
from coral_core.repair.proposals import cases_of_file
from flows.cli.repair import repair

BUGGY = "import math\n\n\ndef area(r):\n    return math.pi * r\n\n\ndef twice(n):\n    return n + n\n"
RIGHT = "def area(r):\n    return math.pi * r * r"
WRONG = "def area(r):\n    return r"
SET = ["base_model.name=rehearsal", "infra.executor=inline"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a bug, in front of a model that writes a wrong patch, a right one, prose, and the function as it is."""
    monkeypatch.chdir(tmp_path)
    asked: list[Any] = []

    def generate(self: InlineEngine, request: Any, deadline: float, done: Any = None) -> Generated:
        texts = [WRONG, RIGHT, RIGHT, "I see no bug.", BUGGY.split("\n\n\n")[1]]
        written = []
        for entry in request.entries:
            asked.append(entry)
            completions = tuple(texts[len(asked) - 1 :][: entry.samples])
            written.append(Written(completions=(completions,), cost=Cost()))
        return Generated(entries=tuple(written))

    monkeypatch.setattr(InlineEngine, "generate", generate)
    (tmp_path / "geometry.py").write_text(BUGGY)
    (tmp_path / "cases.jsonl").write_text(
        '{"arguments": [1], "value": 3.141592653589793}\n{"function": "area", "arguments": [2], "value": 12.566370614359172}\n{"function": "twice", "arguments": [2], "value": 5}\n'
    )
    return tmp_path / "geometry.py"


def run(file: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[int, Any]:
    code = 0
    try:
        repair(file, set_=SET, as_json=True, **{"function": "area", "candidates": 5, **options})
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, json.loads(capsys.readouterr().out)


def test_the_best_patch_comes_first_and_nothing_is_written(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(file, capsys, tests=file.parent / "cases.jsonl")
    assert code == 0 and not found["written"] and file.read_text() == BUGGY
    assert (found["cases"], found["passing_now"], found["completions"]) == (2, 1, 5)
    assert [(each["passing"], each["times"]) for each in found["proposals"]] == [(2, 2), (0, 1)]
    assert "+    return math.pi * r * r" in found["proposals"][0]["diff"] and "text" not in found["proposals"][0]
    assert set(found["left_out"].values()) == {1} and any("changes nothing" in each for each in found["left_out"])


def test_write_writes_a_patch_that_passes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(file, capsys, tests=file.parent / "cases.jsonl", write=True)
    assert code == 0 and found["written"]
    assert file.read_text() == BUGGY.replace("math.pi * r\n", "math.pi * r * r\n")


def test_no_patch_that_passes_is_written_by_nobody(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(file, capsys, tests=file.parent / "cases.jsonl", write=True, candidates=1)
    assert code == 1 and not found["written"] and found["proposals"][0]["passing"] == 0
    assert file.read_text() == BUGGY


def test_without_tests_it_says_not_judged(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(file, capsys)
    assert code == 0 and found["passing_now"] is None and found["proposals"][0]["times"] == 2
    assert {each["verdict"] for each in found["proposals"]} == {"not judged"}
    (file.parent / "others.jsonl").write_text('{"function": "twice", "arguments": [2], "value": 4}\n')
    with pytest.raises(SystemExit):  # a script must not take that for repaired
        repair(file, function="area", set_=SET, tests=file.parent / "others.jsonl", candidates=2)
    out = capsys.readouterr().out
    assert "not judged: " in out and "has no case for area" in out and "nothing was written" in out
    with pytest.raises(ConfigError, match=r"nothing to judge area by: .* has no case for area"):
        repair(file, function="area", set_=SET, tests=file.parent / "others.jsonl", write=True)


def test_a_protected_file_is_refused_at_once_and_a_failed_write_loses_nothing(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="is write-protected"):
        file.chmod(0o444)
        patch.setattr(InlineEngine, "generate", lambda *_: pytest.fail("no model may be asked"))
        run(file, capsys, write=True)
    file.chmod(0o644)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("coral_core.repair.source_file.write_synced", full)
    with pytest.raises(StoreError, match="No space left"):
        run(file, capsys, tests=file.parent / "cases.jsonl", write=True)
    found = json.loads(capsys.readouterr().out)
    assert not found["written"] and "+    return math.pi * r * r" in found["proposals"][0]["diff"]
    assert file.read_text() == BUGGY and not list(file.parent.glob(".geometry*"))


def test_why_nothing_is_judged_is_said_without_a_patch_too(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "others.jsonl").write_text('{"function": "twice", "arguments": [2], "value": 4}\n')
    with pytest.raises(SystemExit):
        repair(file, function="twice", set_=SET, tests=file.parent / "cases.jsonl", candidates=1)
    out = capsys.readouterr().out
    assert "no patch was proposed" in out and "the function as it is passes 0 of 2" in out, (
        "a case without a function is for all"
    )
    code, found = run(file, capsys, tests=file.parent / "others.jsonl", candidates=1)
    assert code == 1 and "has no case for area" in found["untested"] and found["cases"] == 0


def test_off_a_terminal_the_diff_is_exact(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Tabs, line ends and the path: `git apply` takes what the command prints, in the folder where it was called."""
    below = file.parent / "tools" / "geometry.py"
    below.parent.mkdir()
    below.write_bytes(BUGGY.replace("    ", "\t").replace("\n", "\r\n").encode())
    repair(below, function="area", set_=SET, candidates=2)
    (file.parent / "out.txt").write_text(capsys.readouterr().out, newline="")
    subprocess.run(["git", "apply", "--whitespace=nowarn", "out.txt"], check=True, cwd=file.parent)
    assert b"\treturn n + n\r\n" in below.read_bytes() and b"    return r\r\n" in below.read_bytes()


def test_problems_of_the_jsonl_source_are_cases_too(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    problem = {"type": "problem", "id": "a", "split": "held_out", "entry_point": "area", "setup": "import math", "buggy": WRONG, "reference": RIGHT, "cases": [{"arguments": [1], "value": 3.14159, "tolerance": 0.01}]}  # fmt: skip
    (tmp_path / "p.jsonl").write_text(json.dumps(problem) + "\n")
    code, found = run(file, capsys, tests=tmp_path / "p.jsonl", candidates=2)
    assert code == 0 and found["cases"] == 1


def test_bad_input_is_refused_before_a_model_is_asked(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(InlineEngine, "generate", lambda *_: pytest.fail("no model may be asked"))

    def refused(text: str, error: Any = ConfigError, **options: Any) -> None:
        with pytest.raises(error, match=text):
            repair(file, **{"function": "area", "set_": SET, **options})

    refused("defines 2 functions. Choose one with --function: area, twice", function=None)
    refused("is not between 1 and 64", candidates=0)
    refused("proposes with its champion", run="latest", adapter=tmp_path)
    refused("no such run", run="latest")
    refused("holds no adapter_config.json", adapter=tmp_path)
    refused("cannot be read", tests=tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"arguments": [1]}\n')
    refused(r"bad.jsonl:1: .*give either value or exception", ProblemError, tests=tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text("[1]\n")
    refused("bad.jsonl:1: an object was expected", ProblemError, tests=tmp_path / "bad.jsonl")


def test_cases_of_a_file_are_those_of_the_function(file: Path) -> None:
    assert len(cases_of_file(file.parent / "cases.jsonl", "area").cases) == 2
    assert len(cases_of_file(file.parent / "cases.jsonl", "twice").cases) == 2, "a case without a function is for all"


@pytest.mark.slow(reason="runs the tests of a small project")
def test_recorded_calls_say_what_must_stay(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    project = file.parent / "project"
    (project / "tests").mkdir(parents=True)
    (project / "geometry.py").write_text(BUGGY)
    values = ", ".join(map(str, range(-4, 9)))
    (project / "tests" / "test_geometry.py").write_text(f"import math\nfrom geometry import area\n\ndef test_area():\n    for r in ({values}):\n        assert area(r) == math.pi * r\n")  # fmt: skip
    (project / "tests" / "test_twice.py").write_text("from geometry import twice\n\ndef test_twice():\n    assert twice(2) == 5\n")  # fmt: skip
    monkeypatch.setenv("CORAL_HOME", str(file.parent / "home"))
    code, found = run(project / "geometry.py", capsys, tests=project, candidates=2)
    assert code == 1 and found["recorded"] and found["passing_now"] == found["cases"] > 3
    assert all(each["passing"] < found["cases"] for each in found["proposals"]), "a repair changes what passes now"
    _, found = run(project / "geometry.py", capsys, function="twice", tests=project, candidates=1)
    assert "no passing test calls it; tests that failed or hung: 1, such as tests/test_twice.py" in found["untested"]
