"""Functions that each make a different kind of trouble for a recording, among honest ones."""

import functools
import itertools
import os
import random
import sys
from collections import Counter, OrderedDict, defaultdict
from decimal import Decimal


def words(text):
    return text.split()


def tagged(text):
    return [[text[:1], text[1:]], (text[:1], [text])]


def add_up(numbers):
    total = 0
    for number in numbers:
        total += number
    return total


def totals(amounts):
    count = 0
    total = 0.0
    for amount in amounts:
        count += 1
        total += amount
    return total, count


def drain(xs):
    if not xs:
        raise ValueError("nothing in it")
    if xs[0] < 0:
        xs.pop(0)
        raise KeyError(xs)
    xs.append(len(xs))
    return len(xs)


def tally(text):
    return Counter(text)


def grouped(items):
    groups = defaultdict(list)
    for item in items:
        groups[item % 3].append(item)
    return groups


def ordered(items):
    return OrderedDict((item, item + 1) for item in items)


def nested(depth):
    value = {"f": depth}
    for _ in range(depth - 1):
        value = {"f": value}
    return value


def countdown(n):
    while n > 0:
        yield n
        n -= 1


def endless(n):
    return itertools.count(n)


class Named:
    pass


Named.__qualname__ = "\ud800"


def named(n):
    return [n, Named()]


class Odd:
    def __init__(self, n):
        self.n = n

    def __eq__(self, other):
        raise RuntimeError("no comparison")

    __hash__ = None

    def __repr__(self):
        raise RuntimeError("no repr")


def instance(n):
    return Odd(n)


def takes_instance(odd):
    return odd.n


class Liar(type):
    @property
    def __name__(cls):
        raise RuntimeError("no name")

    def __getattribute__(cls, name):
        if name in ("__qualname__", "__module__", "__next__", "__name__"):
            raise RuntimeError("nothing to see")
        return super().__getattribute__(name)


class Strange(metaclass=Liar):
    pass


class WrongError(Exception, metaclass=Liar):
    pass


def liar(n):
    return Strange()


def raises_liar(n):
    if n > 2:
        raise WrongError
    return n + 1


def thousands(n):
    return list(range(n * 10_000))


def big(n):
    return 10 ** (4000 + n)


def down(n):
    return down(n + 1) + 1


def circle(n):
    made = [n]
    made.append(made)
    return made


def chance(n):
    return n + random.random()


def leave(n):
    if n > 3:
        sys.exit(n)
    return n + 1


def die(n):
    if n < 0:
        os._exit(3)
    return n * 2


def surrogate(n):
    return "\ud800" * n


def imaginary(n):
    return n * 1j


def money(n):
    return Decimal(n)


@functools.lru_cache(maxsize=100)
def cached(n):
    return n * n + 1


def order_of_set(text):
    return list(set(text))


def dict_of_set(text):
    return {letter: text.count(letter) for letter in set(text)}


def sum_of_set(numbers):
    return sum(set(numbers))


def nan_of(n):
    return {float("nan"): n, "n": [float("inf"), -0.0, n / 3]}
