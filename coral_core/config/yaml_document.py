"""Reads one YAML document of plain data, within limits.

A configuration is untrusted input: of a colleague, a form, a faulty generator. The text is bounded first, then parsed to
events, and data is built from the events here: texts, numbers, true and false, null, lists, and mappings with names as
keys. Everything else in YAML is refused with its line: tags (``!!python/...``, ``!!timestamp``), merge keys, several
documents, keys that are no names, references that contain themselves or unfold to more than `MOST_NODES` values, numbers
that two versions of YAML read differently (``010``, ``1:30``), infinities. ``yes`` and ``on`` are text, as in YAML 1.2.

`check_plain` holds data that came as JSON (the parameters of a flow run) to the same limits.
"""

import copy
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from coral_core.errors import ConfigError
from coral_core.untrusted import visible

MOST_BYTES = 256 * 1024
"""Size of a file."""
MOST_NODES = 10_000
"""Values of a document, those that aliases repeat included."""
MOST_DEPTH = 20
"""Sections or lists within each other."""
MOST_ENTRIES = 256
"""Keys of one section."""
LONGEST_TEXT = 4096
"""Characters of one value."""
LONGEST_KEY = 100
LONGEST_NUMBER = 40
"""Characters of a number."""
LARGEST_INTEGER = 2**53
"""Above it JSON's numbers, and therefore forms, are no longer exact."""

KeyPath = tuple[str | int, ...]
Lines = dict[KeyPath, int]
Refuse = Callable[[int, str], NoReturn]
"""Raises the error for a line of the document."""

_UNWANTED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""Control characters but tab and line ends, line separators that count no line, marks that turn the direction of writing,
halves of surrogate pairs, and what is no character."""
_NAME = re.compile(r"\w[\w .+-]*")
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.inf|\.nan", re.IGNORECASE)
_READ_IN_TWO_WAYS = re.compile(
    r"[-+]?(?:0[0-9_]+|0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9]+_[0-9_]*(?:\.[0-9_]*)?|0[0-9]+\.[0-9]*|[0-9]+(?::[0-5]?[0-9])+(?:\.[0-9]*)?)"
)
"""Octal, hexadecimal, binary, sexagesimal and underscored numbers: YAML 1.1 and 1.2 (and JSON) differ on them."""
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_CORE = "tag:yaml.org,2002:"
_PLAIN_TAGS = {yaml.ScalarEvent: f"{_CORE}str", yaml.MappingStartEvent: f"{_CORE}map", yaml.SequenceStartEvent: f"{_CORE}seq"}  # fmt: skip
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def shown(text: object, most: int = 60) -> str:
    """`text` on one line of bounded length, without control characters."""
    cut = str(text)[: most + 1]
    line = visible(cut.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t"))
    return line if len(line) <= most else line[: most - 3] + "..."


def is_name(key: str) -> bool:
    """True for a valid key: a word of bounded length, without characters that YAML interprets."""
    return len(key) <= LONGEST_KEY and _NAME.fullmatch(key) is not None


def read_file(path: Path, remedy: str = "") -> str:
    """The text of the configuration file at `path`.

    Args:
        path: The file.
        remedy: What to do when it cannot be read; empty: advice for a file written by a person.

    Raises:
        ConfigError: there is none; it is no regular file, of more than `MOST_BYTES`, or not UTF-8.
    """
    name = shown(path, 200)

    def refused(reason: str, otherwise: str = "Give a YAML file.") -> ConfigError:
        return ConfigError(f"{name}: cannot be read as a configuration: {reason}. {remedy or otherwise}")

    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a FIFO waits, opening a device may do things
            raise refused(f"it is {next((kind for test, kind in _KINDS if test(mode)), 'no regular file')}")
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(MOST_BYTES + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except FileNotFoundError:
        hint = f"Write one with: coral init {name}"
        if str(path) == "-":
            hint = "It is read from a file, because a resume reads it again: write it to one"
        raise ConfigError(f"{name}: no such configuration file. {remedy or hint}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte, or what the file system cannot encode
        raise refused(error.strerror if isinstance(error, OSError) and error.strerror else str(error)) from None
    if len(data) > MOST_BYTES:
        most = f"it is larger than {MOST_BYTES // 1024} KiB, the most that is read"
        raise refused(most, "A configuration takes a few KiB: see coral init")
    return _decoded(data, name)


def _decoded(data: bytes, source: str) -> str:
    """`data` as text. Raises `ConfigError` with the line of what is not UTF-8."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{source}:1: this is UTF-16 (it begins with {data[:2].hex()})", remedy="Save it as UTF-8.")
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{source}:{line}: cannot be read as a configuration: byte {data[error.start]:02x} is not UTF-8",
            remedy="Save it as UTF-8.",
        ) from None


