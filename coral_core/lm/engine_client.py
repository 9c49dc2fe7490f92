"""The client of an engine: one interface, for an engine in a child process or in the caller's. Imports no torch.

After each request an engine sends the checksum of its base model. An engine that sends none, or another than that of its
load, is closed, and the next `load` starts a new one. Completions come prompt by prompt while the engine writes the rest;
until the checksum has come they are provisional.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from coral_core.child_process import ChildProcess, ProcessEndedError
from coral_core.config.tree import BaseModelConfig
from coral_core.errors import (
    AdapterError,
    BaseChangedError,
    BaseModelError,
    ConfigError,
    CoralError,
    EngineDiedError,
    EngineError,
    EngineMemoryError,
    EngineTimeOutError,
    Infeasible,
    StoreError,
)
from coral_core.frozen import Frozen
from coral_core.jobs.jobs import BaseModelIdentity, TrainedAdapter
from coral_core.json_object import json_object
from coral_core.lm.engine_environment import engine_environment, without_credentials
from coral_core.lm.requests import (
    Costs,
    Done,
    FinishedPrompt,
    Generated,
    GenerationRequest,
    TrainingRequest,
    Written,
)

T = TypeVar("T", bound=Frozen)

LOAD_SECONDS = 1800.0
_KINDS: dict[str, type[CoralError]] = {
    kind.__name__: kind for kind in (ConfigError, BaseModelError, BaseChangedError, AdapterError, StoreError)
}


def _refuse_part(_: object) -> None:
    raise EngineError("the engine sent a part of an answer that has none")


class Engine(ABC):
    """Loads a base model once, trains adapters, generates completions."""

    identity: BaseModelIdentity
    """Identity of the base model that was loaded last."""

    def __init__(self) -> None:
        self._loaded: BaseModelConfig | None = None
        self._checksum = ""
        self._checksums: dict[str, str] = {}
        """Base model and identity -> checksum that every later load of the same files must give."""

    def load(self, base: BaseModelConfig) -> BaseModelIdentity:
        """Load `base` into memory, unless it is loaded already.

        Returns:
            Identity of the loaded model.

        Raises:
            BaseModelError: it cannot be loaded or used.
            BaseChangedError: an earlier engine loaded other weights from the same files.
            EngineError: the engine failed.
        """
        if self._loaded != base:
            self._loaded = None
            self.identity = self._ask(BaseModelIdentity, "load", self._to_load(base), LOAD_SECONDS)
            key = f"{base.model_dump_json()} {self.identity.model_dump_json()}"
            if self._checksums.setdefault(key, self._checksum) != self._checksum:
                self.close()
                raise BaseChangedError(
                    f"base model {base.name}: two engines loaded different weights from files of one identity "
                    f"({self.identity.content_id[:12]})",
                    remedy="Check memory and disk of this machine.",
                )
            self._loaded = base
        return self.identity

    def train(self, request: TrainingRequest, deadline: float) -> TrainedAdapter:
        """Train an adapter and write it as a PEFT folder.

        Args:
            request: The job, its training pairs and the output folder.
            deadline: Seconds from now; an engine process that takes longer is ended.

        Raises:
            Infeasible: this genome cannot be trained: diverged, out of memory, or a module is missing.
            ConfigError: the configuration does not fit the model.
            EngineError: the engine failed or exceeded the deadline.
        """
        return self._ask(TrainedAdapter, "train", request.model_dump(mode="json"), deadline)

    def generate(
        self, request: GenerationRequest, deadline: float, done: Done = lambda entry, index, completions: None
    ) -> Generated:
        """Write completions.

        Args:
            request: Prompts, and the entries: adapters and light genes.
            deadline: Seconds from now; an engine process that takes longer is ended.
            done: Called once for each entry and prompt as soon as its completions are written, in any order. They are
                provisional: drop them if this method raises.

        Returns:
            All completions, in the order of entries and prompts, and the cost of each entry.

        Raises:
            Infeasible: the logits of an adapted model are not finite, or memory ran out.
            AdapterError: an adapter is not what the request says.
            EngineError: the engine failed or exceeded the deadline.
        """
        finished: list[dict[int, tuple[str, ...]]] = [{} for _ in request.entries]

        def take(data: object) -> None:
            try:
                part = FinishedPrompt.model_validate(data)
            except ValidationError as error:
                raise EngineError(f"generate: the engine sent no valid part ({error.errors()[0]['msg']})") from None
            _check_part(part, request, finished)
            finished[part.entry][part.index] = part.completions
            done(part.entry, part.index, part.completions)

        costs = self._ask(Costs, "generate", request.model_dump(mode="json"), deadline, take).entries
        count, found = len(request.prompts) * len(finished), sum(map(len, finished))
        if found != count or len(costs) != len(finished):
            self.close()
            raise EngineError(
                f"generate: the engine gave completions for {found} of {count} prompts, and {len(costs)} costs"
            )
        return Generated(
            entries=tuple(
                Written(completions=tuple(texts for _, texts in sorted(part.items())), cost=cost)
                for part, cost in zip(finished, costs, strict=True)
            )
        )

    def kill(self) -> None:  # noqa: B027
        """End the engine process, from any thread: the request in progress fails and no other is started.

        An engine in the caller's process has no process to end, and goes on.
        """

    def close(self) -> None:
        """Release memory and process; the next `load` starts again."""
        self._loaded = None

    def _ask(
        self,
        kind: type[T],
        op: str,
        body: dict[str, Any],
        seconds: float,
        take: Callable[[object], None] = _refuse_part,
    ) -> T:
        """The result of one request, validated as `kind`; `take` is called with each part. Closes an engine whose result is invalid."""
        if op != "load" and self._loaded is None:
            raise EngineError(f"{op} before load")
        result = self._send(op, body, seconds, take)
        try:
            return kind.model_validate(result)
        except ValidationError as error:
            self.close()
            raise EngineError(f"{op}: the engine gave no valid result ({error.errors()[0]['msg']})") from None

    def _to_load(self, base: BaseModelConfig) -> dict[str, Any]:
        """Fields of the request that loads `base`."""
        return {"base": base.model_dump(mode="json")}

    @abstractmethod
    def _send(self, op: str, body: dict[str, Any], seconds: float, take: Callable[[object], None]) -> Any:
        """The result of one request, as JSON data. Calls `take` with each part before it, and closes the engine if that raises."""

    def _compare(self, op: str, checksum: str) -> None:
        """Close an engine that sent no checksum of its base model after `op`, or another than that of its load."""
        if not checksum:
            self.close()
        elif op == "load":
            self._checksum = checksum
        elif checksum != self._checksum:
            self.close()
            raise BaseChangedError(
                f"the base model in memory was not what was loaded after {op}: its result was dropped, and the engine replaced"
            )


class InlineEngine(Engine):
    """The engine in the caller's process, for a debugger. Deadlines are not enforced."""

    def __init__(self) -> None:
        super().__init__()
        self._worker: Any = None

    def _send(self, op: str, body: dict[str, Any], seconds: float, take: Callable[[object], None]) -> Any:
        from coral_core.lm.engine import Worker

        self._worker = worker = self._worker or Worker()
        try:
            return worker.do(op, body, take)
        finally:
            self._compare(op, worker.base)

    def close(self) -> None:
        super().close()
        self._worker = None


