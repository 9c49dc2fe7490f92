"""What follows from failed tries of a job: another try, a finding about the genome, or an error.

A try that failed because the engine died, hung or ran out of memory says something about the job only when
nothing ran beside it, so the last of `infra.attempts` tries runs alone. A job that also then
kills its engine, outlasts its time limit or finds no room, makes its genome infeasible on evidence of its
own. A lane that was lost says nothing: its machine, its worker or somebody's kill may be why. Only when the last
`TELLING_LOSSES` of `MOST_LOSSES` lanes were lost with nothing beside the job, and lanes did other work in between, it is the job.
"""

from typing import Literal

from coral_core.errors import (
    AdapterError,
    BaseModelError,
    ConfigError,
    CoralError,
    EngineDiedError,
    EngineError,
    EngineMemoryError,
    EngineTimeOutError,
    ProblemError,
    StoreError,
)
from coral_core.jobs.jobs import Evaluation, EvaluationJob, InfeasibleReason, TrainedAdapter, TrainingJob
from coral_core.queue import LOST, Claim, Failure, Job, Ticket
from coral_core.store.store import Store

MOST_LOSSES = 10
TELLING_LOSSES = 5
LOSSES_BESIDE_OTHERS = 2
"""After so many a job runs alone."""
_FINDINGS: dict[str, Literal["poison", "time-out", "out-of-memory"]] = {
    EngineDiedError.__name__: "poison",
    EngineTimeOutError.__name__: "time-out",
    EngineMemoryError.__name__: "out-of-memory",
}
FINAL: dict[str, type[CoralError]] = {
    kind.__name__: kind for kind in (AdapterError, BaseModelError, ConfigError, ProblemError, StoreError)
}
"""The same wherever the job is tried: an adapter that does not load is trained anew before (flows/tasks.py). All else may be of one machine: its memory, its processes, its files."""


def is_final(error: str) -> bool:
    """Is another try of no use after an error of this class?"""
    return error in FINAL


def is_last(tries: int, attempts: int) -> bool:
    """Is the next try the last one, to be made alone?"""
    return tries + 1 >= attempts > 1


def next_try(ticket: Ticket, attempts: int) -> Ticket:
    """The ticket for another try. The last one is made alone, and each after some losses, or it would say nothing."""
    alone = is_last(ticket.tries, attempts) or ticket.losses >= LOSSES_BESIDE_OTHERS
    return ticket.model_copy(update={"alone": alone})


def finding(job: Job, last: Failure, tries: int, store: Store) -> TrainedAdapter | Evaluation | None:
    """The infeasible result that the last try proves, published; None when it proves nothing about the genome."""
    reason = _FINDINGS.get(last.error)
    if reason is None or not last.alone:
        return None
    words = f"tried {tries} times, the last time with nothing beside it: {last.message.splitlines()[0]}"
    return _publish(job, reason, words, store)


def loss(claim: Claim, why: str, others_done: bool) -> Failure:
    """What the loss of a lane leaves on the record of its job."""
    return Failure(
        lane=claim.lane, host=claim.host, error=LOST, message=why, alone=claim.alone, others_done=others_done
    )


def after_loss(ticket: Ticket, failure: Failure) -> Ticket:
    """The ticket with a loss on its record."""
    return ticket.model_copy(update={"failures": (*ticket.failures, failure)})


def lost_too_often(ticket: Ticket) -> EngineError:
    """What ends the wait for a job whose losses may be the machines' fault."""
    return EngineError(
        f"{ticket.kind} {ticket.digest[:12]}: {ticket.losses} lanes were lost with it in flight, the last one because "
        f"{ticket.failures[-1].message}. It is listed by coral jobs; once the machines are right, run the same command again, or: "
        f"coral jobs retry {ticket.digest[:12]}"
    )


def finding_of_losses(job: Job, ticket: Ticket, store: Store) -> TrainedAdapter | Evaluation | None:
    """The same from lanes that were lost, `MOST_LOSSES` of them."""
    telling = ticket.failures[-TELLING_LOSSES:]
    if len(telling) < TELLING_LOSSES or not all(f.error == LOST and f.alone and f.others_done for f in telling):
        return None
    words = (
        f"{ticket.losses} lanes were lost with it, the last {TELLING_LOSSES} with nothing beside it while lanes did other work: "
        f"{ticket.failures[-1].message.splitlines()[0]}"
    )
    return _publish(job, "poison", words, store)


def _publish(job: Job, reason: InfeasibleReason, words: str, store: Store) -> TrainedAdapter | Evaluation | None:
    if isinstance(job, TrainingJob):
        adapter = TrainedAdapter(training_digest=job.digest(), infeasible=reason, reason=words)
        store.publish_adapter(adapter.training_digest, store.scratch(), adapter)
        return adapter
    if not isinstance(job, EvaluationJob):
        return None
    evaluation = Evaluation(
        evaluation_digest=job.digest(),
        training_digest=job.training.digest() if job.training else "none",
        split=job.split,
        infeasible=reason,
        reason=words,
    )
    store.publish_evaluation(evaluation.evaluation_digest, evaluation)
    return evaluation
