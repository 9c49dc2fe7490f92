"""`coral evaluate`: any PEFT adapter on a set of problems, against its base model and against the champion of a run."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from coral_core.config import RunConfig, dump_yaml, load_config, parse_config
from coral_core.errors import ConfigError
from coral_core.problem_sources import PATHS, SOURCES, plugin_sources
from coral_core.runs.run_folder import RunFolder, find_run
from flows.cli.markup import echo, print_json, table, words
from flows.cli.places import AsJson, Overrides, Runs, enter_start_folder, with_absolute_folders

RunName = Annotated[str | None, Parameter(help="Id of a run, the beginning of one, `latest`, or its folder.")]


def evaluate(
    *,
    adapter: Path,
    problems: Annotated[
        str | None,
        Parameter(
            help="builtin, quixbugs:DIR, a .jsonl file, another SOURCE or SOURCE:PATH. Default: those of --run or --config."
        ),
    ] = None,
    run: RunName = None,
    config: Path | None = None,
    split: Literal["fitness", "monitor", "held-out"] = "held-out",
    same_base: Annotated[bool, Parameter(negative=())] = False,
    set_: Overrides = None,
    runs: Runs = "runs",
    as_json: AsJson = False,
) -> None:
    """Evaluate a PEFT adapter against its base model, and with --run against the run's champion, paired by bug.

    The base model is that of --run, of --config, or the one that the adapter names. Results are in the store: asking
    again costs nothing.

    Args:
        adapter: Folder of a LoRA or DoRA adapter in safetensors, made by CORAL-X or not.
        config: Configuration with base model, problems, judge and store.
        split: Problems to evaluate on. A run's genomes were chosen on its fitness split.
        same_base: The adapter's base model is the configured one under another name.
    """
    from coral_core.comparison.adapter_evaluation import AdapterEvaluation, evaluate_adapter
    from flows.work_pools import make_executor

    adapter = adapter.expanduser().absolute()
    settings, folder = configuration_for(adapter, problems, run, config, set_ or [], runs)
    found: AdapterEvaluation = evaluate_adapter(
        adapter,
        settings,
        run=folder,
        split="held_out" if split == "held-out" else split,
        same_base=same_base,
        make_executor=make_executor,
    )
    if as_json:
        print_json(found)
        return
    echo(
        words(f"{found.path} on {found.base_model_name}: {found.bugs} {split} bugs of {found.source}, {found.problems - found.bugs} functions that are right already")
    )  # fmt: skip
    names = {"base_model": "base model", "champion": f"champion of {found.run_id}"}
    rows = [
        (
            names.get(line.name, line.name),
            "–" if line.pass_at_1 is None else f"{line.pass_at_1:.1%}",
            line.repaired,
            "–" if line.interval is None else f"{line.interval[0]:.1%} to {line.interval[1]:.1%}",
            f"{line.trainable_parameters:,}",
            f"infeasible, {line.infeasible}: {line.reason}" if line.infeasible else ", ".join(f"{name} {value:.3f}" for name, value in sorted(line.scores.items())),
        )
        for line in found.lines
    ]  # fmt: skip
    echo(table(("<", "repairs", "bugs", "95 % interval", "parameters", "<<scores"), rows))
    echo(*map(words, found.texts()))


def configuration_for(
    adapter: Path | None,
    problems: str | None,
    run: str | None,
    config: Path | None,
    overrides: Sequence[str],
    runs: str,
) -> tuple[RunConfig, RunFolder | None]:
    """The configuration of a command that uses a model after the search.

    Args:
        adapter: Folder of an adapter, which names the base model where neither a run nor a file does; None: the champion or the base.
        problems: --problems: SOURCE, SOURCE:PATH or a path; None: those of the configuration.
        run: --run; its folder becomes the working directory where its paths are relative.
        config: --config.
        overrides: --set.
        runs: Folder of all runs.

    Raises:
        ConfigError: the configuration is invalid, or --run and --config are given both.
    """
    from coral_core.lm.given_adapter import named_base

    if run is not None and config is not None:
        raise ConfigError(f"--config {config}: --run {run} has its own configuration", remedy="Leave one of them out.")
    chosen = [*_source(problems), *overrides]
    if run is not None:
        chosen = [_with_absolute_path(each) for each in chosen]  # before the run's folder becomes the working directory
        folder = find_run(runs, run)
        frozen = dump_yaml(with_absolute_folders(folder, folder.config(), set()))
        enter_start_folder(folder)
        # the training pairs of the run play no part, and other problems have no leaks to accept
        reset = [
            "problems.path=null",
            "problems.training.source=auto",
            "problems.training.path=null",
            "problems.accept_leaks=[]",
        ]
        return parse_config(
            frozen, f"the configuration of {folder.run_id}", [*(reset if problems else []), *chosen]
        ), folder
    if config is not None:
        return load_config(config, chosen), None
    named = named_base(adapter) if adapter is not None else ""
    return parse_config(
        "", "the command line", [*([f"base_model.name={json.dumps(named)}"] if named else []), *chosen]
    ), None


def _with_absolute_path(override: str) -> str:
    """A value of --set, with a path that is relative to the working directory made absolute."""
    key, _, value = override.partition("=")
    value = value.strip()
    paths = ("runs", "store.path", "problems.path", "problems.training.path")
    if key.strip() not in paths or value in ("", "null") or value[0] in "\"'/~{[":
        return override
    return f"{key}={json.dumps(str(Path(value).absolute()))}"


def _source(problems: str | None) -> list[str]:
    """--problems as values of --set."""
    if problems is None:
        return []
    name, colon, path = problems.partition(":")
    known = [*SOURCES, *plugin_sources()]
    if name not in known:
        place = Path(problems).expanduser()
        name, path = ("jsonl" if place.is_file() else "package" if place.is_dir() else ""), problems
        colon = ":"
        if not name:
            near = difflib.get_close_matches(problems, known, 1)
            hint = f" Near: {near[0]}." if near else ""
            raise ConfigError(
                f"--problems {problems[:200]}: is no problem source, no file and no directory.{hint}",
                remedy=f"Known sources: {', '.join(known)}; with a path: SOURCE:PATH.",
            )
    if name in PATHS and not path:
        raise ConfigError(f"--problems {name}: reads a path", remedy=f"Write {name}:PATH.")
    given = [f"problems.path={json.dumps(str(Path(path).expanduser().absolute()))}"] if colon else []
    return [f"problems.source={name}", *given]
