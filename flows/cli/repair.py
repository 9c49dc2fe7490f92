"""`coral repair FILE`: patches for one function by the champion of a run, an adapter or the base model, judged and shown as a diff."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from coral_core.errors import ConfigError, CoralError
from coral_core.report.wording import plural
from flows.cli.evaluate import RunName, configuration_for
from flows.cli.markup import echo, marked, patch, print_json, words
from flows.cli.places import AsJson, Overrides, Runs

if TYPE_CHECKING:
    from coral_core.repair.proposals import Model, Repair

MOST = 64
"""Most completions per call."""


def repair(
    file: Path,
    /,
    *,
    function: str | None = None,
    run: RunName = None,
    adapter: Path | None = None,
    config: Path | None = None,
    tests: Path | None = None,
    candidates: int = 8,
    write: Annotated[bool, Parameter(negative=())] = False,
    same_base: Annotated[bool, Parameter(negative=())] = False,
    set_: Overrides = None,
    runs: Runs = "runs",
    as_json: AsJson = False,
) -> None:
    """Propose patches for a function of FILE, judge them, and show the best as a diff; writes nothing without --write.

    Exits with 0 when the best patch passes all cases (without --tests: when there is a patch), with 1 when none does.

    Args:
        file: Python file in UTF-8.
        function: The function to repair; may be left out where the file has one only.
        adapter: Folder of a PEFT adapter that proposes. Without it and --run, the base model proposes.
        config: Configuration with base model, prompt, and limits of the judge.
        tests: File of JSON lines with cases (docs/after-the-search.md), or a project whose tests are run and recorded.
        candidates: Completions to ask for, 1 to 64.
        write: Replace the function in FILE by the best patch: with cases only if it passes all of them.
        same_base: The adapter's base model is the configured one under another name.
    """
    from coral_core.repair.proposals import Cases, cases_of_file, propose, recorded_cases
    from coral_core.repair.source_file import SourceFile

    if not 1 <= candidates <= MOST:
        raise ConfigError(f"--candidates {candidates}: is not between 1 and {MOST}", remedy="Give such a number.")
    if run is not None and adapter is not None:
        raise ConfigError(
            f"--adapter {adapter}: --run {run} proposes with its champion", remedy="Leave one of them out."
        )
    source = SourceFile.read(file)
    name = source.function(function)
    if write:
        source.check_writable()
    cases = Cases((), "no tests were given (--tests)")
    if tests is not None:
        cases = recorded_cases(tests, source, name) if tests.expanduser().is_dir() else cases_of_file(tests, name)
        if not cases.cases and cases.origin == str(tests):
            cases = cases._replace(origin=f"{tests} has no case for {name}")
        if write and not cases.cases:
            raise ConfigError(f"--tests {tests}: nothing to judge {name} by: {cases.origin}", remedy="Leave --write out, or leave --tests out to write a patch that nothing has judged.")  # fmt: skip
    adapter = adapter.expanduser().absolute() if adapter else None
    model = _model(adapter, run, config, set_ or [], runs, same_base)
    found = propose(source, name, model, cases, candidates)
    refused, failed = "", None
    if write and found.is_repaired:
        try:
            source.write(found.proposals[0].text)
            found = found.model_copy(update={"written": True})
        except CoralError as error:  # what was found is shown all the same
            failed, refused = error, "nothing was written"
    elif write:
        refused = "nothing was written: " + ("no patch passes all cases" if found.proposals else "there is no patch")
    if as_json:
        print_json(found)
    else:
        _print(found, refused)
    if failed is not None:
        raise failed
    if not found.is_repaired or (tests is not None and not cases.cases):
        raise SystemExit(1)


def _model(
    adapter: Path | None, run: str | None, config: Path | None, overrides: list[str], runs: str, same_base: bool
) -> "Model":
    """What proposes: the champion of a run, an adapter, or the base model."""
    from coral_core.comparison.adapter_evaluation import champion_of, store_given
    from coral_core.genome import neutral
    from coral_core.jobs.jobs import GivenAdapter
    from coral_core.lm.base_model import identify
    from coral_core.lm.given_adapter import check_base, decoding_of, read_given_adapter
    from coral_core.lm.requests import AdapterFolder
    from coral_core.repair.proposals import Model
    from coral_core.report.history_records import History
    from coral_core.store.store import Store

    settings, folder = configuration_for(adapter, None, run, config, overrides, runs)
    base, store = identify(settings.base_model), Store(settings.store.path)
    light, prompt, name = neutral(settings.genes.light.token_limit.high), None, settings.base_model.name
    given: GivenAdapter | None = None
    if folder is not None:
        record = History.of(folder).run
        if record is not None and record.base_model.content_id != base.content_id:
            raise ConfigError(
                f"{folder.run_id}: was run on {record.base_model.name} ({record.base_model.content_id[:12]}), and {name} is "
                f"{base.content_id[:12]} here",
                remedy="Put the run's files there: an adapter fits no other weights.",
            )
        genome, given, light = champion_of(folder, store)
        prompt, name = record.prompt if record else None, f"{name} with champion {genome} of {folder.run_id}"
    elif adapter is not None:
        read = read_given_adapter(adapter, settings.base_model)
        check_base(read, settings.base_model, base.content_id, same_base)
        light, name = decoding_of(adapter, light.token_limit) or light, f"{name} with {adapter}"
        given = store_given(store, read, base.content_id, base.parameters)
    used = AdapterFolder(folder=store.adapter_path(given.digest), heavy=given.heavy, is_given=True) if given else None
    return Model(settings, used, light, prompt, name)


def _print(found: "Repair", refused: str) -> None:
    echo(words(f"{found.function} in {found.file}, by {found.model}: {plural(found.completions, 'completion')}, {len(found.proposals)} different"))  # fmt: skip
    for reason, count in found.left_out.items():
        echo(words(f"  {count} gave no patch: {reason}", "dim"))
    for number, each in enumerate(found.proposals if found.cases else (), 1):
        colour = "green" if each.passing == found.cases else "red"
        echo(
            f"  patch {number}: [{colour}]{marked(each.verdict)}[/], {each.passing} of {found.cases} cases pass {marked(each.reason)}"
        )
    if found.untested:
        echo(words(f"not judged: {found.untested}", "yellow"))
    else:
        echo(words(f"cases: {found.tests}; the function as it is passes {found.passing_now} of {found.cases}"))
        if found.recorded:
            echo(words("These cases are calls of tests that pass now: they show that a patch keeps what works, not that it repairs what does not.", "yellow"))  # fmt: skip
    if not found.proposals:
        echo("[yellow]no patch was proposed[/]")
        return
    patch(found.proposals[0].diff)
    if found.written:
        echo(words(f"written to {found.file}", "green"))
    elif refused:
        echo(words(refused, "yellow"))
    else:
        echo("nothing was written; --write replaces the function")
