"""What lanes say of the base model is kept with the run, and used for those lanes alone."""

import json
from pathlib import Path

import pytest

from coral_core.config import RunConfig
from coral_core.errors import BaseModelError, ConfigError
from coral_core.evolution.job_runner import Planner
from coral_core.genome import default_lora
from coral_core.jobs.jobs import BaseModelIdentity
from coral_core.lm.versions import ENGINE_VERSION
from coral_core.runs.identities import FILE, Identities, freeze_identities, frozen_identities
from coral_core.runs.run_folder import RunFolder, identify_run

HERE = RunConfig.model_validate({"infra": {"executor": "local"}}).infra
POOLS = RunConfig.model_validate({"infra": {"executor": "work-pools"}}).infra
TRAINING = BaseModelIdentity(name="m", content_id="c" * 40, parameters=9, modules=("q_proj",), numerics_class="A100")
LANES = Identities(training=TRAINING, evaluation=TRAINING.model_copy(update={"numerics_class": "A10G"}))


def test_each_job_names_the_class_of_its_own_lanes() -> None:
    config = RunConfig()
    planner = Planner(config, identify_run(config), LANES)
    heavy = default_lora(config.base_model.name)
    evaluation = planner.evaluation(heavy)
    assert planner.training(heavy).numerics_class == "A100"
    assert evaluation.numerics_class == "A10G" and evaluation.training == planner.training(heavy)


def test_a_planner_that_has_asked_no_lane_makes_no_job() -> None:
    config = RunConfig()
    with pytest.raises(LookupError, match=r"Executor\.identities"):
        Planner(config, identify_run(config)).evaluation(None)


def test_answers_hold_for_the_lanes_that_gave_them(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert frozen_identities(folder, POOLS) is None
    freeze_identities(folder, POOLS, LANES)
    assert frozen_identities(folder, POOLS) == LANES
    assert frozen_identities(folder, HERE) is None
    others = POOLS.model_copy(update={"training": POOLS.training.model_copy(update={"deployment": "train/other"})})
    assert frozen_identities(folder, others) is None


@pytest.mark.parametrize("version", ["1", "77"])
def test_a_run_of_another_engine_is_refused_with_the_way_out(tmp_path: Path, version: str) -> None:
    """Its frozen numerics class names digests of results that this engine must not use."""
    folder = RunFolder(tmp_path / "run-1")
    folder.path.mkdir()
    freeze_identities(folder, POOLS, LANES)
    text = json.loads((folder.path / FILE).read_text())
    assert text["engine_version"] == ENGINE_VERSION != "1"
    text["engine_version"] = version
    (folder.path / FILE).write_text(json.dumps(text))
    for infra in (POOLS, HERE):
        with pytest.raises(ConfigError, match=rf"run-1: was begun with engine {version},.*--again"):
            frozen_identities(folder, infra)


def test_results_of_an_older_engine_are_of_other_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    def digests() -> list[str]:
        plan = Planner.of_config(config)
        heavy = default_lora(config.base_model.name)
        return [plan.training(heavy).digest(), plan.evaluation(heavy).digest(), plan.evaluation(None).digest()]

    config = RunConfig()
    now = digests()
    monkeypatch.setattr("coral_core.lm.base_model.ENGINE_VERSION", "1")
    assert not set(now) & set(digests())


@pytest.mark.parametrize("text", ["", "{half", "[]", '{"identities": {"training": {}}}'])
def test_an_answer_that_cannot_be_read_is_asked_for_again(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_text(text)
    assert frozen_identities(RunFolder(tmp_path), POOLS) is None
    assert "asked again" in caplog.text


def test_two_pools_with_two_models_are_refused() -> None:
    other = LANES.model_copy(update={"evaluation": TRAINING.model_copy(update={"content_id": "d" * 40})})
    with pytest.raises(BaseModelError, match="the same weights"):
        other.check()
