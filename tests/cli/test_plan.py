"""`coral plan`: the table, JSON, times and their source, refusals."""

import json
from pathlib import Path

import pytest

from coral_core.config import parse_config
from coral_core.errors import ConfigError
from flows.cli.plan import job_plans, plan
from tests.lm.codellama import save_headers

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


def test_the_rehearsal_has_no_files_to_plan_from() -> None:
    with pytest.raises(ConfigError, match="simulates a model"):
        plan(Path("configs/quickstart.yaml"), set_=["base_model.name=rehearsal"])


def test_without_the_models_files_the_plan_says_how_to_get_them(capsys: pytest.CaptureFixture[str]) -> None:
    plan(Path("configs/production.yaml"), set_=["base_model.name=team/not-fetched"])
    assert "no plan: " in (out := capsys.readouterr().out) and "coral model fetch team/not-fetched" in out
