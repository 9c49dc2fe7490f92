"""The consequences of failed attempts of a job: another attempt, a finding about the genome, or an error. One logic for all executors.

An attempt that failed because the engine died, hung or ran out of memory says something about the job only if nothing ran
beside it, so the last of `infra.attempts` runs alone. A job that kills its engine, outlasts its time limit or finds no
memory even then makes its genome infeasible. A lane that was lost says nothing: its machine, its worker or a kill by hand
may be the cause. It is the job only if the last `TELLING_LOSSES` of `MOST_LOSSES` lanes were lost with nothing beside it, and
lanes did other work in between.
"""

from collections.abc import Sequence

from coral_core.errors import CoralError, EngineError
from coral_core.jobs.jobs import Evaluation, EvaluationJob, InfeasibleReason, TrainedAdapter, TrainingJob
from coral_core.queue.queue import ERRORS, Failure, FailureReason, Job, Ticket, kind_of
from coral_core.store.store import Store

MOST_LOSSES = 10
TELLING_LOSSES = 5
LOSSES_BESIDE_OTHERS = 2
"""After so many a job runs alone."""
_FINDINGS: dict[FailureReason, InfeasibleReason] = {
    FailureReason.ENGINE_DIED: "poison",
    FailureReason.TIME_OUT: "time-out",
    FailureReason.OUT_OF_MEMORY: "out-of-memory",
}
_FINAL = ERRORS.keys() - _FINDINGS.keys()
"""The same wherever the job is tried. All else may be of one machine: its memory, its processes, its files."""


def is_last(tries: int, attempts: int) -> bool:
    """Is the next attempt the last one, to be made alone?"""
    return tries + 1 >= attempts > 1


def next_try(ticket: Ticket, attempts: int) -> Ticket:
    """The ticket for another attempt. The last one is made alone, and each after some losses, or it would say nothing."""
    alone = is_last(ticket.tries, attempts) or ticket.losses >= LOSSES_BESIDE_OTHERS
    return ticket.model_copy(update={"alone": alone})


def goes_on(failures: Sequence[Failure], attempts: int) -> bool:
    """Is the job tried again after these failures?

    Args:
        failures: Of one job, the latest last; at least one.
        attempts: `infra.attempts`.
    """
    lost, last = _losses(failures), failures[-1].reason
    if last == FailureReason.LANE_LOST:
        return lost < MOST_LOSSES
    return last not in _FINAL and len(failures) - lost < attempts


def conclusion(job: Job, failures: Sequence[Failure], store: Store) -> TrainedAdapter | Evaluation | CoralError:
    """What the failures of a job that is not tried again come to.

    Returns:
        An infeasible result, published in `store`, if they prove something about the genome; otherwise the error of the job.

    Raises:
        StoreError: the result cannot be published.
    """
    last, tries = failures[-1], len(failures) - _losses(failures)
    words, where = last.message.splitlines()[0], f"lane {last.lane} on {last.host or 'an unnamed machine'}"
    if last.reason in _FINAL:
        return ERRORS[last.reason](f"{words} ({where})")
    reason: InfeasibleReason | None = None
    if last.reason == FailureReason.LANE_LOST:
        name = f"{kind_of(job)} {job.digest()[:12]}"
        error = EngineError(
            f"{name}: {len(failures) - tries} lanes were lost with it in flight, the last one because {last.message}. It is listed by "
            f"coral jobs; once the machines are right, run the same command again, or: coral jobs retry {job.digest()[:12]}"
        )
        telling = failures[-TELLING_LOSSES:]
        if all(f.reason == FailureReason.LANE_LOST and f.alone and f.others_done for f in telling):
            reason = "poison"
        why = (
            f"{len(failures) - tries} lanes were lost with it, the last {TELLING_LOSSES} with nothing beside it while lanes did "
            f"other work: {words}"
        )
    else:
        error = EngineError(f"{words} ({where}, try {tries})")
        reason = _FINDINGS.get(last.reason) if last.alone else None
        why = f"tried {tries} times, the last time with nothing beside it: {words}"
    if isinstance(job, TrainingJob) and reason is not None:
        adapter = TrainedAdapter(training_digest=job.digest(), infeasible=reason, reason=why)
        store.publish_adapter(adapter.training_digest, store.scratch(), adapter)
        return adapter
    if isinstance(job, EvaluationJob) and reason is not None:
        evaluation = Evaluation.of_infeasible(job, reason, why)
        store.publish_evaluation(evaluation.evaluation_digest, evaluation)
        return evaluation
    return error


def _losses(failures: Sequence[Failure]) -> int:
    return sum(failure.reason == FailureReason.LANE_LOST for failure in failures)
