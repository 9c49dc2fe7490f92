"""`coral init`: write a commented configuration."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coral_core.atomic_write import write_atomic
from coral_core.config.config_file import built_in
from coral_core.errors import ConfigError, StoreError


def init(
    file: Path = Path("quickstart.yaml"),
    /,
    *,
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    history: Annotated[bool, Parameter(negative=())] = False,
    commits: int | None = None,
    base_model: str | None = None,
    python: Path | None = None,
    why: str | None = None,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Write a commented configuration to start from.

    With --from DIR the tests of DIR are run once, and the functions that they call become
    problems. With --from FILE the problems are those of a file of bugs (jsonl, see coral
    problems import). Sizes and lengths are fitted to problems and base model; functions that
    cannot be used, or are outliers by length, are listed.

    With --from DIR --history the problems are the bugs that commits of the repository DIR fixed, and
    mutants of its functions where fixes are missing. The tests of each commit that changes a
    function are run; results are kept, so it may be ended and started again.

    Args:
        file: Where to write it.
        from_: A directory of functions and their tests to take bugs from, or a file of bugs.
        history: With --from DIR: take the fixes in the history of this git repository.
        commits: With --history: how many commits to look at, newest first; 200 by default.
        base_model: The base model, with --from: smollm2, a directory, or a Hugging Face name; coral-tiny by default.
        python: With --from DIR: the interpreter that runs its tests, such as .venv/bin/python; this one by default.
        why: With --from DIR: say all that is known of the function of this name (or file:name, or a pattern with *), and write nothing.
        force: Overwrite the file if there is one.
    """
    _check(from_, history, commits, why)
    if from_ is None and (python or why):
        raise ConfigError(
            "--python and --why are about the tests of a directory, and none is given", remedy="Add --from."
        )
    if from_ is not None and why is not None:
        from flows.cli.why import explain

        explain(from_, None if python is None else str(python), why)
        return
    if file.exists() and not force:
        raise ConfigError(f"{file}: the file exists", remedy="Choose another name, or overwrite it with --force.")
    if from_ is None and base_model is not None:
        raise ConfigError(
            f"--base-model {base_model}: the lengths are fitted to problems, and none are given",
            remedy="Add --from, or set base_model.name in the file.",
        )
    if from_ is None:
        text = built_in("quickstart").read_text("utf-8")
    else:
        from flows.cli.own_bugs import HistoryWalk, configuration

        interpreter = None if python is None else str(python)
        text = configuration(
            from_, file, base_model or "coral-tiny", interpreter, HistoryWalk(commits) if history else None
        )
    try:
        write_atomic(file, text.encode())
    except OSError as error:
        raise StoreError(f"{file}: cannot be written ({error.strerror})", remedy="Choose another place.") from None
    print(f"wrote {file}. Next: coral config check {file}; coral evolve {file}")
    if from_ is not None and not history and from_.is_dir():
        from coral_core.problem_sources.history.walk import missing

        if not missing(str(from_)):
            print(
                f"{from_} is a git repository: coral init FILE --from {from_} --history takes the bugs that its commits fixed"
            )


def _check(from_: Path | None, history: bool, commits: int | None, why: str | None) -> None:
    """Refuse options that do not fit together. Raises `ConfigError`."""
    if commits is not None and not history:
        raise ConfigError(f"--commits {commits}: no history is walked", remedy="Add --history.")
    if not history:
        return
    if commits is not None and not 1 <= commits <= 100_000:
        raise ConfigError(f"--commits {commits}: not from 1 to 100000", remedy="Give the number of commits to look at.")
    if from_ is None:
        raise ConfigError("--history: no repository is given", remedy="Add --from with a git repository.")
    if from_.is_file():
        raise ConfigError(f"--from {from_}: a file of bugs has no history", remedy="Leave out --history.")
    if why is not None:
        raise ConfigError(
            f"--why {why}: with --history no function is explained",
            remedy=f"For a commit: coral problems history {from_} --why HASH; for a function leave out --history.",
        )
