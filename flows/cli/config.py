"""`coral config check|show|schema`, and the reading of a configuration that may be left out."""

from collections.abc import Sequence
from pathlib import Path

from coral_core.config import RunConfig, dump_yaml, load_config, parse_config, read_config
from coral_core.evolution import preflight
from coral_core.runs.job_count import most_genomes
from coral_core.runs.run_folder import identify_run
from flows.cli.markup import echo, marked, print_json, words
from flows.cli.places import AsJson, Overrides


def configured(config: Path | None, overrides: Sequence[str], source: str = "the command line") -> RunConfig:
    """Read the configuration of a command whose CONFIG may be left out.

    Args:
        config: The file; None: the defaults.
        overrides: Values of --set (section.key=value).
        source: Name of the configuration in errors where there is no file.
    """
    return load_config(config, overrides) if config is not None else parse_config("", source, overrides)


def check(file: Path, /, *, set_: Overrides = None, as_json: AsJson = False) -> None:
    """Check a configuration and show what it would run; starts nothing and runs no code of others.

    Checks that would have to run something or use the network are listed as not made.

    Args:
        file: The configuration.
    """
    config, places = read_config(file, set_ or [])
    notes = preflight.check(config, places)
    search = config.search
    summary = {
        "run_id": identify_run(config).run_id,
        "strategy": search.strategy,
        "generations": search.generations,
        "population": search.population,
        "genomes_at_most": most_genomes(config),
        "base_model": config.base_model.name,
        "executor": config.infra.executor,
        "store": config.store.path,
        "runs": config.runs,
    }
    if as_json:
        print_json({"valid": True, "file": str(file)} | summary | {"not_checked": notes})
        return
    echo(f"[green]valid[/]: {marked(file)}")
    echo(*(words(f"{name.replace('_', ' '):<16} {value}") for name, value in summary.items()))
    print_notes(notes)


def show(file: Path, /, *, set_: Overrides = None, as_json: AsJson = False) -> None:
    """Print the whole configuration, defaults included.

    Args:
        file: The configuration.
    """
    config = load_config(file, set_ or [])
    if as_json:
        print_json(config)
    else:
        print(dump_yaml(config), end="")


def schema() -> None:
    """Print the JSON schema of a configuration: every key with its description, range and default."""
    print_json(RunConfig.model_json_schema())


def print_notes(notes: Sequence[str]) -> None:
    """Print the notes of a check about what it did not look at, one line each."""
    echo(*(words(f"not checked here: {note}", "dim") for note in notes))
