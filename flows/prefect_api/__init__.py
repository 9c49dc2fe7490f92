"""The boundary to Prefect: its settings, its API, a local server, the process of a flow run."""
