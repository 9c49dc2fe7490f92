"""Functions on numbers and lists."""


def clamp(value: int, low: int, high: int) -> int:
    """`value`, or the nearer of the two limits."""
    return max(low, min(value, high))


def running_total(values: list[int]) -> list[int]:
    """Sums of the first one, two, three … values."""
    total, sums = 0, []
    for value in values:
        total += value
        sums.append(total)
    return sums


def most_common(values: list[int]) -> int:
    """The most frequent value; the smallest of several."""
    counts: dict[int, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return min(counts, key=lambda value: (-counts[value], value))


def page_of(item: int, size: int) -> int:
    """Number of the page, from 1, that shows item `item`, from 0."""
    if size < 1:
        raise ValueError(size)
    return item // size + 1


def leap_year(year: int) -> bool:
    """Does `year` have 366 days?"""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
