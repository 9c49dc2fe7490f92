"""The engine seen from a lane: one interface, in a process of its own or in the caller. No torch here."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from coral_core.config.tree import BaseModelConfig, GenerationConfig
from coral_core.errors import (
    BaseModelError,
    ConfigError,
    EngineDiedError,
    EngineError,
    EngineMemoryError,
    EngineTimeOutError,
    Infeasible,
    StoreError,
)
from coral_core.genome import LightGenes
from coral_core.jobs import BaseModelIdentity, Cost, TrainedAdapter, TrainingJob
from coral_core.lm.environment import engine_environment, without_credentials

LOAD_SECONDS = 1800.0


class Engine(Protocol):
    """Loads a base model once, trains adapters, generates completions."""

    identity: BaseModelIdentity

    def load(self, base: BaseModelConfig) -> BaseModelIdentity:
        """Have `base` in memory (nothing to do when it is). Raises `BaseModelError`, `EngineError`."""
        ...

    def train(self, job: TrainingJob, pairs: Sequence[tuple[str, str]], out: Path, deadline: float) -> TrainedAdapter:
        """Write a PEFT folder to `out` within `deadline` seconds. Raises `Infeasible`, `EngineError`."""
        ...

    def generate(
        self,
        adapter: Path | None,
        light: LightGenes,
        prompts: Sequence[tuple[str, str]],
        *,
        samples: int,
        seed: int,
        shape: GenerationConfig,
        stop: Sequence[str],
        deadline: float,
    ) -> tuple[list[list[str]], Cost]:
        """`samples` completions per prompt. Raises `Infeasible`, `EngineError`."""
        ...

    def kill(self) -> None:
        """End it from any thread: the request under way fails, no other will start."""
        ...

    def close(self) -> None:
        """Give memory and process back."""
        ...


class _Requests:
    """Turns calls into plain JSON requests; `_ask` sends one and returns the result."""

    identity: BaseModelIdentity

    def __init__(self) -> None:
        self._loaded: BaseModelConfig | None = None

    def _ask(self, op: str, body: dict[str, Any], seconds: float) -> Any:
        raise EngineError(f"{type(self).__name__} cannot {op}")

    def load(self, base: BaseModelConfig) -> BaseModelIdentity:
        if self._loaded != base:
            self._loaded = None
            self.identity = BaseModelIdentity.model_validate(
                self._ask("load", {"base": base.model_dump(mode="json")}, LOAD_SECONDS)
            )
            self._loaded = base
        return self.identity

    def train(self, job: TrainingJob, pairs: Sequence[tuple[str, str]], out: Path, deadline: float) -> TrainedAdapter:
        body = {"job": job.model_dump(mode="json"), "pairs": [list(pair) for pair in pairs], "out": str(out)}
        return TrainedAdapter.model_validate(self._ask("train", body, deadline))

    def generate(
        self,
        adapter: Path | None,
        light: LightGenes,
        prompts: Sequence[tuple[str, str]],
        *,
        samples: int,
        seed: int,
        shape: GenerationConfig,
        stop: Sequence[str],
        deadline: float,
    ) -> tuple[list[list[str]], Cost]:
        body = {
            "adapter": None if adapter is None else str(adapter),
            "light": light.model_dump(mode="json"),
            "prompts": [list(prompt) for prompt in prompts],
            "samples": samples,
            "seed": seed,
            "shape": shape.model_dump(mode="json"),
            "stop": list(stop),
        }
        result = self._ask("generate", body, deadline)
        return result["completions"], Cost.model_validate(result["cost"])


class InlineEngine(_Requests):
    """The engine in the caller's process, for a debugger. Deadlines are not enforced."""

    def __init__(self) -> None:
        super().__init__()
        self._worker: Any = None

    def _ask(self, op: str, body: dict[str, Any], seconds: float) -> Any:
        if self._worker is None:
            from coral_core.lm.engine import Worker

            self._worker = Worker()
        return self._worker.do(op, body)

    def kill(self) -> None:
        """A debugger's process is not ended from outside."""

    def close(self) -> None:
        self._worker = None
        self._loaded = None


class EngineProcess(_Requests):
    """The engine as a child process that speaks JSON lines over its own pipes.

    It starts at the first request and again after it died; the caller sees `EngineError`
    for the request that was under way. It dies with its parent.
    """

    def __init__(self) -> None:
        super().__init__()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._buffer = b""
        self._number = 0
        self._killed = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self._killed:
                raise EngineError("the engine was ended")
            self._buffer = b""
            self._loaded = None
            self._process = subprocess.Popen(
                [sys.executable, "-m", "coral_core.lm.engine", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=engine_environment(),
                start_new_session=True,
            )
            return self._process

    def load(self, base: BaseModelConfig) -> BaseModelIdentity:
        if self._process is not None and self._process.poll() is not None:
            self._loaded = None
        return super().load(base)

    def _ask(self, op: str, body: dict[str, Any], seconds: float) -> Any:
        process = self._process
        if process is None or process.poll() is not None:
            if op != "load" and self._loaded is not None:
                raise self._died(op, process)
            process = self._start()
        self._number += 1
        line = json.dumps({"id": self._number, "op": op, **body}).encode() + b"\n"
        try:
            assert process.stdin is not None
            process.stdin.write(line)
            process.stdin.flush()
        except OSError:
            raise self._died(op, process) from None
        reply = json.loads(self._read_line(process, op, time.monotonic() + seconds, seconds))
        if reply.get("ok"):
            return reply["result"]
        raise _error_from(op, reply["error"])

    def _read_line(self, process: "subprocess.Popen[bytes]", op: str, deadline: float, seconds: float) -> bytes:
        assert process.stdout is not None
        handle = process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                self._end()
                raise EngineTimeOutError(
                    f"{op} took longer than its {seconds:.0f} s and was ended. Raise infra minutes, or lower the work per job."
                )
            ready, _, _ = select.select([handle], [], [], min(left, 5.0))
            if not ready:
                continue
            part = os.read(handle, 1 << 20)
            if not part:
                raise self._died(op, process)
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _died(self, op: str, process: "subprocess.Popen[bytes] | None") -> EngineDiedError:
        code = None
        if process is not None:
            try:
                code = process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
        self._process = None
        self._loaded = None
        cause = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return EngineDiedError(f"the engine process ended during {op} ({cause})")

    def _end(self) -> None:
        process, self._process, self._loaded = self._process, None, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    try:
                        stream.close()
                    except OSError:
                        continue

    def kill(self) -> None:
        """End it at once, from any thread; the request under way fails, no other will start."""
        with self._lock:
            self._killed = True
            process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        self._end()


def _error_from(op: str, error: dict[str, Any]) -> Exception:
    kind, message = error.get("kind"), without_credentials(str(error.get("message", "")))
    if kind == "infeasible" and error.get("reason") == "out-of-memory":
        return EngineMemoryError(message)
    if kind == "infeasible":
        return Infeasible(str(error.get("reason")), message)
    if kind == "config":
        return ConfigError(message)
    if kind == "base-model":
        return BaseModelError(message)
    if kind == "store":
        return StoreError(message)
    return EngineError(
        f"{op} failed in the engine: {message}"
        + (f"\n{without_credentials(str(error['traceback']))}" if error.get("traceback") else "")
    )
