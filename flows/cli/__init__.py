"""The `coral` command. Commands are imported when they run, so that ``coral --help`` is quick.

Nothing here imports torch, Prefect or matplotlib at module level.
"""

import errno
import io
import logging
import os
import sys
from pathlib import Path

from cyclopts import App, Group

from coral_core.errors import CoralError
from coral_core.untrusted import VisibleFormatter


def _version() -> str:
    from importlib.metadata import version

    return version("coral-x")


def _jobs(*, store: str = "runs/store", json: bool = False) -> None:
    """List the jobs of a store that are waiting, running or failed.

    Args:
        store: Directory of the store.
        json: Print JSON (keys: docs/json.md).
    """
    from flows.cli.jobs import jobs

    jobs(store=store, as_json=json)


def _export(
    run: str = "latest",
    /,
    *,
    front: Path | None = None,
    merge: Path | None = None,
    genome: str = "champion",
    runs: str = "runs",
    json: bool = False,
) -> None:
    """Export what a run found: every adapter of its Pareto front, or one genome merged into a full model.

    `--front DIR` writes a PEFT folder with a model card for each member of the front, and front.json. `--merge DIR` writes
    base model and adapter as one model for transformers or vLLM. DIR must be absent or empty.

    Args:
        run: Id of the run, the beginning of one, `latest`, or the path of its folder.
        front: Folder to write the adapters of the Pareto front to.
        merge: Folder to write the merged model to.
        genome: The genome to merge: its id (g002-005), or champion.
        runs: Directory that holds the runs.
        json: Print JSON (keys: docs/json.md).
    """
    from flows.cli.export_adapters import export

    export(run, front, merge, genome, runs, json)


COMMANDS = {
    "Search": (
        ("init", "init:init", "Write a commented configuration to start from."),
        ("config", None, "Check or print a configuration."),
        ("config check", "config:check", "Check a configuration without starting anything."),
        ("config show", "config:show", "Print the whole configuration, defaults included."),
        ("config schema", "config:schema", "Print the JSON schema of a configuration."),
        ("plan", "plan:plan", "Plan memory, time and money of the jobs of CONFIG; starts nothing."),
        ("evolve", "evolve:evolve", "Run the evolution that CONFIG describes; run it again to resume it."),
        ("resume", "stop:resume", "Resume a run with its own configuration."),
        ("cancel", "stop:cancel", "Stop an evolution and keep finished work."),
    ),
    "Results": (
        ("runs", "runs:runs", "List the runs."),
        ("progress", "progress:progress", "Show the progress of a run."),
        ("report", "report:report", "Show the results of a run, or compare two runs."),
        ("compare", "compare:compare", "Compare search strategies at equal budget, or two runs."),
        ("show", "show:show", "Show a genome: genes, lineage, scores, patches, verdicts."),
        ("logs", "logs:logs", "Show the log of a run, or of one genome."),
        ("budget", "budget:budget", "Show what a run spent and what is left."),
        ("verify", "verify:verify", "Check the files of a run and judge a sample again."),
        ("evaluate", "evaluate:evaluate", "Evaluate any PEFT adapter against its base model and a champion."),
        ("export", _export, "Export the Pareto front, a merged model, or the history of a run."),
        ("export mlflow", "export:mlflow", "Write the run into an MLflow tracking store."),
        ("export wandb", "export:wandb", "Write the run as an offline Weights & Biases run."),
        ("store", None, "List and check stored adapters and evaluations."),
        ("store ls", "store:ls", "List the entries of the store."),
        ("store show", "store:show_entry", "Show one entry."),
        ("store verify", "store:verify", "Check every entry; exit 1 if one is broken."),
        ("store clear", "store:clear", "Remove broken entries, or those of other versions."),
    ),
    "Problems and patches": (
        ("problems", None, "Check, fetch and compare problems."),
        ("problems check", "problems:check", "Judge the reference and the buggy version of each problem."),
        ("problems history", "history:history", "Find fixes in the history of a repository (source git)."),
        ("problems show", "history:show", "Show a problem and where it comes from."),
        ("problems prompt", "prompt:prompt", "Show what the model is asked, and what it is trained to answer."),
        ("problems fetch", "problems:fetch", "Download a public benchmark (quixbugs)."),
        (
            "problems import",
            "import_problems:import_problems",
            "Convert a public benchmark, or a file of tests, into a file of bugs.",
        ),
        ("problems leak-check", "problems:leak_check", "List functions that occur in two splits; exit 0 or 1."),
        ("repair", "repair:repair", "Propose patches for a function of a file, judged where there are cases."),
        ("test-patch", "judge_patch:judge_patch", "Judge a file against one problem; exit 0 or 1."),
    ),
    "Base models": (
        ("model", None, "Fetch, check and list base models."),
        ("model fetch", "model:fetch", "Put a base model on this machine."),
        ("model check", "model:check", "Identify a base model and try it: speed, memory, a short training."),
        ("model list", "model:list_models", "List the base models on this machine."),
    ),
    "Work pools": (
        ("up", "installation:up", "Start a server, work pools and workers on this machine."),
        ("down", "installation:down", "Stop what `coral up` started."),
        ("setup", "installation:setup", "Create work pools, deployments and automations on a Prefect API."),
        ("drain", "installation:drain", "Let the lanes of a pool finish, then stop its worker."),
        ("status", "status:status", "Show pools, lanes, jobs and evolutions."),
        ("jobs", _jobs, "List jobs; retry, drop or clear failed ones."),
        ("jobs retry", "jobs:retry", "Put a failed job back into the queue."),
        ("jobs drop", "jobs:drop", "Remove a job from the queue."),
        ("jobs clear", "jobs:clear", "Remove all jobs of your own ended runs from a pool."),
        ("submit", None, "Submit one job and wait for its result."),
        ("submit train", "jobs:submit_train", "Train one adapter."),
        ("submit evaluate", "jobs:submit_evaluate", "Evaluate one genome."),
        ("submit test", "jobs:submit_test", "Judge a file against a problem."),
    ),
    "Checks and monitoring": (
        ("doctor", "doctor:doctor", "Check this machine: versions, sandbox, store, server."),
        ("health", "health:health", "Check an installation; exit 0 or 1, for monitors."),
        ("metrics", None, "Export metrics to Prometheus."),
        ("metrics serve", "metrics:serve", "Serve the metrics over HTTP."),
    ),
}
"""Panels of `coral --help`: name, function (`module:function` in flows.cli is imported when it runs), help."""


