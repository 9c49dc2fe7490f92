"""`coral init --from PATH`: finds functions of a directory that can become problems, or reads a file of bugs, and makes a configuration for them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from coral_core.config import RunConfig
from coral_core.config.config_file import parse_config
from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError
from coral_core.jobs.job_content import problem_set
from coral_core.problem_sources import find_problems
from coral_core.problem_sources.package.cache import UNCALLED, Recording, recording_of
from coral_core.problem_sources.package.package_problems import SMALLEST, refuse_shortage, supply
from coral_core.problem_sources.package.splits import FunctionSplits, divide
from coral_core.problem_sources.selection import function_name, select, select_functions
from flows.cli.fit_lengths import TINY_WARNING, FunctionTexts, lengths, longest_usable, rows
from flows.cli.markup import echo, table, words
from flows.cli.own_history import history_section
from flows.cli.recording_progress import RecordingProgress

HISTORY_HEADER = """\
# CORAL-X on the bugs that your repository had: adapters learn from the fixes in its history, and newer fixes tell what they are worth.
#   coral problems history {path}        the fixes, and why other commits give no problem
#   coral problems check git --config {file}
#   coral plan {file}               memory, time and cost
#   coral evolve {file}
#   coral config show {file}        every key with its default
"""
HEADER = """\
# CORAL-X on your own functions: adapters learn to repair their bugs, and tests say what is right.
#   coral problems check {source} --config {file}
#   coral plan {file}               memory, time and cost
#   coral evolve {file}
#   coral config show {file}        every key with its default
"""


@dataclass(frozen=True)
class HistoryWalk:
    """Asks for the fixes in the history of a repository."""

    commits: int | None = None
    """Commits to look at, newest first; None: the default of ``problems.history.max_commits``."""


def configuration(
    source: Path,
    file: Path,
    base_model: str = "coral-tiny",
    python: str | None = None,
    history: HistoryWalk | None = None,
) -> str:
    """Make a configuration for the functions of a directory, its history, or a file of bugs, and print what can be used.

    Args:
        source: Contains the functions and their tests, which are run; or a file of the layout jsonl.
        file: Path that the caller will write; its stem becomes the name of the configuration.
        base_model: ``base_model.name`` of the configuration, to which lengths are fitted.
        python: Interpreter that runs the tests of a directory; None: this one.
        history: Take the fixes in the history of the repository `source`.

    Returns:
        YAML text with comments.

    Raises:
        ConfigError: There is no such directory, it has too few usable functions, or the base model has no room for them.
        ProblemError: Its tests cannot be run.
        BaseModelError: The base model cannot be used.
    """
    model = parse_config("", "coral init", [f"base_model.name={json.dumps(base_model)}"])
    comments: dict[str, str] = {}
    if history is not None:
        found = history_section(source, model, python, history.commits)
        section, kind, comments = found.values, "git", found.comments
    else:
        section, kind = _file_section(source, model) if source.is_file() else _directory_section(source, model, python)
    overrides = [f"base_model.name={json.dumps(base_model)}"]
    overrides += [f"problems.{name}={json.dumps(value)}" for name, value in section.items()]
    config = parse_config("", "coral init", overrides)
    problems = problem_set(config.problems)
    if history is not None:
        echo(*(words(note) for note in problems.notes))
    needed = lengths(config, problems)
    if needed is None:
        echo(
            words(
                f"note: lengths are the defaults: the tokenizer of {base_model} is not on this machine (coral model fetch)"
            )
        )
    sections: dict[str, dict[str, object]] = {
        **(needed or {}),
        "base_model": {"name": base_model},
        "infra": {"executor": "local"},
    }
    for name, values in rows(parse_config(_yaml({"problems": section, **sections}), "coral init")).items():
        sections[name] = sections.get(name, {}) | values
    plain = (letter if letter.isascii() and letter.isalnum() else "-" for letter in file.stem.lower())
    name = "".join(plain).strip("-")[:63] or "own-bugs"
    if base_model == "coral-tiny":
        echo(words(f"note: {TINY_WARNING}", "yellow"))
    header = (
        HISTORY_HEADER.format(path=source, file=file) if history is not None else HEADER.format(source=kind, file=file)
    )
    parts = [_yaml({"name": name, "seed": 0}), _commented(_yaml({"problems": section}), comments), _yaml(sections)]
    return "\n".join([header, "".join(parts)])


def _yaml(values: Mapping[str, object]) -> str:
    return yaml.safe_dump(values, sort_keys=False, width=10_000)  # one line a key: a comment may follow


def _commented(text: str, comments: dict[str, str]) -> str:
    """A section of YAML with a comment after each key that has one."""
    lines = []
    for line in text.splitlines():
        comment = comments.get(line.partition(":")[0].strip())
        lines.append(f"{line}  # {comment}\n" if comment else f"{line}\n")
    return "".join(lines)


def _directory_section(directory: Path, model: RunConfig, python: str | None) -> tuple[dict[str, object], str]:
    """The section ``problems`` for a directory, and its source."""
    path = str(directory)
    with RecordingProgress() as progress:
        recording = recording_of(path, python, progress)
    _print(recording)
    bound, notes, without_room = longest_usable(
        model,
        [
            FunctionTexts(function_name(each), each.definition.source, [bug.source for bug in each.bugs])
            for each in recording.usable
        ],
    )
    echo(*(words(f"note: {note}") for note in notes))
    requested = ProblemsConfig(source="package", path=path, python=python, longest=bound)
    usable, _ = select_functions(recording.usable, requested)
    divided = divide(usable, requested)
    try:
        refuse_shortage(path, recording, divided, {**SMALLEST, "monitor": 1})
    except ConfigError:  # too few for a monitor set: try without one
        requested = requested.model_copy(update={"monitor": 0})
        divided = divide(usable, requested)
        try:
            refuse_shortage(path, recording, divided, SMALLEST)
        except ConfigError as error:
            if not without_room:
                raise
            room = f"Name a base model with room for {without_room} functions more: --base-model smollm2, after coral model fetch smollm2, or your own"
            raise ConfigError(error.problem, error.key, remedy=f"{room}. {error.remedy}") from None
    sizes = _sizes(requested, divided)
    echo(", ".join(f"{name} {count}" for name, count in sizes.items()))
    named = {} if python is None else {"python": python}
    return {"source": "package", "path": path, **named, **sizes} | (
        {} if bound is None else {"longest": bound}
    ), "package"


def _file_section(file: Path, model: RunConfig) -> tuple[dict[str, object], str]:
    """The section ``problems`` for a file of bugs, and its source. Its splits are its own."""
    problems = find_problems(ProblemsConfig(source="jsonl", path=str(file)))
    everything = [*problems.fitness, *problems.monitor, *problems.held_out]
    texts = [FunctionTexts(problem.problem_id, problem.reference, [problem.buggy]) for problem in everything]
    bound, notes, _ = longest_usable(model, texts)
    section: dict[str, object] = {"source": "jsonl", "path": str(file)} | ({} if bound is None else {"longest": bound})
    chosen = select(problems, ProblemsConfig.model_validate(section))
    if not chosen.monitor:
        section["monitor"] = 0
    echo(*(words(f"note: {note}") for note in notes))
    echo(f"fitness {len(chosen.fitness)}, monitor {len(chosen.monitor)}, held_out {len(chosen.held_out)}, pairs {len(chosen.pairs) or 'mutants of built-in functions'}")  # fmt: skip
    return section, "jsonl"


def _sizes(requested: ProblemsConfig, divided: FunctionSplits) -> dict[str, int]:
    """Sizes of the splits: the defaults, or fewer where the directory has too few functions."""
    most = supply(divided)
    sizes = {name: min(getattr(requested, name), count) for name, count in most.items()}
    return {name: max(count, SMALLEST.get(name, 0)) for name, count in sizes.items()}


def _print(recording: Recording) -> None:
    bugs = sum(len(usable.bugs) for usable in recording.usable)
    echo(f"{recording.passed} tests passed; {len(recording.usable)} functions usable, with {bugs} bugs")
    if recording.usable:
        rows = [
            (usable.definition.key, len(usable.cases), usable.recorded, len(usable.bugs)) for usable in recording.usable
        ]
        echo(table(("<function", "cases", "recorded", "bugs"), rows))
    called = [each for each in recording.refused if each.reason != UNCALLED]
    uncalled = [f"{each.file}:{each.name}" for each in recording.refused if each.reason == UNCALLED]
    if called:
        echo(f"{len(called)} functions cannot be used (coral init --from DIR --why NAME says more of one):")
    echo(*(words(f"  {each.file}:{each.line} {each.name}: {each.reason[:200]}") for each in called))
    if uncalled:
        echo(words(f"{len(uncalled)} functions are called by no passing test: {', '.join(uncalled)}"))
    differing = [each.definition.key for each in recording.usable if each.differing]
    if differing:
        echo(words(f"note: some calls of {len(differing)} functions are no cases, since they acted differently in the package, by what a test had set: {', '.join(differing)}"))  # fmt: skip
    echo(*(words(f"note: {note}") for note in recording.notes))
