"""Functions on words."""


def initials(name: str) -> str:
    """First letters of the words of a name, in upper case."""
    return "".join(word[0].upper() for word in name.split())


def longest(words: list[str]) -> str:
    """The longest word; the first of several."""
    best = ""
    for word in words:
        if len(word) > len(best):
            best = word
    return best


def shorten(text: str, width: int) -> str:
    """`text` in at most `width` characters, the last of them a full stop where it was cut."""
    if len(text) <= width:
        return text
    return text[: width - 1] + "."
