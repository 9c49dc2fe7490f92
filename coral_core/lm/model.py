"""Loads a base model and puts adapters on and off it, leaving its weights bit for bit as they were."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from coral_core.config.tree import BaseModelConfig
from coral_core.errors import Infeasible
from coral_core.jobs import BaseModelIdentity
from coral_core.lm.base import identify, resolve_device
from coral_core.lm.loading import load_model, special_tokens


class LoadedModel:
    """A base model in memory with its tokenizer (left-padding)."""

    def __init__(self, config: BaseModelConfig) -> None:
        self.config = config
        self.identity: BaseModelIdentity = identify(config)
        self.device = torch.device(resolve_device(config.device))
        self.tokenizer: Any
        self.model: Any
        self.tokenizer, self.model, _ = load_model(config, self.identity.content_id)
        self.model.to(self.device).eval()
        self.model.requires_grad_(False)
        pad, self.end_tokens = special_tokens(self.tokenizer, self.model, config.name)
        self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(pad)
        self._targets = {
            name.rsplit(".", 1)[-1]: None
            for name, part in self.model.named_modules()
            if isinstance(part, (torch.nn.Linear, Conv1D))
        }

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
    def merged(self, adapter: Path | None) -> Iterator[Any]:
        """The model with the adapter merged into its weights; afterwards they are restored from a copy."""
        if adapter is None:
            yield self.model
            return
        from peft import PeftConfig, PeftModel

        targets = set(PeftConfig.from_pretrained(str(adapter)).target_modules)
        self.check_modules(tuple(targets))
        saved = {
            name: parameter.detach().clone()
            for name, parameter in self.model.named_parameters()
            if name.split(".")[-2] in targets
        }
        merged = PeftModel.from_pretrained(self.model, str(adapter)).merge_and_unload()
        try:
            yield merged
        finally:
            self.model = merged.requires_grad_(False)
            parameters = dict(self.model.named_parameters())
            with torch.no_grad():
                for name, value in saved.items():
                    parameters[name].copy_(value)
