import pytest
from shop.prices import cheapest, discount, lottery, round_up, total, with_tax
from shop.words import caesar, chunks, count_vowels, initials, is_palindrome, longest, windows


@pytest.mark.parametrize("net,gross", [(100, 120.0), (0, 0.0), (10, 12.0), (3.5, 4.2)])
def test_tax(net, gross):
    assert with_tax(net) == gross


def test_tax_negative():
    with pytest.raises(ValueError):
        with_tax(-1)


def test_discount():
    assert discount(100, 10) == 90
    assert discount(50, 200) == 0
    assert discount(50, -3) == 50


def test_cheapest():
    assert cheapest([3, 1, 2]) == 1
    assert cheapest([]) is None
    assert cheapest([5, 5]) == 5


def test_round_up():
    assert round_up(11, 5) == 15
    assert round_up(10, 5) == 10


def test_lottery():
    assert 0 <= lottery() < 1


def test_total():
    assert total([("a", 2, 3), ("b", 0, 9), ("c", 1, 4)]) == 10


def test_words():
    assert initials("ada lovelace") == "A.L."
    assert is_palindrome("anna") and not is_palindrome("anne")
    assert is_palindrome("") and is_palindrome("x")
    assert longest(["a", "bbb", "cc"]) == "bbb"
    assert count_vowels("education") == 5
    assert chunks([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
    assert list(windows([1, 2, 3], 2)) == [[1, 2], [2, 3]]
    assert caesar("abz XY", 1) == "bca YZ"


def test_that_fails():
    assert count_vowels("zzz") == 9
