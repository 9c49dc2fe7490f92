"""Values beyond containers and numbers: of the standard library, of classes of the code under test, and of numpy.

`problems.values` uses this module to encode and decode them. Reading a value runs no code of its class. Standard library
only: children load this file by its path.
"""

import base64
import builtins
import importlib
import math
import operator
import reprlib
import sys
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, MemberDescriptorType
from typing import Any

LONGEST_TEXT = 400
"""Characters of the text of a standard library's value, and of a label."""
MODULES = {"builtins": builtins, "operator": operator, "math": math}
NAMED = frozenset(
    [
        "abs",
        "all",
        "any",
        "ascii",
        "bin",
        "bool",
        "bytes",
        "callable",
        "chr",
        "complex",
        "dict",
        "divmod",
        "enumerate",
        "filter",
        "float",
        "format",
        "frozenset",
        "hash",
        "hex",
        "int",
        "isinstance",
        "iter",
        "len",
        "list",
        "map",
        "max",
        "min",
        "next",
        "oct",
        "ord",
        "pow",
        "range",
        "repr",
        "reversed",
        "round",
        "set",
        "slice",
        "sorted",
        "str",
        "sum",
        "tuple",
        "type",
        "zip",
    ]
)
"""What may be named of builtins, beside exception classes."""
Label = Callable[[Any], "str | None"]
"""Class -> its label, or None when its instances are outside the language."""
Find = Callable[[str], Any]
"""Label -> class; raises `ValueOutside`."""
_read = object.__getattribute__
SMALL = 2**53
INT_BITS = 10_000
"""Largest int. Python turns ints of up to 4,300 digits into text and back, and this is 3,011 digits."""
_INT_DIGITS = 3_011
_FLOAT_CHARACTERS = 400


class ValueOutside(ValueError):  # noqa: N818 (a finding, like StopIteration)
    """A value (or its size) is outside the closed value language."""


class Node:
    """A node of a linked list or graph, as QuixBugs uses it: equal to itself only.

    Its hash is its number in the order of creation, so that sets of nodes iterate in the same order in every process, and a
    verdict does not depend on memory addresses.

    Args:
        value: Payload of the node.
        successor: Next node of a linked list.
        successors: Nodes that edges of this one lead to; None: a new list, as for those below.
        predecessors: Nodes whose edges lead to this one.
        incoming_nodes: The same as `predecessors`, as other QuixBugs programs call it.
        outgoing_nodes: The same as `successors`, as other QuixBugs programs call it.
    """

    __slots__ = ("__dict__", "_order")
    _made = 0

    def __init__(
        self,
        value: Any = None,
        successor: Any = None,
        successors: Any = None,
        predecessors: Any = None,
        incoming_nodes: Any = None,
        outgoing_nodes: Any = None,
    ) -> None:
        self._order = Node._made
        Node._made += 1
        self.value = value
        self.successor = successor
        self.successors = [] if successors is None else successors
        self.predecessors = [] if predecessors is None else predecessors
        self.incoming_nodes = [] if incoming_nodes is None else incoming_nodes
        self.outgoing_nodes = [] if outgoing_nodes is None else outgoing_nodes

    def __hash__(self) -> int:
        return self._order


class StandIn:
    """A value of a class that this process does not have, as `decode` builds it there.

    Args:
        kind: class, enum, named tuple, object, array or array item.
        label: Qualified name of the class, or the dtype of an array.
        body: Name of the enum's member; values of the tuple; attributes of the object; shape and values of the array.
    """

    __slots__ = ("body", "kind", "label")

    def __init__(self, kind: str, label: str, body: Any) -> None:
        self.kind, self.label, self.body = kind, label, body

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StandIn) and (self.kind, self.label, self.body) == (
            other.kind,
            other.label,
            other.body,
        )

    def __hash__(self) -> int:
        return len(self.label)

    def __repr__(self) -> str:
        if self.kind == "object":
            return f"{self.label}({', '.join(f'{name}={part!r}' for name, part in self.body.items())})"
        return self.label if self.body is None else f"{self.label}({self.body!r})"


def names_of(kind: Any) -> Any:
    """The dictionary of a class, read past its metaclass, whose code may lie, raise or not return."""
    return type.__dict__["__dict__"].__get__(kind)


