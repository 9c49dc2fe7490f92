"""Installs what work pools need: pools, deployments, automations and, on one machine, server and workers."""
