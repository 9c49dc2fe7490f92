"""Loads a base model and puts adapters on and off it, leaving its weights bit for bit as they were."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from coral_core.config.tree import BaseModelConfig
from coral_core.errors import EngineError, Infeasible
from coral_core.genome import HeavyGenes
from coral_core.jobs.jobs import BaseModelIdentity
from coral_core.lm.base_model import identify, local_path, resolve_device
from coral_core.lm.base_state import BaseState
from coral_core.lm.loading import load_model, special_tokens
from coral_core.lm.model_files import content_id

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
"""How torch says it where it raises a plain `RuntimeError`: on CPUs, and within libraries of the GPU."""


class LoadedModel:
    """A base model in memory with its tokenizer (left-padding)."""

    def __init__(self, config: BaseModelConfig) -> None:
        self.config = config
        self.identity: BaseModelIdentity = identify(config)
        self.device = torch.device(resolve_device(config.device))
        self.tokenizer: Any
        self.model: Any
        self.tokenizer, self.model, _ = load_model(config, self.identity.content_id)
        path = local_path(config)
        if path is not None and content_id(path) != self.identity.content_id:
            raise EngineError(
                f"base model {config.name}: its files were changed while they were loaded. Wait until they are all written, and run the same command again."
            )
        self.model.to(self.device).eval()
        self.model.requires_grad_(False)
        self.pad, self.end_tokens = special_tokens(self.tokenizer, self.model, config.name)
        self._targets = {
            name.rsplit(".", 1)[-1]: None
            for name, part in self.model.named_modules()
            if isinstance(part, (torch.nn.Linear, Conv1D))
        }
        self.state = BaseState(self.model)

    def check_modules(self, names: tuple[str, ...]) -> None:
        """Raises `Infeasible` when the model has no linear module of one of `names`."""
        missing = [name for name in names if name not in self._targets]
        if missing:
            raise Infeasible(
                "module-missing",
                f"target module {missing[0]} is not in {self.config.name}; it has {', '.join(sorted(self._targets))}",
            )

    def encode(self, text: str) -> list[int]:
        """Token ids; special tokens are those written in `text`, plus a beginning mark where the model has one unwritten."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        bos = self.tokenizer.bos_token_id
        if bos is not None and (not ids or ids[0] != bos):
            ids = [bos, *ids]
        return ids

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Whatever happens within, the model is afterwards as it was loaded, and so is the state of random numbers."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            try:
                yield
            finally:
                self.state.restore()

    @contextlib.contextmanager
    def merged(self, adapter: Path | None, heavy: HeavyGenes | None = None) -> Iterator[Any]:
        """The model with the adapter in the folder `adapter` merged into copies of its weights; None: the model itself.

        Args:
            adapter: A PEFT folder.
            heavy: The genes that the adapter was trained with; None: those that it names itself.

        Raises:
            AdapterError: the adapter does not load exactly.
            Infeasible: the model has no module of a name that the adapter targets.
        """
        from coral_core.lm.adapters import attach, private_copies, read_genes

        with self.kept():
            if adapter is None:
                yield self.model
                return
            named = read_genes(adapter, heavy)
            self.check_modules((heavy or named).target_modules)
            adapted = attach(self.model, adapter, named, heavy)
            private_copies(adapted)
            yield adapted.merge_and_unload()


@contextlib.contextmanager
def memory_is_evidence(doing: str) -> Iterator[None]:
    """Turns all ways in which memory runs out into `Infeasible`; `doing`: "training", "generation"."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise Infeasible("out-of-memory", f"{doing} ran out of GPU memory: {_first_line(error)}") from None
    except MemoryError:
        raise Infeasible("out-of-memory", f"{doing} ran out of memory") from None
    except RuntimeError as error:
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        raise Infeasible("out-of-memory", f"{doing} ran out of memory: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
