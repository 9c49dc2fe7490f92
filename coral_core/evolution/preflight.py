"""Checks of a configuration before anything is started or spent: paths, names, base model, plug-ins, leaks, prompt lengths.

`check` is called by `coral config check`, by `coral evolve --dry-run` and by the preflight of every evolution, including
those that a schedule or the Prefect UI starts. It runs no foreign code (tests of a package, plug-ins, code of a base model),
uses no network, and does a bounded amount of work for every configuration. A base model's chat template is rendered in a process
with limits; no other process is started. It returns a list of what it
could not check for these reasons. `preflight` checks that as well; it runs when an evolution starts.
"""

import contextlib
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from importlib.util import find_spec

from coral_core.config import Places, ProblemsConfig, RunConfig
from coral_core.config.config_file import path_problems
from coral_core.config.scoring_config import OBJECTIVES, plugin_objectives
from coral_core.config.strategy_names import plugin_strategies
from coral_core.config.text_fields import expanded
from coral_core.config.tree import BUG_CLASSES
from coral_core.config.yaml_document import KeyPath
from coral_core.errors import BaseModelError, ConfigError, CoralError, ProblemError
from coral_core.jobs.job_content import problem_set
from coral_core.lm.base_model import identify, is_rehearsal, numerics_class
from coral_core.lm.memory_plan import check_memory
from coral_core.lm.model_check import check_base_model, model_folder, prompt_seen
from coral_core.lm.rehearsal import seconds_of
from coral_core.lm.targets import check_targets
from coral_core.lm.tokenizer_files import read_tokenizer
from coral_core.lm.vllm_check import check_vllm
from coral_core.problem_sources import plugin_sources, source_path_problems, source_problems
from coral_core.problem_sources.leak_guard import guard, refuse_answers
from coral_core.problem_sources.selection import select, short_enough, wanted
from coral_core.scoring.plugins import objective_versions
from coral_core.search.strategies import check_strategy, strategy_problems

MOST_MADE = 96
"""Largest number of built-in problems that `check` generates."""
LARGEST_FILE = 2**20
"""Largest file of problems that `check` reads, in bytes; it takes about a second."""

Prompts = list[tuple[str, str]]
"""Pairs of a problem id and the buggy function that the prompt shows."""


def check(config: RunConfig, places: Places | None = None) -> tuple[str, ...]:
    """Refuse a configuration that cannot work, as far as that can be told without running foreign code.

    Args:
        config: The configuration.
        places: File and line of each key, which errors begin with; None when they are unknown.

    Returns:
        One line for each thing that was not checked.

    Raises:
        ConfigError: a path, a name, a leak, or a prompt of more tokens than ``generation.prompt_length``.
        ProblemError: the file of problems cannot be used.
        BaseModelError: the base model cannot be used.
    """
    problems, base_model = config.problems, config.base_model
    notes: list[str] = []
    with _about(("problems", "path"), places):
        for key, complaint in (*path_problems(config), *source_path_problems(problems), *source_problems(problems)):
            raise ConfigError(complaint, key)
    with _about(("search", "strategy"), places):
        for key, complaint in strategy_problems(config.search):
            raise ConfigError(complaint, key)
    with _about(("scoring",), places):
        notes += _plugins(config)
    with _about(("problems", "training"), places):
        refuse_answers(problems)
    with _about(("base_model", "name"), places):
        if is_rehearsal(base_model):
            seconds_of(base_model.name)
        notes += check_base_model(config)
        check_memory(config)
    with _about(("generation", "engine"), places):
        notes += check_vllm(config)
    with _about(("base_model", "device"), places):
        if config.infra.executor != "work-pools" and base_model.device.startswith("cuda"):
            numerics_class(base_model, "sdpa")  # jobs run on this machine, so it must have the GPU
    with _about(("problems",), places):
        notes += _check_problems(config)
    return tuple(notes)


def preflight(config: RunConfig, places: Places | None = None) -> None:
    """Refuse a run that cannot succeed: `check`, and the checks that need to load problems and plug-ins.

    A base model that is not on this machine is looked up on the hub when jobs run on this machine. The problem source is
    read completely, which runs the tests of a `package` and the code of a plug-in. A second call is cheap, since the
    problem set is kept in memory.

    Args:
        config: The configuration.
        places: As of `check`.

    Raises:
        ConfigError: as `check`; an objective's plug-in that cannot be used, a leak that is not accepted.
        ProblemError: the problem source cannot be used.
        BaseModelError: the base model cannot be used.
    """
    check(config, places)
    with _about(("base_model", "name"), places):
        if config.infra.executor != "work-pools":  # jobs run on this machine
            check_targets(config, identify(config.base_model))
    with _about(("scoring",), places):
        objective_versions(config.scoring)
    with _about(("search", "strategy"), places):
        check_strategy(config.search)
    with _about(("problems",), places):
        problems = problem_set(config.problems)
        guard(problems, config.problems)
        everything = [*problems.fitness, *problems.monitor, *problems.held_out]
        _check_prompts(config, [(problem.problem_id, problem.buggy) for problem in everything])


@contextlib.contextmanager
def _about(key: KeyPath, places: Places | None) -> Iterator[None]:
    """Put file and line of the key that an error names (or else of `key`) at the beginning of the error."""
    try:
        yield
    except (ConfigError, ProblemError, BaseModelError, RecursionError) as raised:
        error: CoralError = (
            raised
            if isinstance(raised, CoralError)
            else ConfigError(
                f"{'.'.join(map(str, key))}: something that is read here is nested too deeply. Take it out."
            )
        )
        if places is not None:
            places.place(error, getattr(error, "key", ()) or key)
        raise error from None


