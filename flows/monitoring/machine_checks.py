"""The checks of `coral doctor` that need no installation: versions, sandbox, folders, configured API."""

import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from coral_core.config import RunConfig
from coral_core.config.text_fields import expanded
from coral_core.errors import ConfigError, JudgeError
from coral_core.lm.vllm_interpreter import check_device, look, vllm_settings
from flows.monitoring.finding import Check
from flows.monitoring.storage_checks import existing

PACKAGES = ("coral-x", "torch", "prefect", "transformers", "peft", "pydantic", "ruff", "bandit")
OF_LANES = ("torch", "transformers", "peft")


def machine_checks(config: RunConfig) -> Iterator[Check]:
    """Check versions, sandbox, the folders that `config` names, and the configured Prefect API."""
    yield from _versions()
    yield from _vllm(config)
    yield from _sandbox(config)
    for name, text in (("store", config.store.path), ("runs", config.runs)):
        yield _folder(name, Path(text.removeprefix("file://")).expanduser().absolute())
    yield _api()


def _versions() -> Iterator[Check]:
    supported = (3, 11) <= sys.version_info[:2] < (3, 14)
    text = "" if supported else "needs Python 3.11 to 3.13"
    yield Check("python", "ok" if supported else "bad", platform.python_version(), text)
    for package in PACKAGES:
        try:
            yield Check(package, "ok", version(package))
        except PackageNotFoundError:
            if package in OF_LANES:
                yield Check(package, "note", "missing", "needed by the engine of real lanes only")
            else:
                yield Check(package, "bad", "missing", "install it: pip install -c constraints.txt .")
    tested = platform.machine() == "x86_64" and sys.platform == "linux"
    text = "" if tested else "the sandbox is tested on Linux x86-64 only; for arm64 it is written, not tested"
    found = f"{sys.platform} {platform.machine()}, {os.cpu_count()} cores"
    yield Check("machine", "ok" if tested else "note", found, text)


def _vllm(config: RunConfig) -> Iterator[Check]:
    """Check the interpreter for vLLM where the configuration names one, or needs one."""
    evaluation, is_used = config.infra.evaluation, config.generation.engine == "vllm"
    if evaluation.python is None and not is_used:
        return
    try:
        settings = vllm_settings(config)
        found = look(settings.python if settings else str(expanded(str(evaluation.python))))
        if is_used:
            check_device(config.base_model, found)
    except ConfigError as error:
        is_elsewhere = config.infra.executor == "work-pools"  # lanes' machines may have what this one lacks
        yield Check(
            "vllm", "note" if is_elsewhere or not is_used else "bad", evaluation.python or "not set", str(error)
        )
        return
    text = f"{evaluation.python}: Python {found.python}, torch {found.torch}, transformers {found.transformers}"
    yield Check(
        "vllm", "ok", found.name, text if is_used else f"{text}; generation.engine is torch, so nothing uses it"
    )


def _sandbox(config: RunConfig) -> Iterator[Check]:
    """Check each layer of the sandbox, and that a trial patch cannot break out of it."""
    from coral_core.judge.sandbox.trial import MEANING, trial
    from coral_core.judge.sandbox.zygote_pool import BASE_LAYERS

    try:
        active, through = trial()
    except (JudgeError, OSError) as error:
        yield Check("sandbox", "bad", "no child ran", str(error))
        return
    accepted = config.scoring.judge.allow_missing_layers
    for name, meaning in MEANING.items():
        risk = f"without it this does not hold: {meaning}"
        if name in active:
            yield Check(f"sandbox {name}", "ok", "active", meaning)
        elif name in BASE_LAYERS:
            yield Check(f"sandbox {name}", "note" if name in accepted else "bad", "missing", risk)
        else:
            yield Check(f"sandbox {name}", "note", "missing", f"not needed, but {risk}")
    if not through:
        text = "socket, files, processes, threads, signals: all refused"
        yield Check("trial patch", "ok", "contained", text)
    else:
        is_accepted = set(accepted) >= set(BASE_LAYERS) - set(active) != set()
        yield Check("trial patch", "note" if is_accepted else "bad", "not contained", f"it could {', '.join(through)}")


def _folder(name: str, path: Path) -> Check:
    """Check that a folder can be written, or created."""
    place = existing(path)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".coral-doctor-"):
            free = os.statvfs(place)
    except OSError as error:
        return Check(name, "bad", str(path), f"{place} cannot be written ({error.strerror}): choose another directory")
    return Check(name, "ok", str(path), f"writable, {free.f_bavail * free.f_frsize / 1e9:.0f} GB free")


def _api() -> Check:
    """Report the Prefect API that will be used."""
    from flows.prefect_api.settings import configured_api

    try:
        url = configured_api()
    except ConfigError as error:
        return Check.of_error("prefect server", error)
    if url:
        return Check("prefect server", "ok", url, "configured; no server of our own is started")
    return Check("prefect server", "ok", "127.0.0.1", "none is configured; a server of our own is started")
