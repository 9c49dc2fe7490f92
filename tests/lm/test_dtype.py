"""dtype auto: bfloat16 where the device multiplies it in hardware."""

from pathlib import Path

import pytest

from coral_core import devices
from coral_core.config.tree import BaseModelConfig
from coral_core.devices import Gpu
from coral_core.lm import base_model
from coral_core.lm.base_model import numerics_class, resolve_dtype
from coral_core.report.usage import base_of


@pytest.mark.parametrize(
    ("flags", "capabilities", "device", "expected"),
    [
        ({"avx2", "avx512_bf16"}, (), "cpu", "bfloat16"),
        ({"avx2", "amx_bf16"}, (), "auto", "bfloat16"),
        ({"avx2", "avx512f"}, (), "cpu", "float32"),
        (set(), (), "cpu", "float32"),
        ({"avx512_bf16"}, (7.5,), "cuda", "float32"),
        (set(), (8.0,), "auto", "bfloat16"),
        (set(), (7.5, 9.0), "cuda:1", "bfloat16"),
        ({"avx512_bf16"}, (7.5, 9.0), "cpu", "bfloat16"),
    ],
)
def test_auto_follows_the_device_and_shows_in_the_numerics_class(
    flags: set[str], capabilities: tuple[float, ...], device: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_model, "_cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(base_model, "compute_capabilities", lambda: capabilities)
    monkeypatch.setattr(base_model, "visible_gpus", lambda: tuple(Gpu(str(n), "GPU") for n in capabilities))
    config = BaseModelConfig(device=device, dtype="auto")
    assert resolve_dtype(config) == expected
    found = numerics_class(config, "sdpa")
    assert found == numerics_class(config.model_copy(update={"dtype": expected}), "sdpa") and "auto" not in found
    assert base_of("coral-tiny", "x", found).dtype == expected


@pytest.mark.parametrize(("told", "expected"), [("8.6", (8.6,)), ("[N/A]", (0.0,)), ("", (0.0,))])
def test_compute_capabilities_are_those_that_nvidia_smi_tells(
    told: str, expected: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f'#!/bin/sh\ncase "$1" in *compute_cap) echo "GPU-1, {told}";; *) echo "GPU-1, A10G";; esac\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for cached in (devices.gpus, devices.compute_capabilities):
        cached.cache_clear()
    try:
        assert devices.gpus() == (Gpu("GPU-1", "A10G"),) and devices.compute_capabilities() == expected
    finally:
        for cached in (devices.gpus, devices.compute_capabilities):
            cached.cache_clear()


def test_a_gpu_whose_capability_is_not_told_is_no_reason_for_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "visible_gpus", lambda: (Gpu("1", "GPU"),))
    monkeypatch.setattr(base_model, "compute_capabilities", lambda: ())
    assert resolve_dtype(BaseModelConfig(device="cuda", dtype="auto")) == "float32"
    assert resolve_dtype(BaseModelConfig(device="cuda", dtype="float16")) == "float16"
