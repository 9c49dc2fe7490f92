"""The engine process: holds torch and the base model, runs one request at a time.

Protocol: JSON lines. Request ``{id, op, ...}`` with op load, train or generate; reply ``{id, base, result}`` or
``{id, base, error, problem, remedy, reason}``, where ``error`` is the name of an error class. ``base`` is the checksum of
the base model after the request, equal to that of its load. It is empty after a failure that leaves the state of the
engine in doubt; the client then ends the process. Before the reply to generate come parts ``{id, part}``, a
`FinishedPrompt` for each entry and prompt as soon as its completions are written; the result holds the `Costs` alone. Parts
count only if a result with the right checksum follows.
"""

import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from coral_core.child_process import Send, error_reply, serve
from coral_core.config.tree import BaseModelConfig
from coral_core.errors import AdapterError, ConfigError, CoralError, EngineError, Infeasible, StoreError
from coral_core.jobs.jobs import TrainedAdapter
from coral_core.lm.base_model import is_rehearsal
from coral_core.lm.engine_environment import DETERMINISTIC
from coral_core.lm.model_files import disk_is_full
from coral_core.lm.requests import Costs, Done, FinishedPrompt, Generated, GenerationRequest, TrainingRequest


class TorchBackend:
    """Trains adapters and generates completions with a real model, on one torch thread.

    Torch is imported with the first one, because an engine that rehearses works without it.

    Args:
        config: As for `LoadedModel`.

    Attributes:
        loaded: The `LoadedModel`.

    Raises:
        Infeasible: memory ran out while the model was loaded.
        BaseModelError: as `LoadedModel`.
        EngineError: as `LoadedModel`.
    """

    def __init__(self, config: BaseModelConfig) -> None:
        for name, value in DETERMINISTIC.items():
            # already set in an engine process; in the caller's, before CUDA reads them
            os.environ.setdefault(name, value)
        from coral_core.lm.loaded_model import LoadedModel, memory_is_evidence

        _set_up()
        with memory_is_evidence("loading"):
            self.loaded = LoadedModel(config)
        self.identity, self.checksum, self.check = self.loaded.identity, self.loaded.checksum, self.loaded.check

    def train(self, request: TrainingRequest) -> TrainedAdapter:
        """Train an adapter; see `coral_core.lm.training.train_adapter`."""
        from coral_core.lm.training import train_adapter

        _set_up()
        return train_adapter(self.loaded, request)

    def generate(self, request: GenerationRequest, done: Done | None = None) -> Generated:
        """Write completions; see `coral_core.lm.generation.generate`."""
        from coral_core.lm.generation import generate

        _set_up()
        return generate(self.loaded, request, done)


def _set_up() -> None:
    """Set the process-wide options of torch that change results; called before each request."""
    import torch

    torch.set_num_threads(1)  # one lane per core: two threads per lane are three times slower
    torch.use_deterministic_algorithms(True, warn_only=True)
    # a debugging aid, which writes to every new tensor: a fifteenth of a training
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)


class Worker:
    """Runs requests, for the process below and for `InlineEngine`.

    A request fails cleanly when our own code refuses it for a known reason and the checksum shows the base model unchanged.
    After any other failure (an unexpected exception, exhausted memory or disk, an interruption) the worker must be replaced,
    whatever the checksum says, because libraries keep state of their own.

    Args:
        make_model: Makes the model from the fields of a request for load; it has the attributes and methods of `TorchBackend`.
    """

    def __init__(self, make_model: Callable[[dict[str, Any]], Any] | None = None) -> None:
        self._make_model = make_model or _model
        self._model: Any = None
        self.base = ""
        """Checksum of the base model after the last request; empty: this worker is not to be used any more."""

    def do(self, op: str, body: dict[str, Any], send: Send = lambda part: None) -> Any:
        """The result of one request, as JSON data.

        Args:
            op: load, train or generate.
            body: Fields of a `TrainingRequest` or `GenerationRequest`; for load, ``{"base": ...}`` with the base model's configuration,
                and ``vllm`` with `VllmSettings` for an engine of vLLM.
            send: Called with each `FinishedPrompt` of a generation, as JSON data.

        Raises:
            BaseChangedError: the base model differs from what was loaded; the result is discarded.
        """
        self.base = ""
        try:
            result = self._do(op, body, send).model_dump(mode="json")
        except (Infeasible, ConfigError, AdapterError) as error:
            if self._model is not None and getattr(error, "reason", "") != "out-of-memory":
                self.base = self._model.check()
            raise
        self.base = self._model.check() if op != "load" else self._model.checksum
        return result

    def _do(self, op: str, body: dict[str, Any], send: Send) -> Any:
        if op == "load":
            self._model = None
            self._model = self._make_model(body)
            return self._model.identity
        if op == "train":
            return self._model.train(TrainingRequest.model_validate(body))

        def done(entry: int, index: int, completions: Sequence[str]) -> None:
            texts = tuple(map(encodable, completions))
            send(FinishedPrompt(entry=entry, index=index, completions=texts).model_dump(mode="json"))

        generated = self._model.generate(GenerationRequest.model_validate(body), done)
        return Costs(entries=tuple(written.cost for written in generated.entries))


def encodable(text: str) -> str:
    r"""`text` with U+FFFD for each lone surrogate, which a tokenizer may give, and no UTF-8 and no reply can hold.

    >>> encodable("a\ud800b").encode()
    b'a\xef\xbf\xbdb'
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _model(body: dict[str, Any]) -> Any:
    config = BaseModelConfig.model_validate(body["base"])
    if is_rehearsal(config):
        from coral_core.lm.rehearsal import Rehearsal

        return Rehearsal(config)
    return TorchBackend(config)


def answer(worker: Worker, request: dict[str, Any], send: Send) -> dict[str, Any]:
    """Run one request and form the reply.

    Args:
        worker: Runs it.
        request: A request of the protocol above; `id` and `op` are removed from it.
        send: Sends parts of the reply before it.

    Returns:
        The reply: a result or an error, never an exception.
    """
    number, op = request.pop("id"), request.pop("op")
    reply: dict[str, Any]
    try:
        reply = {"result": worker.do(op, request, lambda part: send({"id": number, "part": part}))}
    except BaseException as error:
        reply = error_reply(_explained(error, request)) | {"reason": getattr(error, "reason", "")}
    return {"id": number, "base": worker.base} | reply


def _explained(error: BaseException, request: dict[str, Any]) -> CoralError:
    if isinstance(error, CoralError):
        return error
    if disk_is_full(error):
        return StoreError(
            f"{request.get('out', 'store')}: the disk is full (ENOSPC)",
            remedy="Free space and run the same command again; finished work is kept.",
        )
    trace = "".join(traceback.format_exception(error))
    return EngineError(f"{type(error).__name__}: {error}\n{trace}")


def main() -> None:
    """Answer requests from standard input until it is closed."""
    worker = Worker()
    serve(lambda request, send: answer(worker, request, send))


if __name__ == "__main__":
    main()
