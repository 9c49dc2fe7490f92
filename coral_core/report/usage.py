"""The code of a model card: loads base model and adapter with transformers and PEFT (a merged model with transformers alone),
and generates the engine's tokens.

The code repeats what the engine does beyond the defaults of `generate`: it puts the BOS token before each prompt, stops
at any EOS token, merges the adapter, and leaves EOS tokens out of the repetition penalty. With sampling, random numbers
and therefore texts differ from the run's. Not covered: other devices, on which results may differ in the last bits.
"""

from pathlib import Path
from typing import NamedTuple, get_args

from coral_core.config.tree import BaseModelConfig
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.lm.architecture import HEAD, table
from coral_core.lm.base_model import TINY_NAME, Dtype
from coral_core.prompting.templates import PromptTemplate

EXAMPLE = "def largest(a, b):\n    return a if a < b else b"
HEADS = {str(known["head"]) for known in table().values() if "head" in known} | set(HEAD)
"""Names of output heads, over all architectures."""


class Base(NamedTuple):
    """The base model as a model card names it."""

    name: str
    """An absolute path, a name on the hub, or coral-tiny."""
    revision: str | None
    """Commit on the hub; None for a model that is not from the hub."""
    content_id: str
    """Commit on the hub, or hash of the model's files."""
    attention: str
    """`attn_implementation` of transformers: sdpa or eager."""
    dtype: str
    """Type of the weights, as torch names it."""


def base_of(name: str, content_id: str, numerics_class: str) -> Base:
    """The base model of a run.

    Args:
        name: The name in the adapter's own configuration: an absolute path, a name on the hub, or coral-tiny.
        content_id: The run's content id of the base model; for a model on the hub it is the commit.
        numerics_class: The run's numerics class; it names the dtype, and the attention implementation if that is not sdpa.
    """
    is_hub = name != TINY_NAME and not Path(name).is_absolute()
    attention = "eager" if "eager attention" in numerics_class else "sdpa"
    dtype = next((part for part in numerics_class.split("; ") if part in get_args(Dtype)), "float32")
    return Base(name, content_id if is_hub else None, content_id, attention, dtype)


