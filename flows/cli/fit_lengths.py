"""Fits a configuration's lengths to its problems and base model, for `coral init --from`.

Functions that are outliers by length are left out (`problems.longest`), and so are those that the base model has no room for. Then prompt
length, sequence length and token limit are raised to what the remaining problems need, and rows at a time lowered to what fits into memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coral_core.config import RunConfig
from coral_core.evolution.preflight import token_counts
from coral_core.lm.architecture import positions
from coral_core.lm.base_model import is_rehearsal
from coral_core.lm.memory_plan import most_rows, plan_memory, room_of, too_large
from coral_core.lm.model_check import PAD_MULTIPLE, model_folder, prompt_seen
from coral_core.lm.model_files import read_folder
from coral_core.problem_sources.selection import longest_ordinary
from coral_core.problems.problem import ProblemSet

TINY_WARNING = (
    "coral-tiny knows short functions of its own families only: with it a run shows that everything works, and repairs few bugs of other code. "
    "For results name a code model: --base-model smollm2 (after coral model fetch smollm2)"
)


@dataclass(frozen=True)
class FunctionTexts:
    """A function by name, with the text that an answer repeats and those that prompts show."""

    name: str
    right: str
    shown: Sequence[str]

    @property
    def characters(self) -> int:
        """Length of its longest text."""
        return max(map(len, (self.right, *self.shown)))


class Longest(NamedTuple):
    """A bound on the length of functions.

    Attributes:
        bound: ``problems.longest``, in characters; None: all functions can be used.
        notes: A sentence on each reason, with the functions that it leaves out.
        without_room: Number of functions that the base model has no room for.
    """

    bound: int | None
    notes: list[str]
    without_room: int = 0


def longest_usable(
    config: RunConfig, functions: Sequence[FunctionTexts], leading: Sequence[FunctionTexts] = ()
) -> Longest:
    """The bound on the length of functions, for ``problems.longest``.

    Args:
        config: Names the base model.
        functions: All functions.
        leading: Those of them that are outliers only if they are so among themselves: fixes, beside many mutants.
    """
    notes: list[str] = []
    bound = longest_ordinary([function.characters for function in functions])
    if bound is not None and leading:
        characters = [function.characters for function in leading]
        bound = max(bound, longest_ordinary(characters) or max(characters))
    if bound is not None and bound >= max(function.characters for function in functions):
        bound = None
    if bound is not None:
        out = sorted((each for each in functions if each.characters > bound), key=lambda each: -each.characters)
        notes.append(f"{len(out)} left out, outliers by length (over {bound} characters): {_names(out)}")
    room = _positions(config)
    template = None if room is None else prompt_seen(config)
    if template is None or room is None:
        return Longest(bound, notes)
    # each bug beside the right text, which prompts show too (retention): `problems.longest` takes or leaves them so
    texts = sorted(
        ((max(len(each.right), len(shown)), each, shown) for each in functions for shown in each.shown),
        key=lambda text: text[0],
    )
    texts = [text for text in texts if bound is None or text[0] <= bound]
    bugs = token_counts(config, [template.prompt(shown) for _, _, shown in texts], template.add_bos)
    rights = token_counts(config, [template.prompt(each.right) for _, each, _ in texts], template.add_bos)
    prompts = list(map(max, bugs, rights))
    answers = token_counts(config, [template.answer(each.right) for _, each, _ in texts])
    kept = len(prompts)
    room -= room % PAD_MULTIPLE
    limit = config.genes.light.token_limit.high
    while kept and max(prompts[:kept]) + max(limit, *answers[:kept]) > room:
        kept -= 1
    if kept < len(prompts):
        bound = texts[kept][0] - 1
        usable = {each.name for length, each, _ in texts if length <= bound}
        out = sorted(
            {each.name: each for _, each, _ in texts if each.name not in usable}.values(), key=lambda e: -e.characters
        )
        notes.append(
            f"{len(out)} left out, too long for the {room} positions of {config.base_model.name} (over {bound} characters): {_names(out)}"
        )
        return Longest(bound, notes, len(out))
    return Longest(bound, notes)


def _names(functions: Sequence[FunctionTexts]) -> str:
    more = f" and {len(functions) - 8} more" if len(functions) > 8 else ""
    return ", ".join(f"{each.name} ({each.characters})" for each in functions[:8]) + more


def _positions(config: RunConfig) -> int | None:
    """Positions of the base model, where its files on this machine say."""
    folder = None if is_rehearsal(config.base_model) else model_folder(config)
    if folder is None:
        return None
    described = read_folder(folder).config
    nested = described.get("text_config")
    return positions(described) or (positions(nested) if isinstance(nested, dict) else None)


def lengths(config: RunConfig, problems: ProblemSet) -> dict[str, dict[str, object]] | None:
    """Length settings, in tokens, of which the problems need more than the default.

    Args:
        config: Names the base model.
        problems: The problems and training pairs.

    Returns:
        Section -> key -> value; None where the tokenizer of the base model is not on this machine.
    """
    template = prompt_seen(config)
    if template is None or (not is_rehearsal(config.base_model) and not token_counts(config, ["def f(): pass"])):
        return None
    everything = [*problems.fitness, *problems.monitor, *problems.held_out]
    prompts = token_counts(config, [template.prompt(problem.buggy) for problem in everything], template.add_bos)
    answers = token_counts(config, [template.answer(problem.reference) for problem in everything])
    pairs = token_counts(
        config, [template.prompt(p.buggy) + template.answer(p.fixed) for p in problems.pairs], template.add_bos
    )
    needed: dict[str, dict[str, object]] = {}
    if max(prompts, default=0) > config.generation.prompt_length:
        needed["generation"] = {"prompt_length": max(prompts)}
    room = _positions(config)
    sequence = max(pairs, default=0) if room is None else min(max(pairs, default=0), room - room % PAD_MULTIPLE)
    if sequence > config.training.sequence_length:
        needed["training"] = {"sequence_length": sequence}
    limit = config.genes.light.token_limit
    if max(answers, default=0) > limit.high:
        needed["genes"] = {"light": {"token_limit": {"low": limit.low, "high": max(answers)}}}
    return needed


def rows(config: RunConfig) -> dict[str, dict[str, object]]:
    """Rows at a time with which the jobs fit the memory of their lanes, where the configured ones do not.

    Args:
        config: With the lengths that the problems need.

    Returns:
        Section -> key -> value; empty where all fits, or where it is not known (base model not on this machine).
    """
    folder = None if is_rehearsal(config.base_model) else model_folder(config)
    if folder is None:
        return {}
    files = read_folder(folder)
    needed: dict[str, dict[str, object]] = {}
    training, evaluation = (too_large(job, room_of(config, job.queue)) for job in plan_memory(config, files))
    if training:
        for checkpointing in (config.training.checkpointing, True):
            changed = config.training.model_copy(update={"checkpointing": checkpointing})
            most = most_rows(config.model_copy(update={"training": changed}), files, "training")
            if most:
                needed["training"] = {"micro_batch": most, **({"checkpointing": True} if checkpointing else {})}
                break
    if evaluation and (most := most_rows(config, files, "evaluation")):
        needed["generation"] = {"batch_size": most}
    return needed