def build() -> App:
    """The application with all its commands, none of them imported yet."""
    app = App(
        name="coral",
        help=(
            "Search for the LoRA or DoRA adapter that makes a code model repair bugs best.\n\n"
            "Start with `coral evolve CONFIG`. A RUN is named by its id, the beginning of its id, `latest`, or its folder."
        ),
        version=_version,
        help_format="markdown",
    )
    groups = {title: Group.create_ordered(title) for title in (*COMMANDS, "Options")}
    for flag in ("--help", "--version"):
        app[flag].group = groups["Options"]
    for title, commands in COMMANDS.items():
        for position, (name, function, text) in enumerate(commands):
            outer, _, own = name.rpartition(" ")
            parent, group = (app[outer], None) if outer else (app, (groups[title],))
            if isinstance(function, str):
                parent.command(f"flows.cli.{function}", name=own, group=group, help=text, sort_key=position)
                continue
            inner = App(name=own, group=group, help=text, help_format="markdown", sort_key=position)
            if function is not None:
                inner.default(function)
            parent.command(inner)
    return app


def main() -> None:
    """Entry point of `coral`. An error is printed as one line with a remedy; CORAL_DEBUG=1 prints the traceback."""
    for stream in (sys.stdout, sys.stderr):  # for terminals that do not use UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _main()
    except SystemExit as ended:
        _exit(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
        raise
    _exit(0)


def _exit(code: int) -> None:
    """End the process without waiting for Prefect's threads, where Prefect was imported."""
    if "prefect" in sys.modules:
        from flows.prefect_api.flow_run_process import leave

        leave(code)


def _main() -> None:
    debug = os.environ.get("CORAL_DEBUG") == "1"
    if logging.lastResort is not None:  # prints the warnings of commands without a log
        logging.lastResort.setFormatter(VisibleFormatter())
    try:
        build()()
    except CoralError as error:
        if debug:
            raise
        _print_error(str(error))
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        _print_error("stopped by Ctrl-C; finished work is kept")
        raise SystemExit(130) from None
    except BrokenPipeError:  # `coral ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception as error:
        if debug:
            raise
        code, text = _explained(error)
        _print_error(text)
        raise SystemExit(code) from None


def _explained(error: Exception) -> tuple[int, str]:
    """Exit code and text for an error that is no `CoralError`."""
    if isinstance(error, PermissionError) and error.filename:
        return 2, (
            f"{_on_one_line(error.filename)}: user {os.geteuid()} may not read or write it ({error.strerror}). Change its "
            "permissions, or run as its owner."
        )
    if isinstance(error, OSError) and error.filename and error.errno in FILE_SYSTEM_ERRORS:
        return (
            2,
            f"{_on_one_line(error.filename)}: cannot be used ({error.strerror}). Use another path, or repair this one.",
        )
    if isinstance(error, OSError) and not error.filename and error.errno in FILE_SYSTEM_ERRORS:
        return 2, (
            f"reading or writing failed ({error.strerror}): the output, or a file of the runs or the store. Check the disk that "
            "they are on, then run the command again."
        )
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # pathlib, of a path that begins with ~
        return 2, "a path begins with ~ and names an unknown user. Write the absolute path (also in CORAL_HOME and PREFECT_HOME)."  # fmt: skip
    if "prefect" in sys.modules:
        from flows.prefect_api.client import api_error

        if (known := api_error(error)) is not None:
            return known.exit_code, str(known)
    reason = (str(error).splitlines() or [""])[0]
    return 70, (
        f"{type(error).__name__}: {reason}\nThis is a bug of CORAL-X. Set CORAL_DEBUG=1 to see the traceback, and please report it."
    )


FILE_SYSTEM_ERRORS = {
    errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO,
    errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ETXTBSY, errno.EFBIG, errno.ENOTCONN, errno.EHOSTDOWN,
}  # fmt: skip
"""Errors that any path given by a user can cause."""


LONGEST_ARGUMENT = 200
"""Characters of an argument that an error message repeats."""


def _on_one_line(path: object) -> str:
    return (os.fsdecode(path) if isinstance(path, bytes) else str(path)).replace("\n", "\\n")[:500]


def _print_error(text: str) -> None:
    """Print `error: <first line>` in red on a terminal, then the other lines. Prints nothing if stderr is closed."""
    if sys.stderr is None:
        return
    from coral_core.config.yaml_document import shown
    from coral_core.untrusted import visible

    for argument in sys.argv[1:]:  # shorten arguments and put them on one line
        if "\n" in argument or "\r" in argument or len(argument) > LONGEST_ARGUMENT:
            text = text.replace(argument, shown(argument, LONGEST_ARGUMENT))
    first, *rest = visible(text).splitlines() or [""]
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    print(f"{red}error: {first}{plain}", *rest, sep="\n", file=sys.stderr)
