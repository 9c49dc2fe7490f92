"""Escapes untrusted text (of models, problems, errors, logs) for display.

`visible` is for terminals, `inline` for Markdown. Not covered: HTML, which its template escapes, and the markup of rich
(pass untrusted text to rich as a `Text`, never as a string).
"""

import logging
import re

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb]"
)
"""C0 and C1 controls except newline and tab, marks of writing direction, zero-width characters, and lone surrogates, which cannot
be encoded."""
_PLAIN = re.compile(r"(?!.*(?://|www\.))[\w ,;:.%()=+/'±α·…–-]*", re.ASCII | re.IGNORECASE)
_TICKS = re.compile("`+")


def visible(text: str) -> str:
    """`text` with each control character escaped (``\\x1b``), so that a terminal shows it instead of executing it.

    >>> visible("\\x1b]0;gone\\x07")
    '\\\\x1b]0;gone\\\\x07'
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def on_one_line(text: str) -> str:
    """As `visible`, with newlines and tabs escaped as well; for names.

    >>> on_one_line("two\\nlines")
    'two\\\\x0alines'
    """
    return visible(text).replace("\n", "\\x0a").replace("\t", "\\x09")


class VisibleFormatter(logging.Formatter):
    """Formats log lines with control characters escaped, since they may hold untrusted text, such as file names."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def in_a_line(error: BaseException) -> str:
    """Class and first line of an error, at most 500 characters.

    >>> in_a_line(ValueError("no such thing\\nand more"))
    'ValueError: no such thing'
    """
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return visible(f"{type(error).__name__}: {first}" if first else type(error).__name__)[:500]


def inline(text: str) -> str:
    """`text` for one line of Markdown: unchanged if it holds no markup, otherwise as code.

    Code holds no images, links, headings or HTML. Backslash escapes would not suffice, since renderers detect addresses
    after removing them.

    >>> inline("loss is NaN at step 12"), inline("![x](http://a/b)")
    ('loss is NaN at step 12', '`![x](http://a/b)`')
    """
    line = visible(" ".join(text.split()))
    return line if _PLAIN.fullmatch(line) else code(line)


def code(text: str) -> str:
    """`text` as inline code in Markdown, with a fence that is longer than any run of backticks in it.

    >>> code("a `b` c")
    '`` a `b` c ``'
    """
    line = visible(" ".join(text.split()))
    if "`" not in line:
        return f"`{line}`" if line else ""
    fence = "`" * (1 + max(len(found) for found in _TICKS.findall(line)))
    return f"{fence} {line} {fence}"