def module_of(kind: Any) -> str:
    """Name of the module of a class."""
    module = type.__dict__["__module__"].__get__(kind)
    return module if type(module) is str else ""


def full_name(kind: Any) -> str:
    """Module and name of a class; the name alone for a built-in one."""
    module = module_of(kind)
    name = type.__dict__["__qualname__"].__get__(kind)
    return f"{module}.{name}"[:100] if module not in ("", "builtins") else f"{name}"[:100]


def callable_name(item: Any, kind: Any) -> str:
    """``module.name`` of a function or class that `MODULES` has under this name; "" for others."""
    name = item.__name__ if kind is BuiltinFunctionType else type.__dict__["__name__"].__get__(item)
    for module, members in MODULES.items():
        if may_be_named(module, name) and getattr(members, name, None) is item:
            return f"{module}.{name}"
    return ""


def may_be_named(module: str, name: Any) -> bool:
    if type(name) is not str or module not in MODULES:
        return False
    member = getattr(MODULES[module], name, None)
    if module == "builtins":
        return name in NAMED or (isinstance(member, type) and issubclass(member, BaseException))
    return type(member) is BuiltinFunctionType


def state_of(item: Any, bases: Sequence[Any]) -> dict[str, Any]:
    """Attributes of a plain instance by name, from its dictionary and its slots. Runs no code of its class."""
    state: dict[str, Any] = {}
    for base in bases[:-1]:
        names = names_of(base)
        if not type.__dict__["__flags__"].__get__(base) & (1 << 9) or type(names.get("__new__")) is BuiltinFunctionType:
            raise ValueOutside(f"a value of type {full_name(bases[0])}, whose base {full_name(base)} is written in C")
        for name, member in names.items():
            if type(member) is MemberDescriptorType:
                try:
                    state[name] = member.__get__(item)
                except AttributeError:
                    continue
    try:
        own = _read(item, "__dict__")
    except AttributeError:
        own = {}
    if type(own) is not dict or not all(type(name) is str for name in own):
        raise ValueOutside(f"a value of type {full_name(bases[0])}, whose attributes have no names")
    state.update(own)
    return state


def library_text(item: Any, kind: Any) -> tuple[str, str] | None:
    """Type and text of a value of the standard library; None for any other value."""
    if kind is range:
        return "range", f"{item.start},{item.stop},{item.step}"
    form = _FORMS.get((module_of(kind).partition(".")[0], type.__dict__["__name__"].__get__(kind)))
    if form is None or getattr(sys.modules.get(form[0]), form[1], None) is not kind:
        return None
    name = form[1]
    if name == "timedelta":
        text = f"{item.days},{item.seconds},{item.microseconds}"
    elif name in ("date", "datetime", "time"):
        zone = getattr(item, "tzinfo", None)
        fixed = sys.modules["datetime"].timezone
        if zone is not None and (
            type(zone) is not fixed or zone != fixed(zone.utcoffset(None)) or "UTC" not in str(zone)
        ):
            raise ValueOutside(f"a {name} with a time zone of type {full_name(type(zone))}")
        if getattr(item, "fold", 0):
            raise ValueOutside(f"a {name} in the repeated hour of a clock change")
        text = item.isoformat()
    else:
        text = str(item)
    if len(text) > LONGEST_TEXT:
        raise ValueOutside(f"a {name} of more than {LONGEST_TEXT} characters")
    return name, text


_FORMS = {
    (module, name): (module, name)
    for module, names in {
        "decimal": "Decimal",
        "fractions": "Fraction",
        "datetime": "date datetime time timedelta",
        "pathlib": "PurePosixPath PosixPath PureWindowsPath",
    }.items()
    for name in names.split()
}
LIBRARY = {name: module for module, name in _FORMS} | {"range": "builtins"}


def built(name: str, text: str) -> Any:
    """A value of the standard library from its text. Raises `ValueOutside` for a text that `library_text` does not write."""
    module = importlib.import_module(LIBRARY[name])
    kind = getattr(module, name)
    try:
        if name in ("range", "timedelta"):
            return kind(*map(int, text.split(",")))
        if name in ("date", "datetime", "time"):
            return kind.fromisoformat(text)
        return kind(text)
    except (ValueError, TypeError, OverflowError, ArithmeticError):
        raise ValueOutside(f"not a {name}: {text[:80]!r}") from None


