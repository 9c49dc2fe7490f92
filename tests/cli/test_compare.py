"""`coral compare`: on a table, of two runs, and refused."""

import json
from pathlib import Path

import pytest

from coral_core.errors import ConfigError
from coral_core.search.table_files import write_part
from flows.cli import build
from tests.search.synthetic_table import facts_of, rows_of


def command(*arguments: object) -> None:
    build()([str(argument) for argument in ("compare", *arguments)], result_action="return_value", exit_on_error=False)


def test_strategies_on_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_part(tmp_path / "part-000.npz", facts_of(1), rows_of(facts_of(1)))
    shared = ("quickstart", "--table", tmp_path, "--seeds", 2, "--budget", "trainings=8", "--into", tmp_path / "page")
    command(*shared, "--strategies", "random", "other=random:search.start_with_default=false", "--json")
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [variant["name"] for variant in found["variants"]] == ["random", "other"] and found["seeds"] == [0, 1]
    assert "4 of 4: other, seed 1" in captured.err
    command(*shared, "--strategies", "random", "--strategies", "again=random")
    shown = capsys.readouterr().out
    assert "At 8 trainings" in shown and "Too few seeds for a test" in shown and "comparison.html" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("quickstart", "--strategies", "random"), "at least two are compared"),
        (("quickstart", "--html", "x.html"), "--html: is an option of coral compare RUN OTHER"),
        (("one", "other", "--seeds", "3"), "--seeds: is an option of coral compare CONFIG, and two runs are given"),
        (("one", "other"), "one: no such run"),
        (("no-such.yaml",), "no-such.yaml: no such configuration file"),
        (("quickstart", "--seeds", "0"), "--seeds 0"),
        (("quickstart", "--set", "store.reuse=run"), "store.reuse: run"),
    ],
)
def test_refused(arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        command(*arguments)
    assert list(tmp_path.iterdir()) == []