def read_document(text: str, source: str) -> tuple[Any, Lines]:
    """Plain data of the YAML document `text`, and the line of each key and list entry; None for an empty one.

    Args:
        text: YAML.
        source: What errors call it; a line follows.

    Raises:
        ConfigError: it is no YAML, or outside what the module reads.
    """

    def refuse(line: int, problem: str) -> NoReturn:
        raise ConfigError(f"{source}:{line}: {problem}")

    return _read(text, refuse)


def read_value(text: str, source: str) -> Any:
    """Plain data of one value that was given on the command line. Raises `ConfigError`, which `source` begins."""

    def refuse(line: int, problem: str) -> NoReturn:
        raise ConfigError(f"{source}: {problem}")

    return _read(text, refuse)[0]


def _read(text: str, refuse: Refuse) -> tuple[Any, Lines]:
    if len(text) > MOST_BYTES:
        refuse(1, f"{len(text)} characters, and {MOST_BYTES} are read at most.")
    if found := _UNWANTED.search(text):
        line = len(re.findall(r"\r\n|\r|\n", text[: found.start()])) + 1
        refuse(line, f"holds the character U+{ord(found[0]):04X}, which no configuration needs. Take it out.")
    builder = _Builder(text, refuse)
    return builder.document(), builder.lines