def canonical(name: str, text: str) -> str:
    """Equal for equal values of one type of the standard library, whose texts may differ.

    Two moments that are equal for Python are different here if their offsets from UTC are: they have other hours, and other texts.

    Args:
        name: The type.
        text: As `encode` writes it.

    Example:
        >>> canonical("Decimal", "1.50") == canonical("Decimal", "1.5")
        True
        >>> canonical("datetime", "2026-01-01T12:00:00+01:00") == canonical("datetime", "2026-01-01T11:00:00+00:00")
        False
    """
    value = built(name, text)
    if name == "Decimal" and value.is_finite():
        sign, digits, exponent = value.as_tuple()
        whole = "".join(map(str, digits)).lstrip("0")
        short = whole.rstrip("0")
        return f"{'-' if sign and short else ''}{short}e{exponent + len(whole) - len(short) if short else 0}"
    if name == "range":
        return repr((value[:1], value[-1:], len(value)) if len(value) < sys.maxsize else text)
    return str(value)


def checked_label(label: Any) -> str:
    if type(label) is str and len(label) <= LONGEST_TEXT and all(part.isidentifier() for part in label.split(".")):
        return label
    raise ValueOutside(f"not a label: {label!r:.80}")


def instance(found: Any, state: dict[str, Any]) -> Any:
    """An instance of a class with the given attributes, made without its constructor."""
    made = object.__new__(found)
    slots = {
        name: member
        for base in found.__mro__
        for name, member in names_of(base).items()
        if type(member) is MemberDescriptorType
    }
    for name, part in state.items():
        if name in slots:
            slots[name].__set__(made, part)
        else:
            _read(made, "__dict__")[name] = part
    return made


class Classes:
    """The classes of a namespace by their labels: what `encode` and `decode` need of the code under test.

    Args:
        space: Namespace in which the code was executed; its own classes have its ``__name__`` as their module.
    """

    def __init__(self, space: dict[str, Any]) -> None:
        self.space = space

    def find(self, label: str) -> Any:
        """The class called `label`. Raises `ValueOutside` when there is none."""
        first, *rest = label.split(".")
        found = self.space.get(first)
        for name in rest:
            found = names_of(found).get(name) if isinstance(found, type) else None
        if not isinstance(found, type):
            raise ValueOutside(f"no class {label}")
        return found

    def label(self, kind: Any) -> str | None:
        """The label of a class of this namespace; None for any other class."""
        label = type.__dict__["__qualname__"].__get__(kind)
        try:
            return label if self.find(checked_label(label)) is kind else None
        except ValueOutside:
            return None


def bounded(number: int) -> int:
    if number.bit_length() > INT_BITS:
        raise ValueOutside(f"an int of more than {INT_BITS:,} bits")
    return number


def valid(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueOutside("a str that is not valid UTF-8") from None
    return text


def read_float(body: Any) -> tuple[str, Any]:
    """Parse a float from its repr, or from a JSON number as people write it."""
    try:
        if type(body) is int or type(body) is float:
            return "float", float(body)
        if type(body) is str and len(body) <= _FLOAT_CHARACTERS and body == body.strip() and "_" not in body:
            return "float", float(body)
    except (ValueError, OverflowError):
        pass
    raise strange(["f", body])


def read_int(body: Any) -> tuple[str, Any]:
    if type(body) is int:
        return "int", bounded(body)
    if type(body) is str:
        digits = body.removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) <= _INT_DIGITS:
            return "int", bounded(int(body))
    raise strange(["i", body])


def read_bytes(body: Any) -> tuple[str, Any]:
    if type(body) is str:
        try:
            return "bytes", base64.b64decode(body, validate=True)
        except ValueError:
            pass
    raise strange(["b", body])


def read_node(body: Any) -> tuple[str, Any]:
    if type(body) is int and 0 <= body < SMALL:
        return "node", body
    raise strange(["n", body])


def strange(encoded: Any) -> ValueOutside:
    try:
        shown = reprlib.repr(encoded)[:80]
    except ValueError:  # an int of too many digits
        shown = f"a {type(encoded).__name__}"
    return ValueOutside(f"not in the value language: {shown}")