def _plugins(config: RunConfig) -> Iterator[str]:
    """Notes on the plug-ins that `config` names; they are looked up but not loaded, since importing one runs its code."""
    sources, objectives = plugin_sources(), plugin_objectives()
    for name in sorted({config.problems.source, config.problems.training.source} & set(sources)):
        yield _not_loaded("problem source", sources[name])
    named = {*config.scoring.roles, *config.scoring.weights, *config.scoring.thresholds} - set(OBJECTIVES)
    for name in sorted(named & set(objectives)):
        yield _not_loaded("objective", objectives[name])
    if (strategy := plugin_strategies().get(config.search.strategy)) is not None:
        yield _not_loaded("search strategy", strategy)


def _not_loaded(kind: str, entry: EntryPoint) -> str:
    return f"the plug-in of {kind} {entry.name} ({entry.value}): it is installed, and was not loaded"


def _check_problems(config: RunConfig) -> Iterator[str]:
    """Check prompt lengths if problems and tokenizer are on this machine; yield notes on what was not checked."""
    counted = bool(token_counts(config, ["def f(): pass"]))
    if not counted and not is_rehearsal(config.base_model):
        yield "lengths of prompts: the base model's tokenizer is not on this machine"
    if not counted and config.problems.source == "builtin":
        return  # only the length of a built-in problem can be wrong
    prompts, note = _bounded_prompts(config.problems)
    if note:
        yield note
    _check_prompts(config, prompts)


def _bounded_prompts(config: ProblemsConfig) -> tuple[Prompts, str]:
    """The prompts that can be made in bounded time without foreign code, and a note on those that are missing."""
    if config.source == "builtin":
        return _made_prompts(config)
    if config.source == "quixbugs":
        from coral_core.problem_sources.quixbugs import functions

        found = [
            (name, text) for name, text in functions(config) if wanted(config, name) and short_enough(config, text)
        ]
        return found, "the test cases of QuixBugs: some are recorded by running its reference solutions"
    if config.source == "jsonl":
        return _written_prompts(config)
    if config.source in ("package", "git"):
        return [], f"the problems of {config.path}: they come from running its tests"
    return [], f"the problems of the source {config.source}: only its plug-in knows them"


def _made_prompts(config: ProblemsConfig) -> tuple[Prompts, str]:
    from coral_core.problem_sources.builtin import builtin_splits

    total = config.fitness + config.retention + config.monitor + config.held_out
    if total > MOST_MADE or not set(config.bug_classes) >= set(BUG_CLASSES):  # rare bug classes take long to generate
        return [], f"the {total} built-in problems: they are made when the evolution starts"
    held_out, fitness, monitor, _ = builtin_splits(config.model_copy(update={"pairs": 8}))
    shown = [(problem.problem_id, problem.buggy) for problem in (*fitness, *monitor, *held_out)]
    return [(name, text) for name, text in shown if wanted(config, name) and short_enough(config, text)], ""


def _written_prompts(config: ProblemsConfig) -> tuple[Prompts, str]:
    from coral_core.problem_sources.jsonl import load_jsonl

    path = expanded(config.path or "")
    if (size := path.stat().st_size) > LARGEST_FILE:
        return [], f"the {size / 2**20:.0f} MiB of {config.path}: they are read when the evolution starts"
    problems = select(load_jsonl(config), config)
    guard(problems, config)
    everything = [*problems.fitness, *problems.monitor, *problems.held_out]
    return [(problem.problem_id, problem.buggy) for problem in everything], ""


def _check_prompts(config: RunConfig, prompts: Prompts) -> None:
    """Refuse prompts that are too long, if the tokenizer is on this machine.

    The engine checks this too, but only when it evaluates a split, and the held-out split comes last.
    """
    template = prompt_seen(config)
    if template is None:
        return
    lengths = token_counts(config, [template.prompt(buggy) for _, buggy in prompts], template.add_bos)
    longest = max(range(len(lengths)), key=lengths.__getitem__, default=None)
    if longest is None:
        return
    room = config.generation.prompt_length
    if lengths[longest] > room:
        count = sum(length > room for length in lengths)
        raise ConfigError(
            f"generation.prompt_length: {room}: {count} of {len(lengths)} prompts are longer, up to {lengths[longest]} tokens "
            f"({prompts[longest][0]}, base model {config.base_model.name}). Set generation.prompt_length to {lengths[longest]}.",
            ("generation", "prompt_length"),
        )


def token_counts(config: RunConfig, texts: Sequence[str], add_bos: bool = True) -> list[int]:
    """Number of tokens of each text, as the engine counts them.

    Args:
        config: Names the base model.
        texts: Prompts.
        add_bos: The BOS token is put in front of a text that does not begin with it.

    Returns:
        One number per text; empty when the base model's tokenizer is not on this machine.

    Raises:
        BaseModelError: the tokenizer file is broken.
    """
    if is_rehearsal(config.base_model):
        return []
    folder = model_folder(config)
    if folder is None or not (folder / "tokenizer.json").is_file() or find_spec("tokenizers") is None:
        return []  # the package comes with transformers, which only lanes need
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises no class of its own
        raise BaseModelError(
            f"base model file {folder / 'tokenizer.json'}: no tokenizer ({str(error)[:200]}). Save the tokenizer with save_pretrained."
        ) from None
    tokenizer.no_truncation()  # transformers, too, takes neither from the file
    tokenizer.no_padding()
    mark = read_tokenizer(folder).special("bos_token")
    bos = tokenizer.token_to_id(mark) if mark is not None and add_bos else None
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [len(e.ids) + (bos is not None and e.ids[:1] != [bos]) for e in encoded]
