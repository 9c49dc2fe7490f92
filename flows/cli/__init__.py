"""The `coral` command. Commands are imported when they run, so that ``coral --help`` is quick.

Nothing here imports torch, Prefect or matplotlib at module level.
"""

import errno
import io
import logging
import os
import sys

from cyclopts import App

from coral_core.errors import CoralError
from coral_core.untrusted import VisibleFormatter
from flows.prefect_api.shutdown import leave


def _version() -> str:
    from importlib.metadata import version

    return version("coral-x")


def _jobs(*, store: str = "runs/store", json: bool = False) -> None:
    """List jobs that wait, run or failed; retry, drop or clear them.

    Args:
        store: The store whose queue is meant.
        json: Print JSON.
    """
    from flows.cli.jobs import jobs

    jobs(store=store, as_json=json)


def _work_pools(app: App) -> None:
    """Commands that need work pools, or a run that goes on elsewhere."""
    app.command("flows.cli.installation:up", name="up", help="Start server, pools and workers on this machine.")
    app.command("flows.cli.installation:down", name="down", help="End what `coral up` started.")
    app.command(
        "flows.cli.installation:setup", name="setup", help="Make pools, automations and deployments on a Prefect API."
    )
    app.command("flows.cli.installation:drain", name="drain", help="Let a pool's lanes finish, then stop its worker.")
    app.command("flows.cli.status:status", name="status", help="Show where pools, lanes and evolutions stand.")
    app.command("flows.cli.stop:cancel", name="cancel", help="Stop an evolution; finished work stays.")
    app.command("flows.cli.stop:resume", name="resume", help="Go on with a run as it was configured.")
    jobs = App(
        name="jobs", help="List jobs that wait, run or failed; retry, drop or clear them.", help_format="markdown"
    )
    jobs.default(_jobs)
    jobs.command("flows.cli.jobs:retry", name="retry", help="Put a failed job back into the queue.")
    jobs.command("flows.cli.jobs:drop", name="drop", help="Remove a job from the queue.")
    jobs.command("flows.cli.jobs:clear", name="clear", help="Remove all jobs of one's own run from a pool.")
    app.command(jobs)
    submit = App(name="submit", help="Put a job on a work pool by hand and wait for it.", help_format="markdown")
    submit.command("flows.cli.jobs:submit_train", name="train", help="Train one adapter.")
    submit.command("flows.cli.jobs:submit_evaluate", name="evaluate", help="Evaluate one genome.")
    submit.command("flows.cli.jobs:submit_test", name="test", help="Judge a file against a problem.")
    app.command(submit)


def _watching(app: App) -> None:
    """Commands that look at runs and installations, and at what they cost."""
    app.command("flows.cli.progress:progress", name="progress", help="Show where one run stands.")
    app.command("flows.cli.logs:logs", name="logs", help="Show the log lines of a run, or of one genome of it.")
    app.command("flows.cli.budget:budget", name="budget", help="Show what was spent, and what is left.")
    app.command("flows.cli.health:health", name="health", help="Check an installation; exits 0 or 1, for monitors.")
    app.command("flows.cli.verify:verify", name="verify", help="Check a run's files and replay some evaluations.")
    metrics = App(name="metrics", help="Figures for Prometheus.", help_format="markdown")
    metrics.command("flows.cli.metrics:serve", name="serve", help="Serve the figures over HTTP.")
    app.command(metrics)
    export = App(name="export", help="Write a run's history for other tools.", help_format="markdown")
    export.command("flows.cli.export:mlflow", name="mlflow", help="Write the run into an MLflow tracking store.")
    export.command("flows.cli.export:wandb", name="wandb", help="Write the run as an offline Weights & Biases run.")
    app.command(export)