def loading_code(
    base: Base,
    config: BaseModelConfig,
    prompt: PromptTemplate,
    heavy: HeavyGenes,
    light: LightGenes,
    adapter: str = "champion",
) -> str:
    """Python code that loads an adapter and repairs one function with it.

    Args:
        base: The base model.
        config: The run's section `base_model`: quantization.
        prompt: The run's prompt template.
        heavy: Heavy genes of the adapter.
        light: Light genes: the decoding that the code repeats.
        adapter: Folder of the adapter, as the code names it.

    Returns:
        A whole program, ready for a code block.
    """
    tiny = base.name == TINY_NAME
    revision = f", revision={base.revision!r}" if base.revision else ""
    quantised = config.quantization != "none"
    peft = f"PeftModel.from_pretrained(model, {adapter!r}){'' if quantised else '.merge_and_unload()'}.eval()  # this folder"
    lines = [
        "import torch",
        "from peft import PeftModel",
        _transformers(light, quantised),
        "",
        *(["from coral_core.lm.base_model import TINY  # the embedded base model: an ordinary Hugging Face folder"] if tiny else []),
        "",
        f"base = {'str(TINY)' if tiny else repr(base.name)}",
        f"tokenizer = AutoTokenizer.from_pretrained(base{revision})",
        *_quantised(config, base.dtype),
        "model = AutoModelForCausalLM.from_pretrained(",
        f'    base{revision}, dtype=torch.{base.dtype}, attn_implementation="{base.attention}"' + (", quantization_config=quantised" if quantised else ""),
        ")",
        *_unpacked(quantised),
        *_ends(prompt),
        *_untied(heavy),
        f"model = {peft}",
        *_generating(prompt, light),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def merged_loading_code(base: Base, prompt: PromptTemplate, light: LightGenes, folder: str) -> str:
    """Python code that loads a merged model with transformers alone and repairs one function with it.

    Args:
        base: The base model that the adapter was merged into; gives dtype and attention implementation.
        prompt: The run's prompt template.
        light: Light genes: the decoding that the code repeats.
        folder: Folder of the merged model, as the code names it.
    """
    lines = [
        "import torch",
        _transformers(light, quantised=False),
        "",
        f"folder = {folder!r}  # this folder",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f'model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.{base.dtype}, attn_implementation="{base.attention}").eval()',
        *_ends(prompt),
        *_generating(prompt, light),
    ]
    return "\n".join(lines) + "\n"


def _transformers(light: LightGenes, quantised: bool) -> str:
    names = ["AutoModelForCausalLM", "AutoTokenizer", "GenerationConfig"]
    names += ["BitsAndBytesConfig"] * quantised + ["LogitsProcessor"] * (light.repetition_penalty != 1)
    return f"from transformers import {', '.join(sorted(names))}"


def _ends(prompt: PromptTemplate) -> list[str]:
    """Code that collects all end tokens of model and tokenizer, and that which ends an answer of this prompt."""
    return [
        "named = (tokenizer.eos_token_id, model.config.eos_token_id, model.generation_config.eos_token_id)",
        "ends = {token for given in named for token in (given if isinstance(given, list) else [given]) if token is not None}",
        *_turn_end(prompt),
    ]


def _generating(prompt: PromptTemplate, light: LightGenes) -> list[str]:
    """Code that repairs the example with `model`, `tokenizer` and `ends`."""
    penalised = light.repetition_penalty != 1
    more = f", stop_strings={fenceless(list(prompt.stop))}, tokenizer=tokenizer" if prompt.stop else ""
    more += ", logits_processor=[Penalty()]" if penalised else ""
    return [
        "model.generation_config = GenerationConfig(  # none of the base model's own settings",
        "    eos_token_id=sorted(ends),",
        "    pad_token_id=min(ends) if tokenizer.pad_token_id is None else tokenizer.pad_token_id,",
        *(f"    {key}={value!r}," for key, value in generation_settings(light).items()),
        ")",
        "",
        *(_penalty(light.repetition_penalty) if penalised else ()),
        f"buggy = {EXAMPLE!r}",
        f"before, after = {fenceless(prompt.before)}, {fenceless(prompt.after)}",
        "ids = tokenizer.encode(before + buggy + after, add_special_tokens=False)",
        *(_BOS if prompt.add_bos else ()),
        "inputs = torch.tensor([ids], device=model.device)",
        f"output = model.generate(inputs, attention_mask=torch.ones_like(inputs){more})",
        "text = tokenizer.decode(output[0, len(ids):], skip_special_tokens=True, clean_up_tokenization_spaces=False)",
        *(f"text = text.split({fenceless(mark)})[0]" for mark in prompt.stop),
        "print(text)",
    ]  # fmt: skip


_BOS = (
    "if tokenizer.bos_token_id is not None and ids[:1] != [tokenizer.bos_token_id]:",
    "    ids = [tokenizer.bos_token_id, *ids]",
)


def fenceless(value: object) -> str:
    """`value` as a Python literal without three backquotes in a row, which would end the card's code block."""
    return repr(value).replace("```", "`\\x60`")


def _turn_end(prompt: PromptTemplate) -> list[str]:
    """Code that adds the token which ends an answer of this prompt to the end tokens."""
    if not prompt.end:
        return []
    return [f"ends.add(tokenizer.get_added_vocab()[{prompt.end!r}])  # ends an answer to this prompt"]


def generation_settings(light: LightGenes) -> dict[str, object]:
    """The light genes, without the repetition penalty, as arguments of transformers' `GenerationConfig`."""
    settings: dict[str, object] = {"do_sample": light.sampling, "max_new_tokens": light.token_limit}
    if light.sampling:
        settings |= {"temperature": light.temperature, "top_p": light.top_p, "top_k": light.top_k}
    return settings


def _quantised(config: BaseModelConfig, dtype: str) -> list[str]:
    """Code that loads the base in 4 bits, where the run did. Merging into them would change what the adapter does."""
    if config.quantization == "none":
        return []
    return [
        f'quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="{config.quantization}", bnb_4bit_compute_dtype=torch.{dtype})'
    ]


def _unpacked(quantised: bool) -> list[str]:
    """Code that keeps bitsandbytes from packing the weights of a CPU model anew, with other bits."""
    if not quantised:
        return []
    return ["for part in model.modules():", "    part.support_avx512bf16_for_cpu = False"]


def _untied(heavy: HeavyGenes) -> list[str]:
    """Code that unties the output head, so that merging an adapter of the head leaves the input embedding unchanged."""
    if not set(heavy.target_modules) & HEADS:
        return []
    return [
        "head = model.get_output_embeddings()",
        "head.weight = torch.nn.Parameter(head.weight.detach().clone())  # its own, where it is tied to the embedding",
    ]


def _penalty(value: float) -> list[str]:
    return [
        "",
        "class Penalty(LogitsProcessor):",
        '    """Repetition penalty on the tokens so far, end tokens left out: a prompt may hold them as marks."""',
        "",
        "    def __call__(self, ids, scores):",
        "        seen = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, ids, True)",
        "        seen[:, [token for token in ends if token < scores.shape[-1]]] = False",
        f"        return torch.where(seen, torch.where(scores > 0, scores / {value!r}, scores * {value!r}), scores)",
        "",
        "",
    ]
