"""Can be read what lanes cost and what evolutions may spend? What cannot stops work, and must not look well meanwhile."""

from collections.abc import Iterable

from coral_core.errors import StoreError
from coral_core.ledger import Ledger
from coral_core.store.store import Store
from flows.monitoring.finding import Check
from flows.monitoring.progress_checks import EvolutionLook


def ledger_check(store: Store, looks: Iterable[EvolutionLook]) -> Check:
    """Are all accounts of the store, and the budgets of the evolutions that run, there and whole?"""
    name = "ledger"
    try:
        accounts = Ledger(store).accounts()
    except StoreError as error:
        text = "evolutions with a limit are paused, and what was spent is not known"
        return Check(name, "bad", error.problem, text, error.remedy)
    for unreadable in (look.unreadable for look in looks if look.unreadable):
        text = "this evolution is paused"
        return Check(name, "bad", unreadable.problem, text, unreadable.advice)
    if not accounts:
        return Check(name, "ok", "no lane has booked anything yet")
    return Check(name, "ok", f"{len(accounts)} accounts of lanes")
