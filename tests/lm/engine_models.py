"""The jobs that tests do on small models (tests/lm/small_models.py), and requests for them."""

from pathlib import Path
from typing import Any

from coral_core.config.tree import BaseModelConfig, GenerationConfig, ProblemsConfig, TrainingConfig
from coral_core.genome import GREEDY, HeavyGenes, LightGenes
from coral_core.jobs.jobs import TrainingJob
from coral_core.lm.requests import AdapterFolder, Entry, GenerationRequest, TrainingRequest

SHAPE = GenerationConfig(batch_size=2, prompt_length=16)
SHORT = GREEDY.model_copy(update={"token_limit": 6})
TEXTS = [("a", "def add(a, b):"), ("b", "for x in xs:"), ("c", "return")]
PAIRS = [("def f(a):", "return a + 1"), ("if a == b:", "if a != b:")]
TARGETS: dict[str, tuple[str, ...]] = {
    "llama": ("lm_head", "down_proj"),
    "llama-tied": ("lm_head", "q_proj"),
    "qwen2-tied": ("k_proj", "lm_head", "v_proj"),
    "gpt2": ("lm_head",),
    "coral-tiny": ("o_proj", "q_proj"),
}
"""Models, and modules that adapters target in them; heads among them."""


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
    folder = None if adapter is None else AdapterFolder.model_validate({"folder": adapter, "heavy": heavy})
    entry = Entry(adapter=folder, light=light, samples=changes.pop("samples", 1), seed=changes.pop("seed", 1))
    return GenerationRequest(entries=(entry,), prompts=tuple(map(tuple, prompts)), **{"shape": SHAPE} | changes)