class _Builder:
    """Builds data from the events of one document."""

    def __init__(self, text: str, refuse: Refuse) -> None:
        self.lines: Lines = {}
        self._refuse = refuse
        self._events = self._parsed(text)
        self._count = 0
        self._anchors: dict[str, tuple[Any, int, int]] = {}
        """Value, number of values in it, depth of it."""
        self._open: set[str] = set()

    def _parsed(self, text: str) -> Iterator[yaml.Event]:
        """The events; whatever the parser raises is told with its line. In Python on purpose: libyaml accepts other texts."""
        parser: Any = yaml.SafeLoader("")
        try:
            parser = yaml.SafeLoader(text)
            while True:
                yield parser.get_event()
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            problem = shown(getattr(error, "problem", None) or error, 200)
            self._refuse(mark.line + 1 if mark else 1, f"not YAML: {problem}. Check indentation, quotes and tabs.")
        except Exception as error:  # escapes beyond Unicode, versions of 5,000 digits: its own conversions fail
            self._refuse(parser.line + 1, f"not YAML: {shown(error, 200)}. Check quotes and escapes.")

    def document(self) -> Any:
        next(self._events)  # the stream's start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        data = self._node(next(self._events), (), 0)[0]
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._refuse(_line(event), "a second document begins here, and a configuration is one. Take out the `---`.")
        return data

    def _node(self, event: yaml.Event, path: KeyPath, depth: int) -> tuple[Any, int, int]:
        """Value at `event`, number of values in it, depth of it."""
        line = _line(event)
        self.lines.setdefault(path, line)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        self._counted(1, line)
        if depth > MOST_DEPTH:
            self._refuse(line, f"more than {MOST_DEPTH} lists or sections within each other. {_SCHEMA}")
        self._check_tag(event)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._open.add(anchor)
        found: tuple[Any, int, int]
        if isinstance(event, yaml.MappingStartEvent):
            found = self._mapping(path, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            found = self._sequence(path, depth)
        elif isinstance(event, yaml.ScalarEvent):
            found = self._scalar(event), 1, 0
        else:
            self._refuse(line, "not YAML: a value is missing. Check indentation and quotes.")
        if anchor is not None:
            self._open.discard(anchor)
            self._anchors[anchor] = found
        return found

    def _counted(self, values: int, line: int) -> None:
        self._count += values
        if self._count > MOST_NODES:
            self._refuse(line, f"more than {MOST_NODES} values up to here (aliases unfolded). {_SCHEMA}")

    def _alias(self, event: yaml.AliasEvent, depth: int) -> tuple[Any, int, int]:
        line, name = _line(event), event.anchor
        if name in self._open:
            self._refuse(line, f"*{shown(name)} contains itself. Write the values out.")
        if name not in self._anchors:
            self._refuse(
                line, f"*{shown(name)} is not defined before. Define it with &{shown(name)}, or write the values out."
            )
        value, count, height = self._anchors[name]
        self._counted(count, line)
        if depth + height > MOST_DEPTH:
            self._refuse(line, f"more than {MOST_DEPTH} lists or sections within each other. {_SCHEMA}")
        return copy.deepcopy(value), count, height  # of its own: --set may change one of them

    def _check_tag(self, event: yaml.Event) -> None:
        tag = getattr(event, "tag", None)
        if tag is None or tag == _PLAIN_TAGS.get(type(event)):
            return
        name = tag.replace(_CORE, "!!", 1) if tag.startswith(_CORE) else tag
        self._refuse(
            _line(event), f"the tag {shown(name)} is not read. Write the value without a tag (text in quotes)."
        )

    def _mapping(self, path: KeyPath, depth: int) -> tuple[dict[str, Any], int, int]:
        result: dict[str, Any] = {}
        count = height = 0
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, line = self._key(event), _line(event)
            inner = (*path, key)
            if key in result:
                self._refuse(
                    line, f"{_dotted(inner)} is given twice. Keep one; the first is on line {self.lines[inner]}."
                )
            if len(result) == MOST_ENTRIES:
                self._refuse(
                    line, f"{_dotted(path) or 'the configuration'} has more than {MOST_ENTRIES} keys. {_SCHEMA}"
                )
            self.lines[inner] = line
            result[key], values, deep = self._node(next(self._events), inner, depth + 1)
            count, height = count + values, max(height, deep + 1)
        return result, count + 1, height

    def _key(self, event: yaml.Event) -> str:
        line = _line(event)
        if not isinstance(event, yaml.ScalarEvent):
            what = "an alias" if isinstance(event, yaml.AliasEvent) else "a list or a section"
            self._refuse(line, f"a key is {what}, and a key is a name. Write it as name: value.")
        self._counted(1, line)
        self._check_tag(event)
        text = event.value
        if event.style is None and text == "<<":
            self._refuse(line, "the merge key << is not read. Write the keys out.")
        if (
            len(text) <= LONGEST_KEY
            and event.style is None
            and event.tag is None
            and not isinstance(self._resolved(event), str)
        ):
            self._refuse(line, f"the key {shown(text)} is no name. {_SCHEMA}")
        if not is_name(text):
            self._refuse(line, f"the key {shown(repr(text))} is no name. {_SCHEMA}")
        return str(text)

    def _sequence(self, path: KeyPath, depth: int) -> tuple[list[Any], int, int]:
        result: list[Any] = []
        count = height = 0
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            value, values, deep = self._node(event, (*path, len(result)), depth + 1)
            result.append(value)
            count, height = count + values, max(height, deep + 1)
        return result, count + 1, height

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        if problem := _text_problem(event.value):
            self._refuse(_line(event), problem)
        return event.value if event.style is not None or event.tag is not None else self._resolved(event)

    def _resolved(self, event: yaml.ScalarEvent) -> Any:
        """What a plain scalar stands for, as in the core schema of YAML 1.2."""
        text = event.value
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _NOT_FINITE.fullmatch(text):
            self._refuse(_line(event), f"{shown(text)} is not a finite number. Give a number.")
        if _READ_IN_TWO_WAYS.fullmatch(text):
            self._refuse(
                _line(event), f"{shown(text)} is a number that can be read in two ways. Write it in plain decimals, or in quotes if it is text."
            )  # fmt: skip
        if not _FLOAT.fullmatch(text):
            return text
        if len(text) > LONGEST_NUMBER:
            self._refuse(
                _line(event),
                f"{shown(text)} is a number of {len(text)} characters, and {LONGEST_NUMBER} are read at most.",
            )
        number: int | float = int(text) if _INTEGER.fullmatch(text) else float(text)
        if problem := _number_problem(number, text):
            self._refuse(_line(event), problem)
        return number


_SCHEMA = "What there is: coral config schema"


def _line(event: yaml.Event) -> int:
    mark: Any = event.start_mark
    return int(mark.line) + 1


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def _text_problem(text: str) -> str:
    """What is wrong with a text value; empty when nothing is."""
    if len(text) > LONGEST_TEXT:
        return f"{shown(text)} is a value of {len(text)} characters, and {LONGEST_TEXT} are read at most."
    if found := _UNWANTED.search(text):
        return f"{shown(text)} holds the character U+{ord(found[0]):04X}, which no value needs. Take it out."
    if found := re.search("[\t\n\r]", text):
        return (
            f"{shown(text)} holds a {'tab' if found[0] == chr(9) else 'line end'}, which no value needs. Take it out."
        )
    return ""


def _number_problem(number: int | float, text: str) -> str:
    if isinstance(number, int):
        return (
            ""
            if abs(number) <= LARGEST_INTEGER
            else f"{shown(text)} is beyond 2**53, the largest whole number that is read."
        )
    if math.isinf(number) or math.isnan(number):
        return f"{shown(text)} is beyond what a number holds (about 1.8e308). Give a smaller one."
    if number == 0 and re.search("[1-9]", re.split("[eE]", text)[0]):
        return f"{shown(text)} is nearer to 0 than a number can be. Write 0."
    return ""


def check_plain(data: object) -> None:
    """Check data that did not come as YAML (parameters of a flow run) against the same limits.

    Raises:
        ValueError: it is outside of them; the message begins with the key.
    """
    count = 0
    waiting: list[tuple[object, KeyPath]] = [(data, ())]
    while waiting:
        value, path = waiting.pop()
        where = shown(_dotted(path), 200) or "the configuration"
        count += 1
        if count > MOST_NODES:
            raise ValueError(f"{where}: more than {MOST_NODES} values. {_SCHEMA}")
        if len(path) > MOST_DEPTH:
            raise ValueError(f"{where}: more than {MOST_DEPTH} lists or sections within each other. {_SCHEMA}")
        problem = ""
        if isinstance(value, dict):
            if len(value) > MOST_ENTRIES:
                raise ValueError(f"{where}: more than {MOST_ENTRIES} keys. {_SCHEMA}")
            for key, inner in value.items():
                if not isinstance(key, str) or not is_name(key):
                    named = repr(key[:LONGEST_KEY]) if isinstance(key, str) else f"of type {type(key).__name__}"
                    raise ValueError(f"{where}: the key {shown(named)} is no name. {_SCHEMA}")
                waiting.append((inner, (*path, key)))
        elif isinstance(value, list | tuple):
            if len(value) > MOST_NODES:
                raise ValueError(f"{where}: more than {MOST_NODES} values. {_SCHEMA}")
            waiting += [(inner, (*path, place)) for place, inner in enumerate(value)]
        elif isinstance(value, str):
            problem = _text_problem(value)
        elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            problem = f"a whole number of {value.bit_length()} bits, and 53 are read at most."
        elif isinstance(value, float) and not math.isfinite(value):
            problem = f"{value} is not a finite number. Give a number."
        if problem:
            raise ValueError(f"{where}: {problem}")
