"""Text as a hostile model would write it."""

ESCAPES = ("\x1b]0;owned\x07", "\x1b[2J", "\x9b31m", "\x08\x08", "\r", "\x00", "\x7f", "\u202e", "\ud800")
EVIL = (
    "[/data/models/x] [bold]"
    + "".join(ESCAPES[:-1])
    + " ![x](http://a.b/c) <img src=x> # head `tick` | https://d.e [l](http://f.g)"
)


def harmless(text: str) -> None:
    """Nothing in `text` steers a terminal, and the brackets have come through."""
    assert not [c for c in text if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or c in "\u202e\ud800"]
    assert "[/data/models/x]" in text
