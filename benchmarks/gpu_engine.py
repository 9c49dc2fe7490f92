"""On a GPU: tokens per second of an engine against one prompt at a time, and planned against allocated device memory.

The base model has the shape of CodeLlama-7B, random bfloat16 weights and the tokenizer of coral-tiny. Random weights rarely write an end
token, so each answer is as long as it may be. One engine process loads the model, generates in batches and one by one, and trains a LoRA
for a few steps. Made for one run of less than eight minutes on a machine with one GPU, 20 GB of disk and 32 GB of memory; prints one line
of JSON and writes it to ``--out``. ``--shape tiny --device cpu`` tries the program itself; device memory is then not compared.

    python -m benchmarks.gpu_engine --out gpu_engine.json
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from coral_core.config import RunConfig
from coral_core.genome import DEFAULT_LORA, GREEDY
from coral_core.jobs.jobs import Cost, TrainingJob
from coral_core.lm.base_model import TINY
from coral_core.lm.engine_client import EngineProcess
from coral_core.lm.memory_plan import CUDA_CONTEXT, plan_memory
from coral_core.lm.model_files import read_folder
from coral_core.lm.requests import Entry, GenerationRequest, TrainingRequest

SHAPES = {
    "7b": {"vocab_size": 32_016, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "tiny": {"vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
}  # fmt: skip
SECONDS = 400.0


def save_model(folder: Path, shape: str, device: str) -> None:
    """Write a Llama of `shape` with random bfloat16 weights, which are drawn on `device`."""
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=4096, pad_token_id=0, bos_token_id=1, eos_token_id=3)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    for file in TINY.glob("tokenizer*"):
        shutil.copy(file, folder)


def configuration(folder: Path, device: str, rows: int, length: int, limit: int) -> RunConfig:
    """The configuration that the plan is made for: the genes of the default LoRA, greedy answers."""
    return RunConfig.model_validate({
        "base_model": {"name": str(folder), "dtype": "bfloat16", "device": device, "prompt": "instruct"},
        "genes": {
            "heavy": {"rank": [8], "alpha": [16], "dropout": [0.0], "target_modules": ["attention"], "adapter": ["lora"], "learning_rate": [2e-4]},
            "light": {"token_limit": {"low": limit, "high": limit}, "sampling": [False]},
        },
        "search": {"strategy": "random"},
        "training": {"steps": 4, "warmup": 0, "batch_size": 4, "sequence_length": length},
        "generation": {"batch_size": rows, "prompt_length": length},
    })  # fmt: skip


def measure(folder: Path, device: str, rows: int, length: int, limit: int) -> dict[str, Any]:
    """Generate in batches and one by one, and train, in one engine process."""
    config = configuration(folder, device, rows, length, limit)
    training, evaluation = plan_memory(config, read_folder(folder))
    text = "<bos>" + "x = x + 1\n" * length
    engine = EngineProcess()
    try:
        started = time.perf_counter()
        engine.load(config.base_model)
        loading = time.perf_counter() - started

        def generate(prompts: int, batch: int) -> Cost:
            shape = config.generation.model_copy(update={"batch_size": batch})
            words = tuple((str(n), text[:length]) for n in range(prompts))
            request = GenerationRequest(
                entries=(Entry(adapter=None, light=GREEDY.model_copy(update={"token_limit": limit}), seed=0),),
                prompts=words,
                shape=shape,
            )
            return engine.generate(request, SECONDS).only().cost

        generate(rows, rows)  # warms up
        batched, single = generate(2 * rows, rows), generate(2, 1)
        job = TrainingJob(
            heavy=DEFAULT_LORA, base_model=config.base_model, base_content_id="", numerics_class="", recipe=config.training,
            recipe_version="", problems=config.problems, pairs_digest="", prompt_version="", run_seed=0,
        )  # fmt: skip
        pairs = tuple(
            (text[: 3 * length // 4], text[: 3 * length // 4] + "<eos>") for _ in range(config.training.batch_size)
        )
        with tempfile.TemporaryDirectory() as out:
            trained = engine.train(TrainingRequest(job=job, pairs=pairs, out=Path(out)), SECONDS).cost
    finally:
        engine.close()

    def speed(cost: Cost) -> float:
        return round(cost.tokens / cost.seconds, 1)

    def memory(planned: int, cost: Cost) -> dict[str, float]:
        measured = cost.peak_memory_mb * 2**20
        return {
            "planned_gb": round(planned / 1e9, 2),
            "allocated_gb": round(measured / 1e9, 2),
            "ratio": round(planned / measured, 3),
        }

    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "load_seconds": round(loading, 1),
        "rows": rows,
        "tokens_per_second": {"batched": speed(batched), "one_by_one": speed(single), "training": speed(trained)},
        "batched_over_one_by_one": round(speed(batched) / speed(single), 2),
    }
    if device == "cuda":  # torch counts what it allocated, not the context
        found["memory"] = {
            "training": memory(training.device_bytes - CUDA_CONTEXT, trained),
            "evaluation": memory(evaluation.device_bytes - CUDA_CONTEXT, batched),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="7b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--limit", type=int, default=96)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_model(folder, options.shape, options.device)
        if options.device == "cuda":
            torch.cuda.empty_cache()
        found = measure(folder, options.device, options.rows, options.length, options.limit)
    print(json.dumps(found))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
