"""Versions that enter digests; raise one when a change of its code changes results."""

RECIPE_VERSION = "3"
"""Adapter training: loop, optimiser, initialisation, batch order. "1" could train on state that a failed request had left in memory;
"2" took the norms of DoRA from the whole adapted weight."""

ENGINE_VERSION = "3"
"""Generation: sampling, shapes, merging; and what an engine does after a failed request. It is part of the numerics class and
so of every digest of adapters and evaluations. "1" continued with state that a failed request had left in memory; "2" padded
all prompts to one length."""

VLLM_ENGINE_VERSION = "1"
"""Generation by vLLM: merging, start, order of the rows. Part of the numerics class of that engine. What it shares with the other one
(sampling, end of rows) raises `ENGINE_VERSION`, which is part of both."""
