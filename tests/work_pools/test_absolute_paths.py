"""Jobs say where things are in a way that lanes in other folders understand, and are the same jobs."""

import json
import shutil
from pathlib import Path

import pytest

from coral_core.evolution.job_runner import Planner
from coral_core.jobs.job_content import problem_set
from coral_core.jobs.jobs import IdentityJob
from coral_core.lm.base_model import TINY, identify
from coral_core.runs.identities import Identities
from flows.work_pools.pool_executor import with_absolute_paths
from tests.problem_sources.test_jsonl import CLAMP, PAIR
from tests.problem_sources.test_package import LIKE
from tests.work_pools.test_pool_executor import CONFIG, JOB, PLANNER


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize(("name", "prompt"), [("tiny", "auto"), ("./tiny", "auto"), ("coral-tiny-2", "tiny")])
def test_a_base_model_of_this_folder_is_found_from_another(
    here: Path, name: str, prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(TINY, name)
    config = CONFIG.model_copy(update={"base_model": CONFIG.base_model.model_copy(update={"name": name})})
    base = identify(config.base_model)
    planner = Planner.of_config(config, Identities.alike(base))
    training, evaluation = planner.training(JOB.heavy), planner.evaluation(JOB.heavy)
    question = IdentityJob(queue="training", base_model=config.base_model)
    assert with_absolute_paths(training).digest() == training.digest()
    assert with_absolute_paths(evaluation).digest() == evaluation.digest()
    assert with_absolute_paths(evaluation).training == with_absolute_paths(training)
    whole = [with_absolute_paths(job).base_model for job in (training, evaluation, question)]
    assert with_absolute_paths(with_absolute_paths(question)) == with_absolute_paths(question)
    monkeypatch.chdir("/")
    for base_model in whole:
        assert base_model.prompt == prompt
        assert identify(base_model).content_id == base.content_id


@pytest.mark.parametrize("source", ["jsonl", "package"])
def test_problems_of_this_folder_are_found_from_another(
    here: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [CLAMP, CLAMP | {"id": "other", "split": "held_out"}, PAIR]
    Path("jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.copytree(LIKE, "package")
    config = CONFIG.problems.model_copy(update={"source": source, "path": source, "monitor": 0, "held_out": 4})
    job = JOB.model_copy(update={"problems": config})
    before = problem_set(config)
    whole = with_absolute_paths(job)
    assert whole.digest() == job.digest() and whole.problems.path == str(here / source)
    monkeypatch.chdir("/")
    after = problem_set(whole.problems)
    assert [p.digest() for p in after.fitness] == [p.digest() for p in before.fitness]
    assert after.pairs == before.pairs


@pytest.mark.parametrize("name", ["coral-tiny", "rehearsal", "codellama/CodeLlama-7b-hf", "/no/such", "~/m", "./gone"])
def test_what_is_no_folder_here_keeps_its_name(here: Path, name: str) -> None:
    for folder in ("coral-tiny", "rehearsal", "~/m"):
        Path(folder).mkdir(parents=True)
    asked = IdentityJob(queue="training", base_model=CONFIG.base_model.model_copy(update={"name": name}))
    assert with_absolute_paths(asked) == asked


def test_a_path_of_a_plug_in_means_what_the_plug_in_says(here: Path) -> None:
    Path("table").mkdir()
    job = JOB.model_copy(update={"problems": CONFIG.problems.model_copy(update={"source": "own", "path": "table"})})
    assert with_absolute_paths(job) == job
    assert with_absolute_paths(PLANNER.training(JOB.heavy)) == JOB
