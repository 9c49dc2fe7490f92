"""Versions that enter digests; raise one when its code changes what comes out."""

RECIPE_VERSION = "1"
"""Adapter training: loop, optimiser, initialisation, batch order."""

ENGINE_VERSION = "1"
"""Generation: sampling, padding, merging."""
