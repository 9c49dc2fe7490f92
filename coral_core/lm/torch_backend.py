"""What the engine does with a real model: training and generation on one torch thread."""

import os
from pathlib import Path

import torch

from coral_core.config.tree import BaseModelConfig, GenerationConfig
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.jobs.jobs import TrainedAdapter, TrainingJob
from coral_core.lm.engine_environment import DETERMINISTIC
from coral_core.lm.generation import generate
from coral_core.lm.loaded_model import LoadedModel, memory_is_evidence
from coral_core.lm.training import peak_memory_mb, train_adapter


class TorchBackend:
    """A loaded base model and the two things done with it."""

    def __init__(self, config: BaseModelConfig) -> None:
        for name, value in DETERMINISTIC.items():
            os.environ.setdefault(name, value)  # an engine process has them; in a caller's process CUDA reads them late
        _set_up()
        with memory_is_evidence("loading"):
            self._base = LoadedModel(config)
        self.identity = self._base.identity

    @property
    def checksum(self) -> str:
        """Over the base model as it was loaded."""
        return self._base.state.checksum

    def check(self) -> str:
        """The checksum of the base model in memory. Raises `BaseChangedError`: it is not what was loaded."""
        return self._base.state.check()

    def train(self, job: TrainingJob, pairs: list[tuple[str, str]], out: Path) -> TrainedAdapter:
        _set_up()
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
        heavy: HeavyGenes | None = None,
    ) -> tuple[list[list[str]], int, float]:
        """Completions per prompt, tokens generated, peak memory in MB."""
        _set_up()
        completions, tokens = generate(self._base, adapter, light, prompts, samples, seed, shape, stop, heavy)
        return completions, tokens, peak_memory_mb(self._base.device)


def _set_up() -> None:
    """Settings of torch that are global to the process and change bits: the same before each request."""
    torch.set_num_threads(1)  # one lane per core: two threads per lane are three times slower (docs/tiny-model)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
