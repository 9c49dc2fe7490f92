"""Normal forms: what counts as the same function."""

import pytest

from coral_core.problems.normal_form import NEAR_DUPLICATE, near_duplicates, normal_form

BASE = "def f(items, k):\n    best = 0\n    for x in items:\n        if x > k:\n            best += x\n    return best"


@pytest.mark.parametrize(
    "same",
    [
        BASE.replace("items", "xs").replace("best", "acc"),
        BASE.replace("def f", "def g"),
        BASE.replace("best", "max"),
        BASE.replace("items, k)", "items: list[int], k: int) -> int"),
        BASE.replace("    best = 0", "    'A docstring.'\n    best = 0"),
        "'A module docstring.'\n" + BASE,
        BASE.replace("x > k", "(x) > (k)") + "  # a comment",
    ],
)
def test_equal(same: str) -> None:
    assert normal_form(same) == normal_form(BASE)


@pytest.mark.parametrize(
    "other",
    [BASE.replace("> k", ">= k"), BASE.replace("best = 0", "best = 1"), BASE.replace("return best", "return k")],
)
def test_different(other: str) -> None:
    assert normal_form(other) != normal_form(BASE)


def test_built_in_and_attribute_names_stay() -> None:
    assert normal_form("def f(a):\n    return min(a)") != normal_form("def f(a):\n    return max(a)")
    assert normal_form("def f(a):\n    return a.lower()") != normal_form("def f(a):\n    return a.upper()")


def test_async_functions_classes_and_handlers() -> None:
    first = "class A:\n    '''T.'''\n\n    async def f(self):\n        try:\n            return 1\n        except OSError as e:\n            raise e"
    second = first.replace("class A", "class B").replace("    '''T.'''\n\n", "").replace(" e\n", " x\n")
    second = second.replace("as e:", "as x:").replace("raise e", "raise x")
    assert normal_form(first) == normal_form(second)


def test_near_duplicates() -> None:
    close = BASE.replace("best = 0", "best = 1")
    ((_, _, similarity),) = near_duplicates([BASE], [close])
    assert NEAR_DUPLICATE <= similarity < 1
    far = "def f(a):\n    return a"
    assert [(i, j) for i, j, _ in near_duplicates([BASE, far], [far, close, BASE])] == [(0, 1), (0, 2), (1, 0)]
