"""`coral config check|show|schema`, and how commands read a configuration that may be left out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from coral_core.config import RunConfig, dump_yaml, load_config, parse_config, read_config
from coral_core.evolution import preflight
from coral_core.runs.run_folder import identify_run
from flows.cli.markup import marked, words

Overrides = Annotated[
    list[str] | None, Parameter(name="--set", help="section.key=value in place of the file's; repeatable.", negative=())
]
AsJson = Annotated[bool, Parameter(name="--json", help="Print JSON (keys: docs/json.md).", negative=())]


def configured(config: Path | None, overrides: Sequence[str], source: str = "the command line") -> RunConfig:
    """The configuration of a command where CONFIG may be left out: then the defaults, with `overrides`.

    Args:
        config: The file, if one was given.
        overrides: Values of --set.
        source: What errors call the configuration where there is no file.
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
        "valid": True,
        "file": str(file),
        "run_id": identify_run(config).run_id,
        "strategy": search.strategy,
        "generations": search.generations,
        "population": search.population,
        "genomes_at_most": search.generations * search.population,
        "base_model": config.base_model.name,
        "executor": config.infra.executor,
        "store": config.store.path,
        "runs": config.runs,
        "not_checked": list(notes),
    }
    if as_json:
        print(json.dumps(summary, indent=1))
        return
    out = Console(highlight=False, soft_wrap=True)
    out.print(f"[green]valid[/]: {marked(file)}")
    out.print(f"run       {summary['run_id']}")
    out.print(
        f"search    {search.strategy}, {search.generations} generations of {search.population}: {summary['genomes_at_most']} genomes at most"
    )
    out.print(
        f"model     {marked(config.base_model.name)} ({config.base_model.dtype}, {config.base_model.device}), executor {config.infra.executor}"
    )
    out.print(words(f"store     {config.store.path} (reuse: {config.store.reuse}), runs in {config.runs}"))
    print_notes(out, notes)


def show(file: Path, /, *, set_: Overrides = None, as_json: AsJson = False) -> None:
    """Print the whole configuration, defaults included.

    Args:
        file: The configuration.
    """
    config = load_config(file, set_ or [])
    print(
        json.dumps(config.model_dump(mode="json"), indent=1) if as_json else dump_yaml(config),
        end="\n" if as_json else "",
    )


def schema() -> None:
    """Print the JSON schema of a configuration: every key with its description, range and default."""
    print(json.dumps(RunConfig.model_json_schema(), indent=1))


def print_notes(out: Console, notes: Sequence[str]) -> None:
    """Print what a check left out, one line each."""
    for note in notes:
        out.print(words(f"not checked here: {note}", "dim"))
