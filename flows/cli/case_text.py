"""Cases as text for a terminal: the call, the expected outcome, and what came instead.

Values are of problems and patches, so the texts are not escaped here and not bounded; pass them through `shortened` and
`flows.cli.markup`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from coral_core.problems.problem import Case
from coral_core.problems.values import ValueOutside, decode


def shortened(text: str, most: int) -> str:
    """`text` with at most `most` characters; three dots take the place of the end.

    >>> shortened("abcdef", 5)
    'ab...'
    """
    return text if len(text) <= most else f"{text[: most - 3]}..."


def value_text(encoded: Any) -> str:
    """An encoded value in Python's notation; one that has none, as with graph nodes, as JSON.

    >>> value_text(["t", [1, "a"]])
    "(1, 'a')"
    """
    try:
        return repr(decode(encoded))
    except ValueOutside:
        return json.dumps(encoded, ensure_ascii=False)


def call_text(case: Case) -> str:
    """The arguments of a case's call.

    >>> call_text(Case(arguments=(3,), keywords={"base": 2}, value=1))
    '(3, base=2)'
    """
    named = [f"{name}={value_text(item)}" for name, item in case.keywords.items()]
    return f"({', '.join([*map(value_text, case.arguments), *named])})"


def expected_text(case: Case) -> str:
    """The outcome that a case expects, with the arguments after the call where it compares them.

    >>> expected_text(Case(arguments=(["l", [2, 1]],), value=None, mutated=(["l", [1, 2]],)))
    'None, arguments then ([1, 2])'
    """
    return outcome_text(case.exception, case.value, case.mutated, case.given())


def found_text(case: Case, record: Mapping[str, Any] | None, outcome: str) -> str:
    """What a source did in a case, in the words of `expected_text`.

    Args:
        case: The case.
        record: What its child wrote (`Judge.observe`), untrusted; None: it did not come so far.
        outcome: The judge's word for it.

    >>> found_text(Case(arguments=(1,), value=2), {"case": 0, "value": 3}, "wrong")
    '3'
    """
    if record is None:
        return outcome
    if "outside" in record:
        return f"no plain value: {record['outside']}"
    exception, mutated = record.get("exception"), record.get("mutated")
    after = mutated if case.mutated is not None and isinstance(mutated, list) else None
    return outcome_text(None if exception is None else str(exception), record.get("value"), after, case.given())


def outcome_text(exception: str | None, value: Any, mutated: Sequence[Any] | None, given: Sequence[Any]) -> str:
    """The outcome of a call.

    Args:
        exception: Name of the exception's class; None: there is none.
        value: Encoded result, otherwise.
        mutated: Encoded arguments after the call; None: they are not compared.
        given: Encoded arguments before it.
    """
    text = f"raises {exception}" if exception else value_text(value)
    if mutated is None:
        return text
    before, after = [value_text(item) for item in given], [value_text(item) for item in mutated]
    return f"{text}, arguments left alone" if before == after else f"{text}, arguments then ({', '.join(after)})"
