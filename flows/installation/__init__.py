"""Pools, deployments, automations and, on one machine, workers: everything that work pools need."""
