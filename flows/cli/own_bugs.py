"""`coral init --from DIR`: finds functions of a directory that can become problems, and makes a configuration for them."""

from pathlib import Path

import yaml

from coral_core.config import RunConfig
from coral_core.config.config_file import parse_config
from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError
from coral_core.evolution.preflight import token_counts
from coral_core.jobs.job_content import problem_set
from coral_core.lm.model_check import prompt_seen
from coral_core.problem_sources.package.cache import Recording, recording_of
from coral_core.problem_sources.package.package_problems import SMALLEST, refuse_shortage, supply
from coral_core.problem_sources.package.splits import FunctionSplits, divide
from flows.cli.markup import echo, table, words

HEADER = """\
# CORAL-X on your own functions: their tests say what is right, bugs are made in them, adapters learn to repair those.
#   coral problems check package --config {file}
#   coral evolve {file}
#   coral config show {file}        every key with its default
"""


def configuration(directory: Path, file: Path) -> str:
    """Make a configuration for the functions of a directory, and print which of them can be used.

    Args:
        directory: Contains the functions and their tests, which are run.
        file: Path that the caller will write; its stem becomes the name of the configuration.

    Returns:
        YAML text with comments.

    Raises:
        ConfigError: There is no such directory, or it has too few usable functions.
        ProblemError: Its tests cannot be run.
    """
    path = str(directory)
    recording = recording_of(path)
    _print(recording)
    requested = ProblemsConfig(source="package", path=path)
    divided = divide(recording.usable, requested)
    try:
        refuse_shortage(path, recording, divided, {**SMALLEST, "monitor": 1})
    except ConfigError:  # too few for a monitor set: try without one
        requested = requested.model_copy(update={"monitor": 0})
        divided = divide(recording.usable, requested)
        refuse_shortage(path, recording, divided, SMALLEST)
    sizes = _sizes(requested, divided)
    overrides = ["problems.source=package", f"problems.path={path}"]
    overrides += [f"problems.{name}={count}" for name, count in sizes.items()]
    lengths = _lengths(parse_config("", "coral init", overrides))
    plan = {"problems": {"source": "package", "path": path, **sizes}, **lengths}
    echo(", ".join(f"{name} {count}" for name, count in sizes.items()))
    plain = (letter if letter.isascii() and letter.isalnum() else "-" for letter in file.stem.lower())
    name = "".join(plain).strip("-")[:63] or "own-bugs"
    body = {"name": name, "seed": 0, **plan, "base_model": {"name": "coral-tiny"}, "infra": {"executor": "local"}}
    return HEADER.format(path=path, file=file) + "\n" + yaml.safe_dump(body, sort_keys=False, width=110)


def _sizes(requested: ProblemsConfig, divided: FunctionSplits) -> dict[str, int]:
    """Sizes of the splits: the defaults, or fewer where the directory has too few functions."""
    most = supply(divided)
    sizes = {name: min(getattr(requested, name), count) for name, count in most.items()}
    return {name: max(count, SMALLEST.get(name, 0)) for name, count in sizes.items()}


def _lengths(config: RunConfig) -> dict[str, dict[str, object]]:
    """Length settings, in tokens, of which the functions need more than the default."""
    problems = problem_set(config.problems)
    template = prompt_seen(config)
    assert template is not None, "the built-in model is on every machine"
    everything = [*problems.fitness, *problems.monitor, *problems.held_out]
    prompts = token_counts(config, [template.prompt(problem.buggy) for problem in everything])
    answers = token_counts(config, [template.answer(problem.reference) for problem in everything])
    pairs = token_counts(config, [template.prompt(p.buggy) + template.answer(p.fixed) for p in problems.pairs])
    needed: dict[str, dict[str, object]] = {}
    if max(prompts, default=0) > config.generation.prompt_length:
        needed["generation"] = {"prompt_length": max(prompts)}
    if max(pairs, default=0) > config.training.sequence_length:
        needed["training"] = {"sequence_length": max(pairs)}
    limit = config.genes.light.token_limit
    if max(answers, default=0) > limit.high:
        needed["genes"] = {"light": {"token_limit": {"low": limit.low, "high": max(answers)}}}
    return needed


def _print(recording: Recording) -> None:
    bugs = sum(len(usable.bugs) for usable in recording.usable)
    echo(f"{recording.passed} tests passed; {len(recording.usable)} functions usable, with {bugs} bugs")
    if recording.usable:
        rows = [
            (usable.definition.key, len(usable.cases), usable.recorded, len(usable.bugs)) for usable in recording.usable
        ]
        echo(table(("<function", "cases", "recorded", "bugs"), rows))
    if recording.refused:
        echo(f"{len(recording.refused)} functions cannot be used:")
    echo(*(words(f"  {each.file}:{each.line} {each.name}: {each.reason}") for each in recording.refused))
    echo(*(words(f"note: {note}") for note in recording.notes))
