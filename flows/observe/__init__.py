"""What an evolution shows of itself in Prefect: artifacts, events, state, logs."""
