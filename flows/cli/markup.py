"""Words of others (models, problems, errors, logs, file names) on the terminal: neither its escapes nor rich's markup.

Rich takes `[...]` in a string for markup and raises on what it cannot read, so foreign words reach it through these.
"""

from rich.markup import escape
from rich.syntax import Syntax
from rich.text import Text

from coral_core.untrusted import visible


def words(foreign: object, style: str = "") -> Text:
    """`foreign` as rich's text: for cells, and for lines of nothing else."""
    return Text(visible(str(foreign)), style=style)


def marked(foreign: object) -> str:
    """`foreign` for the inside of a string with markup of ours."""
    return escape(visible(str(foreign)))


def listing(source: str, language: str) -> Syntax:
    """Code that a model or a problem wrote, coloured."""
    return Syntax(visible(source), language, background_color="default")
