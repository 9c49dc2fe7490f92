"""The prompt that the control process resolves is what lanes use: it is in the jobs, and in their digests."""

from pathlib import Path
from typing import Any

import pytest

from coral_core.config import RunConfig, parse_config
from coral_core.errors import ConfigError, EngineError
from coral_core.evolution.job_runner import Planner
from coral_core.genome import default_lora
from coral_core.jobs.job_content import prompt_template
from coral_core.jobs.jobs import BaseModelIdentity, EvaluationJob, TrainingJob
from coral_core.lanes.lane import Lane
from coral_core.lm.engine_client import EngineProcess
from coral_core.prompting.chat import ChatTurn
from coral_core.runs.identities import Identities
from coral_core.runs.run_folder import identify_run
from coral_core.store.store import Store

TURN = ChatTurn(before="<u>", after="<e><a>", end="<e>")
SMALL = ["problems.fitness=4", "problems.retention=0", "problems.monitor=0", "problems.held_out=4", "problems.pairs=8"]


def planner(turn: ChatTurn | None, prompt: str = "auto") -> Planner:
    config = parse_config("", "test", [*SMALL, "base_model.name=owner/model", f"base_model.prompt={prompt}"])
    base = BaseModelIdentity(
        name="owner/model", content_id="c" * 40, parameters=9, modules=("q_proj",), chat=turn, numerics_class="n"
    )
    return Planner(config, identify_run(config), Identities.alike(base))


def jobs(made: Planner) -> tuple[TrainingJob, EvaluationJob]:
    heavy = default_lora("owner/model")
    return made.training(heavy), made.evaluation(heavy)


def test_a_job_carries_the_prompt_through_json() -> None:
    for job in jobs(planner(TURN)):
        again = type(job).model_validate_json(job.model_dump_json())
        assert again == job and again.digest() == job.digest()
        assert prompt_template(again).prompt("x").startswith("<u>The following") and prompt_template(again).end == "<e>"


@pytest.mark.parametrize("change", [{"before": "<s><u>"}, {"after": "<a>"}, {"end": "</s>"}, {"answer_before": " "}])
def test_another_chat_template_is_another_result(change: dict[str, Any]) -> None:
    before, after = jobs(planner(TURN)), jobs(planner(TURN.model_copy(update=change)))
    assert all(one.digest() != other.digest() for one, other in zip(before, after, strict=True))


def test_a_built_in_prompt_leaves_jobs_as_they_were() -> None:
    for made in (planner(None, "instruct"), planner(TURN, "instruct")):
        training, evaluation = jobs(made)
        assert "prompt" not in training.model_dump() and "prompt" not in evaluation.model_dump()
        assert training.prompt_version == "instruct-1" and evaluation.versions["prompt"] == "instruct-1"
    assert jobs(planner(None, "instruct"))[0].digest() == jobs(planner(None, "auto"))[0].digest()


def test_the_form_of_an_own_file_is_read_by_the_control_process_only(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text('user: "Repair {{ buggy }}"\n')
    training, _ = jobs(planner(TURN, str(file)))
    file.unlink()
    assert prompt_template(training).prompt("x") == "<u>Repair x<e><a>"


def test_a_job_that_carries_no_prompt_makes_no_lane_read_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text('prompt: "{{ buggy }}"\nend: "</s>"\n')
    training, _ = jobs(planner(None, str(file)))
    with pytest.raises(EngineError, match="does not carry its prompt template"):
        prompt_template(training.model_copy(update={"prompt": None}))


def test_a_lane_refuses_a_job_whose_prompt_is_not_the_one_of_its_digest(tmp_path: Path) -> None:
    training, evaluation = jobs(planner(TURN))
    assert training.prompt is not None
    other = training.prompt.model_copy(update={"stop": ("x",)})
    lane = Lane(Store(tmp_path / "store"), EngineProcess())
    try:
        with pytest.raises(EngineError, match="renders other training data"):
            lane.train(training.model_copy(update={"prompt": other}), 10)
        with pytest.raises(EngineError, match="the job names prompt"):
            lane.evaluate(evaluation.model_copy(update={"prompt": other, "training": None}), 10)
    finally:
        lane.close()


def test_a_model_without_a_chat_template_is_refused_where_one_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"base_model.prompt: chat: owner/model has no chat template"):
        _ = planner(None, "chat").prompt
    assert planner(None).prompt.name == "instruct" and RunConfig().base_model.prompt == "auto"
