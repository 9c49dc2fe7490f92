"""Tries a base model on this machine: loads it, generates, trains two steps, generates with the adapter, and measures.

The model runs in an engine process, as in a lane, which compares the bits of the base model after each request with those
of its load. Not covered: memory and time of jobs of other sizes.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from coral_core.config import RunConfig
from coral_core.errors import EngineDiedError, EngineError
from coral_core.frozen import Frozen
from coral_core.genome import neutral
from coral_core.jobs.jobs import BaseModelIdentity, Cost, TrainingJob
from coral_core.lm.engine_client import EngineProcess
from coral_core.lm.requests import AdapterFolder, Entry, Generated, GenerationRequest, TrainingRequest
from coral_core.lm.targets import default_lora_of
from coral_core.lm.versions import RECIPE_VERSION
from coral_core.prompting.choice import resolve_prompt
from coral_core.prompting.templates import PromptTemplate

DEADLINE = 3600.0
"""Seconds for one request."""
Pair = tuple[str, str]


class Measured(Frozen):
    """One kind of request, measured."""

    tokens: int
    seconds: float
    tokens_per_second: float
    tokens_per_cpu_second: float
    peak_memory_mb: float
    """Of the engine since its start."""


class ModelTrial(Frozen):
    """What a trial of a base model measured on this machine."""

    numerics_class: str
    load_seconds: float
    generation: Measured
    """Greedy, by the bare base model; where an adapter was trained, when asked again: the first time shapes are tried as well."""
    training: Measured | None
    """Two steps of the default LoRA; None: not tried."""
    trainable_parameters: int
    losses: tuple[float, ...]
    answers: tuple[str, ...]
    """Of the bare base model, cut to the token limit."""
    adapted_answers: tuple[str, ...]
    """With the adapter of the trial; empty where none was trained."""
    base_unchanged: bool
    """After each request the base model was bit for bit what was loaded, and it repeats its answers."""


def try_model(config: RunConfig, buggy: Sequence[str], pairs: Sequence[Pair], train: bool = True) -> ModelTrial:
    """Run a base model once.

    Args:
        config: Base model, and the shapes of training and generation; the largest token limit of the genes is used.
        buggy: Functions that it is asked to repair.
        pairs: Buggy and fixed functions that an adapter is trained on.
        train: Whether an adapter is trained, and generated with.

    Returns:
        What was measured.

    Raises:
        BaseModelError: the model cannot be loaded or used.
        ConfigError: a length does not fit the model.
        Infeasible: no pair fits the sequence length, memory ran out, or the outputs are not finite.
        EngineError: the engine failed.
    """
    light = neutral(config.genes.light.token_limit.high)

    def request(adapter: AdapterFolder | None) -> GenerationRequest:
        return GenerationRequest(
            entries=(Entry(adapter=adapter, light=light, seed=0),),
            prompts=tuple((str(n), template.prompt(each)) for n, each in enumerate(buggy)),
            shape=config.generation,
            stop=template.stop,
            end=template.end,
            add_bos=template.add_bos,
        )

    engine = EngineProcess()
    try:
        started = time.perf_counter()
        identity = engine.load(config.base_model)
        template = resolve_prompt(config.base_model, identity.chat)
        load_seconds = time.perf_counter() - started
        bare = engine.generate(request(None), DEADLINE)
        trained = adapted = None
        last = bare
        if train:
            job = _job(config, identity, template)
            rendered = tuple((template.prompt(before), template.answer(after)) for before, after in pairs)
            with tempfile.TemporaryDirectory(prefix="coral-trial-") as folder:
                asked = TrainingRequest(job=job, pairs=rendered, out=Path(folder), add_bos=template.add_bos)
                trained = engine.train(asked, DEADLINE)
                adapted = engine.generate(request(AdapterFolder(folder=Path(folder), heavy=job.heavy)), DEADLINE)
            last = engine.generate(request(None), DEADLINE)
            if last.only().completions != bare.only().completions:
                raise EngineError(
                    f"{config.base_model.name}: after a training the bare base model gives other answers",
                    remedy="Report this: nothing that the engine measures with this model can be trusted.",
                )
    except EngineDiedError as error:
        raise EngineDiedError(
            f"base_model.name: {config.base_model.name}: {error.problem}",
            remedy="Most likely memory ran out: set base_model.dtype to bfloat16, or use a larger machine.",
        ) from None
    finally:
        engine.close()
    return ModelTrial(
        numerics_class=identity.numerics_class,
        load_seconds=load_seconds,
        generation=_measured(last.only().cost.model_copy(update={"peak_memory_mb": bare.only().cost.peak_memory_mb})),
        training=_measured(trained.cost) if trained else None,
        trainable_parameters=trained.trainable_parameters if trained else 0,
        losses=tuple(point.loss for point in trained.losses) if trained else (),
        answers=_texts(bare),
        adapted_answers=_texts(adapted) if adapted else (),
        base_unchanged=True,  # another base raises BaseChangedError
    )


def _job(config: RunConfig, identity: BaseModelIdentity, template: PromptTemplate) -> TrainingJob:
    """A training of the default LoRA with the recipe of `config`. Its result is thrown away, so it stands for no pairs."""
    return TrainingJob(
        heavy=default_lora_of(identity),
        base_model=config.base_model,
        base_content_id=identity.content_id,
        numerics_class=identity.numerics_class,
        recipe=config.training,
        recipe_version=RECIPE_VERSION,
        problems=config.problems,
        pairs_digest="",
        prompt_version=template.version,
        run_seed=0,
    )


def _measured(cost: Cost) -> Measured:
    return Measured(
        tokens=cost.tokens,
        seconds=cost.seconds,
        tokens_per_second=cost.tokens / cost.seconds if cost.seconds else 0.0,
        tokens_per_cpu_second=cost.tokens / cost.cpu_seconds if cost.cpu_seconds else 0.0,
        peak_memory_mb=cost.peak_memory_mb,
    )


def _texts(generated: Generated) -> tuple[str, ...]:
    return tuple(texts[0] for texts in generated.only().completions)
