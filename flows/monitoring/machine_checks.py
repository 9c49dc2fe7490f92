"""Is this machine fit, and what is a patch able to do on it? The checks of `coral doctor` that need no installation."""

import os
import platform
import socket
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from coral_core.config import RunConfig
from coral_core.errors import ConfigError, CoralError, JudgeError
from flows.monitoring.finding import Check

PACKAGES = ("coral-x", "torch", "prefect", "transformers", "peft", "pydantic", "ruff", "bandit")


def machine_checks(config: RunConfig) -> Iterator[Check]:
    """Versions, sandbox, places of `config`, loopback, embedded base model."""
    yield from _versions()
    yield from _sandbox(config)
    yield from _places(config)
    yield _port()
    yield _base_model()


def _versions() -> Iterator[Check]:
    supported = (3, 11) <= sys.version_info[:2] < (3, 14)
    text = "" if supported else "needs Python 3.11 to 3.13"
    yield Check("python", "ok" if supported else "bad", platform.python_version(), text)
    for package in PACKAGES:
        try:
            yield Check(package, "ok", version(package))
        except PackageNotFoundError:
            needed = package not in ("torch", "transformers", "peft")
            text = (
                "install it: pip install -c constraints.txt ." if needed else "needed by the engine of real lanes only"
            )
            yield Check(package, "bad" if needed else "note", "missing", text)
    tested = platform.machine() == "x86_64" and sys.platform == "linux"
    text = "" if tested else "the sandbox is tested on Linux x86-64 only; for arm64 it is written, not tested"
    yield Check(
        "machine", "ok" if tested else "note", f"{sys.platform} {platform.machine()}, {os.cpu_count()} cores", text
    )


def _sandbox(config: RunConfig) -> Iterator[Check]:
    """Each layer, and what a patch got through when it tried."""
    from coral_core.judge.sandbox.trial import MEANING, trial
    from coral_core.judge.sandbox.zygote_pool import BASE_LAYERS, detect_layers

    try:
        active, through = trial()
    except (JudgeError, OSError) as error:
        yield Check("sandbox", "bad", "no child ran", str(error))
        return
    accepted = config.scoring.judge.allow_missing_layers
    for name, meaning in MEANING.items():
        if name in active:
            yield Check(f"sandbox {name}", "ok", "active", meaning)
        elif name in BASE_LAYERS:
            why = "" if detect_layers()[name] else "this kernel has none; "
            risk = f"{why}without it this does not hold: {meaning}"
            yield Check(f"sandbox {name}", "note" if name in accepted else "bad", "missing", risk)
        else:
            yield Check(
                f"sandbox {name}", "note", "missing", f"not needed, but without it this does not hold: {meaning}"
            )
    known = not through or set(accepted) >= set(BASE_LAYERS) - set(active) != set()
    found = "contained" if not through else "not contained"
    text = (
        "socket, files, processes, threads, signals: all refused" if not through else f"it could {', '.join(through)}"
    )
    yield Check("trial patch", "ok" if not through else "note" if known else "bad", found, text)


def _places(config: RunConfig) -> Iterator[Check]:
    """Can the store and the runs be written?"""
    for name, text in (("store", config.store.path), ("runs", config.runs)):
        path = Path(text.removeprefix("file://")).expanduser().absolute()
        place = path
        while not place.exists() and place != place.parent:
            place = place.parent
        try:
            with tempfile.NamedTemporaryFile(dir=place, prefix=".coral-doctor-"):
                free = os.statvfs(place)
            yield Check(name, "ok", str(path), f"writable, {free.f_bavail * free.f_frsize / 1e9:.0f} GB free")
        except OSError as error:
            yield Check(
                name, "bad", str(path), f"{place} cannot be written ({error.strerror}): choose another directory"
            )


def _port() -> Check:
    """Where will the Prefect API be?"""
    from flows.prefect_api.settings import configured_api

    try:
        url = configured_api()
    except ConfigError as error:
        return Check.of_error("prefect server", error)
    if url:
        return Check("prefect server", "ok", url, "configured; no server of our own is started")
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            probe.listen()
            with socket.create_connection(probe.getsockname(), timeout=5):
                return Check("prefect server", "ok", "127.0.0.1", "a server of our own can listen on loopback")
    except OSError as error:
        text = f"nothing can listen on loopback ({error.strerror}): set PREFECT_API_URL to a server"
        return Check("prefect server", "bad", "127.0.0.1", text)


def _base_model() -> Check:
    """Is the embedded base model there, with the content that its name promises?"""
    from coral_core.config.tree import BaseModelConfig
    from coral_core.lm.base_model import identify

    try:
        identity = identify(BaseModelConfig(name="coral-tiny"))
    except (CoralError, OSError) as error:
        return Check("coral-tiny", "bad", "missing", str(error).splitlines()[0])
    text = f"{identity.parameters:,} parameters, content {identity.content_id[:12]}"
    return Check("coral-tiny", "ok", "present", text)