class EngineProcess(ChildProcess, Engine):
    """The engine as a child process. It starts at the first request, and again after it has ended."""

    module = "coral_core.lm.engine"
    killed_error = EngineError("the engine was ended")

    def __init__(self) -> None:
        ChildProcess.__init__(self)
        Engine.__init__(self)
        self._number = 0

    def environment(self) -> dict[str, str]:
        return engine_environment()

    def load(self, base: BaseModelConfig) -> BaseModelIdentity:
        self._running()  # if the process has ended, a new one starts with nothing loaded
        return super().load(base)

    def _send(self, op: str, body: dict[str, Any], seconds: float, take: Callable[[object], None]) -> Any:
        self._number += 1

        def take_part(line: bytes) -> bool:
            if (part := _part_of(line, self._number)) is not None:
                take(part)
            return part is not None

        try:
            line = self.exchange({"id": self._number, "op": op, **body}, time.monotonic() + seconds, take_part)
        except TimeoutError:
            raise EngineTimeOutError(
                f"{op} took longer than its {seconds:.0f} s and was ended",
                remedy="Raise infra minutes, or lower the work per job.",
            ) from None
        except ProcessEndedError as ended:
            raise EngineDiedError(f"the engine process ended during {op} ({ended})") from None
        try:
            reply = json_object(line)
            if reply.get("id") != self._number:
                raise ValueError(f"request {ascii(reply.get('id'))[:40]} instead of {self._number}")
        except ValueError as error:
            self.close()
            raise EngineError(f"{op}: the engine sent no reply but {line[:80]!a} ({error})") from None
        self._compare(op, str(reply.get("base") or ""))
        if "error" in reply:
            raise _error_of(op, reply)
        if not reply.get("base"):
            raise BaseChangedError(f"{op}: the engine sent no checksum of its base model: the result was dropped")
        return reply.get("result")

    def _end(self, patience: float = 0.0) -> int | None:
        self._loaded = None
        return super()._end(patience)


def _check_part(
    part: FinishedPrompt, request: GenerationRequest, finished: Sequence[Mapping[int, tuple[str, ...]]]
) -> None:
    """Raise `EngineError` for a part that `request` does not ask for, or that is `finished` already."""
    entries, prompts = len(request.entries), len(request.prompts)
    if part.entry >= entries or part.index >= prompts:
        raise EngineError(
            f"generate: the engine sent entry {part.entry}, prompt {part.index}; it was asked for {entries} and {prompts}"
        )
    samples = request.entries[part.entry].samples
    if part.index in finished[part.entry] or len(part.completions) != samples:
        what = "again" if part.index in finished[part.entry] else f"with {len(part.completions)} completions"
        raise EngineError(
            f"generate: the engine sent prompt {part.index} {what}; it was asked for {samples} of each of {prompts}"
        )


def _part_of(line: bytes, number: int) -> object:
    """The part of an answer to request `number` that a line holds; None for any other line."""
    try:
        reply = json_object(line)
    except ValueError:
        return None
    return reply.get("part") if reply.get("id") == number else None


def _error_of(op: str, reply: dict[str, Any]) -> CoralError:
    """The error in a reply of the engine process."""
    kind, remedy = str(reply["error"]), without_credentials(str(reply.get("remedy", "")))
    problem = without_credentials(str(reply.get("problem", "")))
    if kind == Infeasible.__name__ and reply.get("reason") == "out-of-memory":
        return EngineMemoryError(problem)
    if kind == Infeasible.__name__:
        return Infeasible(str(reply.get("reason")), problem)
    if kind in _KINDS:
        return _KINDS[kind](problem, remedy=remedy)
    return EngineError(f"{op} failed in the engine: {problem}", remedy=remedy)
