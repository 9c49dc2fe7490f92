"""What the engine does with a real model: training and generation on one torch thread."""

import os
from pathlib import Path

import torch

from coral_core.config.tree import BaseModelConfig, GenerationConfig
from coral_core.genome import LightGenes
from coral_core.jobs import TrainedAdapter, TrainingJob
from coral_core.lm.environment import DETERMINISTIC
from coral_core.lm.generation import generate
from coral_core.lm.model import LoadedModel
from coral_core.lm.training import peak_memory_mb, train_adapter


class TorchBackend:
    """A loaded base model and the two things done with it."""

    def __init__(self, config: BaseModelConfig) -> None:
        for (
            name,
            value,
        ) in DETERMINISTIC.items():  # an engine process has them; in a caller's process CUDA reads them late
            os.environ.setdefault(name, value)
        torch.set_num_threads(1)  # one lane per core: two threads per lane are three times slower (docs/tiny-model)
        torch.use_deterministic_algorithms(True, warn_only=True)
        self._base = LoadedModel(config)
        self.identity = self._base.identity

    def train(self, job: TrainingJob, pairs: list[tuple[str, str]], out: Path) -> TrainedAdapter:
        return train_adapter(self._base, job, pairs, out)

    def generate(
        self,
        adapter: Path | None,
        light: LightGenes,
        prompts: list[tuple[str, str]],
        samples: int,
        seed: int,
        shape: GenerationConfig,
        stop: list[str],
    ) -> tuple[list[list[str]], int, float]:
        """Completions per prompt, tokens generated, peak memory in MB."""
        completions, tokens = generate(self._base, adapter, light, prompts, samples, seed, shape, stop)
        return completions, tokens, peak_memory_mb(self._base.device)
