"""The engine process: holds torch and the base model, does one request at a time.

Protocol: JSON lines. Request ``{id, op, ...}`` with op load, train, generate; reply
``{id, ok: true, result}`` or ``{id, ok: false, error: {kind, reason, message, traceback}}``
with kind infeasible, base-model, store or engine. The pipes are moved away from the standard
streams first, so that a stray print of a library cannot corrupt them.
"""

import errno
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from coral_core.config.tree import BaseModelConfig, GenerationConfig
from coral_core.errors import BaseModelError, ConfigError, EngineError, Infeasible
from coral_core.genome import LightGenes
from coral_core.jobs import Cost, TrainingJob
from coral_core.lm.base import is_rehearsal
from coral_core.parent import end_with, take_pipes

FULL = "the disk is full. Free space and run the same command again; finished work is kept (ENOSPC)"


class Worker:
    """Does requests; used by the process loop below and by `InlineEngine`."""

    def __init__(self) -> None:
        self._model: Any = None
        self._config: BaseModelConfig | None = None

    def do(self, op: str, body: dict[str, Any]) -> Any:
        """The result of one request, as JSON data."""
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


def serve(reader: Any, writer: Any) -> None:
    """Answer requests until the pipe closes."""
    worker = Worker()
    for line in reader:
        request = json.loads(line)
        reply: dict[str, Any] = {"id": request.get("id"), "ok": True}
        try:
            reply["result"] = worker.do(request.pop("op"), request)
        except Infeasible as error:
            reply |= {"ok": False, "error": {"kind": "infeasible", "reason": error.reason, "message": str(error)}}
        except ConfigError as error:
            reply |= {"ok": False, "error": {"kind": "config", "message": str(error)}}
        except BaseModelError as error:
            reply |= {"ok": False, "error": {"kind": "base-model", "message": str(error)}}
        except EngineError as error:
            reply |= {"ok": False, "error": {"kind": "engine", "message": str(error)}}
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            found = {"kind": "engine", "message": message, "traceback": traceback.format_exc()}
            if _disk_is_full(error):
                found = {"kind": "store", "message": f"{request.get('out', 'store')}: {FULL}"}
            reply |= {"ok": False, "error": found}
        writer.write(json.dumps(reply).encode() + b"\n")
        writer.flush()


def main() -> None:
    reader, writer = take_pipes()
    end_with(int(sys.argv[1]))
    serve(reader, writer)


if __name__ == "__main__":
    main()
