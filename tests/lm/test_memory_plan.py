"""The planned memory of jobs: sizes from headers, what grows with what, refusals and what they offer."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coral_core.config import RunConfig, load_config
from coral_core.devices import Gpu
from coral_core.errors import ConfigError
from coral_core.jobs.jobs import QueueName
from coral_core.lm import base_model
from coral_core.lm.base_model import TINY
from coral_core.lm.memory_plan import GB, Lengths, check_memory, model_size, most_rows, plan_memory, room_of, too_large
from coral_core.lm.model_files import read_folder
from tests.lm.codellama import save_headers

ROWS: tuple[tuple[QueueName, str, str], ...] = (
    ("training", "training", "micro_batch"),
    ("evaluation", "generation", "batch_size"),
)


def _config(name: Path, **changes: Any) -> RunConfig:
    data: dict[str, Any] = {
        "base_model": {"name": str(name), "dtype": "bfloat16", "device": "cuda", "prompt": "instruct"},
        "infra": {"executor": "work-pools"},
    }
    for path, value in changes.items():
        section, _, key = path.partition("__")
        data.setdefault(section, {})[key] = value
    return RunConfig.model_validate(data)


@pytest.fixture(scope="module")
def codellama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_headers(tmp_path_factory.mktemp("codellama"))


def test_sizes_come_from_the_headers(codellama: Path) -> None:
    size = model_size(read_folder(codellama))
    assert (size.layers, size.hidden, size.vocabulary, size.cache_width) == (32, 4096, 32_016, 4096)
    assert 6.7e9 < size.parameters < 6.8e9
    assert size.linears["down_proj"][:3] == (11_008, 4096, 32)
    assert size.file_bytes == 2 * size.parameters


def test_transposed_weights_and_embedded_model(zoo: Callable[[str], Path]) -> None:
    gpt2 = model_size(read_folder(zoo("gpt2"))).linears["c_attn"]
    assert gpt2.outputs == 3 * gpt2.inputs
    tiny = model_size(read_folder(TINY))
    assert (tiny.layers, tiny.hidden, tiny.parameters) == (4, 128, 902_272)


@pytest.mark.parametrize(("gpus", "device"), [((), "cpu"), ((Gpu("GPU-1", "NVIDIA A10G"),), "cuda")])
def test_device_auto_is_planned_as_what_this_machine_has(
    codellama: Path, monkeypatch: pytest.MonkeyPatch, gpus: tuple[Gpu, ...], device: str
) -> None:
    monkeypatch.setattr(base_model, "visible_gpus", lambda: gpus)
    folder = read_folder(codellama)

    def planned(chosen: str, executor: str = "local") -> Any:
        return plan_memory(_config(codellama, base_model__device=chosen, infra__executor=executor), folder)

    assert planned("auto") == planned(device) != planned("cuda" if device == "cpu" else "cpu")
    assert planned("auto", "work-pools") == planned("cuda", "work-pools"), "the pools are not this machine"


def test_memory_grows_with_what_makes_it_grow(codellama: Path) -> None:
    folder, lengths = read_folder(codellama), Lengths(400, 200, 200)

    def bytes_of(**changes: Any) -> tuple[int, int]:
        return tuple(job.device_bytes for job in plan_memory(_config(codellama, **changes), folder, lengths))  # type: ignore[return-value]

    training, evaluation = bytes_of()
    assert bytes_of(training__micro_batch=1)[0] < training
    assert bytes_of(training__checkpointing=True)[0] < training
    assert bytes_of(generation__batch_size=8)[1] < evaluation
    assert (
        bytes_of(base_model__dtype="float32", base_model__name=str(codellama), base_model__device="cuda")[0] > training
    )
    assert training > 2 * model_size(folder).parameters


def test_on_the_cpu_all_memory_is_the_hosts() -> None:
    config = RunConfig()
    for job in plan_memory(config, read_folder(TINY)):
        assert job.device == {} and 0.4 * GB < job.host_bytes < 1.5 * GB


def test_a_job_that_its_pool_cannot_hold_is_refused_with_what_fits(codellama: Path) -> None:
    config = _config(codellama, training__sequence_length=2048, training__batch_size=16)
    with pytest.raises(ConfigError, match=r"infra\.training: a training needs [0-9.]+ GB of device memory") as refused:
        check_memory(config)
    assert refused.value.key == ("infra", "training")
    offered = refused.value.remedy
    assert "training.checkpointing: true" in offered
    for change in offered.removeprefix("What fits: ").rstrip(".").split("; "):
        if not change.startswith("training.") or " " in change.partition(": ")[2]:
            continue
        key, _, value = change.removeprefix("training.").partition(": ")
        changed = _config(
            codellama, training__sequence_length=2048, training__batch_size=16, **{f"training__{key}": value}
        )
        with (
            pytest.raises(ConfigError, match=r"infra\.evaluation") if _evaluation_is_too_large(changed) else _nothing()
        ):
            check_memory(changed)


def _evaluation_is_too_large(config: RunConfig) -> bool:
    from coral_core.lm.memory_plan import room_of

    job = plan_memory(config, read_folder(Path(config.base_model.name)))[1]
    return bool(too_large(job, room_of(config, "evaluation")))


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


def test_nothing_is_checked_for_a_model_that_is_elsewhere() -> None:
    check_memory(_config(Path("someone/model-on-the-hub")))


def test_lengths_that_were_counted_take_the_place_of_limits(codellama: Path) -> None:
    folder, config = read_folder(codellama), _config(codellama, training__sequence_length=2048)
    assert (
        plan_memory(config, folder, Lengths(200, 100, 100))[0].device_bytes
        < plan_memory(config, folder)[0].device_bytes
    )


@pytest.mark.parametrize("name", ["production", "quixbugs"])
def test_configurations_for_codellama_fit_the_pools_of_the_seed(codellama: Path, name: str) -> None:
    config = load_config(
        Path("configs") / f"{name}.yaml", [f"base_model.name={codellama}", "base_model.prompt=instruct"]
    )
    training, evaluation = config.infra.training, config.infra.evaluation
    assert (training.device_memory_gb, training.memory_gb) == (40, 16)
    assert (evaluation.device_memory_gb, evaluation.memory_gb) == (24, 4)
    check_memory(config)


def test_more_lanes_than_the_machine_has_memory_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coral_core.lm.memory_plan._machine_memory", lambda: 2 * GB)
    infra = {"executor": "local", "local_lanes": 5}
    with pytest.raises(ConfigError, match=r"each of 5 lanes of this machine has 0\.4") as refused:
        check_memory(RunConfig.model_validate({"infra": infra}))
    assert "infra.local_lanes: 2" in refused.value.remedy


def test_the_candidates_for_the_tuned_lora_are_planned_for(codellama: Path) -> None:
    folder, small = read_folder(codellama), {"rank": [2], "target_modules": ["q"], "adapter": ["lora"]}
    quick, tuned = (
        plan_memory(
            _config(codellama, genes__heavy=small, search__baselines=kind, search__diversity={"minimum_unique": 0}),
            folder,
        )
        for kind in ("quick", "tuned")
    )
    assert "tuned LoRA r16 all" in tuned[0].genes and "tuned" not in quick[0].genes
    assert all(large.device_bytes > little.device_bytes for large, little in zip(tuned, quick, strict=True))


@pytest.mark.parametrize("merge", [True, False])
def test_the_most_rows_that_fit_fit_and_one_more_does_not(codellama: Path, merge: bool) -> None:
    folder = read_folder(codellama)
    config = load_config(
        Path("configs/production.yaml"),
        [f"base_model.name={codellama}", "base_model.prompt=instruct", f"generation.merge={merge}".lower()],
    )
    for number, (queue, section, key) in enumerate(ROWS):
        most = most_rows(config, folder, queue)
        assert most is not None
        for rows, fits in ((most, True), (most + 1, False)):
            changed = getattr(config, section).model_copy(update={key: rows})
            job = plan_memory(config.model_copy(update={section: changed}), folder)[number]
            assert rows == 0 or fits == (not too_large(job, room_of(config, queue)))
    assert (most_rows(config, folder, "evaluation") == 0) == merge, "copies of all weights leave no room on an A10G"


def test_an_adapter_beside_the_weights_is_counted_instead_of_merged_copies(codellama: Path) -> None:
    folder, config = read_folder(codellama), _config(codellama)
    parts = [
        plan_memory(config.model_copy(update={"generation": config.generation.model_copy(update={"merge": merge})}), folder)[1]
        for merge in (True, False)
    ]  # fmt: skip
    (merged, beside) = (job.device or job.host for job in parts)
    assert "adapter" not in merged and "merged weights" not in beside
    assert 0 < beside["adapter"] < merged["merged weights"] / 10


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2"])
def test_fused_experts_are_counted(zoo: Callable[[str], Path], name: str) -> None:
    """They are most of a mixture's weights: copies for a merge, tokens copied for their experts, and what they load into."""
    folder = read_folder(zoo(name))
    size = model_size(folder)
    experts = [each for each in size.linears.values() if each.together > 1]
    in_files = sum(math.prod(tensor.shape) for key, tensor in folder.tensors.items() if ".experts." in key)
    assert sum(each.inputs * each.outputs * each.copies for each in experts) == in_files > 0

    def planned(modules: str, **changes: Any) -> Any:
        heavy = {"target_modules": [modules], "adapter": ["lora"], "dropout": [0.0], "rank": [4]}
        given = {"base_model__device": "cpu", "base_model__dtype": "float32", "genes__heavy": heavy} | changes
        return plan_memory(_config(zoo(name), **given), folder)

    (training, evaluation), (few, attention) = planned("experts"), planned("attention")
    assert evaluation.host["merged weights"] - attention.host.get("merged weights", 0) >= in_files * 4 * 0.9
    assert training.host["activations"] > 0 and few.host["activations"] > 0
    kept = planned("experts", base_model__quantization="nf4", base_model__device="cuda")[1].device["weights"]
    assert kept > in_files * 4, "4-bit loads leave fused experts as they are"
