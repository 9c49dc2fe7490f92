"""What lies in the queue: a ticket is one evolution's wish that a job be done."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from coral_core.errors import EngineError
from coral_core.frozen import Frozen
from coral_core.jobs.jobs import Digest, EvaluationJob, IdentityJob, QueueName, TestJob, TrainingJob

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}", re.ASCII)
RunId = Annotated[str, Field(pattern=f"^{RUN_NAME.pattern}$")]
"""Id of an evolution, which names files and folders of the queue."""
JobKind = Literal["identity", "training", "evaluation", "test"]
Job = IdentityJob | TrainingJob | EvaluationJob | TestJob
_JOBS: dict[JobKind, type[Job]] = {
    "identity": IdentityJob,
    "training": TrainingJob,
    "evaluation": EvaluationJob,
    "test": TestJob,
}
_RANKS: dict[JobKind, int] = {"identity": 0, "test": 0, "evaluation": 1, "training": 2}
LARGEST = 999_999
MOST_SECONDS = 600_000
"""The longest time limit that a configuration can give a job: `minutes` of a queue."""


def kind_of(job: Job) -> JobKind:
    """The kind of a job."""
    return next(kind for kind, type_ in _JOBS.items() if isinstance(job, type_))


def queue_of(job: Job) -> QueueName:
    """Whose lanes do it. Tests need no model and share the lanes of evaluations."""
    if isinstance(job, IdentityJob):
        return job.queue
    return "training" if isinstance(job, TrainingJob) else "evaluation"


LOST = "lane-lost"


class Failure(Frozen):
    """One try that did not end in a result."""

    lane: str = Field(description="Id of the lane that tried.")
    host: str = ""
    error: str = Field(description="Class of the error, or `lane-lost` when the lane died with the job in flight.")
    message: str
    alone: bool = Field(False, description="Nothing else ran on that machine's lanes of this queue.")
    others_done: bool = Field(
        False, description="Of a lost lane: lanes of this queue have done other work since the loss before."
    )


class Ticket(Frozen):
    """A job, who wants it, and what became of earlier tries."""

    schema_version: int = 1
    kind: JobKind
    digest: Digest
    run_id: RunId
    job: dict[str, Any] = Field(description="The job as JSON.")
    seconds: float = Field(gt=0, le=MOST_SECONDS, description="Time limit of the work; waiting is not counted.")
    size: int = Field(
        0, ge=0, le=LARGEST, description="Larger ones of a kind go first, so that none is left over last."
    )
    alone: bool = Field(False, description="Run with no other job of this queue on the same machine.")
    failures: tuple[Failure, ...] = ()

    def parsed(self) -> Job:
        """The job, checked: it must have the digest that the ticket names. Raises `EngineError`, `ValidationError`."""
        job = _JOBS[self.kind].model_validate(self.job)
        if job.digest() != self.digest:
            raise EngineError(
                f"{self.kind} {self.digest[:12]}: this lane computes another digest ({job.digest()[:12]}) for the job",
                remedy="Deploy one version of the code everywhere.",
            )
        return job

    @property
    def file(self) -> str:
        """File name; names sort in the order in which lanes should take them."""
        return f"{_RANKS[self.kind]}-{LARGEST - self.size:06d}-{self.digest}.json"

    @property
    def tries(self) -> int:
        """Tries that say something about the job; a lane that was lost says nothing."""
        return sum(failure.error != LOST for failure in self.failures)

    @property
    def losses(self) -> int:
        """Lanes that died with this job in flight."""
        return sum(failure.error == LOST for failure in self.failures)


def is_answer(file: str) -> bool:
    """Does the ticket of this name ask for an answer, which the store does not keep (a test, an identity)?"""
    return file.startswith("0-")


def digest_of(file: str) -> str:
    """The digest in a ticket's file name."""
    return file.removesuffix(".json").rsplit("-", 1)[-1]
