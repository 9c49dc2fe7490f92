"""Writes a `Document` as one self-contained HTML page, without scripts and without requests.

Text from the store and from models is untrusted: Jinja escapes all values, none is ever marked as safe, and the page's
own content security policy forbids scripts and requests.
"""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from coral_core.report.document import Document
from coral_core.report.pictures import as_data_uri
from coral_core.untrusted import visible


def html_page(document: Document) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("coral_core.report"),
        autoescape=True,  # of every template, whatever it is called
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.globals.update(kind=lambda found: type(found).__name__, data_uri=as_data_uri, version=own_version())
    page: str = environment.get_template("page.html.j2").render(document=document)
    return page


def _shown(value: Any) -> Any:
    """Spell out control characters: some are invalid in HTML, others reverse the direction of the text."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def own_version() -> str:
    """The version of CORAL-X that is installed."""
    try:
        return installed("coral-x")
    except PackageNotFoundError:
        return "(not installed)"
