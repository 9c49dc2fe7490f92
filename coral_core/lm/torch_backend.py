"""Training and generation with a real model, on one torch thread."""

import os

import torch

from coral_core.config.tree import BaseModelConfig
from coral_core.jobs.jobs import TrainedAdapter
from coral_core.lm.engine_environment import DETERMINISTIC
from coral_core.lm.generation import Done, generate
from coral_core.lm.loaded_model import LoadedModel, memory_is_evidence
from coral_core.lm.requests import Generated, GenerationRequest, TrainingRequest
from coral_core.lm.training import train_adapter


class TorchBackend(LoadedModel):
    """A loaded base model that trains adapters and generates completions.

    Args:
        config: As for `LoadedModel`.

    Raises:
        Infeasible: memory ran out while the model was loaded.
        BaseModelError: as `LoadedModel`.
        EngineError: as `LoadedModel`.
    """

    def __init__(self, config: BaseModelConfig) -> None:
        for name, value in DETERMINISTIC.items():
            os.environ.setdefault(
                name, value
            )  # already set in an engine process; in the caller's, before CUDA reads them
        _set_up()
        with memory_is_evidence("loading"):
            super().__init__(config)

    def train(self, request: TrainingRequest) -> TrainedAdapter:
        """Train an adapter; see `coral_core.lm.training.train_adapter`."""
        _set_up()
        return train_adapter(self, request)

    def generate(self, request: GenerationRequest, done: Done | None = None) -> Generated:
        """Write completions; see `coral_core.lm.generation.generate`."""
        _set_up()
        return generate(self, request, done)


def _set_up() -> None:
    """Set the process-wide options of torch that change results; called before each request."""
    torch.set_num_threads(1)  # one lane per core: two threads per lane are three times slower
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
