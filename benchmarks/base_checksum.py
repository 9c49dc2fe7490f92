"""Cost of verifying after each job that the base model is bit for bit what was loaded, as a share of the job.

For coral-tiny with the jobs of the quickstart, and for a Llama of 135 million parameters with random weights
(30 layers, width 576, vocabulary 49,152, tied; float32, 538 MB), trained for 10 steps of 4 pairs and evaluated on 30 prompts
of 220 tokens, 150 tokens each. Processor time of one thread, as an engine has it: of the job in the engine (without the
judge), of the checksum, and of putting back what the job changed. Jobs of a search train longer, so their share is less.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.record import QUICKSTART, write
from coral_core.config import RunConfig, load_config
from coral_core.config.tree import BaseModelConfig, GenerationConfig, TrainingConfig
from coral_core.genome import DEFAULT_LORA, GREEDY
from coral_core.jobs.job_content import problem_set
from coral_core.jobs.jobs import TrainingJob
from coral_core.lm.base_model import TINY
from coral_core.lm.engine import TorchBackend
from coral_core.lm.requests import AdapterFolder, Entry, GenerationRequest, TrainingRequest
from coral_core.prompting.choice import resolve_prompt

REPEATS = 7


def large(folder: Path) -> Path:
    """A model with the shape of SmolLM2-135M and random weights, with coral-tiny's tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in TINY.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def seconds(call: Callable[[], Any]) -> float:
    """Processor seconds of `call`."""
    started = time.process_time()
    call()
    return time.process_time() - started


def measure(
    config: RunConfig, name: str, recipe: TrainingConfig, shape: GenerationConfig, prompts: int, tokens: int
) -> dict[str, Any]:
    """Processor seconds of a training, an evaluation, and of the checksum after each."""
    backend = TorchBackend(BaseModelConfig(name=name))
    problems, prompt = problem_set(config.problems), resolve_prompt(config.base_model, None)
    pairs = tuple((prompt.prompt(pair.buggy), prompt.answer(pair.fixed)) for pair in problems.pairs)
    texts = tuple((problem.problem_id, prompt.prompt(problem.buggy)) for problem in problems.fitness[:prompts])
    job = TrainingJob(
        heavy=DEFAULT_LORA,
        base_model=BaseModelConfig(name=name),
        base_content_id="benchmark",
        numerics_class="benchmark",
        recipe=recipe,
        recipe_version="benchmark",
        problems=config.problems,
        pairs_digest="benchmark",
        prompt_version=prompt.version,
        run_seed=0,
    )
    light = GREEDY.model_copy(update={"token_limit": tokens})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        writing = GenerationRequest(
            entries=(Entry(adapter=AdapterFolder(folder=out, heavy=job.heavy), light=light, seed=1),),
            prompts=texts,
            shape=shape,
            stop=prompt.stop,
        )
        jobs = {
            "training": seconds(lambda: backend.train(TrainingRequest(job=job, pairs=pairs, out=out))),
            "evaluation": seconds(lambda: backend.generate(writing)),
        }
    checks = [seconds(backend.check) for _ in range(REPEATS)]
    restores = [seconds(backend.loaded.state.restore) for _ in range(REPEATS)]
    check, restore = statistics.median(checks), statistics.median(restores)
    return {
        "parameters": backend.identity.parameters,
        "bytes": sum(p.numel() * p.element_size() for p in backend.loaded.model.parameters()),
        "checksum_seconds": round(check, 5),
        "checksum_seconds_worst": round(max(checks), 5),
        "restore_seconds": round(restore, 5),
        "job_seconds": {kind: round(value, 2) for kind, value in jobs.items()},
        "share_of_job": {kind: round(check / (check + value), 5) for kind, value in jobs.items()},
        "share_of_job_with_restore": {
            kind: round((check + restore) / (check + restore + value), 5) for kind, value in jobs.items()
        },
    }


def main() -> None:
    config = load_config(QUICKSTART)
    tiny = measure(
        config,
        "coral-tiny",
        config.training,
        config.generation,
        len(problem_set(config.problems).fitness),
        config.genes.light.token_limit.high,
    )
    with tempfile.TemporaryDirectory() as folder:
        recipe = TrainingConfig(steps=10, warmup=1, batch_size=4)
        shape = GenerationConfig(batch_size=8, prompt_length=220)
        llama = measure(config, str(large(Path(folder))), recipe, shape, 30, 150)
    for name, found in (("coral-tiny", tiny), ("llama-135m", llama)):
        print(
            f"{name}: {found['checksum_seconds']} s, shares {found['share_of_job']}, with restore {found['share_of_job_with_restore']}"
        )
    write(
        "base_checksum",
        {"coral_tiny": tiny, "llama_135m": llama, "what": "share of processor time of a job in the engine"},
    )


if __name__ == "__main__":
    main()
