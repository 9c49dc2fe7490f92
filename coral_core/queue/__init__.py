"""Queues of jobs for lanes in other processes and on other machines: tickets, claims and lane notes in the store."""
