"""Prefect flows and the `coral` command: thin layers over coral_core."""
