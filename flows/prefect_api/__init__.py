"""The boundary to Prefect: its settings, its API, a local server, how flow runs end."""
