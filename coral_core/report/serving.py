"""The part of a model card that says how to serve an adapter: vLLM's command for LoRA, a merged model for everything else.

vLLM loads a LoRA as PEFT wrote it, in its list of ranks (`MaxLoRARanks` of vllm/config/lora.py), on linear modules of the
layers. It has no DoRA: an engine that is given one ends. Its kernels round in another order than the engine that scored the
adapter, so that a text may differ where two tokens are nearly equally likely.
"""

import shlex

from coral_core.config.tree import BaseModelConfig
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.lm.architecture import EXPERTS
from coral_core.lm.base_model import TINY_NAME
from coral_core.lm.vllm_interpreter import LORA_RANKS
from coral_core.prompting.templates import PromptTemplate
from coral_core.report.usage import HEADS, Base, fenceless

VLLM_RANKS = LORA_RANKS
"""Values of vLLM's --max-lora-rank; an adapter is served with the smallest that is not below its rank."""


def why_unserved(config: BaseModelConfig, heavy: HeavyGenes) -> str:
    """Why vLLM cannot serve an adapter beside its base model; empty when it can.

    Args:
        config: The base model; vLLM quantises in its own way.
        heavy: Heavy genes of the adapter.

    Example:
        >>> from coral_core.genome import DEFAULT_LORA
        >>> why_unserved(BaseModelConfig(), DEFAULT_LORA)
        ''
    """
    if config.quantization != "none":
        return (
            f"the adapter was scored on a base in 4 bits ({config.quantization}), which vLLM would make in another way"
        )
    if heavy.adapter == "dora":
        return "vLLM does not load DoRA"
    if heavy.rank > VLLM_RANKS[-1]:
        return f"vLLM loads ranks up to {VLLM_RANKS[-1]}, and this adapter has {heavy.rank}"
    if beyond := [name for name in heavy.target_modules if name in HEADS or name.startswith(f"{EXPERTS}.")]:
        return f"vLLM's LoRA is for linear modules of the layers, and this adapter is on {beyond[0]} too"
    return ""


def vllm_command(base: Base, heavy: HeavyGenes, name: str) -> str:
    """The command that serves base model and LoRA, one option a line.

    Args:
        base: The base model.
        heavy: Heavy genes of the adapter; `why_unserved` is empty for it.
        name: Name of the adapter's folder, which is also the name of the served model.
    """
    tiny = '"$(python -c "from coral_core.lm.base_model import TINY; print(TINY)")"'
    options = [
        f"vllm serve {tiny if base.name == TINY_NAME else shlex.quote(base.name)}",
        *([f"--revision {base.revision}"] if base.revision else []),
        f"--dtype {base.dtype}",
        "--enable-lora",
        f"--max-lora-rank {next(rank for rank in VLLM_RANKS if rank >= heavy.rank)}",
        f"--lora-modules {name}=./{name}",
    ]
    return " \\\n    ".join(options)


def serving_text(
    base: Base,
    config: BaseModelConfig,
    prompt: PromptTemplate,
    heavy: HeavyGenes,
    light: LightGenes,
    name: str,
    run_id: str,
    genome_id: str,
) -> str:
    """The section "How to serve it" of an adapter's card.

    Args:
        base: The base model.
        config: The run's section `base_model`.
        prompt: The run's prompt template.
        heavy: Heavy genes of the adapter.
        light: Light genes: the decoding that the request repeats.
        name: Name of the adapter's folder.
        run_id: The run, for the command that merges.
        genome_id: The genome, for the same command.
    """
    head, reason = "## How to serve it", why_unserved(config, heavy)
    if config.quantization != "none":
        return f"{head}\n\nWith the code above: {reason}, and merging into 4-bit weights would round the sum again."
    if reason:
        merged = f"{name}-merged"
        return (
            f"{head}\n\nMerged into its base: {reason}.\n\n```bash\n"
            f"coral export {shlex.quote(run_id)} --genome {genome_id} --merge {merged}\n"
            f"vllm serve ./{merged} --dtype {base.dtype}\n```"
        )
    return (
        f"{head}\n\nIn the folder that holds `{name}`:\n\n```bash\n{vllm_command(base, heavy, name)}\n```\n\n"
        "Ask it for completions of the token ids of the code above; a chat endpoint would wrap them in a template again:\n\n"
        f"```python\n{request_code(prompt, light, name)}```"
    )


def request_code(prompt: PromptTemplate, light: LightGenes, model: str) -> str:
    """Python code that asks a server of vLLM on this machine for one completion of `ids`, which ends at `ends`.

    Args:
        prompt: Gives the texts that end a completion.
        light: The decoding.
        model: Name of the served model.
    """
    body: dict[str, object] = {"model": model, "max_tokens": light.token_limit, "temperature": 0.0}
    if light.sampling:
        body |= {"temperature": light.temperature, "top_p": light.top_p, "top_k": light.top_k or -1}
    if light.repetition_penalty != 1:
        body["repetition_penalty"] = light.repetition_penalty
    if prompt.stop:
        body["stop"] = list(prompt.stop)
    return "\n".join([
        "import json",
        "import urllib.request",
        "",
        f"body = {fenceless(body)} | {{'prompt': ids, 'stop_token_ids': sorted(ends)}}",
        'address, kind = "http://localhost:8000/v1/completions", {"Content-Type": "application/json"}',
        "request = urllib.request.Request(address, json.dumps(body).encode(), kind)",
        'print(json.load(urllib.request.urlopen(request))["choices"][0]["text"])',
    ]) + "\n"  # fmt: skip
