"""Requests to an engine and its answers. All are plain JSON, so that they can cross a pipe."""

from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from coral_core.config.tree import GenerationConfig
from coral_core.frozen import Frozen
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.jobs.jobs import Cost, TrainingJob


class AdapterFolder(Frozen):
    """A trained adapter."""

    folder: Path
    """A PEFT folder."""
    heavy: HeavyGenes
    """The genes that it was trained with. A folder that is anything else is refused."""
    is_given: bool = False
    """It was not trained here: its weights may be in half precision too, which is widened without loss."""


class TrainingRequest(Frozen):
    """Train an adapter and write it to a folder."""

    job: TrainingJob
    warm_start: AdapterFolder | None = None
    """The adapter to go on with (`TrainingJob.warm_start`); None: a new one."""
    pairs: tuple[tuple[str, str], ...]
    """Prompts and answers."""
    add_bos: bool = True
    """Put the BOS token in front of a prompt that does not begin with it."""
    out: Path
    """An empty folder; becomes a PEFT folder."""


class Entry(Frozen):
    """What one genome asks of a request: an adapter, and how patches are written with it."""

    adapter: AdapterFolder | None
    """None: the bare base model."""
    light: LightGenes
    samples: int = Field(1, ge=1)
    """Completions per prompt."""
    seed: int
    """Seed of sampling."""


class GenerationRequest(Frozen):
    """Write completions for prompts, once per entry. Entries change no bit of each other's completions."""

    entries: tuple[Entry, ...] = Field(min_length=1)
    prompts: tuple[tuple[str, str], ...]
    """Problem ids and texts."""
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


Done = Callable[[int, int, tuple[str, ...]], None]
"""Called with the numbers of an entry and of a prompt, from 0, and the completions, one per sample, as soon as they are written."""


class FinishedPrompt(Frozen):
    """A part of the answer to a `GenerationRequest`: all completions of one entry for one prompt."""

    entry: int = Field(0, ge=0)
    """Number of the entry in the request, from 0."""
    index: int = Field(ge=0)
    """Number of the prompt in the request, from 0."""
    completions: tuple[str, ...]
    """One per sample."""


class Costs(Frozen):
    """The end of the answer to a `GenerationRequest`."""

    entries: tuple[Cost, ...]
    """Each entry's share: time by generated tokens, and the peak memory of the whole request."""


class Written(Frozen):
    """What was written for one entry."""

    completions: tuple[tuple[str, ...], ...]
    """For each prompt, one per sample."""
    cost: Cost


class Generated(Frozen):
    """The answer to a `GenerationRequest`."""

    entries: tuple[Written, ...]

    def only(self) -> Written:
        """What was written for a request with one entry."""
        (written,) = self.entries
        return written
