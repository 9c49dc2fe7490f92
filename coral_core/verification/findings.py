"""A run under verification: the content of its files, and the findings of checks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from coral_core.bounded_read import LINES, LONGEST_LINE, look_at, read_file, read_model
from coral_core.config import RunConfig
from coral_core.errors import ConfigError, CoralError
from coral_core.evolution.job_runner import Planner
from coral_core.frozen import Frozen
from coral_core.jobs.jobs import EvaluationJob
from coral_core.json_object import json_object
from coral_core.runs.identities import FILE, FrozenIdentities
from coral_core.runs.records import RECORD_LINE, FinalRecord, GenomeRecord, RunFacts, RunIdentity, RunRecord
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store, first_line


class Finding(Frozen):
    """One result of a check."""

    check: str = Field(
        description="files, versions, identity, problems, completeness, digests, store, champion, scores, search, verdicts, regenerated, unchecked."
    )
    status: Literal["ok", "differs", "note"] = Field(
        description="note: something that makes no difference, or could not be checked."
    )
    text: str  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """An evaluation that the history names, and the job that must have produced it."""

    label: str
    training_digest: str
    evaluation_digest: str
    job: EvaluationJob


@dataclass
class Verified:
    """A run under verification; checks add their findings to it."""

    folder: RunFolder
    store: Store
    config: RunConfig
    identity: RunIdentity
    recorded_versions: dict[str, str]
    records: list[Any]
    planner: Planner
    findings: list[Finding] = field(default_factory=list)
    expected: list[Expected] = field(default_factory=list)
    """Evaluations that the history names; filled by the check of digests."""

    @property
    def run(self) -> RunRecord:
        """The first record of the history."""
        first: RunRecord = self.records[0]
        return first

    @property
    def genomes(self) -> dict[str, GenomeRecord]:
        """Records of genomes by genome id."""
        return {record.genome.genome_id: record for record in self.of(GenomeRecord)}

    def of(self, kind: type[Any]) -> list[Any]:
        """Records of one kind, in their order."""
        return [record for record in self.records if isinstance(record, kind)]

    def say(self, check: str, differences: Sequence[str], fine: str) -> None:
        """Add one finding per difference; without differences, one finding that the check passed.

        Args:
            check: Name of the check.
            differences: One text each.
            fine: Text of the finding if there are no differences.
        """
        for text in differences:
            self.findings.append(Finding(check=check, status="differs", text=text))
        if not differences:
            self.findings.append(Finding(check=check, status="ok", text=fine))

    def note(self, check: str, text: str) -> None:
        """Add a finding that is no difference, such as something that could not be checked.

        Args:
            check: Name of the check.
            text: The finding.
        """
        self.findings.append(Finding(check=check, status="note", text=text))


def open_run(folder: RunFolder, store: Store) -> tuple[Verified | None, list[Finding]]:
    """Read the files of a run.

    Args:
        folder: The run's folder.
        store: The run's store.

    Returns:
        The run and no findings; or None and one finding per file that cannot be read.
    """
    wrong: list[str] = []
    config = identity = None
    recorded: dict[str, str] = {}
    try:
        config = folder.config()
    except (ConfigError, OSError, ValueError) as error:
        wrong.append(f"config.yaml cannot be read: {first_line(error)}")
    try:
        facts = read_model(folder.path / "run.json", RunFacts)
        identity, recorded = facts.identity, facts.versions
    except (OSError, ValueError) as error:
        wrong.append(f"run.json cannot be read: {first_line(error)}")
    records = list(_records(folder, wrong.append))
    try:
        folder.timings()
    except CoralError as error:
        wrong.append(first_line(error))
    if not wrong and not (records and isinstance(records[0], RunRecord)):
        wrong.append("history.jsonl does not begin with the record of its run; nothing can be checked against it")
    if wrong or config is None or identity is None:
        return None, [Finding(check="files", status="differs", text=text) for text in wrong]
    planner = Planner.of_run(config, records[0], identity)
    run = Verified(folder, store, config, identity, recorded, records, planner)
    run.say("files", list(_base_model_differences(run)), f"{len(records)} records in history.jsonl; config.yaml, run.json, timings.jsonl and base_model.json can be read")  # fmt: skip
    if not isinstance(records[-1], FinalRecord):
        run.note("files", "the run is not finished: what is there so far is checked")
    return run, []


def _records(folder: RunFolder, broken: Callable[[str], None]) -> Iterator[Any]:
    try:
        *lines, rest = read_file(folder.path / "history.jsonl", LINES).split(b"\n")
    except OSError as error:
        broken(f"history.jsonl cannot be read: {first_line(error)}")
        return
    if not lines and rest:
        broken("history.jsonl has no whole line")
    for number, line in enumerate(lines, 1):  # the rest is a line that a kill cut off
        try:
            if len(line) > LONGEST_LINE:
                raise ValueError(f"it has {len(line)} bytes")
            yield RECORD_LINE.validate_python(json_object(line))
        except ValueError as error:
            broken(f"history.jsonl, line {number} is no record: {first_line(error)}")


def _base_model_differences(run: Verified) -> Iterator[str]:
    """Differences between `base_model.json` and the history. The file is absent until the base model is identified."""
    path = run.folder.path / FILE
    if look_at(path) is None:
        return
    try:
        frozen = read_model(path, FrozenIdentities).identities
    except (OSError, ValueError) as error:
        yield f"{FILE} cannot be read: {first_line(error)}"
        return
    if (frozen.evaluation, frozen.training.numerics_class) != (run.run.base_model, run.run.training_numerics_class):
        yield f"{FILE} is of another base model or numerics class than history.jsonl"


def value_differences(
    pairs: Iterable[tuple[str, Any, Any]], found: str, recorded: str = "in history.jsonl"
) -> Iterator[str]:
    """One text per pair whose values differ.

    Args:
        pairs: Name, recorded value, value found.
        found: Where the values found stand, such as "in the store".
        recorded: Where the recorded values stand.

    Example:
        >>> list(value_differences([("seed", 1, 1), ("edition", 1, 2)], "in run.json"))
        ['edition 1 in history.jsonl, 2 in run.json']
    """
    yield from (f"{name} {one} {recorded}, {other} {found}" for name, one, other in pairs if one != other)
