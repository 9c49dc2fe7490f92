"""Adapters after the search: against base and champion, paired, from the store where it is there, refused where it does not fit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import coral_core
from coral_core.api import EvolutionResult
from coral_core.comparison.adapter_evaluation import evaluate_adapter
from coral_core.config import RunConfig
from coral_core.errors import ConfigError, ProblemError
from coral_core.jobs.jobs import EvaluationJob, GivenAdapter
from coral_core.lanes.lane import Lane
from coral_core.report.paired import sign_test
from coral_core.store.store import Store
from tests.lm.adapter_files import write_adapter


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, EvolutionResult]:
    runs = tmp_path_factory.mktemp("runs")
    config = RunConfig.model_validate({
        "name": "after", "runs": str(runs), "store": {"path": str(runs / "store")}, "base_model": {"name": "rehearsal"},
        "infra": {"executor": "inline"}, "search": {"generations": 1, "population": 4, "elites": 1},
        "problems": {"fitness": 6, "retention": 2, "monitor": 0, "held_out": 12, "pairs": 8},
    })  # fmt: skip
    return config, coral_core.evolve(config)


@pytest.fixture
def adapter(finished: tuple[RunConfig, EvolutionResult], tmp_path: Path) -> Path:
    """A copy of the champion's folder, as somebody else would send it."""
    assert finished[1].adapter is not None
    shutil.copytree(finished[1].adapter, tmp_path / "adapter")
    return tmp_path / "adapter"


def changed(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_the_champion_as_a_given_adapter_is_the_champion(finished: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    config, result = finished
    found = evaluate_adapter(adapter, config, run=result.folder)
    lines = {line.name: line for line in found.lines}
    assert lines["champion"].genome_id == result.champion.genome.genome_id and found.run_id == result.run_id
    assert {lines[name].light.digest() for name in ("champion", "adapter")} == {result.champion.genome.light.digest()}
    assert lines["champion"].training_digest != lines["adapter"].training_digest
    held_out = {line.name: line for line in result.held_out}
    for name in ("champion", "base_model"):
        assert lines[name].evaluation_digest == held_out[name].evaluation_digest, "found in the store of the run"
        assert lines[name].pass_at_1 == held_out[name].pass_at_1 and lines[name].repaired == held_out[name].passed
    gap = found.adapter_minus_base_model
    assert gap is not None and gap.only_champion is not None and gap.only_other is not None
    assert gap.p_value == sign_test(gap.only_champion, gap.only_other) and gap.bugs == found.bugs
    assert gap.difference == pytest.approx((lines["adapter"].pass_at_1 or 0) - (lines["base_model"].pass_at_1 or 0))
    record = Store(config.store.path).read_adapter(lines["adapter"].training_digest)
    assert record is not None and "CORAL-X did not train it" in record.warnings[0]

    def no_work(*_: Any) -> None:
        raise AssertionError("everything is in the store")

    monkeypatch.setattr(Lane, "_score", no_work)
    assert evaluate_adapter(adapter, config, run=result.folder) == found


def test_without_a_run_there_is_no_champion_and_other_decoding_is_another_evaluation(finished: Any, adapter: Path) -> None:  # fmt: skip
    config, _ = finished
    (adapter / "generation_config.json").unlink()
    found = evaluate_adapter(adapter, config, split="fitness")
    assert [line.name for line in found.lines] == ["base_model", "adapter"] and found.adapter_minus_champion is None
    adapted = found.line("adapter")
    assert (
        adapted is not None
        and not adapted.light.sampling
        and adapted.light.token_limit == config.genes.light.token_limit.high
    )
    assert len(found.texts()) == 1 and found.texts()[0].startswith("Adapter less base model: ")


def test_an_infeasible_adapter_has_no_score_and_no_comparison(finished: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from coral_core.errors import Infeasible
    from coral_core.lm.rehearsal import Rehearsal

    real = Rehearsal.generate

    def diverges(self: Any, request: Any, *more: Any) -> Any:
        if any(entry.adapter is not None for entry in request.entries):
            raise Infeasible("diverged", "logits are not finite")
        return real(self, request, *more)

    monkeypatch.setattr(Rehearsal, "generate", diverges)
    changed(adapter, rehearsal_note="")
    (adapter / "adapter_model.safetensors").write_bytes(write_adapter(adapter.parent / "x").joinpath("adapter_model.safetensors").read_bytes())  # fmt: skip
    found = evaluate_adapter(adapter, finished[0], split="fitness")
    line = found.line("adapter")
    assert line is not None and (line.infeasible, line.pass_at_1, line.interval) == ("diverged", None, None)
    assert found.adapter_minus_base_model is None and found.texts() == []


def test_bad_input_is_refused_before_anything_is_evaluated(finished: Any, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    config, result = finished
    monkeypatch.setattr(Lane, "do", lambda *_: pytest.fail("nothing may run"))
    before = sorted(Path(config.store.path).rglob("*"))

    def refused(error: Any, text: str, path: Path = adapter, settings: RunConfig = config, **more: Any) -> None:
        with pytest.raises(error, match=text):
            evaluate_adapter(path, settings, **more)

    empty = tmp_path / "one.jsonl"
    problem = {"type": "problem", "id": "a", "split": "fitness", "entry_point": "f", "buggy": "def f(): return 1", "reference": "def f(): return 2", "cases": [{"arguments": [], "value": 2}]}  # fmt: skip
    empty.write_text(json.dumps(problem))
    jsonl = config.model_copy(update={"problems": config.problems.model_copy(update={"source": "jsonl", "path": str(empty)})})  # fmt: skip
    refused(ProblemError, "jsonl: no problem in the split held_out", settings=jsonl)
    tiny = config.model_copy(update={"base_model": config.base_model.model_copy(update={"name": "coral-tiny"})})
    refused(ConfigError, "was run on rehearsal .*, and the base model here is coral-tiny", path=write_adapter(tmp_path / "t"), settings=tiny, run=result.folder)  # fmt: skip
    refused(ConfigError, "names coral-tiny, and the base model here is rehearsal", path=write_adapter(tmp_path / "t"))
    refused(ConfigError, "no such run", run=tmp_path / "none")
    changed(adapter, peft_type="VERA")
    refused(ConfigError, "VERA")
    assert sorted(Path(config.store.path).rglob("*")) == before


def test_an_evaluation_is_of_one_adapter_and_its_digest_does_not_tell_how_it_came(finished: Any) -> None:
    from coral_core.evolution.job_runner import Planner

    planner, genome = Planner.of_config(finished[0]), finished[1].champion.genome
    trained = planner.of(genome, "held_out")
    given = GivenAdapter(digest=trained.training_digest, heavy=genome.heavy)
    job = trained.model_copy(update={"training": None, "given": given})
    assert job.digest() == trained.digest() and job.heavy == genome.heavy
    assert EvaluationJob.model_validate_json(job.model_dump_json()) == job
    assert "given" not in trained.model_dump(), "jobs of a run are as before"
    with pytest.raises(ValueError, match="one adapter"):
        EvaluationJob.model_validate(trained.model_dump() | {"given": given.model_dump()})
