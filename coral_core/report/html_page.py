"""Writes a `Document` as one HTML page that needs nothing else, no network, no script.

Whatever comes from the store or from a model is untrusted: Jinja escapes all of it, the page forbids scripts and
requests by its own policy, and no value is ever marked as safe.
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
    """Control characters spelt out, which no page may hold and which turn the direction of a patch."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def own_version() -> str:
    """The version of CORAL-X that is installed."""
    try:
        return installed("coral-x")
    except PackageNotFoundError:
        return "(not installed)"
