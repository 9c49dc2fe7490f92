"""Small models with random weights and coral-tiny's tokenizer, as folders; and the jobs that tests do on them."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from coral_core.config.tree import BaseModelConfig, GenerationConfig, ProblemsConfig, TrainingConfig
from coral_core.genome import GREEDY, HeavyGenes, LightGenes
from coral_core.jobs.jobs import TrainingJob
from coral_core.lm.requests import AdapterFolder, GenerationRequest, TrainingRequest

TINY = Path(__file__).parents[2] / "coral_core" / "lm" / "tiny"
SHAPE = GenerationConfig(batch_size=2, prompt_length=16)
SHORT = GREEDY.model_copy(update={"token_limit": 6})
TEXTS = [("a", "<bos>def add(a, b):"), ("b", "<bos>for x in xs:<sep>"), ("c", "<bos>return")]
PAIRS = [("<bos>def f(a):<sep>", "return a + 1<eos>"), ("<bos>if a == b:<sep>", "if a != b:<eos>")]

_SIZES = {"vocab_size": 768, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
_MARKS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
MODELS: dict[str, tuple[str, ...]] = {
    "llama-tied": ("lm_head", "q_proj"),
    "llama-untied": ("lm_head", "down_proj"),
    "qwen2-biases": ("k_proj", "lm_head", "v_proj"),
    "gpt2-tied": ("lm_head",),
    "tiny": ("o_proj", "q_proj"),
}
"""Architectures, and modules that adapters target in them."""


def build(name: str, folder: Path) -> Path:
    """Write the model called `name` to `folder`; the same bits each time."""
    if name == "tiny":
        return TINY
    torch.manual_seed(7)
    model: Any
    if name.startswith("llama"):
        tied = name == "llama-tied"
        model = LlamaForCausalLM(
            LlamaConfig(**_SIZES, **_HEADS, **_MARKS, tie_word_embeddings=tied, initializer_range=0.3)
        )
    elif name.startswith("qwen2"):
        model = Qwen2ForCausalLM(
            Qwen2Config(**_SIZES, **_HEADS, **_MARKS, tie_word_embeddings=True, initializer_range=0.3)
        )
    else:
        sizes = {"vocab_size": 768, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
        model = GPT2LMHeadModel(GPT2Config(**sizes, **_MARKS, initializer_range=0.3))
    # transformers sets the row of the padding token to zero: as a row of a tied head it has no direction, and DoRA gives NaN
    torch.nn.init.normal_(model.get_input_embeddings().weight.data[0], std=0.3)
    model.save_pretrained(folder)
    for file in TINY.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def job(folder: Path, modules: tuple[str, ...], **changes: Any) -> TrainingJob:
    """A training of two steps with a learning rate that shows in the text."""
    genes = {"rank": 4, "alpha": 32, "dropout": 0.1, "adapter": "lora", "learning_rate": 0.05}
    return TrainingJob(
        heavy=HeavyGenes.model_validate(genes | changes | {"target_modules": modules}),
        base_model=BaseModelConfig(name=str(folder)),
        base_content_id="test",
        numerics_class="test",
        recipe=TrainingConfig(steps=2, warmup=0, batch_size=2),
        recipe_version="1",
        problems=ProblemsConfig(),
        pairs_digest="test",
        prompt_version="1",
        run_seed=1,
    )


def training(job: TrainingJob, pairs: Any, out: Path) -> TrainingRequest:
    """A request to train on `pairs` of prompt and answer."""
    return TrainingRequest(job=job, pairs=tuple(map(tuple, pairs)), out=out)


def writing(
    adapter: Path | None, heavy: HeavyGenes | None, light: LightGenes = SHORT, prompts: Any = TEXTS, **changes: Any
) -> GenerationRequest:
    """A request for completions of `prompts`; with `adapter`, which was trained with `heavy`."""
    settings = {"samples": 1, "seed": 1, "shape": SHAPE} | changes
    folder = None if adapter is None else AdapterFolder.model_validate({"folder": adapter, "heavy": heavy})
    return GenerationRequest(adapter=folder, light=light, prompts=tuple(map(tuple, prompts)), **settings)
