import odd
import pytest


@pytest.mark.parametrize("text", ["f x", "i 5", "l t", "", "s", "n 0", "d b z", "a f x"])
def test_words(text):
    assert odd.words(text) == text.split()
    assert odd.tagged(text)
    assert sum(odd.tally(text).values()) == len(text)
    odd.order_of_set(text + "abcdefghij")
    assert odd.dict_of_set(text + "abcdefghij")


@pytest.mark.parametrize("n", range(1, 9))
def test_numbers(n):
    assert odd.add_up([n, n]) == 2 * n
    assert odd.totals([1.8e12 + n, n / 10])[1] == 2
    assert odd.grouped(list(range(n)))
    assert odd.ordered([n, n + 1])
    assert odd.nested(50 + n)
    assert list(odd.countdown(n))
    assert next(odd.endless(n)) == n
    assert odd.instance(n).n == n
    assert odd.takes_instance(odd.Odd(n)) == n
    odd.liar(n)
    assert odd.named(n)[0] == n
    assert len(odd.thousands(n)) == n * 10_000
    assert odd.big(n) > n
    assert odd.circle(n)[0] == n
    assert odd.chance(n) >= n
    assert odd.die(n) == 2 * n
    odd.surrogate(n)
    odd.imaginary(n)
    odd.money(n)
    assert odd.cached(n) == n * n + 1
    assert odd.sum_of_set([0.1 * k for k in range(n + 3)]) >= 0
    assert odd.nan_of(n)["n"][2] == n / 3


@pytest.mark.parametrize("n", range(1, 9))
def test_ends(n):
    if n > 3:
        with pytest.raises(SystemExit):
            odd.leave(n)
    else:
        assert odd.leave(n) == n + 1
    if n > 2:
        with pytest.raises(odd.WrongError):
            odd.raises_liar(n)
    else:
        assert odd.raises_liar(n) == n + 1


@pytest.mark.parametrize("xs", [[], [1], [-1], [-1, 2], [3, 4], [5, 6, 7], [-2, -3]])
def test_drain(xs):
    if not xs or xs[0] < 0:
        with pytest.raises((ValueError, KeyError)):
            odd.drain(xs)
    else:
        assert odd.drain(xs)


@pytest.mark.parametrize("n", range(1, 9))
def test_down(n):
    with pytest.raises(RecursionError):
        odd.down(n)
