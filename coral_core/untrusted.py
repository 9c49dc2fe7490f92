"""Escapes untrusted text (of models, problems, errors, logs) for display.

`visible` is for terminals, `inline` for Markdown. Not covered: HTML, which its template escapes, and rich's own markup
(give rich a `Text`, never a string with foreign words in it).
"""

import logging
import re

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb]"
)
"""C0 and C1 controls but newline and tab; marks that turn the direction of writing; signs without width; halves of surrogate pairs, which cannot be
encoded."""
_PLAIN = re.compile(r"(?!.*(?://|www\.))[\w ,;:.%()=+/'±α·…–-]*", re.ASCII | re.IGNORECASE)
_TICKS = re.compile("`+")


def visible(text: str) -> str:
    """`text` with each control character spelt out (``\\x1b``), so that a terminal shows it instead of acting on it.

    >>> visible("\\x1b]0;gone\\x07")
    '\\\\x1b]0;gone\\\\x07'
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def on_one_line(text: str) -> str:
    """As `visible`, for names: newlines and tabs are spelt out, too.

    >>> on_one_line("two\\nlines")
    'two\\\\x0alines'
    """
    return visible(text).replace("\n", "\\x0a").replace("\t", "\\x09")


class VisibleFormatter(logging.Formatter):
    """Formats log lines without control characters: file names, lanes and judges put untrusted text into them."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def in_a_line(error: BaseException) -> str:
    """Class and first line of an error; its traceback stands in the log.

    >>> in_a_line(ValueError("no such thing\\nand more"))
    'ValueError: no such thing'
    """
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return visible(f"{type(error).__name__}: {first}" if first else type(error).__name__)[:500]


def inline(text: str) -> str:
    """`text` for one line of Markdown: as it is when nothing in it means anything there, else as code.

    In code there are no images, links, headings or HTML; backslashes would not do, since renderers look for addresses
    after they have taken them out.

    >>> inline("loss is NaN at step 12"), inline("![x](http://a/b)")
    ('loss is NaN at step 12', '`![x](http://a/b)`')
    """
    line = visible(" ".join(text.split()))
    return line if _PLAIN.fullmatch(line) else code(line)


def code(text: str) -> str:
    """`text` as code in Markdown, whatever backticks it holds."""
    line = visible(" ".join(text.split()))
    if "`" not in line:
        return f"`{line}`" if line else ""
    fence = "`" * (1 + max(len(found) for found in _TICKS.findall(line)))
    return f"{fence} {line} {fence}"
