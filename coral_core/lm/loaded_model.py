"""A base model in memory. It is loaded without code from its files, and restored after each request."""

import contextlib
import resource
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from coral_core.config.tree import BaseModelConfig
from coral_core.errors import BaseModelError, ConfigError, CoralError, EngineError, Infeasible
from coral_core.jobs.jobs import BaseModelIdentity
from coral_core.lm.architecture import EXPERTS, end_tokens, positions
from coral_core.lm.base_model import find, local_path, resolve_device, resolve_dtype
from coral_core.lm.base_state import BaseState
from coral_core.lm.decoding import Shapes
from coral_core.lm.encoding import check_tokenizer, encode_pair, encode_prompt
from coral_core.lm.engine_environment import without_credentials
from coral_core.lm.model_check import not_a_token
from coral_core.lm.model_files import content_id, is_passing
from coral_core.lm.requests import AdapterFolder

_MISFITS = ("mismatch", "negative dimension", "overflowed", "automatic conversion of the weights")
"""Texts of plain RuntimeErrors of torch and transformers: configuration and weights do not fit."""
PACKING = "support_avx512bf16_for_cpu"
"""Attribute of bitsandbytes' 4-bit modules."""
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
"""Texts of plain RuntimeErrors of torch when memory runs out: on CPUs, and within GPU libraries."""


class Vocabulary:
    """Tokenizer of a base model, and the tokens that end its answers.

    Attributes:
        config: The base model.
        tokenizer: Its tokenizer, of transformers.
        end_tokens: The end tokens of the model.
    """

    config: BaseModelConfig
    tokenizer: Any
    end_tokens: frozenset[int]

    def encode(self, text: str, add_bos: bool = True) -> list[int]:
        """Token ids of a prompt; see `coral_core.lm.encoding.encode_prompt`."""
        return encode_prompt(self.tokenizer, text, add_bos)

    def encode_pair(self, prompt: str, answer: str, add_bos: bool = True) -> tuple[list[int], list[int]]:
        """Token ids of a prompt and of its answer; see `coral_core.lm.encoding.encode_pair`."""
        return encode_pair(self.tokenizer, prompt, answer, add_bos)

    def ends_with(self, end: str) -> frozenset[int]:
        """The end tokens of the model, and that of a prompt.

        Args:
            end: Text of the token that ends an answer of the prompt; empty: none.

        Raises:
            ConfigError: `end` is no token that is cut out of a text as a whole.
        """
        if not end:
            return self.end_tokens
        token = self.tokenizer.get_added_vocab().get(end)
        if token is None:
            raise not_a_token(end, self.config.name)
        return self.end_tokens | {token}


