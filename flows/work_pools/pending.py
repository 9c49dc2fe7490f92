"""A job that somebody holds a future of, and where its result is found."""

from concurrent.futures import Future, InvalidStateError
from typing import Any

from coral_core.jobs.jobs import BaseModelIdentity, TestResult
from coral_core.queue import Job, JobKind, JobQueue, QueueName, Ticket, queue_of

_ANSWERS: dict[JobKind, type[TestResult] | type[BaseModelIdentity]] = {
    "test": TestResult,
    "identity": BaseModelIdentity,
}


class Pending:
    """One job that is waited for."""

    def __init__(self, ticket: Ticket, job: Job) -> None:
        self.ticket = ticket
        self.job = job
        self.future: Future[Any] = Future()
        self.others_done = 0
        """How many other jobs had been done when it last lost its lane."""

    @property
    def queue(self) -> QueueName:
        return queue_of(self.job)

    def result(self, queue: JobQueue) -> Any:
        """The result, or None; one that is broken is set aside, so that it is made anew."""
        ticket, store = self.ticket, queue.store
        if not queue.is_done(ticket.digest, ticket.file):
            return None
        if (answer := _ANSWERS.get(ticket.kind)) is not None:
            if (said := queue.answer(ticket.digest, answer)) is None:
                queue.forget_answer(ticket.digest)  # it cannot be read: lanes would take the job for done for ever
            return said
        if ticket.kind == "training":
            found: Any = store.read_adapter(ticket.digest)
        else:
            found = store.read_evaluation(ticket.digest)
        if found is None:
            store.set_aside("adapter" if ticket.kind == "training" else "evaluation", ticket.digest)
        return found

    def settle(self, result: Any, error: BaseException | None) -> None:
        """End the wait."""
        try:
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)
        except InvalidStateError:  # cancelled by who asked
            return
