"""Shows an evolution in Prefect: artifacts, events, state, logs."""
