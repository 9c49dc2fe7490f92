"""The engine process: holds torch and the base model, does one request at a time.

Protocol: JSON lines. Request ``{id, op, ...}`` with op load, train, generate; reply
``{id, ok: true, base, result}`` or ``{id, ok: false, base, error: {kind, reason, message, traceback}}``
with kind infeasible, config, adapter, base-model, base-changed, store or engine. ``base`` is the checksum of the base
model after the request, equal to that of its load; it is empty where the request failed in a way that leaves doubt,
and after such a reply the process ends. The pipes are moved away from the standard streams first, so that a
stray print of a library cannot corrupt them.
"""

import errno
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from coral_core.config.tree import BaseModelConfig, GenerationConfig
from coral_core.errors import AdapterError, BaseChangedError, BaseModelError, ConfigError, EngineError, Infeasible
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.jobs.jobs import Cost, TrainingJob
from coral_core.lm.base_model import is_rehearsal
from coral_core.parent_process import end_with, take_pipes

FULL = "the disk is full. Free space and run the same command again; finished work is kept (ENOSPC)"


class Worker:
    """Does requests; used by the process loop below and by `InlineEngine`.

    A request fails cleanly when our own code refuses it for a reason that it knows, and the checksum shows the base model
    unchanged. After anything else (an exception that nobody expected, memory or disk at an end, an interruption) the
    worker must be replaced, whatever the checksum says: libraries keep state of their own.
    """

    def __init__(self) -> None:
        self._model: Any = None
        self.base = ""
        """Checksum of the base model after the last request; empty: this worker is not to be used any more."""

    def do(self, op: str, body: dict[str, Any]) -> Any:
        """The result of one request, as JSON data.

        Raises:
            BaseChangedError: the base model is not what was loaded; the result is worth nothing.
        """
        self.base = ""
        try:
            result = self._do(op, body)
        except (Infeasible, ConfigError, AdapterError) as error:
            if self._model is not None and not _ran_out_of_memory(error):
                self.base = self._model.check()
            raise
        self.base = self._model.check() if op != "load" else self._model.checksum
        return result

    def _do(self, op: str, body: dict[str, Any]) -> Any:
        if op == "load":
            return self._load(BaseModelConfig.model_validate(body["base"]))
        if self._model is None:
            raise EngineError(f"{op} before load")
        if op == "train":
            return self._train(body)
        if op == "generate":
            return self._generate(body)
        raise EngineError(f"unknown op {op!r}")

    def _load(self, config: BaseModelConfig) -> Any:
        self._model = None
        if is_rehearsal(config):
            from coral_core.lm.rehearsal import Rehearsal

            self._model = Rehearsal(config)
        else:
            from coral_core.lm.torch_backend import TorchBackend

            self._model = TorchBackend(config)
        return self._model.identity.model_dump(mode="json")

    def _train(self, body: dict[str, Any]) -> Any:
        job = TrainingJob.model_validate(body["job"])
        record = self._model.train(job, [(pair[0], pair[1]) for pair in body["pairs"]], Path(body["out"]))
        return record.model_dump(mode="json")

    def _generate(self, body: dict[str, Any]) -> Any:
        started, cpu = time.perf_counter(), time.process_time()
        completions, tokens, peak = self._model.generate(
            Path(body["adapter"]) if body["adapter"] else None,
            LightGenes.model_validate(body["light"]),
            [(prompt[0], prompt[1]) for prompt in body["prompts"]],
            body["samples"],
            body["seed"],
            GenerationConfig.model_validate(body["shape"]),
            body["stop"],
            HeavyGenes.model_validate(body["heavy"]) if body.get("heavy") else None,
        )
        cost = Cost(
            seconds=time.perf_counter() - started,
            cpu_seconds=time.process_time() - cpu,
            tokens=tokens,
            peak_memory_mb=peak,
        )
        return {"completions": completions, "cost": cost.model_dump(mode="json")}


def _disk_is_full(error: Exception) -> bool:
    """safetensors wraps the system's error in one of its own, and keeps only its text."""
    codes = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in codes or any(f"os error {code}" in str(error) for code in codes)


def _ran_out_of_memory(error: Exception) -> bool:
    return isinstance(error, Infeasible) and error.reason == "out-of-memory"


def serve(reader: Any, writer: Any) -> None:
    """Answer requests until the pipe closes, or until a request failed in a way that leaves doubt."""
    worker = Worker()
    for line in reader:
        request = json.loads(line)
        reply: dict[str, Any] = {"id": request.get("id"), "ok": True}
        try:
            reply["result"] = worker.do(request.pop("op"), request)
        except BaseException as error:
            reply |= {"ok": False, "error": _described(error, request)}
        reply["base"] = worker.base
        writer.write(json.dumps(reply).encode() + b"\n")
        writer.flush()
        if not worker.base:
            return


def _described(error: BaseException, request: dict[str, Any]) -> dict[str, Any]:
    """An error for the caller, who makes an exception of it again (`coral_core.lm.engine_client`)."""
    if isinstance(error, Infeasible):
        return {"kind": "infeasible", "reason": error.reason, "message": str(error)}
    kinds = {
        ConfigError: "config",
        BaseModelError: "base-model",
        BaseChangedError: "base-changed",
        AdapterError: "adapter",
    }
    for known, kind in kinds.items():
        if isinstance(error, known):
            return {"kind": kind, "message": str(error)}
    if isinstance(error, EngineError):
        return {"kind": "engine", "message": str(error)}
    if isinstance(error, Exception) and _disk_is_full(error):
        return {"kind": "store", "message": f"{request.get('out', 'store')}: {FULL}"}
    return {
        "kind": "engine",
        "message": f"{type(error).__name__}: {error}",
        "traceback": "".join(traceback.format_exception(error)),
    }


def main() -> None:
    reader, writer = take_pipes()
    end_with(int(sys.argv[1]))
    serve(reader, writer)


if __name__ == "__main__":
    main()
