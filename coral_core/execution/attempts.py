"""Consequences of failed attempts of a job, for all executors: another attempt, an infeasible genome, or an error.

An attempt whose engine died, hung or ran out of memory is evidence against the job only if no other job ran at the same
time; the last of `infra.attempts` therefore runs alone. If it fails in one of these ways too, the genome is infeasible. A
lost lane is no evidence, since its machine, its worker or a kill by hand may be the cause. The job counts as the cause only
if the last `TELLING_LOSSES` of `MOST_LOSSES` lost lanes ran it alone, and lanes finished other jobs in between.
"""

from collections.abc import Sequence

from coral_core.errors import CoralError, EngineError
from coral_core.jobs.jobs import Evaluation, EvaluationJob, InfeasibleReason, Job, TrainedAdapter, TrainingJob, kind_of
from coral_core.queue.queue import ERRORS, Failure, FailureReason, Ticket
from coral_core.store.store import Store

MOST_LOSSES = 10
"""Lost lanes after which a job is not tried again."""
TELLING_LOSSES = 5
"""Latest losses that must have happened with the job alone, for the job to be the cause."""
LOSSES_BESIDE_OTHERS = 2
"""Lost lanes after which a job runs alone."""
_FINDINGS: dict[FailureReason, InfeasibleReason] = {
    FailureReason.ENGINE_DIED: "poison",
    FailureReason.TIME_OUT: "time-out",
    FailureReason.OUT_OF_MEMORY: "out-of-memory",
}
_FINAL = ERRORS.keys() - _FINDINGS.keys()
"""Failures that would be the same on every machine. Others may depend on the memory, processes or files of one machine."""


def is_last(tries: int, attempts: int) -> bool:
    """Whether the next attempt is the last one, which runs alone.

    Args:
        tries: Attempts made so far; lost lanes are not counted.
        attempts: `infra.attempts`; with 1 no attempt runs alone.

    Example:
        >>> is_last(1, 3), is_last(2, 3), is_last(0, 1)
        (False, True, False)
    """
    return tries + 1 >= attempts > 1


def next_try(ticket: Ticket, attempts: int) -> Ticket:
    """The ticket for another attempt. It runs alone if it is the last one, or after `LOSSES_BESIDE_OTHERS` lost lanes.

    Args:
        ticket: Ticket of the failed attempt, with that attempt counted.
        attempts: `infra.attempts`.
    """
    alone = is_last(ticket.tries, attempts) or ticket.losses >= LOSSES_BESIDE_OTHERS
    return ticket.model_copy(update={"alone": alone})


def goes_on(failures: Sequence[Failure], attempts: int) -> bool:
    """Whether a job is tried again after its failures.

    Args:
        failures: Failures of the job, the latest last; at least one.
        attempts: `infra.attempts`.
    """
    lost, last = _losses(failures), failures[-1].reason
    if last == FailureReason.LANE_LOST:
        return lost < MOST_LOSSES
    return last not in _FINAL and len(failures) - lost < attempts


def conclusion(job: Job, failures: Sequence[Failure], store: Store) -> TrainedAdapter | Evaluation | CoralError:
    """Final outcome of a job that failed and is not tried again.

    Args:
        job: The job.
        failures: Its failures, the latest last; at least one.
        store: Where an infeasible result is published.

    Returns:
        An infeasible result, published in `store`, if the failures are evidence against the genome; otherwise an error.

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
