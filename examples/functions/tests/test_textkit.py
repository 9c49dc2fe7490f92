"""Tests of the package. Their calls become the cases that patches are judged by."""

import pytest
from textkit.counts import clamp, leap_year, most_common, page_of, running_total
from textkit.words import initials, longest, shorten


def test_words() -> None:
    assert initials("ada king lovelace") == "AKL"
    assert initials("grace") == "G"
    assert longest(["a", "ccc", "bb", "ddd"]) == "ccc"
    assert longest([]) == ""
    assert shorten("abcdef", 4) == "abc."
    assert shorten("abc", 4) == "abc"


def test_counts() -> None:
    assert [clamp(value, 0, 3) for value in (-1, 2, 9)] == [0, 2, 3]
    assert running_total([1, 2, 3]) == [1, 3, 6]
    assert running_total([]) == []
    assert most_common([3, 1, 3, 1, 2]) == 1
    assert [leap_year(year) for year in (1900, 2000, 2023, 2024)] == [False, True, False, True]


def test_pages() -> None:
    assert [page_of(item, 10) for item in (0, 9, 10, 25)] == [1, 1, 2, 3]
    with pytest.raises(ValueError):
        page_of(1, 0)
