"""Base class of all records that are exchanged between processes or written to disk."""

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.fields import ComputedFieldInfo, FieldInfo

_CAPITALS = {"cpu": "CPU", "gpu": "GPU", "mb": "MB"}
_CHOICES = {"null": "not set", "string": "text", "integer": "number", "number": "number", "array": "list"}


def _title(name: str, field: FieldInfo | ComputedFieldInfo) -> str:
    """Label of a field in a form: ``held_out`` becomes Held out. Without labels, forms show names of classes."""
    first, *rest = (_CAPITALS.get(word, word) for word in name.split("_"))
    return " ".join([first[:1].upper() + first[1:], *rest])


def _name_choices(schema: dict[str, Any]) -> None:
    """Add titles to the alternatives of a field such as "number or null", for forms that show them."""
    for field in schema.get("properties", {}).values():
        for choice in field.get("anyOf", ()):
            if choice.get("type") in _CHOICES:
                choice.setdefault("title", _CHOICES[choice["type"]])


class Frozen(BaseModel):
    """An immutable record; an unknown field is an error. Its JSON schema has labels for the Prefect UI's form.

    >>> class Point(Frozen):
    ...     x: int = 0
    >>> Point(x=1) == Point.model_validate_json('{"x": 1}')
    True
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,  # JSON has neither, and comparisons with NaN are always false
        field_title_generator=_title,
        json_schema_extra=_name_choices,
    )
