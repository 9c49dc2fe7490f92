"""Digests: canonical, normalised, independent of Python's hash seed."""

import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral_core.digest import canonical, digest, seed_from
from coral_core.genome import HeavyGenes, LightGenes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_numbers_have_one_form() -> None:
    assert digest({"rank": 16, "alpha": 32.0}) == digest({"alpha": 32, "rank": 16.0})
    assert digest([True]) != digest([1])


@given(JSON)
def test_canonical_text_is_a_fixed_point(value: object) -> None:
    import json

    assert canonical(json.loads(canonical(value))) == canonical(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, {1: 2}, object(), {3, 4}])
def test_what_is_not_json_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        digest(value)


def test_the_hash_seed_of_python_changes_nothing() -> None:
    code = "from coral_core.digest import digest, seed_from; print(digest({'b': [1.5, 'x'], 'a': None}), seed_from(1, 'y'))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(outputs) == 1


def test_seeds_are_63_bits_and_differ() -> None:
    seeds = {seed_from("purpose", n) for n in range(1000)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**63 for seed in seeds)


def genes(**changes: object) -> HeavyGenes:
    values = {
        "rank": 8,
        "alpha": 16,
        "dropout": 0,
        "target_modules": ("q_proj", "v_proj"),
        "adapter": "lora",
        "learning_rate": 1e-3,
    }
    return HeavyGenes.model_validate(values | changes)


def test_heavy_genes_are_identified_by_content() -> None:
    assert genes().digest() == genes(alpha=16.0, target_modules=("v_proj", "q_proj")).digest()
    assert len({genes().digest(), genes(adapter="dora").digest(), genes(rank=4).digest()}) == 3


def test_sampling_genes_do_not_count_under_greedy_decoding() -> None:
    greedy = {"top_p": 1, "top_k": 0, "repetition_penalty": 1, "token_limit": 64, "sampling": False}
    cold, warm = LightGenes(temperature=0.1, **greedy), LightGenes(temperature=0.9, **greedy)  # type: ignore[arg-type]
    assert cold.digest() == warm.digest()
    assert cold.model_copy(update={"sampling": True}).digest() != warm.model_copy(update={"sampling": True}).digest()
