"""What is refused before a server, an engine or a cent: paths, plug-ins, leaks, prompts that do not fit."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from coral_core.config import RunConfig, check_paths
from coral_core.errors import BaseModelError, ConfigError
from coral_core.lm.base import is_rehearsal, local_path
from coral_core.plan import problem_set, prompt_template
from coral_core.repair.guard import guard
from coral_core.scoring.plugins import objective_versions


def preflight(config: RunConfig) -> None:
    """Refuse a run that cannot end well. Cheap when called again: the problem set is kept.

    Raises:
        ConfigError: a path that cannot work, an objective's plug-in that cannot be used, a leak that is not accepted, or a prompt of more tokens than
            ``generation.prompt_length``.
        ProblemError: the problem source cannot be used.
        BaseModelError: the base model is a directory that is not one.
    """
    check_paths(config)
    objective_versions(config.scoring)
    guard(problem_set(config.problems), config.problems)
    _check_prompts(config)


def _check_prompts(config: RunConfig) -> None:
    """The engine checks this too, but only when a split's turn comes: the held-out one's at the very end."""
    problems = problem_set(config.problems)
    everything = [*problems.fitness, *problems.monitor, *problems.held_out]
    template = prompt_template(config)
    lengths = token_counts(config, [template.prompt(problem.buggy) for problem in everything])
    longest = max(range(len(lengths)), key=lengths.__getitem__, default=None)
    room = config.generation.prompt_length
    if longest is not None and lengths[longest] > room:
        count = sum(length > room for length in lengths)
        raise ConfigError(
            f"generation.prompt_length: {room}: {count} of {len(lengths)} prompts are longer, up to {lengths[longest]} tokens "
            f"({everything[longest].problem_id}, base model {config.base_model.name}). Set generation.prompt_length to {lengths[longest]}."
        )


def token_counts(config: RunConfig, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, as the engine counts them; empty where the base model's tokenizer is not on this machine."""
    if is_rehearsal(config.base_model):
        return []
    file = _tokenizer_file(config)
    if file is None or find_spec("tokenizers") is None:  # it comes with transformers, which only lanes need
        return []
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    bos = _bos(file.parent, tokenizer)
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [len(e.ids) + (bos is not None and e.ids[:1] != [bos]) for e in encoded]


def _tokenizer_file(config: RunConfig) -> Path | None:
    """tokenizer.json of the base model, where it is on this machine."""
    try:
        folder = local_path(config.base_model)
    except BaseModelError:
        if config.infra.executor == "work-pools":  # it may be on the lanes' machines alone: they are asked first
            return None
        raise
    if folder is None:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(config.base_model.name, "tokenizer.json", revision=config.base_model.revision)
        return Path(cached) if isinstance(cached, str) else None
    return folder / "tokenizer.json" if (folder / "tokenizer.json").is_file() else None


def _bos(folder: Path, tokenizer: object) -> int | None:
    """Id of the beginning mark that the engine adds where a prompt does not begin with it."""
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return None
    mark = json.loads(file.read_text()).get("bos_token")
    text = mark.get("content") if isinstance(mark, dict) else mark
    return tokenizer.token_to_id(text) if isinstance(text, str) else None  # type: ignore[attr-defined]
