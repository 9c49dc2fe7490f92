"""A run under verification: its files read, and what checks found."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, ValidationError

from coral_core.config import RunConfig
from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from coral_core.identities import Identities
from coral_core.jobs import BaseModelIdentity, EvaluationJob
from coral_core.json_object import json_object
from coral_core.plan import Planner
from coral_core.records import FinalRecord, RunIdentity, RunRecord, parse_record
from coral_core.run import RunFolder
from coral_core.store import Store


class Finding(Frozen):
    """What one check saw."""

    check: str = Field(
        description="files, versions, identity, problems, completeness, digests, store, champion, scores, search, verdicts, regenerated."
    )
    status: Literal["ok", "differs", "note"] = Field(
        description="note: something that makes no difference, or could not be checked."
    )
    text: str  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """An evaluation that the history names, and the job that it must come from."""

    label: str
    training_digest: str
    evaluation_digest: str
    job: EvaluationJob


@dataclass
class Verified:
    """A run under verification; findings are added to it."""

    folder: RunFolder
    store: Store
    config: RunConfig
    identity: RunIdentity
    recorded_versions: dict[str, str]
    records: list[Any]
    planner: Planner
    findings: list[Finding] = field(default_factory=list)

    @property
    def run(self) -> RunRecord:
        found: RunRecord = self.records[0]
        return found

    def of(self, kind: type[Any]) -> list[Any]:
        return [record for record in self.records if isinstance(record, kind)]

    def say(self, check: str, differences: Sequence[str], fine: str) -> None:
        """A finding per difference, or one that all is well."""
        for text in differences:
            self.findings.append(Finding(check=check, status="differs", text=text))
        if not differences:
            self.findings.append(Finding(check=check, status="ok", text=fine))

    def note(self, check: str, text: str) -> None:
        self.findings.append(Finding(check=check, status="note", text=text))


def open_run(folder: RunFolder, store: Store) -> tuple[Verified | None, list[Finding]]:
    """The run, when its files can be read; else what is wrong with them."""
    wrong: list[Finding] = []

    def broken(text: str) -> None:
        wrong.append(Finding(check="files", status="differs", text=text))

    config = identity = None
    recorded: dict[str, str] = {}
    try:
        config = folder.config()
    except (ConfigError, OSError, ValueError) as error:
        broken(f"config.yaml cannot be read: {first_line(error)}")
    try:
        facts = json_object((folder.path / "run.json").read_bytes())
        identity = RunIdentity.model_validate(facts["identity"])
        recorded = {str(name): str(value) for name, value in facts["versions"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        broken(f"run.json cannot be read: {first_line(error)}")
    records = list(_records(folder, broken))
    if not wrong and not (records and isinstance(records[0], RunRecord)):
        broken("history.jsonl does not begin with the record of its run; nothing can be checked against it")
    if wrong or config is None or identity is None:
        return None, wrong
    base: BaseModelIdentity = records[0].base_model
    trained_on = base.model_copy(update={"numerics_class": records[0].training_numerics_class})
    planner = Planner(config, identity, Identities(training=trained_on, evaluation=base))
    found = Verified(folder, store, config, identity, recorded, records, planner)
    ended = isinstance(records[-1], FinalRecord)
    found.say("files", [], f"{len(records)} records in history.jsonl, configuration and identity can be read")
    if not ended:
        found.note(
            "files",
            "the run is not finished: what is there so far is checked (a last line that was cut off is not there yet)",
        )
    return found, []


def _records(folder: RunFolder, broken: Callable[[str], None]) -> Iterator[Any]:
    try:
        *lines, rest = (folder.path / "history.jsonl").read_bytes().split(b"\n")
    except OSError as error:
        broken(f"history.jsonl cannot be read: {first_line(error)}")
        return
    if not lines and rest:
        broken("history.jsonl has no whole line; nothing can be checked against it")
    for number, line in enumerate(lines, 1):  # what a kill cut off at the end is not there yet
        try:
            yield parse_record(json_object(line))
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            broken(f"history.jsonl, line {number} is no record: {first_line(error)}")


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
