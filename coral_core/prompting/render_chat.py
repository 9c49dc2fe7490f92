"""The child process that renders a chat template: one JSON request on standard input, one JSON reply.

A template is a program of strangers. It runs in jinja2's sandbox, as in transformers, and this process has limits of
processor time and memory, since a sandbox bounds neither. Differences to transformers: "now" is a fixed day, so that equal
files give equal prompts on any day; there are no tools and no documents.
"""

import json
import resource
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

CPU_SECONDS = 3
MEMORY_BYTES = 2**30
LONGEST_TEXT = 2**18
"""Characters of all texts that a template may write for one request."""
TODAY = datetime(2024, 7, 26)
"""The day that templates which write a date are told. It is the day that Llama 3.1 writes when told none."""


class _Generation(Extension):
    """The tags ``{% generation %}`` and ``{% endgeneration %}``, which mark the assistant's text: rendered as if absent."""

    tags = {"generation"}  # noqa: RUF012 - as in the class of jinja2

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _OpenNamespace(Namespace):
    """`namespace` without underscored names, which could reach the interior of Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *given = args
        names = dict(*given, **kwargs)
        if any(str(name).startswith("_") for name in names):
            raise jinja2.exceptions.SecurityError("a namespace with an underscored name")
        Namespace.__init__(self, names)


def environment() -> ImmutableSandboxedEnvironment:
    """The environment of transformers' `apply_chat_template`, with a fixed day."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = lambda value, indent=None, separators=None, sort_keys=False, ensure_ascii=False: (
        json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    )
    made.globals = {
        "range": made.globals["range"],
        "dict": lambda *given, **named: dict(*given, **named),
        "namespace": _OpenNamespace,
        "raise_exception": _raise,
        "strftime_now": TODAY.strftime,
    }
    return made


def _raise(message: object) -> None:
    raise jinja2.exceptions.TemplateError(str(message))


def render(request: dict[str, Any]) -> dict[str, Any]:
    """Render the conversations of a request.

    Args:
        request: ``template``, ``tokens`` (name -> text of special tokens) and ``conversations``: lists of messages, each with
            a flag that asks for the generation prompt.

    Returns:
        ``{"texts": [...]}``, with ``{"error": ...}`` in place of a text that could not be rendered, or ``{"error": ...}`` for
        a template that is none.
    """
    try:
        template = environment().from_string(request["template"])
    except Exception as error:  # whatever jinja2 raises for a text that is no template
        return {"error": _reason(error)}
    left = LONGEST_TEXT
    texts: list[Any] = []
    for messages, asks in request["conversations"]:
        given = request["tokens"] | {
            "messages": messages, "add_generation_prompt": asks, "tools": None, "documents": None,
            "enable_thinking": False, "thinking": False,
        }  # fmt: skip
        try:
            parts = []
            for part in template.generate(given):
                left -= len(part)
                if left < 0:
                    raise ValueError(f"it writes more than {LONGEST_TEXT} characters")
                parts.append(part)
            texts.append("".join(parts))
        except Exception as error:  # a template may raise anything
            texts.append({"error": _reason(error)})
    return {"texts": texts}


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def main(answer: Callable[[dict[str, Any]], dict[str, Any]] = render) -> None:
    """Limit this process, then answer the request on standard input."""
    for what, limit in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))
    print(json.dumps(answer(json.load(sys.stdin))))


if __name__ == "__main__":
    main()
