"""Takes the place of vLLM in tests: computes with transformers, one row at a time, what vLLM computes in batches.

It has the part of vLLM's interface that `coral_core.lm.vllm_engine` uses, checks its arguments as vLLM does, and refuses what
vLLM refuses. ``CORAL_FAKE_VLLM`` is no variable of it: tests choose what fails by the base model's folder.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

__all__ = ["LLM", "SamplingParams"]


@dataclass
class _Request:
    name: str
    prompt: list[int]
    params: SamplingParams
    lora: Any
    written: list[int] = field(default_factory=list)


class LLM:
    def __init__(self, model: str, *, skip_tokenizer_init: bool, trust_remote_code: bool, dtype: torch.dtype, max_model_len: int,
                 max_num_seqs: int, logits_processors: list[type[LogitsProcessor]], kv_cache_memory_bytes: int, enable_lora: bool = False,
                 max_lora_rank: int = 16, **others: Any) -> None:  # fmt: skip
        assert skip_tokenizer_init and not trust_remote_code and kv_cache_memory_bytes > 0
        if "too-large" in model:
            raise ValueError(
                "Available memory on node 0 (1/2 GiB) on kv cache allocation is less than requested memory"
            )
        if "unknown" in model:
            raise ValueError("Model architectures ['OddForCausalLM'] are not supported for now")
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
        self._names = {name for name, _ in self._model.named_parameters()}
        self._processors = [each(None, torch.device("cpu"), False) for each in logits_processors]
        self._limit, self._rows, self._rank = max_model_len, max_num_seqs, max_lora_rank if enable_lora else 0
        self._waiting: list[_Request] = []
        self._batch: list[_Request] = []
        self._removed: list[int] = []
        self._loras: dict[int, Any] = {}
        self.llm_engine = self
        self.model_runner, self.kv_caches = self, [torch.zeros(1)]

    def collective_rpc(self, method: Any, kwargs: dict[str, Any] | None = None) -> list[None]:
        if callable(method):
            return [method(self)]
        assert method == "reload_weights" and not self._waiting and not self._batch
        weights = dict((kwargs or {})["weights_iterator"])
        with torch.no_grad():
            parameters = dict(self._model.named_parameters())
            for name, weight in weights.items():
                parameters[name].copy_(weight)
        return [None]

    def reset_prefix_cache(self) -> bool:
        return not self._batch

    def add_lora(self, lora: Any) -> bool:
        config = json.loads((Path(lora.lora_path) / "adapter_config.json").read_text())
        if not self._rank:
            raise RuntimeError("LoRA is not enabled.")
        if config["r"] > self._rank or config.get("use_dora"):
            raise ValueError(f"LoRA rank {config['r']} is greater than max_lora_rank {self._rank}.")
        self._loras[lora.lora_int_id] = lora
        return True

    def remove_lora(self, number: int) -> bool:
        return self._loras.pop(number, None) is not None

    def add_request(
        self, name: str, prompt: dict[str, list[int]], params: SamplingParams, lora_request: Any = None
    ) -> str:
        tokens = prompt["prompt_token_ids"]
        if len(tokens) + params.max_tokens > self._limit:
            raise ValueError(f"{len(tokens)} + {params.max_tokens} tokens, max_model_len is {self._limit}")
        self._waiting.append(_Request(name, tokens, params, lora_request))
        return name

    def has_unfinished_requests(self) -> bool:
        return bool(self._waiting or self._batch)

    def abort_request(self, names: list[str]) -> None:
        self._waiting = [each for each in self._waiting if each.name not in names]
        self._leave([each for each in self._batch if each.name in names])

    def step(self) -> list[Any]:
        added = []
        while self._waiting and len(self._batch) < self._rows:
            new = self._waiting.pop(0)
            added.append((len(self._batch), new.params, new.prompt, new.written))
            self._batch.append(new)
        for processor in self._processors:
            processor.update_state(BatchUpdate(len(self._batch), self._removed, added, []))
        self._removed = []
        logits = torch.stack([self._logits(each) for each in self._batch])
        for processor in self._processors:
            logits = processor.apply(logits)
        found, ended = [], []
        for request, token in zip(self._batch, logits.argmax(-1).tolist(), strict=True):
            request.written.append(token)
            is_end = token in request.params.stop_token_ids or len(request.written) >= request.params.max_tokens
            if is_end:
                ended.append(request)
            found.append(
                SimpleNamespace(request_id=request.name, finished=is_end, outputs=[SimpleNamespace(token_ids=[token])])
            )
        self._leave(ended)
        return found

    def _leave(self, requests: list[_Request]) -> None:
        """Take requests out of the batch; those behind them move up, which the next update tells as new ones."""
        for request in requests:
            place = self._batch.index(request)
            last = self._batch.pop()
            self._removed.append(place)
            if last is not request:
                self._batch[place] = last
                for processor in self._processors:
                    processor.update_state(
                        BatchUpdate(len(self._batch), [place], [(place, last.params, None, last.written)], [])
                    )
                self._removed.remove(place)
                self._removed.append(len(self._batch))

    def _logits(self, request: _Request) -> torch.Tensor:
        assert request.params.output_kind is RequestOutputKind.DELTA
        with torch.inference_mode(), self._beside(request.lora):
            ids = torch.tensor([request.prompt + request.written])
            logits = self._model(input_ids=ids).logits[0, -1].float()
        if not torch.isfinite(logits).all():
            self.kv_caches[0].fill_(torch.nan)  # as in vLLM, where masked parts of the cache are multiplied by 0
        return logits + self.kv_caches[0]

    def _beside(self, lora: Any) -> Any:
        return _Beside(self._model, None if lora is None else self._loras[lora.lora_int_id])


class _Beside:
    """The model with a LoRA computed beside its weights, by hooks."""

    def __init__(self, model: Any, lora: Any) -> None:
        self._model, self._lora, self._hooks = model, lora, []

    def __enter__(self) -> None:
        if self._lora is None:
            return
        from safetensors.torch import load_file

        folder = Path(self._lora.lora_path)
        config = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")
        for name, a in tensors.items():
            if not name.endswith(".lora_A.weight"):
                continue
            b = tensors[name.replace("lora_A", "lora_B")]
            module = self._model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
            self._hooks.append(
                module.register_forward_hook(
                    lambda _, args, out, a=a, b=b, scale=scale: out + scale * (args[0] @ a.T @ b.T)
                )
            )

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