def build() -> App:
    """The application with all its commands, none of them imported yet."""
    app = App(
        name="coral",
        help="Evolve LoRA and DoRA adapters of a code model that repair bugs.\n\nA run is named by its id, the beginning of one, `latest`, or the path of its folder.",
        version=_version,
        help_format="markdown",
    )
    app.command("flows.cli.init:init", name="init", help="Write a commented configuration to start from.")
    config = App(name="config", help="Check or show configurations.", help_format="markdown")
    config.command("flows.cli.config:check", name="check", help="Check a configuration; starts nothing.")
    config.command("flows.cli.config:show", name="show", help="Print the whole configuration, defaults included.")
    config.command("flows.cli.config:schema", name="schema", help="Print the JSON schema of a configuration.")
    app.command(config)
    app.command(
        "flows.cli.evolve:evolve",
        name="evolve",
        help="Evolve adapters as CONFIG says; run it again to resume or replay.",
    )
    app.command("flows.cli.runs:runs", name="runs", help="List the runs.")
    app.command("flows.cli.report:report", name="report", help="Show what a run found and what it cost.")
    app.command("flows.cli.show:show", name="show", help="Show a genome: genes, lineage, scores, patches, verdicts.")
    app.command("flows.cli.doctor:doctor", name="doctor", help="Check this machine: versions, sandbox, store, server.")
    app.command(
        "flows.cli.judge_patch:judge_patch", name="test-patch", help="Judge a file against one problem; exits 0 or 1."
    )
    _work_pools(app)
    _watching(app)
    problems = App(name="problems", help="Check, fetch and compare problems.", help_format="markdown")
    problems.command(
        "flows.cli.problems:check", name="check", help="Judge reference and buggy version of each problem."
    )
    problems.command("flows.cli.problems:fetch", name="fetch", help="Fetch a public benchmark (quixbugs).")
    problems.command(
        "flows.cli.problems:leak_check", name="leak-check", help="List functions that cross splits; exits 0 or 1."
    )
    app.command(problems)
    store = App(name="store", help="Look at and check the store of adapters and evaluations.", help_format="markdown")
    store.command("flows.cli.store:ls", name="ls", help="List what the store holds.")
    store.command("flows.cli.store:show", name="show", help="Show one entry.")
    store.command("flows.cli.store:verify", name="verify", help="Check every entry by itself; exits 0 or 1.")
    store.command("flows.cli.store:clear", name="clear", help="Remove entries that this version does not use.")
    app.command(store)
    return app


def main() -> None:
    """Entry point of `coral`: an error is one line that says what to do, never a traceback first."""
    for stream in (sys.stdout, sys.stderr):  # a terminal of another encoding shows what it can
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _main()
    except SystemExit as ended:
        leave(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
        raise
    leave(0)


def _main() -> None:
    debug = os.environ.get("CORAL_DEBUG") == "1"
    if logging.lastResort is not None:  # what commands without a log of their own print warnings with
        logging.lastResort.setFormatter(VisibleFormatter())
    try:
        build()()
    except CoralError as error:
        if debug:
            raise
        _say(str(error))
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        _say("stopped by Ctrl-C; finished work is kept")
        raise SystemExit(130) from None
    except BrokenPipeError:  # `coral ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception as error:
        if debug:
            raise
        code, text = _told(error)
        _say(text)
        raise SystemExit(code) from None


def _told(error: Exception) -> tuple[int, str]:
    """Exit code and words for an error that nobody raised on purpose."""
    if isinstance(error, PermissionError) and error.filename:
        return 2, (
            f"{_in_a_line(error.filename)}: may not be read or written by user {os.geteuid()} ({error.strerror}). Give this user "
            "the folder, or run as the one who owns it."
        )
    if isinstance(error, OSError) and error.filename and error.errno in OF_THE_FILE_SYSTEM:
        return (
            2,
            f"{_in_a_line(error.filename)}: cannot be used ({error.strerror}). Give another path, or put this one right.",
        )
    if isinstance(error, OSError) and not error.filename and error.errno in OF_THE_FILE_SYSTEM:
        return 2, (
            f"something could not be written or read ({error.strerror}): the output, or a file of runs or store. Look at the disk that "
            "they are on, and run it again."
        )
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # pathlib, of a path that begins with ~
        return 2, "a path begins with ~ and names a user whom this machine does not know: write the whole path (also in CORAL_HOME, PREFECT_HOME)."  # fmt: skip
    if "prefect" in sys.modules:
        from flows.prefect_api.api_errors import api_error

        if (known := api_error(error)) is not None:
            return known.exit_code, str(known)
    reason = (str(error).splitlines() or [""])[0]
    return 70, (
        f"{type(error).__name__}: {reason}\nThis is a bug of CORAL-X, not of yours. CORAL_DEBUG=1 shows where it happened."
    )


OF_THE_FILE_SYSTEM = {
    errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO,
    errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ETXTBSY, errno.EFBIG, errno.ENOTCONN, errno.EHOSTDOWN,
}  # fmt: skip
"""What a path that was given can do, wherever it is used."""


LONGEST_ARGUMENT = 200
"""Characters of what was typed that an error repeats."""


def _in_a_line(path: object) -> str:
    return (os.fsdecode(path) if isinstance(path, bytes) else str(path)).replace("\n", "\\n")[:500]


def _say(text: str) -> None:
    """`error: <first line>` in red on a terminal, then the other lines. Nobody listens where stderr is closed."""
    if sys.stderr is None:
        return
    from coral_core.config.yaml_document import shown
    from coral_core.untrusted import visible

    for argument in sys.argv[1:]:  # in one line, however it was typed
        if "\n" in argument or "\r" in argument or len(argument) > LONGEST_ARGUMENT:
            text = text.replace(argument, shown(argument, LONGEST_ARGUMENT))
    first, *rest = visible(text).splitlines() or [""]
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    print(f"{red}error: {first}{plain}", *rest, sep="\n", file=sys.stderr)
