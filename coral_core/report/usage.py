"""The code of a model card: loads base model and adapter with plain transformers and PEFT, and writes the engine's tokens.

What the engine does beyond the defaults of `generate` is spelt out: the beginning mark is put before every prompt, all end
tokens end, the adapter is merged, and a repetition penalty passes over end tokens. With sampling the random numbers are
others, so the texts are too. Not covered: other devices, on which the last bits may differ.
"""

from pathlib import Path
from typing import NamedTuple

from coral_core.config.tree import BaseModelConfig
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.lm.architecture import HEAD, table
from coral_core.lm.base_model import TINY_NAME
from coral_core.prompting.templates import template_for

EXAMPLE = "def largest(a, b):\n    return a if a < b else b"
_HEADS = {str(known["head"]) for known in table().values() if "head" in known} | set(HEAD)


class Base(NamedTuple):
    """The base model as a reader of the card can find it."""

    name: str
    """A whole path, a name on the hub, or coral-tiny."""
    revision: str | None
    """Commit on the hub."""
    content_id: str
    attention: str


def base_of(name: str, content_id: str, numerics_class: str) -> Base:
    """The base model of a run.

    Args:
        name: As the adapter's own configuration has it, from any folder: a whole path, a name on the hub, or coral-tiny.
        content_id: Of the run: the commit of a model on the hub.
        numerics_class: Of the run; it names the attention implementation where that is not sdpa.
    """
    is_hub = name != TINY_NAME and not Path(name).is_absolute()
    attention = "eager" if "eager attention" in numerics_class else "sdpa"
    return Base(name, content_id if is_hub else None, content_id, attention)


def loading_code(
    base: Base, config: BaseModelConfig, heavy: HeavyGenes, light: LightGenes, adapter: str = "champion"
) -> str:
    """Python code that loads the adapter in the folder `adapter` and repairs one function."""
    tiny = base.name == TINY_NAME
    revision = f", revision={base.revision!r}" if base.revision else ""
    prompt = template_for(config.name, config.prompt)
    penalised = light.repetition_penalty != 1
    more = ", stop_strings=list(form.stop), tokenizer=tokenizer" if prompt.stop else ""
    more += ", logits_processor=[Penalty()]" if penalised else ""
    lines = [
        "import torch",
        "from peft import PeftModel",
        f"from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig{', LogitsProcessor' if penalised else ''}",
        "",
        *(["from coral_core.lm.base_model import TINY  # the embedded base model: an ordinary Hugging Face folder"] if tiny else []),
        "from coral_core.prompting.templates import template",
        "",
        f"base = {'str(TINY)' if tiny else repr(base.name)}",
        f"tokenizer = AutoTokenizer.from_pretrained(base{revision})",
        "model = AutoModelForCausalLM.from_pretrained(",
        f'    base{revision}, dtype=torch.{config.dtype}, attn_implementation="{base.attention}"',
        ")",
        "named = (tokenizer.eos_token_id, model.config.eos_token_id, model.generation_config.eos_token_id)",
        "ends = {token for given in named for token in (given if isinstance(given, list) else [given]) if token is not None}",
        *_untied(heavy),
        f"model = PeftModel.from_pretrained(model, {adapter!r}).merge_and_unload().eval()  # this folder",
        "model.generation_config = GenerationConfig(  # none of the base model's own settings",
        "    eos_token_id=sorted(ends),",
        "    pad_token_id=min(ends) if tokenizer.pad_token_id is None else tokenizer.pad_token_id,",
        *(f"    {key}={value!r}," for key, value in generation_settings(light).items()),
        ")",
        "",
        *(_penalty(light.repetition_penalty) if penalised else ()),
        f"buggy = {EXAMPLE!r}",
        f'form = template("{prompt.name}")',
        "ids = tokenizer.encode(form.prompt(buggy), add_special_tokens=False)",
        "if tokenizer.bos_token_id is not None and ids[:1] != [tokenizer.bos_token_id]:",
        "    ids = [tokenizer.bos_token_id, *ids]",
        "inputs = torch.tensor([ids])",
        f"output = model.generate(inputs, attention_mask=torch.ones_like(inputs){more})",
        "print(tokenizer.decode(output[0, len(ids):], skip_special_tokens=True, clean_up_tokenization_spaces=False))",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def generation_settings(light: LightGenes) -> dict[str, object]:
    """The light genes but the penalty under their names in transformers."""
    settings: dict[str, object] = {"do_sample": light.sampling, "max_new_tokens": light.token_limit}
    if light.sampling:
        settings |= {"temperature": light.temperature, "top_p": light.top_p, "top_k": light.top_k}
    return settings


def _untied(heavy: HeavyGenes) -> list[str]:
    """Merging into an output head must leave an input embedding of the same weights alone."""
    if not set(heavy.target_modules) & _HEADS:
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
