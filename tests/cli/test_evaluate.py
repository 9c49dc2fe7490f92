"""`coral evaluate`: which base model and problems it takes, its table, and what it refuses."""

from pathlib import Path

import pytest

from coral_core.config import dump_yaml
from coral_core.errors import ConfigError
from flows.cli.evaluate import configuration_for, evaluate
from tests.lm.adapter_files import write_adapter
from tests.report.synthetic_run import make_run


def test_the_base_model_is_that_of_the_adapter_the_file_or_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    adapter = write_adapter(tmp_path / "a", base_model_name_or_path="owner/model")
    config, folder = configuration_for(adapter, None, None, None, ["problems.held_out=8"], "runs")
    assert (config.base_model.name, config.problems.source, config.problems.held_out, folder) == ("owner/model", "builtin", 8, None)  # fmt: skip
    (tmp_path / "c.yaml").write_text("base_model: {name: coral-tiny}\n")
    config, _ = configuration_for(adapter, None, None, tmp_path / "c.yaml", [], "runs")
    assert config.base_model.name == "coral-tiny"
    run, _ = make_run(tmp_path)
    config, folder = configuration_for(adapter, None, run.run_id, None, [], str(tmp_path / "runs"))
    assert folder is not None and folder.run_id == run.run_id
    assert dump_yaml(config) == dump_yaml(run.config())
    with pytest.raises(ConfigError, match=r"c.yaml: --run .* has its own configuration"):
        configuration_for(adapter, None, run.run_id, tmp_path / "c.yaml", [], str(tmp_path / "runs"))


def test_problems_are_a_source_with_or_without_a_path_or_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text("")
    (tmp_path / "code").mkdir()
    for text, source, path in (
        ("builtin", "builtin", None),
        ("mine.jsonl", "jsonl", "mine.jsonl"),
        ("jsonl:mine.jsonl", "jsonl", "mine.jsonl"),
        ("code", "package", "code"),
        ("quixbugs:code", "quixbugs", "code"),
    ):
        config, _ = configuration_for(None, text, None, None, [], "runs")
        assert (config.problems.source, config.problems.path) == (source, path and str(tmp_path / path))
    for text, why in (("bultin", "Near: builtin"), ("quixbugs", "reads a path"), ("none.jsonl", "no problem source, no file")):  # fmt: skip
        with pytest.raises(ConfigError, match=why):
            configuration_for(None, text, None, None, [], "runs")


def test_other_problems_replace_all_of_a_runs_problems(tmp_path: Path) -> None:
    run, _ = make_run(tmp_path)
    (tmp_path / "mine.jsonl").write_text("")
    config, _ = configuration_for(None, str(tmp_path / "mine.jsonl"), run.run_id, None, [], str(tmp_path / "runs"))
    assert config.problems.source == "jsonl" and config.problems.training.source == "auto"
    assert config.base_model == run.config().base_model


def test_a_table_for_people_and_json_for_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    adapter = write_adapter(tmp_path / "a", base_model_name_or_path="rehearsal", coral_skill=0.9)
    sizes = ["problems.fitness=4", "problems.retention=0", "problems.monitor=0", "problems.held_out=4", "problems.pairs=8", "infra.executor=inline"]  # fmt: skip
    evaluate(adapter=adapter, problems="builtin", set_=sizes)
    shown = capsys.readouterr().out
    assert (
        "base model" in shown and "adapter" in shown and "Adapter less base model:" in shown and "champion" not in shown
    )
    evaluate(adapter=adapter, set_=sizes, as_json=True)
    assert '"adapter_minus_champion": null' in capsys.readouterr().out
