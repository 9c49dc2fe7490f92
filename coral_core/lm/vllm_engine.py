"""The engine of vLLM: answers the requests of `coral_core.lm.engine` but for training, under the interpreter of its environment.

vLLM runs in this process (no processes of its own), so that it is ended as a whole. It is given token ids and gives token ids
back; tokens are chosen, rows are ended and texts are decoded by the code of the torch engine. An adapter, LoRA or DoRA, is
merged into the weights, which are loaded anew into the running vLLM, and the base model's after it. With ``generation.merge:
false`` vLLM computes LoRA beside the weights.

The checksum of the base model is that of the logits of a fixed prompt, since vLLM keeps weights in forms of its own. Rows of an
entry share forward passes, in an order that depends on the entry and the prompts alone.
"""

import contextlib
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from coral_core.child_process import serve
from coral_core.config.tree import BaseModelConfig
from coral_core.errors import BaseChangedError, BaseModelError, ConfigError, CoralError, EngineError, Infeasible
from coral_core.jobs.jobs import Cost, TrainedAdapter, VllmSettings
from coral_core.lm.architecture import positions
from coral_core.lm.base_model import (
    cached_snapshot,
    find,
    local_path,
    resolve_device,
    resolve_dtype,
    vllm_numerics_class,
)
from coral_core.lm.encoding import check_tokenizer
from coral_core.lm.engine import Worker, answer
from coral_core.lm.engine_environment import without_credentials
from coral_core.lm.generation import Writing
from coral_core.lm.loaded_model import Vocabulary, memory_is_evidence, peak_memory_mb, special_tokens
from coral_core.lm.memory_plan import ITEM, model_size
from coral_core.lm.model_files import content_id, read_folder, read_json
from coral_core.lm.requests import AdapterFolder, Done, Generated, GenerationRequest, TrainingRequest
from coral_core.lm.vllm_choice import PROBE, Chooser, processor_for
from coral_core.lm.vllm_interpreter import check_device, here, lora_rank
from coral_core.lm.vllm_weights import base_weights, merged_weights, read_updates, scale_of

BLOCK = 128
"""Tokens of a block of vLLM's cache on CPUs, the largest one that it uses."""
PASS_TOKENS = 2048
"""Tokens of one forward pass at most; set, because vLLM's default depends on the machine."""
PROBE_TOKENS = 64


