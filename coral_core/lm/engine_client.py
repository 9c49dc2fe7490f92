"""The engine seen from a lane: one interface, in a process of its own or in the caller. No torch here.

An engine is trusted after a request only if the request was done, or failed for a reason in `CLEAN`, and if the checksum of the
base model that it sends with each reply is the one of its load. Otherwise it is ended, and the next request starts another.
"""

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
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from coral_core.config.tree import BaseModelConfig, GenerationConfig
from coral_core.errors import (
    AdapterError,
    BaseChangedError,
    BaseModelError,
    ConfigError,
    EngineDiedError,
    EngineError,
    EngineMemoryError,
    EngineTimeOutError,
    Infeasible,
    StoreError,
)
from coral_core.frozen import Frozen
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.jobs.jobs import BaseModelIdentity, Cost, TrainedAdapter, TrainingJob
from coral_core.json_object import json_object
from coral_core.lm.engine_environment import engine_environment, without_credentials

T = TypeVar("T", bound=Frozen)

LOAD_SECONDS = 1800.0
CLEAN = ("infeasible", "config", "adapter")
"""Kinds of failure that leave an engine as it was, memory that ran out excepted; its checksum must show it."""


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
        heavy: HeavyGenes | None = None,
    ) -> tuple[list[list[str]], Cost]:
        """`samples` completions per prompt. Raises `Infeasible`, `EngineError`; `AdapterError` also where the adapter is not what `heavy` gives."""
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
        self._wanted: BaseModelConfig | None = None
        self._base = ""
        self._bases: dict[str, tuple[BaseModelIdentity, str]] = {}

    def _ask(self, op: str, body: dict[str, Any], seconds: float) -> Any:
        raise EngineError(f"{type(self).__name__} cannot {op}")

    def _replace(self) -> None:
        """End what holds the base model; the next request starts anew."""
        self._loaded = None

    def load(self, base: BaseModelConfig) -> BaseModelIdentity:
        self._wanted = base
        if self._loaded != base:
            self._loaded = None
            result = self._ask("load", {"base": base.model_dump(mode="json")}, LOAD_SECONDS)
            self.identity = self._valid(BaseModelIdentity, "load", result)
            self._must_be_the_same(base)
            self._loaded = base
        return self.identity

    def train(self, job: TrainingJob, pairs: Sequence[tuple[str, str]], out: Path, deadline: float) -> TrainedAdapter:
        body = {"job": job.model_dump(mode="json"), "pairs": [list(pair) for pair in pairs], "out": str(out)}
        self._load_again()
        return self._valid(TrainedAdapter, "train", self._ask("train", body, deadline))

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
        heavy: HeavyGenes | None = None,
    ) -> tuple[list[list[str]], Cost]:
        body = {
            "adapter": None if adapter is None else str(adapter),
            "light": light.model_dump(mode="json"),
            "prompts": [list(prompt) for prompt in prompts],
            "samples": samples,
            "seed": seed,
            "shape": shape.model_dump(mode="json"),
            "stop": list(stop),
            "heavy": heavy.model_dump(mode="json") if heavy is not None and adapter is not None else None,
        }
        self._load_again()
        result = self._valid(_Generated, "generate", self._ask("generate", body, deadline))
        if [len(texts) for texts in result.completions] != [samples] * len(prompts):
            self._replace()
            raise EngineError(
                f"generate: the engine gave other than {samples} completions for each of {len(prompts)} prompts"
            )
        return result.completions, result.cost

    def _load_again(self) -> None:
        """Have the base model that was asked for last, also when the engine was replaced since."""
        if self._loaded is not None or self._wanted is None:
            return
        before = getattr(self, "identity", None)
        if self.load(self._wanted) != before and before is not None:
            raise EngineError(f"base model {before.name}: its files are others than when they were loaded first")

    def _must_be_the_same(self, base: BaseModelConfig) -> None:
        """An engine that replaces another must have loaded the same bits from the same files."""
        key = base.model_dump_json()
        identity, bits = self._bases.get(key, (self.identity, self._base))
        if identity == self.identity and bits != self._base:
            self._replace()
            raise BaseChangedError(
                f"base model {base.name}: two engines loaded different weights from files of one identity ({identity.content_id[:12]}). "
                "Check memory and disk of this machine."
            )
        self._bases[key] = (self.identity, self._base)

    def _valid(self, kind: type[T], op: str, result: Any) -> T:
        try:
            return kind.model_validate(result)
        except ValidationError as error:
            self._replace()
            raise EngineError(f"{op}: the engine gave no valid result ({error.errors()[0]['msg']})") from None

    def _same_base(self, op: str, base: str) -> None:
        """Compare the checksum that came with a result of `op` (or a clean failure) with the one of the load."""
        if op == "load":
            self._base = base
        elif base != self._base:
            self._replace()
            raise BaseChangedError(
                f"the base model in memory was not what was loaded after {op}: its result was dropped, and the engine replaced"
            )


