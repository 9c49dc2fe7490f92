"""`coral problems import` from the shell: files, exit status, JSON, tables off a terminal."""

import json
from pathlib import Path

import pytest

from flows.cli import import_problems as module

MINE = "def inc(a):\n    return a + 1\n\n\ndef lone(a):\n    return a\n\n\nassert inc(1) == 2\nassert inc(-1) == 0\n"


def run(file: Path, capsys: pytest.CaptureFixture[str], **options: object) -> str:
    module.import_problems("asserts", file, **options)  # type: ignore[arg-type]
    return capsys.readouterr().out


def test_import_writes_a_file_that_the_check_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.cli.problems import check

    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    data = json.loads(run(file, capsys, as_json=True))
    assert (data["problems"], data["mutants"], data["own_bugs"], data["refused"]) == (1, 1, 0, 1)
    assert data["reasons"] == {"no test calls it": 1} and data["out"] == "mine.coral.jsonl"
    assert [row["refused"] for row in data["rows"]] == [None, "no test calls it"]
    check("jsonl", root=tmp_path / "mine.coral.jsonl", as_json=True)
    capsys.readouterr()
    with pytest.raises(Exception, match="the file exists"):
        run(file, capsys)
    assert "1 of the bugs are mutants of the reference" in run(file, capsys, force=True, out=Path("other.jsonl"))


def test_nothing_imported_is_an_error_and_tables_are_wide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a_function_with_a_name_" + "that_is_long_" * 12
    file = tmp_path / "none.py"
    file.write_text(f"def {name}():\n    return 1\n")
    with pytest.raises(module.NothingImportedError, match=r"none of 1 row can be used: 1 no test calls it"):
        run(file, capsys, out=tmp_path / "out.jsonl")
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("a_function")]
    assert line.split() == [name, "no", "test", "calls", "it", name]
    assert not (tmp_path / "out.jsonl").exists()
