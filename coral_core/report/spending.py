"""What lanes cost, by the store's ledger; the rest of the cost comes from timings.jsonl (sessions.py)."""

from coral_core.config import BudgetConfig
from coral_core.errors import StoreError
from coral_core.ledger import Ledger, Spent
from coral_core.report.evidence import Spending
from coral_core.store.store import Store


def spending(store: Store, run_id: str, budget: BudgetConfig) -> Spending | None:
    """Lane hours and money of one evolution, at the prices of `budget`; None when no lane has booked any."""
    problem = ""
    try:
        spent = Ledger(store).spent(budget.price, run_id)
    except StoreError as error:
        spent, problem = Spent(), str(error)
    if spent.gpu_hours <= 0 and not problem:
        return None
    priced = budget.price.training > 0 or budget.price.evaluation > 0
    return Spending(
        currency=budget.currency,
        gpu_hours=spent.gpu_hours,
        training_hours=spent.training_hours,
        evaluation_hours=spent.evaluation_hours,
        money=spent.money if priced else None,
        limit_gpu_hours=budget.evolution.gpu_hours,
        limit_money=budget.evolution.money,
        problem=problem,
    )
