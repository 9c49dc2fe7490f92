"""Checks of a machine and of an installation: each says what it saw and what to do. `coral doctor`, `coral health`."""

from flows.monitoring.finding import Check, healthy

__all__ = ["Check", "healthy"]
