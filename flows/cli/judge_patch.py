"""`coral test-patch`: judge a file against one problem, as a lane would, without a model."""

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from coral_core.config import RunConfig
from coral_core.errors import ConfigError
from coral_core.jobs.jobs import TestJob, TestResult
from flows.cli.case_text import call_text, expected_text, shortened
from flows.cli.config import configured
from flows.cli.markup import echo, marked, print_json, words
from flows.cli.places import AsJson, Overrides

LONGEST_PATCH = 200_000  # as in coral_core/judge/judge.py, which takes long to import
MOST_BYTES = 4 * LONGEST_PATCH
COLOURS = {"pass": "green", "not-run": "dim"}


def judge_patch(
    problem: str,
    file: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    config: Path | None = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Judge FILE against PROBLEM; exits with 0 when every case passes, else with 1.

    Args:
        problem: Id of a problem, for example builtin/fitness/merge/0005.
        file: The code, a whole module; - reads it from standard input.
        config: The configuration with the problems and limits; the defaults without it.
    """
    from coral_core.jobs.job_content import find_problem, job_for_patch

    settings = configured(config, set_ or [], "the defaults")
    patch, note = read_patch(file)
    job = job_for_patch(settings, problem, patch)
    result = _judge(settings, job)
    verdict = result.verdict | ({"message": note} if note else {})
    if as_json:
        print_json({"schema_version": 1, **result.model_dump(mode="json"), "verdict": verdict})
    else:
        _print(verdict, find_problem(settings.problems, problem).cases)
    if not result.passed:
        raise SystemExit(1)


def read_patch(file: str) -> tuple[str, str]:
    """Read a patch.

    Args:
        file: Path, or ``-`` for standard input.

    Returns:
        The code, and the problem with its bytes ("": none). Code that is too long or not UTF-8 ends in NUL, which Python
        refuses.

    Raises:
        ConfigError: The file cannot be read.
    """
    try:
        if file == "-":
            data = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(file).open("rb") as stream:  # bounded: the file may be a pipe or endless
                data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read ({error.strerror})", remedy="Give a file of Python code, or - for stdin."
        ) from None
    if len(data) > MOST_BYTES:
        return "\0", f"the patch has more than {MOST_BYTES} bytes; at most {LONGEST_PATCH} characters are judged"
    try:
        return data.decode(), ""
    except UnicodeDecodeError as error:
        return data.decode(errors="replace") + "\0", f"the patch is not valid UTF-8 (byte {error.start})"


def _judge(config: RunConfig, job: TestJob) -> TestResult:
    """Run the job in this process; a test job uses neither engine nor store."""
    from coral_core.execution.inline import InlineExecutor
    from coral_core.store.store import Store

    with InlineExecutor(config.infra, Store(config.store.path)) as executor:
        return executor.submit_test(job).result()


def _print(verdict: dict[str, Any], cases: Any) -> None:
    passing = verdict["cases"].count("pass")
    colour = "green" if passing == len(cases) else "red"
    outcome = f"[{colour}]{marked(verdict['outcome'])}[/], {passing} of {len(cases)} cases pass"
    echo(f"[bold]{marked(verdict['problem_id'])}[/] {outcome}")
    if verdict["message"]:
        echo(words(f"  {verdict['message']}"))
    for number, (found, case) in enumerate(zip(verdict["cases"], cases, strict=True)):
        text = f"{call_text(case)} -> {expected_text(case)}"
        echo(f"  {number:>3} [{COLOURS.get(found, 'red')}]{marked(found):<12}[/] {marked(shortened(text, 100))}")
