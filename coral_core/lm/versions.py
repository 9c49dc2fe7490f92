"""Versions that enter digests; raise one when its code changes what comes out."""

RECIPE_VERSION = "2"
"""Adapter training: loop, optimiser, initialisation, batch order. "1" could train on what a failed request had left in memory."""

ENGINE_VERSION = "2"
"""Generation: sampling, padding, merging; and what an engine does after a failed request. It is part of the numerics class and
so of every digest of adapters and evaluations. "1" went on with whatever a failed request had left in memory."""
