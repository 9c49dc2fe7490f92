"""The ledger: cost of lanes, what is left of budgets, and whether the next job may start."""

from coral_core.ledger.accounts import Budget, LaneAccount, Work
from coral_core.ledger.closure import Closure, Reason, Remedy
from coral_core.ledger.ledger import Ledger, Spent, Standing
from coral_core.ledger.meter import Meter

__all__ = ["Budget", "Closure", "LaneAccount", "Ledger", "Meter", "Reason", "Remedy", "Spent", "Standing", "Work"]
