"""Jobs whose lane is gone and whose evolution is gone, too.

A living evolution frees its own jobs within seconds and books each loss on its ticket. What it has not freed after a
lease has nobody who would; whoever notices does it instead, and with the same consequences, or the job of an evolution
that was killed would take the lanes of all others, one after another.
"""

import logging
import time

from coral_core.execution import attempts
from coral_core.queue import Claim, JobQueue, Ticket

log = logging.getLogger("coral.dispatch")


class Orphans:
    """Looks after one queue for those who no longer can.

    Args:
        queue: Which.
        lease: Seconds of this process's clock that a living evolution is given to do it itself.
        most_tries: `infra.attempts`.
    """

    def __init__(self, queue: JobQueue, lease: float, most_tries: int) -> None:
        self._queue = queue
        self._lease = lease
        self._most_tries = most_tries
        self._since: dict[str, float] = {}

    def look(self, gone: dict[Claim, str]) -> None:
        """Free jobs where that is due.

        Args:
            gone: Claims of lanes that are gone, on jobs of other evolutions -> why.
        """
        damaged = self._queue.damaged_claims()
        found = {claim.token for claim in gone} | set(damaged)
        self._since = {key: since for key, since in self._since.items() if key in found}
        for claim, why in gone.items():
            tickets = self._queue.tickets_for(claim.digest)
            waiting = [ticket for ticket in tickets if not self._queue.is_done(ticket.digest, ticket.file)]
            if not waiting:  # it died between publishing and giving the claim back, or nobody wants the job any more
                self._queue.break_claim(claim)
            elif self._is_due(claim.token):
                self._free(claim, why, waiting)
        for digest in damaged:
            if self._is_due(digest):
                log.warning("the claim on %s %s cannot be read and is removed", self._queue.name, digest[:12])
                self._queue.remove_claim(digest)

    def _is_due(self, key: str) -> bool:
        since = self._since.setdefault(key, time.monotonic())
        return time.monotonic() - since > self._lease

    def _free(self, claim: Claim, why: str, tickets: list[Ticket]) -> None:
        """Book the loss, and then let the claim go: the next lane finds tickets that know of it, or none."""
        for old in tickets:
            ticket = attempts.after_loss(old, attempts.loss(claim, why, others_done=False))
            if ticket.losses < attempts.MOST_LOSSES:
                self._queue.submit(attempts.next_try(ticket, self._most_tries))
            else:
                self._queue.put_aside(ticket)
            log.warning(
                "lane %s is lost (%s), and evolution %s, whose %s %s it had, does not look after it: %s",
                claim.lane,
                why,
                ticket.run_id,
                ticket.kind,
                ticket.digest[:12],
                "it goes to another"
                if ticket.losses < attempts.MOST_LOSSES
                else "it is given up (coral jobs lists it)",
            )
        self._queue.break_claim(claim)
