"""Reads one YAML document of plain data, within limits.

A configuration is untrusted input: from a colleague, a form, a faulty generator. `read_document` builds data from the
parser's events: texts, numbers, true and false, null, lists, and mappings with names as keys. Everything else in YAML is
refused with its line: tags (``!!python/...``, ``!!timestamp``), merge keys, several documents, keys that are not names,
aliases that contain themselves or expand to more than `MOST_NODES` values, and numbers that two versions of YAML read
differently (``010``, ``1:30``). ``yes`` and ``on`` are text, as in YAML 1.2; so are numbers that are too long or too large.

`find_problem` checks the other limits on data that came as YAML or as JSON (the parameters of a flow run).
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from coral_core import bounded_read
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

_UNWANTED = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff"
"""Control characters but tab and line ends, line separators that count no line, marks that turn the direction of writing,
halves of surrogate pairs, and what is no character."""
_UNWANTED_IN_A_FILE = re.compile(f"[{_UNWANTED}]")
_UNWANTED_IN_A_VALUE = re.compile(f"[{_UNWANTED}\t\n\r]")
_NAME = re.compile(r"\w[\w .+-]*")
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_READ_IN_TWO_WAYS = re.compile(
    r"[-+]?(?:0[0-9_]+|0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9]+_[0-9_]*(?:\.[0-9_]*)?|0[0-9]+\.[0-9]*|[0-9]+(?::[0-5]?[0-9])+(?:\.[0-9]*)?)"
)
"""Octal, hexadecimal, binary, sexagesimal and underscored numbers: YAML 1.1 and 1.2 (and JSON) differ on them."""
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_SCHEMA = "What there is: coral config schema"
_TOO_MANY = f"more than {MOST_NODES} values (aliases unfolded). {_SCHEMA}"
_TOO_DEEP = f"more than {MOST_DEPTH} lists or sections within each other. {_SCHEMA}"


def shown(text: object, most: int = 60) -> str:
    r"""Format a value for an error message: one line, bounded length, no control characters.

    Args:
        text: Anything; its `str` is used.
        most: Characters of the result at most; a longer text ends in "...".

    Example:
        >>> shown("a\nb"), shown("abcdefgh", 6)
        ('a\\nb', 'abc...')
    """
    cut = str(text)[: most + 1]
    line = visible(cut.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t"))
    return line if len(line) <= most else line[: most - 3] + "..."


def dotted(path: KeyPath) -> str:
    """A key path as text, on one line of bounded length: ``search.population``."""
    return shown(".".join(map(str, path)), 200) or "the configuration"


def is_name(key: str) -> bool:
    """True for a valid key: a word of bounded length, without characters that YAML interprets."""
    return len(key) <= LONGEST_KEY and _NAME.fullmatch(key) is not None


def read_file(path: Path, remedy: str = "", what: str = "configuration") -> str:
    """The text of the configuration file at `path`; symbolic links are followed.

    Args:
        path: The file.
        remedy: What to do when it cannot be read; empty: advice for a file written by a person.
        what: What the file is, for the error.

    Raises:
        ConfigError: there is none; it is no regular file, of more than `MOST_BYTES`, or not UTF-8.
    """
    name = shown(path, 200)
    try:
        return bounded_read.read_file(Path(os.path.realpath(path)), MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        hint = f"Write one with: coral init {name}"
        if str(path) == "-":
            hint = "It is read from a file, because a resume reads it again: write it to one."
        raise ConfigError(f"{name}: no such {what} file", remedy=remedy or hint) from None
    except UnicodeDecodeError as error:
        line, byte = error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise ConfigError(
            f"{name}:{line}: cannot be read as a {what}: byte {byte:02x} is not UTF-8",
            remedy="Save it as UTF-8.",
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte, or a character that the file system cannot encode
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{name}: cannot be read as a {what}: {reason}",
            remedy=remedy or f"Give a YAML file of at most {MOST_BYTES // 1024} KiB.",
        ) from None


def read_document(text: str, source: str, with_line: bool = True) -> tuple[Any, Lines]:
    """Read a YAML document of plain data.

    Args:
        text: YAML.
        source: Name of the text in errors.
        with_line: Whether errors name the line after the source.

    Returns:
        The data (None for an empty document), and the line of each key and list entry, from 1.

    Raises:
        ConfigError: it is not YAML, or outside the part of YAML that this module reads.
    """
    reader = _Reader(text, source, with_line)
    return reader.document(), reader.lines


class _Reader:
    """Builds data from the events of one document."""

    def __init__(self, text: str, source: str, with_line: bool) -> None:
        self.lines: Lines = {}
        self._source = source
        self._with_line = with_line
        self._events = self._parsed(text)
        self._count = 0
        self._anchors: dict[str, Any] = {}

    def _refuse(self, line: int, problem: str) -> NoReturn:
        raise ConfigError(f"{self._source}:{line}: {problem}" if self._with_line else f"{self._source}: {problem}")

    def _parsed(self, text: str) -> Iterator[yaml.Event]:
        """The parser's events; each of its errors is raised with its line. Uses PyYAML's Python parser: libyaml accepts other texts."""
        if len(text) > MOST_BYTES:
            self._refuse(1, f"{len(text)} characters, and {MOST_BYTES} are read at most.")
        if found := _UNWANTED_IN_A_FILE.search(text):
            line = len(re.findall(r"\r\n|\r|\n", text[: found.start()])) + 1
            self._refuse(line, f"holds the character U+{ord(found[0]):04X}, which no configuration needs. Take it out.")
        parser: Any = yaml.SafeLoader(text)
        try:
            while True:
                yield parser.get_event()
        except Exception as error:  # not only YAML errors: escapes beyond Unicode and long version numbers raise others
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None) or parser
            problem = shown(getattr(error, "problem", None) or error, 200)
            self._refuse(mark.line + 1, f"not YAML: {problem}. Check indentation, quotes, escapes and tabs.")

    def document(self) -> Any:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        data = self._node(next(self._events), (), 0)
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._refuse(_line(event), "a second document begins here, and a configuration is one. Take out the `---`.")
        return data

    def _node(self, event: yaml.Event, path: KeyPath, depth: int) -> Any:
        """The value that begins with `event`."""
        line = _line(event)
        self.lines.setdefault(path, line)
        name = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if name not in self._anchors:
                self._refuse(line, f"*{shown(name)} is not defined before, or contains itself. Write the values out.")
            return self._copied(self._anchors[name], line, depth)
        self._check_size(line, depth)
        self._check_tag(event)
        value: Any
        if isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(path, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                value.append(self._node(event, (*path, len(value)), depth + 1))
        else:
            value = self._scalar(event)
        if name is not None:
            self._anchors[name] = value
        return value

    def _copied(self, value: Any, line: int, depth: int) -> Any:
        """A copy of the value that an alias stands for: ``--set`` may change one of them."""
        self._check_size(line, depth)
        if isinstance(value, dict):
            return {key: self._copied(inner, line, depth + 1) for key, inner in value.items()}
        return [self._copied(inner, line, depth + 1) for inner in value] if isinstance(value, list) else value

    def _check_size(self, line: int, depth: int) -> None:
        """Count one value."""
        self._count += 1
        if self._count > MOST_NODES:
            self._refuse(line, _TOO_MANY)
        if depth > MOST_DEPTH:
            self._refuse(line, _TOO_DEEP)

    def _check_tag(self, event: yaml.Event) -> None:
        if tag := getattr(event, "tag", None):
            name = shown(tag.replace("tag:yaml.org,2002:", "!!", 1))
            self._refuse(_line(event), f"the tag {name} is not read. Write the value without a tag (text in quotes).")

    def _mapping(self, path: KeyPath, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = _line(event)
            if not isinstance(event, yaml.ScalarEvent):
                self._refuse(line, "a key is an alias, a list or a section. Write it as name: value.")
            self._check_size(line, depth)
            self._check_tag(event)
            key = self._scalar(event)
            if not isinstance(key, str) or not is_name(key):
                self._refuse(line, f"the key {shown(repr(event.value))} is no name. {_SCHEMA}")
            inner = (*path, key)
            if key in result:
                self._refuse(
                    line, f"{dotted(inner)} is given twice. Keep one; the first is on line {self.lines[inner]}."
                )
            self.lines[inner] = line
            result[key] = self._node(next(self._events), inner, depth + 1)
        return result

    def _scalar(self, event: Any) -> Any:
        """The value of a scalar; a plain one is read by the core schema of YAML 1.2."""
        text = event.value
        if event.style is not None:
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _READ_IN_TWO_WAYS.fullmatch(text):
            advice = "Write it in plain decimals, or in quotes if it is text."
            self._refuse(_line(event), f"{shown(text)} is a number that can be read in two ways. {advice}")
        if len(text) > LONGEST_NUMBER or not _FLOAT.fullmatch(text):
            return text
        number = int(text) if _INTEGER.fullmatch(text) else float(text)
        return number if math.isfinite(number) else text


def _line(event: yaml.Event) -> int:
    mark: Any = event.start_mark
    return int(mark.line) + 1


def find_problem(data: object) -> tuple[KeyPath, str] | None:
    """The first value that exceeds the limits of a configuration.

    Returns:
        Its key path and what is wrong with it; None when there is none.
    """
    count = 0
    waiting: list[tuple[object, KeyPath]] = [(data, ())]
    while waiting:
        value, path = waiting.pop()
        count += 1
        if count > MOST_NODES or (isinstance(value, list | tuple) and len(value) > MOST_NODES):
            return path, _TOO_MANY
        if len(path) > MOST_DEPTH:
            return path, _TOO_DEEP
        if isinstance(value, dict):
            if len(value) > MOST_ENTRIES:
                return path, f"more than {MOST_ENTRIES} keys. {_SCHEMA}"
            for key, inner in value.items():
                if not isinstance(key, str) or not is_name(key):
                    named = repr(key[:LONGEST_KEY]) if isinstance(key, str) else f"of type {type(key).__name__}"
                    return path, f"the key {shown(named)} is no name. {_SCHEMA}"
                waiting.append((inner, (*path, key)))
        elif isinstance(value, list | tuple):
            waiting += [(inner, (*path, place)) for place, inner in enumerate(value)]
        elif isinstance(value, str) and len(value) > LONGEST_TEXT:
            return path, f"{shown(value)} is a value of {len(value)} characters, and {LONGEST_TEXT} are read at most."
        elif isinstance(value, str) and (found := _UNWANTED_IN_A_VALUE.search(value)):
            return path, f"{shown(value)} holds the character U+{ord(found[0]):04X}, which no value needs. Take it out."
        elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            return (
                path,
                f"{shown(value) if value.bit_length() < 200 else 'the value'} is beyond 2**53, the largest whole number that is read.",
            )
        elif isinstance(value, float) and not math.isfinite(value):
            return path, f"{value} is not a finite number. Give a number."
    return None