class LoadedModel(Vocabulary):
    """A base model and its tokenizer, which pads on the left.

    Args:
        config: The model, its dtype, device and attention implementation.

    Raises:
        BaseModelError: the files are no complete causal language model, or it needs code of its own.
        EngineError: the disk, the mount or the network failed, or the files changed during the load.
    """

    def __init__(self, config: BaseModelConfig) -> None:
        self.config = config
        self.identity: BaseModelIdentity
        self.identity, attention = find(config)
        self.device = torch.device(resolve_device(config.device))
        self.tokenizer, self.model = _loaded(config, self.identity.content_id, attention, self.device)
        path = local_path(config)
        if path is not None and content_id(path) != self.identity.content_id:
            raise EngineError(
                f"base model {config.name}: its files were changed while they were loaded",
                remedy="Wait until they are all written, and run the same command again.",
            )
        check_tokenizer(self.tokenizer, config.name)
        self.model.eval()
        self.model.requires_grad_(False)
        generation = self.model.generation_config
        self.pad, self.end_tokens = special_tokens(
            self.tokenizer,
            self.model.config.to_dict(),
            generation.to_dict() if generation else {},
            self.model.get_input_embeddings().weight.shape[0],
            config.name,
        )
        self._targets = {
            name.rsplit(".", 1)[-1]
            for name, part in self.model.named_modules()
            if isinstance(part, (torch.nn.Linear, Conv1D))
        } | {
            f"{EXPERTS}.{key}"
            for name, part in self.model.named_modules()
            for key, parameter in part.named_parameters(recurse=False)
            if name.endswith(f".{EXPERTS}") and parameter.ndim == 3
        }
        self.shapes: dict[tuple[int, int], Shapes | None] = {}
        """Rows and width of a batch -> the shapes that generation uses for it."""
        self.state = BaseState(self.model)
        self.checksum = self.state.checksum

    def check(self) -> str:
        """The checksum of the base model in memory.

        Raises:
            BaseChangedError: it differs from that of the load.
        """
        return self.state.check()

    def check_modules(self, names: tuple[str, ...]) -> None:
        """Check that the model has linear modules, or fused expert weights, of these names.

        Args:
            names: Last parts of module names, such as q_proj, or experts.gate_up_proj and the like.

        Raises:
            Infeasible: one is missing.
        """
        missing = [name for name in names if name not in self._targets]
        if missing:
            raise Infeasible(
                "module-missing",
                f"target module {missing[0]} is not in {self.config.name}; it has {', '.join(sorted(self._targets))}",
            )

    def check_length(self, tokens: int, key: str, remedy: str = "Lower it.") -> None:
        """Check that the model has enough positions for a sequence.

        Args:
            tokens: Length of the longest sequence.
            key: Configuration key that determines the length; begins the error message.
            remedy: What to do.

        Raises:
            ConfigError: `tokens` is above the number of positions.
        """
        limit = positions(self.model.config.get_text_config().to_dict())
        if limit is not None and tokens > limit:
            raise ConfigError(
                f"{key}: sequences become {tokens} tokens long, and {self.config.name} has {limit} positions",
                remedy=remedy,
            )

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Restore the model and the state of the random number generators at the end, also after an exception."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            try:
                yield
            finally:
                self.state.restore()

    @contextlib.contextmanager
    def adapted(self, adapter: AdapterFolder | None, merge: bool = True) -> Iterator[Any]:
        """The model with `adapter`, for generation.

        Args:
            adapter: The adapter; None gives the bare base model.
            merge: Merge it into copies of the weights; otherwise, and on a quantised model, it is computed beside them. Merging
                into 4-bit weights would round the sum to 4 bits, which changes what the adapter does.

        Raises:
            AdapterError: the adapter does not load exactly.
            Infeasible: the model lacks a module that the adapter targets.
        """
        from coral_core.lm.adapters import attach, private_copies
        from coral_core.lm.dora import use_factored_norms

        with self.kept():
            if adapter is None:
                yield self.model
                return
            self.check_modules(adapter.heavy.target_modules)
            adapted = attach(self.model, adapter)
            if not merge or self.config.quantization != "none":
                use_factored_norms(adapted, are_constant=True)
                yield adapted
                return
            private_copies(adapted)
            yield adapted.merge_and_unload()


def _loaded(config: BaseModelConfig, content_id: str, attention: str, device: torch.device) -> tuple[Any, Any]:
    """Tokenizer, and model on `device`: its tensors go there one by one, so that the host never holds them all."""
    path = local_path(config)
    source, revision = (config.name, content_id) if path is None else (str(path), None)
    name = f"base_model.name: {config.name}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, padding_side="left", trust_remote_code=False
        )
        model, loading_info = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            dtype=getattr(torch, resolve_dtype(config)),
            attn_implementation=attention,
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name: transformers would point to a table in its log
            **_quantised(config),
        )
    except (CoralError, MemoryError):
        raise
    except Exception as error:  # transformers raises many types for unusable files
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _MISFITS):
            raise  # a fault of the machine (memory, device): the job is retried elsewhere
        if is_passing(error):
            raise EngineError(
                f"{name}: could not be loaded: {_reason(error)}",
                remedy="Look at disk and network, and run the same command again.",
            ) from None
        raise BaseModelError(
            f"{name}: cannot be loaded: {_reason(error)}",
            remedy=f"Check config.json and the tokenizer's files, or fetch the model again; a recent one may need a newer transformers than {version('transformers')}.",
        ) from None
    for part in model.modules():
        # on CPUs with bf16 instructions bitsandbytes would pack weights anew in the first forward pass, and lose the loaded bits
        if hasattr(part, PACKING):
            setattr(part, PACKING, False)
    if misfits := sorted(loading_info["mismatched_keys"]):
        tensor, found, expected = misfits[0]
        raise BaseModelError(
            f"{name}: {len(misfits)} tensor(s) of its files do not fit config.json, such as {tensor}: its shape is {tuple(found)}, and "
            f"{tuple(expected)} is expected",
            remedy="Use the config.json that was saved with the weights, or fetch the model again.",
        )
    if missing := sorted(loading_info["missing_keys"]):
        raise BaseModelError(
            f"{name}: its files lack {len(missing)} tensor(s) of the model, such as {missing[0]}: they would be random numbers",
            remedy="Save the whole model with save_pretrained.",
        )
    return tokenizer, model


