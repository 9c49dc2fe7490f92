"""What lanes cost, what is left, and whether the next job may start."""

from coral_core.ledger.accounts import Budget, LaneAccount, Work
from coral_core.ledger.ledger import Ledger, Spent, Standing
from coral_core.ledger.meter import Meter
from coral_core.ledger.remedies import way_on

__all__ = ["Budget", "LaneAccount", "Ledger", "Meter", "Spent", "Standing", "Work", "way_on"]
