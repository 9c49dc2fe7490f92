"""Prices."""

import math
import random

RATE = 0.2


def with_tax(net, rate=RATE):
    """Gross price.

    >>> with_tax(100)
    120.0
    """
    if net < 0:
        raise ValueError("negative")
    return round(net * (1 + rate), 2)


def discount(price, percent):
    if percent > 100:
        percent = 100
    if percent < 0:
        percent = 0
    return price - price * percent / 100


def cheapest(prices):
    best = None
    for price in prices:
        if best is None or price < best:
            best = price
    return best


def _step(n):
    return n + 1


def round_up(value, step):
    return math.ceil(value / step) * step


def lottery():
    return random.random()


def total(basket):
    amount = 0
    for _name, count, price in basket:
        if count > 0:
            amount += count * price
    return amount


class Cart:
    def add(self, item):
        return item


def unused(a):
    return a