def _quantised(config: BaseModelConfig) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a quantised model. On GPUs this has never been run."""
    if config.quantization == "none":
        return {}
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=config.quantization,
        bnb_4bit_compute_dtype=getattr(torch, resolve_dtype(config)),
    )
    return {"quantization_config": settings}


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = without_credentials(" ".join(lines[:2]))[:400] or "no reason given"
    if isinstance(error, KeyError):
        reason += " (a name in its files that transformers does not know, or that is missing there)"
    return f"{type(error).__name__}: {reason}"


def special_tokens(
    tokenizer: Any, configured: dict[str, Any], generation: dict[str, Any], rows: int, name: str
) -> tuple[int, frozenset[int]]:
    """The padding token and all end tokens: of the tokenizer, config.json and generation_config.json together.

    Args:
        tokenizer: A tokenizer of transformers.
        configured: Content of config.json.
        generation: Content of generation_config.json; empty when there is none.
        rows: Tokens that have an embedding.
        name: Name of the base model, for errors.

    Raises:
        BaseModelError: there is no end token, or a token without embedding.
    """
    end_ids = end_tokens({"eos_token_id": tokenizer.eos_token_id}, configured, generation)
    ends = frozenset(token for token in end_ids if 0 <= token < rows)  # others are never generated
    if not ends:
        without = f"; {', '.join(map(str, end_ids[:5]))} have no embedding (there are {rows})" if end_ids else ""
        raise BaseModelError(
            f"base_model.name: {name}: no file names an end token of the vocabulary{without}, so generation would never end",
            remedy="Set eos_token in tokenizer_config.json to a token of the vocabulary.",
        )
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, configured.get("pad_token_id"), *sorted(ends))
    pad: int = next(token for token in candidates if type(token) is int)
    # special tokens that occur in no text may lack an embedding; the one put before every prompt may not
    harmless = set(tokenizer.all_special_tokens) - {tokenizer.bos_token}
    used = {number: token for token, number in tokenizer.get_vocab().items() if token not in harmless} | {
        pad: "padding"
    }
    without_embedding = [number for number in used if not 0 <= number < rows]
    if without_embedding:
        raise BaseModelError(
            f"base_model.name: {name}: the tokenizer has {len(without_embedding)} tokens beyond the model's {rows} embeddings, such as "
            f"{used[max(without_embedding)][:40]!r} with id {max(without_embedding)}",
            remedy="Use the tokenizer that belongs to the model, or resize the embeddings (resize_token_embeddings) and save it.",
        )
    return pad, ends


@contextlib.contextmanager
def memory_is_evidence(doing: str) -> Iterator[None]:
    """Turn every form of out-of-memory error into `Infeasible`.

    Args:
        doing: What runs within, for the message: "loading", "training" or "generation".
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not is_memory and not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise Infeasible("out-of-memory", f"{doing} ran out of memory: {first}") from None


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: allocated on the GPU, or resident in this process when `device` is the CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
