"""The base class of the configuration's sections, and the error for keys that do not fit each other."""

import re
from typing import Any

from pydantic import ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from coral_core.frozen import Frozen

CONFLICT = "conflict"
"""Type of the errors that `conflict` makes."""
_NUMBER = re.compile(r"\b(int|float)\b")


class ConfigSection(Frozen):
    """A section of the configuration. Refuses true and false as numbers, which pydantic would read as 1 and 0."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        if any(isinstance(one, bool) for one in values):
            annotation = repr(cls.model_fields[info.field_name or ""].annotation)
            if _NUMBER.search(annotation) and "bool" not in annotation:
                raise ValueError("a number is needed. Write 1 or 0 if it is one")
        return value


def conflict(problem: str, *keys: str) -> PydanticCustomError:
    """The error of a section whose keys do not fit each other.

    Args:
        problem: What is wrong, and what to do.
        keys: The keys it is about, dotted, as seen from the section; the first one's place begins the message.
    """
    context = {"keys": [tuple(key.split(".")) for key in keys], "problem": problem}
    return PydanticCustomError(CONFLICT, "{problem}", context)
