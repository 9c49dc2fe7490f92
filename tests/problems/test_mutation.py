"""Mutation operators, on our functions and on code that they were not made for."""

import ast
import random

import pytest

from coral_core.problem_sources.families import ALL_FAMILIES, draw
from coral_core.problems.mutation import mutations, mutators

EXAMPLES = {
    "comparison": ("def f(a, b):\n    return a < b", "def f(a, b):\n    return a <= b"),
    "arithmetic": ("def f(a, b):\n    return a + b", "def f(a, b):\n    return a - b"),
    "constant": ("def f(a):\n    return a[0:2]", "def f(a):\n    return a[1:2]"),
    "called-name": ("def f(a):\n    return min(a)", "def f(a):\n    return max(a)"),
    "variable": ("def f(a, b):\n    return a", "def f(a, b):\n    return b"),
    "boolean": ("def f(a, b):\n    return a and b", "def f(a, b):\n    return a or b"),
    "index": ("def f(a, i):\n    return a[i]", "def f(a, i):\n    return a[i + 1]"),
    "missing-step": ("def f(a):\n    return sorted(a)", "def f(a):\n    return a"),
}
FOREIGN = [
    "async def f(a, /, b, *, c=3, **rest):\n    async with a as d:\n        await b\n        return 0 <= c < len(rest)",
    "class A:\n    '''Text.'''\n    x: int = 1\n\n    def f(self, k):\n        return self.x[k] if not k else None",
    "def f(a):\n    match a:\n        case [1, *rest] if rest:\n            return rest[-1]\n        case {'k': v}:\n            return f'{v!r:>{10}}'",
    "def f(a):\n    '''Doc.'''\n    try:\n        a += 1\n        a *= 2\n    except ValueError as error:\n        raise error\n    finally:\n        a -= 1\n        print(a)\n    return (b := a) + b",
    "def f():\n    def g(x):\n        '''Doc.'''\n        y = x\n        y += 1\n        return y\n    return g",
    "x = 1",
    "",
]  # fmt: skip


@pytest.mark.parametrize("bug_class", EXAMPLES)
def test_every_class_makes_its_bug(bug_class: str) -> None:
    source, expected = EXAMPLES[bug_class]
    assert (bug_class, expected) in [(mutation.bug_class, mutation.source) for mutation in mutations(source)]


def test_chained_comparisons_break_link_by_link() -> None:
    found = {m.source for m in mutations("def f(a, b):\n    return 0 <= a < b") if m.bug_class == "comparison"}
    assert {"def f(a, b):\n    return 0 < a < b", "def f(a, b):\n    return 0 <= a <= b"} <= found


def test_steps_of_else_and_finally_go_missing_but_docstrings_do_not() -> None:
    lines = ast.unparse(ast.parse(FOREIGN[3])).count("\n")
    dropped = {m.source for m in mutations(FOREIGN[3]) if m.source.count("\n") < lines}
    assert any("a -= 1" not in source for source in dropped)
    assert all("Doc." in source for source in dropped)


def sources() -> list[str]:
    rng = random.Random(5)
    return [draw(family, rng).source for family in ALL_FAMILIES] + FOREIGN


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.split("\n")[0][:40])
def test_mutations_parse_differ_repeat_nothing_and_keep_their_order(source: str) -> None:
    found = mutations(source)
    texts = [mutation.source for mutation in found]
    assert found == mutations(source)
    assert len(set(texts)) == len(texts)
    for mutation in found:
        assert ast.dump(ast.parse(mutation.source)) != ast.dump(ast.parse(source))


@pytest.mark.parametrize("source", sources()[:60:3], ids=lambda source: source.split("\n")[0][:40])
def test_a_mutation_is_a_one_line_bug(source: str) -> None:
    lines = ast.unparse(ast.parse(source)).split("\n")
    for mutation in mutations(source):
        broken = mutation.source.split("\n")
        if len(broken) == len(lines):
            assert sum(ours != theirs for ours, theirs in zip(lines, broken, strict=True)) == 1
        else:
            assert len(broken) == len(lines) - 1


def test_classes_filter_the_mutators() -> None:
    source = "def f(a, b):\n    return a[0] + b"
    assert {bug_class for bug_class, _ in mutators(source, ("constant",))} == {"constant"}


def test_source_that_does_not_parse_is_refused() -> None:
    with pytest.raises(SyntaxError):
        mutations("def f(:")
