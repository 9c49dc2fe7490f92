"""The ledger: cost of lanes, what is left of budgets, and whether the next job may start."""

from coral_core.ledger.closure import Closure, Reason, Remedy
from coral_core.ledger.ledger import Budget, LaneAccount, Ledger, Meter, Spent, Standing, Work

__all__ = ["Budget", "Closure", "LaneAccount", "Ledger", "Meter", "Reason", "Remedy", "Spent", "Standing", "Work"]
