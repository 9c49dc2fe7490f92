"""Requests to an engine and its answers. All are plain JSON, so that they can cross a pipe."""

from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from coral_core.config.tree import GenerationConfig
from coral_core.frozen import Frozen
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.jobs.jobs import Cost, TrainingJob


class TrainingRequest(Frozen):
    """Train an adapter and write it to a folder."""

    job: TrainingJob
    pairs: tuple[tuple[str, str], ...]
    """Prompts and answers."""
    add_bos: bool = True
    """Put the BOS token in front of a prompt that does not begin with it."""
    out: Path
    """An empty folder; becomes a PEFT folder."""


class AdapterFolder(Frozen):
    """A trained adapter."""

    folder: Path
    """A PEFT folder."""
    heavy: HeavyGenes
    """The genes that it was trained with. A folder that is anything else is refused."""
    is_given: bool = False
    """It was not trained here: its weights may be in half precision too, which is widened without loss."""


class GenerationRequest(Frozen):
    """Write completions for prompts."""

    adapter: AdapterFolder | None
    """None: the bare base model."""
    light: LightGenes
    prompts: tuple[tuple[str, str], ...]
    """Problem ids and texts."""
    samples: int = 1
    """Completions per prompt."""
    seed: int
    shape: GenerationConfig
    stop: tuple[str, ...] = ()
    """Texts that end a completion."""
    end: str = ""
    """Text of a token that ends a completion, beside the model's own end tokens."""
    add_bos: bool = True
    """Put the BOS token in front of a prompt that does not begin with it."""
    prefix: str = ""
    """Text with which the prompts begin, if they have one in common by their template. It is read once; changes no completion
    but for rounding."""


Done = Callable[[int, tuple[str, ...]], None]
"""Called with the number of a prompt, from 0, and its completions, one per sample, as soon as they are written."""


class FinishedPrompt(Frozen):
    """A part of the answer to a `GenerationRequest`: all completions of one prompt."""

    index: int = Field(ge=0)
    """Number of the prompt in the request, from 0."""
    completions: tuple[str, ...]
    """One per sample."""


class Generated(Frozen):
    """The answer to a `GenerationRequest`."""

    completions: tuple[tuple[str, ...], ...]
    """For each prompt, one per sample."""
    cost: Cost
