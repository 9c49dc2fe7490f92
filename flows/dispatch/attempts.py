"""What follows from failed tries of a job: another try, a finding about the genome, or an error.

A try that failed because the engine died, hung or ran out of memory says something about the job only when
nothing ran beside it, so the last of `infra.attempts` tries runs alone. A job that also then
kills its engine, outlasts its time limit or finds no room, makes its genome infeasible on evidence of its
own. A lane that was lost says nothing: its machine, its worker or somebody's kill may be why.
"""

from typing import Literal

from coral_core.errors import EngineDiedError, EngineMemoryError, EngineTimeOutError, JudgeError
from coral_core.jobs import Evaluation, EvaluationJob, TrainedAdapter, TrainingJob
from coral_core.queue import Failure, Job
from coral_core.store import Store

_FINDINGS: dict[str, Literal["poison", "time-out", "out-of-memory"]] = {
    EngineDiedError.__name__: "poison",
    EngineTimeOutError.__name__: "time-out",
    EngineMemoryError.__name__: "out-of-memory",
}
RETRIED = ("EngineError", JudgeError.__name__, *_FINDINGS)


def is_last(tries: int, attempts: int) -> bool:
    """Is the next try the last one, to be made alone?"""
    return tries + 1 >= attempts > 1


def finding(job: Job, last: Failure, tries: int, store: Store) -> TrainedAdapter | Evaluation | None:
    """The infeasible result that the last try proves, published; None when it proves nothing about the genome."""
    reason = _FINDINGS.get(last.error)
    if reason is None or not last.alone or not isinstance(job, TrainingJob | EvaluationJob):
        return None
    words = f"tried {tries} times, the last time with nothing beside it: {last.message.splitlines()[0]}"
    if isinstance(job, TrainingJob):
        adapter = TrainedAdapter(training_digest=job.digest(), infeasible=reason, reason=words)
        store.publish_adapter(adapter.training_digest, store.scratch(), adapter)
        return adapter
    evaluation = Evaluation(
        evaluation_digest=job.digest(),
        training_digest=job.training.digest() if job.training else "none",
        split=job.split,
        infeasible=reason,
        reason=words,
    )
    store.publish_evaluation(evaluation.evaluation_digest, evaluation)
    return evaluation