class _Generated(Frozen):
    completions: list[list[str]]
    cost: Cost


class InlineEngine(_Requests):
    """The engine in the caller's process, for a debugger. Deadlines are not enforced."""

    def __init__(self) -> None:
        super().__init__()
        self._worker: Any = None

    def _ask(self, op: str, body: dict[str, Any], seconds: float) -> Any:
        if self._worker is None:
            from coral_core.lm.engine import Worker

            self._worker = Worker()
        worker, clean = self._worker, False
        try:
            result = worker.do(op, body)
            clean = True
        except (Infeasible, ConfigError, AdapterError):
            clean = True
            raise
        finally:
            if not clean or not worker.base:
                self._replace()
        self._same_base(op, worker.base)
        return result

    def _replace(self) -> None:
        self._worker = None
        self._loaded = None

    def kill(self) -> None:
        """A debugger's process is not ended from outside."""

    def close(self) -> None:
        self._replace()


class EngineProcess(_Requests):
    """The engine as a child process that speaks JSON lines over its own pipes.

    It starts at the first request and again after it died; the caller sees `EngineError`
    for the request that was under way. It dies with its parent.
    """

    module = "coral_core.lm.engine"
    """What the process runs."""

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
                [sys.executable, "-m", self.module, str(os.getpid())],
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
        try:
            reply = self._exchange(process, op, {"id": self._number, "op": op, **body}, seconds)
        except BaseException:
            # interrupted, or something that is no reply: what still comes would be taken for the next one
            self._replace()
            raise
        base = str(reply.get("base") or "")
        if not base:
            self._replace()
        if reply.get("ok") is True and base:
            self._same_base(op, base)
            return reply.get("result")
        found = reply.get("error")
        error = found if isinstance(found, dict) else {"message": "it said neither result nor reason"}
        if error.get("kind") not in CLEAN or error.get("reason") == "out-of-memory":
            self._replace()
        elif base:
            self._same_base(op, base)
        raise _error_from(op, error)

    def _exchange(
        self, process: "subprocess.Popen[bytes]", op: str, request: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        """Send one request and read its reply."""
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            raise self._died(op, process) from None
        line = self._read_line(process, op, time.monotonic() + seconds, seconds)
        try:
            reply = json_object(line)
        except ValueError as error:
            raise EngineError(f"{op}: the engine sent no reply but {line[:80]!a} ({error})") from None
        if reply.get("id") != request["id"]:
            raise EngineError(
                f"{op}: the engine answered request {ascii(reply.get('id'))[:40]} instead of {request['id']}"
            )
        return reply

    def _read_line(self, process: "subprocess.Popen[bytes]", op: str, deadline: float, seconds: float) -> bytes:
        assert process.stdout is not None
        handle = process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                self._replace()
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

    def _replace(self) -> None:
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
        self._replace()


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
    if kind == "adapter":
        return AdapterError(message)
    if kind == "base-changed":
        return BaseChangedError(message)
    return EngineError(
        f"{op} failed in the engine: {message}"
        + (f"\n{without_credentials(str(error['traceback']))}" if error.get("traceback") else "")
    )
