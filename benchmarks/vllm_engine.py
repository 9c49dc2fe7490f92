"""Tokens per CPU second of the torch engine and of vLLM on CPUs, side by side on SmolLM2 with one LoRA.

Both engines run at the same time, each on one thread, and answer the same prompts greedily after a warm-up; CPU seconds of all their
processes count, since other work of the machine does not change those much. Merging the LoRA is part of them. The LoRA has random weights.

    python -m benchmarks.vllm_engine --python /opt/vllm/bin/python
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import write
from coral_core.config import RunConfig
from coral_core.genome import GREEDY, HeavyGenes
from coral_core.jobs.job_content import problem_set
from coral_core.lm.base_model import identify, local_path
from coral_core.lm.engine_client import Engine, EngineProcess
from coral_core.lm.requests import AdapterFolder, Entry, GenerationRequest, Written
from coral_core.lm.vllm_client import VllmProcess
from coral_core.lm.vllm_interpreter import vllm_settings
from coral_core.prompting.choice import resolve_prompt

SECONDS = 3600.0
HEAVY = HeavyGenes(
    rank=8, alpha=16, dropout=0.0, target_modules=("k_proj", "o_proj", "q_proj", "v_proj"), adapter="lora", learning_rate=2e-4
)  # fmt: skip


def random_adapter(config: RunConfig, folder: Path) -> AdapterFolder:
    """A LoRA whose random weights change what the model writes, as PEFT saves it."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from coral_core.lm.adapters import lora_config

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(str(local_path(config.base_model)), dtype=torch.float32)
    model = get_peft_model(base, lora_config(HEAVY))
    for name, tensor in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor, std=0.01)
    model.save_pretrained(folder)
    return AdapterFolder(folder=folder, heavy=HEAVY)


def configuration(options: argparse.Namespace) -> RunConfig:
    return RunConfig.model_validate({
        "base_model": {"name": options.model, "dtype": options.dtype},
        "problems": {"fitness": max(4, options.prompts), "retention": 0, "monitor": 4, "held_out": 4, "pairs": 8},
        "generation": {"engine": "vllm", "batch_size": options.rows, "prompt_length": 400},
        "genes": {"light": {"token_limit": {"low": options.limit, "high": options.limit}}},
        "infra": {"evaluation": {"python": options.python}},
    })  # fmt: skip


def measured(engine: Engine, config: RunConfig, request: GenerationRequest) -> tuple[dict[str, Any], Written]:
    """What an engine needed for a request, after two prompts to warm up."""
    try:
        started = time.perf_counter()
        identity = engine.load(config.base_model)
        loading = time.perf_counter() - started
        engine.generate(request.model_copy(update={"prompts": request.prompts[:2]}), SECONDS)
        written = engine.generate(request, SECONDS).only()
    finally:
        engine.close()
    cost = written.cost
    return {
        "numerics_class": identity.numerics_class,
        "load_seconds": round(loading, 1),
        "tokens": cost.tokens,
        "cpu_seconds": round(cost.cpu_seconds, 2),
        "tokens_per_cpu_second": round(cost.tokens / cost.cpu_seconds, 2),
        "peak_memory_mb": round(cost.peak_memory_mb),
    }, written


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Both engines at the same time on the same request."""
    config = configuration(options)
    settings = vllm_settings(config)
    assert settings is not None
    prompt = resolve_prompt(config.base_model, identify(config.base_model).chat)
    problems = problem_set(config.problems).fitness[: options.prompts]
    request = GenerationRequest(
        entries=(
            Entry(
                adapter=random_adapter(config, scratch),
                light=GREEDY.model_copy(update={"token_limit": options.limit}),
                seed=0,
            ),
        ),
        prompts=tuple((problem.problem_id, prompt.prompt(problem.buggy)) for problem in problems),
        shape=config.generation,
        stop=prompt.stop,
        end=prompt.end,
        add_bos=prompt.add_bos,
        prefix=prompt.before,
    )
    engines: dict[str, Engine] = {"torch": EngineProcess(), "vllm": VllmProcess(settings)}
    with ThreadPoolExecutor(2) as pool:
        futures = {name: pool.submit(measured, engine, config, request) for name, engine in engines.items()}
        found = {name: future.result() for name, future in futures.items()}
    ours, theirs = found["torch"], found["vllm"]
    equal = sum(one == other for one, other in zip(ours[1].completions, theirs[1].completions, strict=True))
    return {
        "model": config.base_model.name,
        "dtype": config.base_model.dtype,
        "prompts": len(request.prompts),
        "batch_size": options.rows,
        "token_limit": options.limit,
        "torch": ours[0],
        "vllm": theirs[0],
        "equal_texts": equal,
        "torch_over_vllm": round(ours[0]["tokens_per_cpu_second"] / theirs[0]["tokens_per_cpu_second"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter of an environment with vLLM")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--name", default="vllm_engine", help="name of the result")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="coral-vllm-") as scratch:
        write(options.name, measure(options, Path(scratch)))


if __name__ == "__main__":
    main()
