"""Checks of a machine and of an installation: each says what it saw and what to do. `coral doctor`, `coral health`."""
