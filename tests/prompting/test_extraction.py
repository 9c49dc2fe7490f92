"""Patch extraction: a corpus of completions, and texts that want to hurt."""

import ast
import sys
import time
import warnings
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral_core.prompting import extraction as module
from coral_core.prompting.extraction import LONGEST, PARSED, extract, readable
from tests.prompting.completions import CASES, GOOD
from tests.scoring.hostile import FAMILIES, FENCES


def test_corpus() -> None:
    wrong = {
        what: found
        for what, completion, how, patch in CASES
        if ((found := extract(completion, "add_all")).how, found.patch) != (how, patch)
    }
    assert wrong == {}


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


@pytest.mark.parametrize("size", [3, 330, 5_000])
def test_no_family_raises(size: int) -> None:
    for name, make in FAMILIES.items():
        found = extract(make("add_all", size), "add_all")
        assert len(found.patch) <= LONGEST and found.patch.encode() is not None, name
        assert not found.patch.startswith("\ufeff"), name


@pytest.mark.parametrize("name", FENCES)
def test_no_pattern_backtracks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work is counted, not timed: characters given to the parser, and lines of ours that ran."""
    parsed: list[int] = []
    real = module.parse
    monkeypatch.setattr(module, "parse", lambda text: parsed.append(len(text)) or real(text))

    def lines_run(size: int) -> int:
        count = 0

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal count
            if frame.f_code.co_filename == module.__file__:
                count += event == "line"
                return trace
            return None

        parsed.clear()
        sys.settrace(trace)
        try:
            extract(FENCES[name]("add_all", size), "add_all")
        finally:
            sys.settrace(None)
        assert sum(parsed) <= PARSED
        return count

    small, large = lines_run(1_000), lines_run(8_000)
    assert large <= 12 * small + 2_000


@pytest.mark.parametrize("mark", [" ", "\t", "a", "`", " \t", "a ", "-"])
def test_ninety_thousand_characters_after_a_fence(mark: str) -> None:
    """A pattern that tries every way to divide them takes minutes; one that does not, milliseconds."""
    started = time.process_time()
    for text in (
        f"```{mark * 90_000}",
        f"```{mark * 90_000}!",
        f"```{mark * 45_000}x{mark * 45_000}y\n",
        f"{mark * 90_000}```",
    ):
        extract(text, "add_all")
    assert time.process_time() - started < 20


def test_a_helper_of_330_terms_in_a_fence_of_its_own() -> None:
    helper = "helper = " + "+".join(["1"] * 330)
    found = extract(f"```\n{helper}\n```\n```\ndef add_all(x):\n    return helper\n```", "add_all")
    assert (found.how, found.patch) == ("fenced", f"{helper}\n\ndef add_all(x):\n    return helper")


def test_helpers_come_as_they_were_written() -> None:
    helpers = "import os; import math  # here\n@staticmethod\n# decorated\ndef plus(a, b):  # größer\n    return a + b  # the sum\nclass É: 'ü'; x = 1"
    found = extract(f"```\n{helpers}\n```\n```\ndef add_all(x):\n    return plus(math.pi, É.x)\n```", "add_all")
    assert found.patch.split("\n\n")[0] == "import math"
    assert "@staticmethod\n# decorated\ndef plus(a, b):  # größer\n    return a + b" in found.patch
    assert "class É: 'ü'; x = 1" in found.patch and "import os" not in found.patch
    ast.parse(found.patch)


DEFINING = [
    "if True:\n    def add_all(x):\n        return 1",
    "try:\n    import numpy\nexcept ImportError:\n    def add_all(x):\n        return 1",
    "with open('x') as add_all:\n    pass",
    "for add_all in [len]:\n    pass",
    "while True:\n    add_all = len\n    break",
    "match len:\n    case add_all:\n        pass",
    "match [len]:\n    case [*add_all]:\n        pass",
    "match {}:\n    case {**add_all}:\n        pass",
    "add_all, other = sum, 1",
    "(x, [*add_all]) = 1, [2]",
    "add_all: object = sum",
    "(add_all := sum)",
    "x = [add_all := sum for _ in [1]]",
    "from operator import add as add_all",
    "import operator as add_all",
    "class add_all:\n    pass",
    "def define():\n    global add_all\n    add_all = sum\ndefine()",
    "x = 1; add_all = sum",
]


def test_a_function_may_come_to_its_name_in_any_way() -> None:
    for text in DEFINING:
        fenced = f"See:\n```python\n{text}\n```\nDone."
        assert extract(text, "add_all") == module.Extraction(patch=text, how="whole")
        assert extract(fenced, "add_all") == module.Extraction(patch=text, how="fenced")


@pytest.mark.parametrize(
    "text",
    [
        "add_all: object",
        "def f():\n    add_all = 1",
        "f = lambda add_all: 1",
        "[1 for add_all in x]",
        "x = add_all",
        "class A:\n    add_all = 1",
    ],
)
def test_what_binds_no_name_of_the_module(text: str) -> None:
    assert extract(text, "add_all").how == "none"


@pytest.mark.parametrize("before", ["\ufeff", "\ufeff\ufeff", "\ufeff\n", "\0\ufeff"])
def test_a_byte_order_mark_is_no_part_of_a_program(before: str) -> None:
    assert extract(before + GOOD, "add_all").patch == GOOD
    assert extract(f"{before}```python\n{GOOD}\n```", "add_all").patch == GOOD


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=200) | st.text(st.characters(categories=["Cs", "Cc", "Cf", "Zl", "Zp", "Co", "Cn"]), max_size=80)
)
def test_what_is_readable_is_valid_and_stays_so(text: str) -> None:
    found = readable(text)
    assert found.encode() is not None and "\0" not in found and "\r" not in found and not found.startswith("\ufeff")
    assert readable(found) == found


@pytest.mark.parametrize("error", [RecursionError, MemoryError, SystemError, ValueError, SyntaxError])
def test_a_parser_that_gives_up_leaves_the_text(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(text: str) -> ast.Module:
        raise error

    monkeypatch.setattr(module, "parse", parse)
    assert extract(GOOD, "add_all") == module.Extraction(patch=GOOD, how="none")


SETUP = """from __future__ import annotations
import math, re
FACTOR = 2

@staticmethod
def root(n):
    return math.isqrt(n) * FACTOR
UNUSED = re
"""


@pytest.mark.parametrize(
    ("completion", "wanted"),
    [
        ("def f(n):\n    return n", ["def f(n):", "    return n"]),
        ("def f(n):\n    return root(n)", ["import math, re", "FACTOR = 2", "@staticmethod", "def root(n):", "    return math.isqrt(n) * FACTOR", "", "def f(n):", "    return root(n)"]),
        ("FACTOR = 3\ndef f(n):\n    return FACTOR", ["FACTOR = 3", "def f(n):", "    return FACTOR"]),
        ("from __future__ import annotations\ndef f(n):\n    return FACTOR", ["from __future__ import annotations", "FACTOR = 2", "", "def f(n):", "    return FACTOR"]),
        ("no code", ["no code"]),
    ],
)  # fmt: skip
def test_a_patch_gets_what_it_uses_of_the_setup(completion: str, wanted: list[str]) -> None:
    assert extract(completion, "f", SETUP).patch.split("\n") == wanted
