"""Patch extraction: a corpus of completions, and texts that want to hurt."""

import ast
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral_core.repair.extract import LONGEST, extract
from tests.repair.completions import CASES, GOOD


@pytest.mark.parametrize(("what", "completion", "how", "patch"), CASES, ids=[case[0] for case in CASES])
def test_corpus(what: str, completion: str, how: str, patch: str) -> None:
    found = extract(completion, "add_all")
    assert (found.how, found.patch) == (how, patch), what


def test_the_corpus_is_large_and_its_names_differ() -> None:
    assert len({case[0] for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10_000_000,
        GOOD + "\n" + "y = 1\n" * 2_000_000,
        "\0" * 1_000_000,
        "(" * LONGEST,
        "def add_all(x):\n    return " + "(" * 90_000,
        "def add_all(x):\n    y = (\n" + "    x + 1 +\n" * 9_000,
        "def add_all(x):\n" + "    x = x + 1\n" * 7_000 + "    y = (",
        "def add_all(x):\n    return (\n" * 3_000,
        "def add_all(x):\n    return " + "-" * 90_000 + "1",
        "def add_all(x):\n    return x" + ".a" * 40_000,
        "```python\ndef add_all(x):\n    return (\n```\n" * 2_000,
        "```\n" * 25_000,
        "\t" * LONGEST + "def add_all(x): return 1",
        "x = 1\nprose here\n" * 5_000,
        "def add_all(x):\n    return '\ud800'",
    ],
    ids=lambda text: repr(text[:30]),
)
def test_hostile_texts_cost_seconds_at_most(text: str) -> None:
    started = time.process_time()
    found = extract(text, "add_all")
    assert time.process_time() - started < 5
    assert len(found.patch) <= LONGEST
    found.model_dump_json()


def test_no_warning_leaves_the_extractor() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert extract("def f(x):\n    return '\\d'", "f").how == "whole"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=30),
            st.sampled_from(
                ["```", "```python", "def add_all(x):", "    return x", "\t", "import os", "(", "'''", GOOD]
            ),
        ),
        max_size=12,
    ).map("\n".join)
)
def test_never_raises_and_says_the_truth(text: str) -> None:
    found = extract(text, "add_all")
    if found.how != "none":
        names = {getattr(node, "name", None) for node in ast.parse(found.patch).body}
        assert "add_all" in names or "add_all" in found.patch


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=20))
def test_any_entry_point(name: str) -> None:
    extract(GOOD, name)
