"""Lanes: each works through jobs, which train adapters, evaluate genomes or test code, and publishes the results."""