class VllmBackend(Vocabulary):
    """Takes the place of `TorchBackend`.

    Args:
        config: The base model.
        settings: Sizes, as the job names them.

    Raises:
        BaseModelError: vLLM cannot load the model.
        ConfigError: the environment does not fit the configuration.
        EngineError: the files changed during the load, or memory is short.
    """

    def __init__(self, config: BaseModelConfig, settings: VllmSettings) -> None:
        versions = here()
        check_device(config, versions)
        self.config = config
        self._rank = settings.rank
        self.device = torch.device(resolve_device(config.device))
        self._dtype: torch.dtype = getattr(torch, resolve_dtype(config))
        # the chat template is rendered by the client; here its answer would not be read
        found = find(config.model_copy(update={"prompt": "plain"}))[0]
        self.identity = found.model_copy(update={"numerics_class": vllm_numerics_class(config, versions)})
        self._folder = _folder(config, found.content_id)
        configured = AutoConfig.from_pretrained(self._folder, trust_remote_code=False)
        self.tokenizer = AutoTokenizer.from_pretrained(self._folder, trust_remote_code=False)
        check_tokenizer(self.tokenizer, config.name)
        _, self.end_tokens = special_tokens(
            self.tokenizer,
            configured.to_dict(),
            read_json(self._folder / "generation_config.json") or {},
            configured.get_text_config().vocab_size,
            config.name,
        )
        most = positions(configured.get_text_config().to_dict())
        self._tokens = min(settings.tokens, most or settings.tokens)
        self._chooser = Chooser()
        with memory_is_evidence("loading"):
            self._llm = self._started(settings.rows)
        if local_path(config) is not None and content_id(self._folder) != found.content_id:
            raise EngineError(
                f"base model {config.name}: its files were changed while they were loaded",
                remedy="Wait until they are all written, and run the same command again.",
            )
        self._vocabulary = configured.get_text_config().vocab_size
        self.checksum = self._probe()

    def train(self, request: TrainingRequest) -> TrainedAdapter:
        """Refuse: adapters are trained by the torch engine."""
        raise ConfigError("generation.engine: vllm trains no adapters", ("generation", "engine"))

    def check(self) -> str:
        """The checksum of the base model in memory.

        Raises:
            BaseChangedError: it differs from that of the load.
        """
        if (now := self._probe()) != self.checksum:
            raise BaseChangedError(
                "the base model in vLLM's memory is not what was loaded: a fixed prompt gives other logits"
            )
        return now

    def generate(self, request: GenerationRequest, done: Done | None = None) -> Generated:
        """Write the completions that `request` asks for; arguments, result and errors as `coral_core.lm.generation.generate`."""
        started, cpu = time.perf_counter(), _cpu_seconds()
        prompts = [self.encode(text, request.add_bos) for _, text in request.prompts]
        longest, limit = max(map(len, prompts), default=0), max(entry.light.token_limit for entry in request.entries)
        if longest > request.shape.prompt_length:
            raise ConfigError(
                f"generation.prompt_length {request.shape.prompt_length} is too short: a prompt has {longest} tokens. Raise it to {longest}."
            )
        if longest + limit > self._tokens:
            raise ConfigError(
                f"genes.light.token_limit: sequences become {longest + limit} tokens long, and vLLM was started for {self._tokens} (what "
                f"{self.config.name} has positions for, at most). Lower it."
            )
        writing = Writing(self, request, prompts, done)
        together: dict[AdapterFolder | None, list[int]] = {}
        for number, entry in enumerate(request.entries):
            together.setdefault(entry.adapter, []).append(number)
        with memory_is_evidence("generation"):
            for adapter, numbers in together.items():
                with self._adapted(adapter) as lora:
                    for number in numbers:
                        self._write(writing, request, prompts, number, lora)
        seconds, cpu_seconds = time.perf_counter() - started, _cpu_seconds() - cpu
        return writing.generated(
            Cost(seconds=seconds, cpu_seconds=cpu_seconds, peak_memory_mb=peak_memory_mb(self.device))
        )

    def _started(self, rows: int) -> Any:
        from vllm import LLM

        size = model_size(read_folder(self._folder))
        blocks = rows * (self._tokens // BLOCK + 2)
        lora = {"enable_lora": True, "max_loras": 1, "max_lora_rank": lora_rank(self._rank)} if self._rank else {}
        try:
            return LLM(
                model=str(self._folder),
                skip_tokenizer_init=True,
                trust_remote_code=False,
                load_format="safetensors",
                use_tqdm_on_load=False,
                dtype=self._dtype,
                seed=0,
                max_model_len=self._tokens,
                max_num_seqs=rows,
                max_num_batched_tokens=max(PASS_TOKENS, rows),
                # room for all rows, so that none is ever put off for want of it
                kv_cache_memory_bytes=2
                * size.layers
                * size.cache_width
                * ITEM[resolve_dtype(self.config)]
                * BLOCK
                * blocks,
                enforce_eager=self.device.type == "cpu",
                enable_prefix_caching=True,
                async_scheduling=False,
                generation_config="vllm",
                disable_log_stats=True,
                logits_processors=[processor_for(self._chooser)],
                **lora,
            )
        except (CoralError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # vLLM raises many types
            reason = without_credentials(" ".join(str(error).split()))[:400] or "no reason given"
            if "memory" in reason.lower():
                raise EngineError(
                    f"base model {self.config.name}: vLLM does not start: {reason}",
                    remedy="Lower generation.batch_size, generation.prompt_length or genes.light.token_limit, or use a larger machine.",
                ) from None
            raise BaseModelError(
                f"base_model.name: {self.config.name}: vLLM cannot load it: {type(error).__name__}: {reason}",
                remedy="Set generation.engine to torch.",
            ) from None

    def _load(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Load weights into the running vLLM, and forget what was computed with the old ones."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if not self._llm.reset_prefix_cache():
            raise EngineError("vLLM kept results of other weights")

    @contextlib.contextmanager
    def _adapted(self, adapter: AdapterFolder | None) -> Iterator[Any]:
        """vLLM with an adapter: merged, or as a request for LoRA, which is given."""
        if adapter is None:
            yield None
            return
        updates = read_updates(adapter, self.config, self.identity.content_id, self._folder)
        if self._rank:
            with self._beside(adapter) as lora:
                yield lora
            return
        self._load(merged_weights(self._folder, updates, scale_of(adapter), self._dtype))
        try:
            yield None
        finally:
            self._load(base_weights(self._folder))

    @contextlib.contextmanager
    def _beside(self, adapter: AdapterFolder) -> Iterator[Any]:
        """A request for LoRA, which vLLM computes beside the weights."""
        from vllm.lora.request import LoRARequest

        if adapter.heavy.adapter == "dora":
            raise ConfigError(
                f"generation.merge: false: {adapter.folder} is a DoRA, which vLLM does not compute beside the weights",
                ("generation", "merge"),
                remedy="Set generation.merge to true.",
            )
        lora = LoRARequest("adapter", 1, str(adapter.folder))
        try:
            self._llm.llm_engine.add_lora(lora)
        except ValueError as error:
            raise ConfigError(
                f"generation.merge: false: vLLM cannot compute this adapter beside the weights: {' '.join(str(error).split())[:300]}",
                ("generation", "merge"),
                remedy="Set generation.merge to true.",
            ) from None
        try:
            yield lora
        finally:
            self._llm.llm_engine.remove_lora(1)

    def _write(
        self, writing: Writing, request: GenerationRequest, prompts: Sequence[list[int]], entry: int, lora: Any
    ) -> None:
        """Write all rows of an entry; vLLM puts a waiting one in the place of each that ends.

        Entries are written one after the other from an empty cache, so that they change no bit of each other.
        """
        self._llm.reset_prefix_cache()
        engine, chooser = self._llm.llm_engine, self._chooser
        chooser.rows, chooser.failure = {}, None
        ends = sorted(self.ends_with(request.end))
        for place, tokens in enumerate(prompts):
            for row in writing.rows(place, [entry]):
                name = f"{place}-{row.sample}"
                chooser.rows[name] = row
                engine.add_request(
                    name, _prompt(tokens), _parameters(name, row.light.token_limit, ends), lora_request=lora
                )
        while chooser.rows:
            if not engine.has_unfinished_requests():
                raise EngineError(f"vLLM ended {len(chooser.rows)} of the request's rows before their last token")
            for output in engine.step():
                written = chooser.rows.get(output.request_id)
                if written is None or chooser.failure is not None:
                    continue
                if any(writing.ended(written, token) for token in output.outputs[0].token_ids):
                    del chooser.rows[output.request_id]
                    if not output.finished:
                        engine.abort_request([output.request_id])
            if chooser.failure is not None:
                engine.abort_request(list(chooser.rows))
                # numbers that are not finite would reach later rows through parts of the cache that these do not fill
                self._llm.collective_rpc(_empty_cache)
                what = f"generation: outputs are {chooser.failure}"
                if request.entries[entry].adapter is not None:
                    raise Infeasible("diverged", f"{what}, of the adapted model")
                raise BaseModelError(
                    f"base_model.dtype: {self.config.dtype}: {what}, of {self.config.name}. Try bfloat16 or float32."
                )

    def _probe(self) -> str:
        """Digest of the logits that follow a fixed prompt."""
        self._llm.reset_prefix_cache()
        count = min(PROBE_TOKENS, self._tokens - 1)
        tokens = [(number * self._vocabulary) // count for number in range(count)]
        engine, self._chooser.probed = self._llm.llm_engine, ""
        engine.add_request(PROBE, _prompt(tokens), _parameters(PROBE, 1, []))
        while engine.has_unfinished_requests():
            engine.step()
        return self._chooser.probed


def _empty_cache(worker: Any) -> None:
    for cache in worker.model_runner.kv_caches:
        cache.zero_()


def _prompt(tokens: list[int]) -> Any:
    return {"prompt_token_ids": tokens}


def _parameters(name: str, limit: int, ends: list[int]) -> Any:
    """What vLLM is told of a row: where it ends. Its token is the one of the largest logit, which `Chooser` has set."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,
        max_tokens=limit,
        stop_token_ids=ends,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args={"row": name},
    )


def _folder(config: BaseModelConfig, content: str) -> Path:
    """The files of the base model; one of the hub is downloaded where it is not in the local cache."""
    folder = local_path(config) or cached_snapshot(config.name, content)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    return Path(snapshot_download(config.name, revision=content, allow_patterns=patterns))


def _cpu_seconds() -> float:
    """CPU seconds of this process and of those that it started."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def make_backend(body: dict[str, Any]) -> VllmBackend:
    """The model that a request for load asks for."""
    return VllmBackend(BaseModelConfig.model_validate(body["base"]), VllmSettings.model_validate(body["vllm"]))


def main() -> None:
    """Answer requests from standard input until it is closed."""
    worker = Worker(make_backend)
    serve(lambda request, send: answer(worker, request, send))


if __name__ == "__main__":
    main()
