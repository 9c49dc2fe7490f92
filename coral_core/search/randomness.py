"""Counter-based randomness: every draw has an address, so order, kills and machines change nothing."""

import hashlib

import numpy as np


def generator(run_seed: int, generation: int, slot: int, purpose: str) -> np.random.Generator:
    """The stream of one purpose in one slot of one generation."""
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([run_seed, generation, slot, word])))
