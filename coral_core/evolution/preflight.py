"""What is refused before a server, an engine or a cent: paths, names, base model, plug-ins, leaks, prompts that do not fit.

`check` is the one check of a configuration: `coral config check`, `coral evolve --dry-run` and the pre-flight of an evolution
(also of one that a schedule or the Prefect UI starts) call it. It runs no code of others (no tests of a package, no plug-in,
no code of a base model), asks no network, starts nothing, and does work of bounded size whatever the configuration says. What
it therefore leaves out it returns, for people. `preflight` looks at that, too: it comes when the evolution really starts.
"""

import contextlib
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from importlib.util import find_spec

from coral_core.config import Places, ProblemsConfig, RunConfig
from coral_core.config.config_file import path_problems
from coral_core.config.scoring_config import OBJECTIVES, plugin_objectives
from coral_core.config.text_fields import expanded
from coral_core.config.tree import BUG_CLASSES
from coral_core.config.yaml_document import KeyPath
from coral_core.errors import BaseModelError, ConfigError, CoralError, ProblemError
from coral_core.jobs.job_content import problem_set, prompt_template
from coral_core.lm.base_model import identify, is_rehearsal, numerics_class
from coral_core.lm.model_check import check_base_model, model_folder
from coral_core.lm.rehearsal import seconds_of
from coral_core.lm.targets import check_targets
from coral_core.lm.tokenizer_files import read_tokenizer
from coral_core.problem_sources import plugin_sources, source_path_problems, source_problems
from coral_core.problem_sources.leak_guard import guard, refuse_answers
from coral_core.scoring.plugins import objective_versions

MOST_MADE = 96
"""Built-in problems that a check makes at most."""
LARGEST_FILE = 2**20
"""Bytes of a file of problems that a check reads: a second's work."""

Prompts = list[tuple[str, str]]
"""Problem ids and the functions that a prompt shows."""


def check(config: RunConfig, places: Places | None = None) -> tuple[str, ...]:
    """Refuse a configuration that cannot work, as far as that is known without running anything of others.

    Args:
        config: The configuration.
        places: Where its keys were written, to begin errors with; None: nobody knows.

    Returns:
        What was not looked at, a line each.

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
    with _about(("scoring",), places):
        notes += _plugins(config)
    with _about(("problems", "training"), places):
        refuse_answers(problems)
    with _about(("base_model", "name"), places):
        if is_rehearsal(base_model):
            seconds_of(base_model.name)
        notes += check_base_model(config)
    with _about(("base_model", "device"), places):
        if config.infra.executor != "work-pools" and base_model.device.startswith("cuda"):
            numerics_class(base_model, "sdpa")  # the GPU that is named must be here, where the jobs are
    with _about(("problems",), places):
        notes += _check_problems(config)
    return tuple(notes)


def preflight(config: RunConfig, places: Places | None = None) -> None:
    """Refuse a run that cannot end well: `check`, and what only the problems and plug-ins themselves can tell.

    The hub is asked for a base model that is not on this machine and has its jobs here. The problem source is read whole,
    which runs the tests of a `package` and the code of a plug-in. Cheap when called again: the problem set is kept.

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
        if (
            config.infra.executor != "work-pools"
        ):  # the jobs run here: the hub is asked now, and the device must be there
            check_targets(config, identify(config.base_model))
    with _about(("scoring",), places):
        objective_versions(config.scoring)
    with _about(("problems",), places):
        problems = problem_set(config.problems)
        guard(problems, config.problems)
        everything = [*problems.fitness, *problems.monitor, *problems.held_out]
        _check_prompts(config, [(problem.problem_id, problem.buggy) for problem in everything])


@contextlib.contextmanager
def _about(key: KeyPath, places: Places | None) -> Iterator[None]:
    """Begin an error from within with where `key`, or the key that the error names, was written."""
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
    """Plug-ins that are named: they are looked up and not loaded, since importing one runs it."""
    sources, objectives = plugin_sources(), plugin_objectives()
    for name in sorted({config.problems.source, config.problems.training.source} & set(sources)):
        yield _not_loaded("problem source", sources[name])
    named = {*config.scoring.roles, *config.scoring.weights, *config.scoring.thresholds} - set(OBJECTIVES)
    for name in sorted(named & set(objectives)):
        yield _not_loaded("objective", objectives[name])


def _not_loaded(kind: str, entry: EntryPoint) -> str:
    return f"the plug-in of {kind} {entry.name} ({entry.value}): it is installed, and was not loaded"


def _check_problems(config: RunConfig) -> Iterator[str]:
    """Prompts, where the problems can be had without running anything and the tokenizer is here."""
    counted = bool(token_counts(config, ["def f(): pass"]))
    if not counted and not is_rehearsal(config.base_model):
        yield "lengths of prompts: the base model's tokenizer is not on this machine"
    if not counted and config.problems.source == "builtin":
        return  # what may be wrong with those is their length alone
    prompts, note = _bounded_prompts(config.problems)
    if note:
        yield note
    _check_prompts(config, prompts)


def _bounded_prompts(config: ProblemsConfig) -> tuple[Prompts, str]:
    """Prompts that can be had in bounded time, and what is missing from them."""
    if config.source == "builtin":
        return _made_prompts(config)
    if config.source == "quixbugs":
        from coral_core.problem_sources.quixbugs import functions

        return functions(config), "the test cases of QuixBugs: some are recorded by running its reference solutions"
    if config.source == "jsonl":
        return _written_prompts(config)
    if config.source == "package":
        return [], f"the problems of {config.path}: they come from running its tests"
    return [], f"the problems of the source {config.source}: only its plug-in knows them"


def _made_prompts(config: ProblemsConfig) -> tuple[Prompts, str]:
    from coral_core.problem_sources.builtin import builtin_splits

    total = config.fitness + config.retention + config.monitor + config.held_out
    if total > MOST_MADE or not set(config.bug_classes) >= set(BUG_CLASSES):  # the rare classes take long to find
        return [], f"the {total} built-in problems: they are made when the evolution starts"
    held_out, fitness, monitor, _ = builtin_splits(config.model_copy(update={"pairs": 8}))
    return [(problem.problem_id, problem.buggy) for problem in (*fitness, *monitor, *held_out)], ""


def _written_prompts(config: ProblemsConfig) -> tuple[Prompts, str]:
    from coral_core.problem_sources.jsonl import load_jsonl

    path = expanded(config.path or "")
    if (size := path.stat().st_size) > LARGEST_FILE:
        return [], f"the {size / 2**20:.0f} MiB of {config.path}: they are read when the evolution starts"
    problems = load_jsonl(config)
    guard(problems, config)
    everything = [*problems.fitness, *problems.monitor, *problems.held_out]
    return [(problem.problem_id, problem.buggy) for problem in everything], ""


def _check_prompts(config: RunConfig, prompts: Prompts) -> None:
    """Refuse prompts that are too long, where their tokens can be counted here.

    The engine checks this too, but only when a split's turn comes: the held-out one's at the very end.
    """
    template = prompt_template(config)
    lengths = token_counts(config, [template.prompt(buggy) for _, buggy in prompts])
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


def token_counts(config: RunConfig, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, as the engine counts them; empty where the base model's tokenizer is not on this machine."""
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
    mark = read_tokenizer(folder).special("bos_token")
    bos = tokenizer.token_to_id(mark) if mark is not None else None
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [len(e.ids) + (bos is not None and e.ids[:1] != [bos]) for e in encoded]
