"""Durations as text."""


def clock(seconds: float) -> str:
    """A duration as text: in seconds below a minute, otherwise M:SS or H:MM:SS.

    >>> clock(8), clock(187), clock(7387)
    ('8 s', '3:07', '2:03:07')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
