"""Counter-based random streams: each is addressed by its purpose, so no draw depends on the order of completion."""

import hashlib

import numpy as np


def generator(run_seed: int, generation: int, slot: int, purpose: str) -> np.random.Generator:
    """The random stream of one purpose in one slot of one generation.

    Args:
        run_seed: Seed of the run, at least 0.
        generation: Number of the generation, from 0.
        slot: Place in the generation, from 0.
        purpose: Name of what is drawn; a different name gives an independent stream.

    Example:
        >>> generator(1, 0, 2, "child").random() == generator(1, 0, 2, "child").random()
        True
    """
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([run_seed, generation, slot, word])))
