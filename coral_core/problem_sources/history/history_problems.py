"""The problem set of a repository: fixes of its history, then mutants of its functions where fixes are missing.

`Problem.source` says which: ``git/history``, ``git/mutant``, or ``git/right`` for a function that must stay as it is. The id
of a fix names its commit; author date and message are in the local cache only (`provenance`).
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from coral_core.config.text_fields import expanded
from coral_core.config.tree import ProblemsConfig
from coral_core.digest import seed_from
from coral_core.errors import ConfigError, ProblemError
from coral_core.problem_sources.builtin import ECHO_SHARE
from coral_core.problem_sources.history.fix import CommitOutcome
from coral_core.problem_sources.history.repository import Repository, UnreadableError
from coral_core.problem_sources.history.scratch_copy import write_commit
from coral_core.problem_sources.history.time_splits import ORDER, DatedFix, HistorySplits, divide_by_time
from coral_core.problem_sources.history.walk import Cache, History, day, walk
from coral_core.problem_sources.package.bugs import in_turn
from coral_core.problem_sources.package.cache import Recording, recording_of
from coral_core.problem_sources.package.cases import Bug, UsableFunction
from coral_core.problem_sources.package.package_problems import problem_of
from coral_core.problem_sources.selection import notes_on_left_out, short_enough, wanted
from coral_core.problems.problem import Problem, ProblemSet, RepairPair, Split

HISTORY, MUTANT, RIGHT = "git/history", "git/mutant", "git/right"
"""Values of `Problem.source`."""


def load_git(config: ProblemsConfig) -> ProblemSet:
    """The problem set of the repository at ``config.path``.

    Raises:
        ConfigError: there is no repository, or it cannot supply as many problems as are asked.
        JudgeError: the sandbox failed.
    """
    history = walk(config)
    recording, note = mutants(config.path or "", history.revision, config.python)
    selected = select_history(history.outcomes, recording.usable if recording else (), config)
    divided = divide_by_time(selected.outcomes, selected.functions, config)
    refuse_shortage(config, history, divided, (*selected.notes, *([note] if note else [])))
    rights = _rights(config, divided, config.held_out)
    problems = ProblemSet(
        source="git",
        pairs=_pairs(config, divided),
        fitness=_problems(config, "fitness", divided, config.fitness, config.retention),
        monitor=_problems(config, "monitor", divided, config.monitor, 0),
        held_out=_problems(config, "held_out", divided, config.held_out - rights, rights),
    )
    notes = [*_statements(config, problems, divided), *selected.notes, *([note] if note else [])]
    return problems.model_copy(update={"notes": tuple(notes)})


class Selected(NamedTuple):
    """What ``include``, ``exclude`` and ``longest`` take of a history."""

    outcomes: tuple[CommitOutcome, ...]
    functions: tuple[UsableFunction, ...]
    """Of the revision, each with the mutants that are taken; without any where it is taken as a right function only."""
    notes: tuple[str, ...]
    """What was left out."""


def select_history(
    outcomes: Sequence[CommitOutcome], functions: Sequence[UsableFunction], config: ProblemsConfig
) -> Selected:
    """Select fixes and functions before they are split, so that splits are filled up with others.

    Their split and number are not known yet: a pattern that names a split takes out problems after the split, as for other sources.

    Args:
        outcomes: What the commits gave.
        functions: Usable functions of the revision, with mutants.
        config: Gives the patterns and the length.
    """
    if not config.include and not config.exclude and config.longest is None:
        return Selected(tuple(outcomes), tuple(functions), ())
    unnamed: list[str] = []
    long: list[str] = []
    chosen: list[CommitOutcome] = []
    for outcome in outcomes:
        kept = []
        for fix in outcome.fixes:
            texts = (fix.function.bugs[0].source, fix.function.definition.source)
            name = f"{name_of(fix.function)}/{outcome.commit[:12]}"
            if not _wanted(config, HISTORY, fix.function, outcome.commit[:12]):
                unnamed.append(name)
            elif not short_enough(config, *texts):
                long.append(name)
            else:
                kept.append(fix)
        chosen.append(outcome.model_copy(update={"fixes": tuple(kept)}))
    usable: list[UsableFunction] = []
    for function in functions:
        mutant = _wanted(config, MUTANT, function, "")
        bugs = tuple(bug for bug in function.bugs if mutant and short_enough(config, bug.source))
        if not mutant and not _wanted(config, RIGHT, function, ""):
            unnamed.append(name_of(function))
        elif not short_enough(config, function.definition.source) or (mutant and not bugs):
            long.append(name_of(function))
        else:
            usable.append(function.model_copy(update={"bugs": bugs}))
    return Selected(tuple(chosen), tuple(usable), notes_on_left_out(config, unnamed, long))


def _wanted(config: ProblemsConfig, origin: str, function: UsableFunction, last: str) -> bool:
    """Do the patterns take the problem in some split?"""
    return any(wanted(config, _problem_id(origin, split, function, last)) for split in ORDER)


def mutants(path: str, revision: str, python: str | None = None) -> tuple[Recording | None, str]:
    """The functions of a commit with their mutants, and a note when there are none.

    Args:
        path: The repository.
        revision: Hash of the commit.
        python: Interpreter that runs the tests; None: this one.

    Raises:
        ConfigError: there is no repository.
        JudgeError: the sandbox failed.
    """
    try:
        recording = recorded(path, revision, python)
    except ProblemError as error:
        return None, f"no mutants: {error.problem}"
    if recording.usable:
        return recording, ""
    reasons = "; ".join(recording.notes[:3]) or f"{len(recording.refused)} functions cannot be used"
    return recording, f"no mutants: no function of commit {revision[:12]} is usable: {reasons}"


def recorded(
    path: str, revision: str, python: str | None = None, progress: Callable[[str], None] | None = None
) -> Recording:
    """What the tests of a commit record.

    Args:
        path: The repository.
        revision: Hash of the commit.
        python: Interpreter that runs the tests; None: this one.
        progress: Is called with a line of text now and then.

    Raises:
        ConfigError: there is no repository.
        ProblemError: the tests cannot be run.
        JudgeError: the sandbox failed.
    """
    with Repository(expanded(path)) as repository, TemporaryDirectory(prefix="coral-history-") as scratch:
        folder = Path(scratch) / "package"
        folder.mkdir()
        repository.resolve(revision)
        try:
            write_commit(repository, revision, folder)
            return recording_of(str(folder), python, progress)
        except (UnreadableError, ProblemError, ConfigError) as error:
            reason = error.problem.replace("problems.path: ", "").replace(f"{folder}", "").strip(": ")
            raise ProblemError(f"the tests cannot be run at commit {revision[:12]}: {reason}") from None


def provenance(problem_id: str, python: str | None = None) -> CommitOutcome | None:
    """The commit of a fix, from the cache of this machine; None for other problems and where it is not cached.

    Args:
        problem_id: Id of a problem of the source git.
        python: Interpreter that ran the tests (``problems.python``).
    """
    parts = problem_id.split("/")
    return Cache(python).find(parts[-1]) if parts[0] == "git" and len(parts) > 3 and parts[2] == "history" else None


def _problems(
    config: ProblemsConfig, split: Split, divided: HistorySplits, bugs: int, rights: int
) -> tuple[Problem, ...]:
    """The newest fixes of a split, then mutants in turn over functions, then functions as they are."""
    fixes = divided.fixes.get(split, [])[-bugs:] if bugs else []
    functions = divided.functions.get(split, [])
    rng = random.Random(seed_from("git", config.data_seed, split))
    found = [_of_fix(split, dated) for dated in fixes]
    found += [
        _problem(MUTANT, split, function, f"{number:04d}", bug)
        for number, (function, bug) in enumerate(_turns(functions, bugs - len(fixes), rng))
    ]
    order = [function for function in rng.sample(functions, len(functions)) if _wanted(config, RIGHT, function, "")][
        :rights
    ]
    found += [_problem(RIGHT, split, function, f"{number:04d}", None) for number, function in enumerate(order)]
    return tuple(found)


def _of_fix(split: Split, dated: DatedFix) -> Problem:
    return _problem(HISTORY, split, dated.function, dated.outcome.commit[:12], dated.function.bugs[0])


def _problem(origin: str, split: Split, function: UsableFunction, last: str, bug: Bug | None) -> Problem:
    return problem_of(_problem_id(origin, split, function, last), origin, function, bug)


def _problem_id(origin: str, split: Split, function: UsableFunction, last: str) -> str:
    return f"git/{split}/{origin.partition('/')[2]}/{name_of(function)}/{last}"


def name_of(function: UsableFunction) -> str:
    """The name of a function in ids of problems: module and function, with dots."""
    return function.definition.key.replace(".py:", ".").replace("/", ".").replace("@", "-")


def _pairs(config: ProblemsConfig, divided: HistorySplits) -> tuple[RepairPair, ...]:
    """Fixes of the training split, mutants, and functions as they are, so that adapters learn to leave right code alone."""
    rng = random.Random(seed_from("git", config.data_seed, "pairs"))
    functions = divided.functions["training"]
    echoes = _echoes(divided, config.pairs)
    fixes = [(dated.function, dated.function.bugs[0]) for dated in divided.fixes["training"]][echoes - config.pairs :]
    chosen = [*fixes, *_turns(functions, config.pairs - echoes - len(fixes), rng)]
    pairs = [_pair(function, bug) for function, bug in chosen]
    order = rng.sample(functions, len(functions))
    pairs += [_pair(order[number % len(order)], None) for number in range(echoes)]
    rng.shuffle(pairs)
    return tuple(pairs)


def _pair(function: UsableFunction, bug: Bug | None) -> RepairPair:
    fixed = function.definition.source
    return RepairPair(
        buggy=bug.source if bug else fixed,
        fixed=fixed,
        family=function.definition.key,
        bug_class=bug.bug_class if bug else "none",
    )


def _turns(functions: Sequence[UsableFunction], count: int, rng: random.Random) -> list[tuple[UsableFunction, Bug]]:
    """`count` mutants: one of each function, then another of each, and so on."""
    order = rng.sample(list(functions), len(functions))
    return in_turn([(function, bug) for bug in function.bugs] for function in order)[: max(0, count)]


def _rights(config: ProblemsConfig, divided: HistorySplits, size: int) -> int:
    """Functions left right among `size` held-out problems: a tenth."""
    functions = [function for function in divided.functions["held_out"] if _wanted(config, RIGHT, function, "")]
    return min(len(functions), size // 10)


def _echoes(divided: HistorySplits, size: int) -> int:
    """Functions left right among `size` training pairs."""
    return int(ECHO_SHARE * size) if divided.functions["training"] else 0


def supply(config: ProblemsConfig, divided: HistorySplits) -> dict[str, int]:
    """Key of ``problems`` -> the largest value that the repository can supply."""
    bugs = {split: len(divided.fixes[split]) + divided.bugs(split) for split in divided.fixes}
    held_out, pairs = bugs["held_out"], bugs["training"]
    return {
        "fitness": bugs["fitness"],
        "monitor": bugs.get("monitor", 0),
        "held_out": max(n for n in range(held_out, 2 * held_out + 2) if n - _rights(config, divided, n) <= held_out),
        "pairs": max(n for n in range(pairs, 2 * pairs + 2) if n - _echoes(divided, n) <= pairs),
    }


def refuse_shortage(
    config: ProblemsConfig, history: History, divided: HistorySplits, notes: Sequence[str] = ()
) -> None:
    """Check that the repository can supply the sizes of `config`.

    Args:
        config: Gives the sizes.
        history: For the message.
        divided: Its fixes and functions, split.
        notes: Why there are no more, for the message.

    Raises:
        ConfigError: a size is larger than what `supply` gives; names the largest that is possible.
    """
    most = supply(config, divided)
    asked = {name: getattr(config, name) for name in most}
    short = [f"{name}: {most[name]} (asked: {count})" for name, count in asked.items() if count > most[name]]
    if short:
        problem = (
            f"problems.path: {config.path}: {history.problems} fixes in {len(history.outcomes)} commits and the mutants of its "
            f"functions, in {divided.groups} independent groups, can supply {', '.join(short)}"
        )
        reasons = [f"{count} commits: {reason}" for reason, count in history.reasons.items()]
        raise ConfigError(
            "\n".join([problem, *reasons, *notes]),
            remedy="Ask for less, or walk further: problems.history.max_commits, problems.history.since",
        )


def _statements(config: ProblemsConfig, problems: ProblemSet, divided: HistorySplits) -> list[str]:
    """What the report says of the splits: counts by origin, dates, and what was left out."""
    own = config.training.source in ("auto", "git")
    lines = []
    for split in ("held_out", "monitor", "fitness"):
        members = problems.split(split)
        ids = {problem.problem_id for problem in members}
        dated = [each for each in divided.fixes.get(split, []) if _of_fix(split, each).problem_id in ids]
        counts = {origin: sum(problem.source == origin for problem in members) for origin in (HISTORY, MUTANT, RIGHT)}
        if members:
            lines.append(_line(split.replace("_", "-"), counts, dated))
    if own:
        fixes = {
            (dated.function.bugs[0].source, dated.function.definition.source) for dated in divided.fixes["training"]
        }
        kinds = [
            RIGHT if p.buggy == p.fixed else HISTORY if (p.buggy, p.fixed) in fixes else MUTANT for p in problems.pairs
        ]
        dated = divided.fixes["training"][-kinds.count(HISTORY) :] if HISTORY in kinds else []
        lines.append(_line("training", {origin: kinds.count(origin) for origin in (HISTORY, MUTANT, RIGHT)}, dated))
    lines.append(
        "Time runs forward: every fix of the held-out split is newer than every fix of the splits before it (training, fitness, "
        "monitor), and so on, by author date. All versions of a function are in one split. Mutants are of the code at the "
        "revision and have no date."
    )
    if divided.out_of_order:
        lines.append(f"{len(divided.out_of_order)} fixes left out: older than a fix of a split before their own")
    if divided.repeated:
        lines.append(f"{divided.repeated} fixes left out: equal to an older one")
    return lines


def _line(split: str, counts: dict[str, int], dated: Sequence[DatedFix]) -> str:
    days = f" of {day(dated[0].time)} to {day(dated[-1].time)}" if dated else ""
    text = f"{split}: {counts[HISTORY]} fixes from history{days}, {counts[MUTANT]} mutants"
    return f"{text}, {counts[RIGHT]} right functions"
