"""Patch extraction: from the text of a model to a module that the judge can run.

A patch is a whole module. Imports and helper functions that come with the function are kept, also from another fenced
block. Candidates are tried from the most to the least explicit form: fenced block, all of the text, code between lines of
prose, code cut off at the end. The first form that parses and defines the entry point is taken. Within a form a later
definition is preferred, because an earlier one tends to be an echo of the prompt. Not covered: methods as entry points,
and code inside JSON.

Extraction never raises, and its time grows linearly with the text: no pattern backtracks over a line, and the characters
given to the parser are counted. The parser itself is not bounded here: completions are extracted in a process of their
own (`scoring.text_process`).
"""

import ast
import re
import textwrap
import warnings
from dataclasses import dataclass

from coral_core.frozen import Frozen
from coral_core.syntax import UNPARSABLE, bound_names, parse

EXTRACTOR_VERSION = "4"
LONGEST = 100_000
"""Characters of a completion that are looked at; a patch is never longer."""
PARSED = 500_000
"""Characters parsed per completion before the search ends, so that a hostile text takes bounded time."""
EACH = 50
"""Fixed cost of one parse, counted as characters."""
MARK = "\ufeff"
"""The byte order mark, which is not part of a program."""

_LANGUAGE = re.compile(r"[\w+-]*")
_CLOSING_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
_CODE_START = re.compile(
    r"^(?:def |async def |class |import |from \w[\w.]* import |@\w|[A-Za-z_]\w* *(?::[^=\n]+)?= *\S)"
)
_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)
_OWNER = re.compile(r"(?:class|def|async def) \w")
_LEADING_TABS = re.compile(r"^[ ]*\t[ \t]*", re.MULTILINE)


class Extraction(Frozen):
    """A patch, and the form in which it was found: whole, fenced, embedded, truncated or none."""

    patch: str
    how: str


def extract(completion: str, entry_point: str, setup: str = "") -> Extraction:
    """The patch in a completion.

    Args:
        completion: Text of a model; `LONGEST` characters of it are read.
        entry_point: The function that the patch must define.
        setup: Code of the problem around the function. What the patch uses of it and does not define is put in front of it.

    Returns:
        The patch and how it was found. With ``how == "none"`` the patch is the text itself, so that the judge can say
        what is wrong with it.

    Example:
        >>> found = extract("Here it is:\\n```python\\ndef add(a, b):\\n    return a + b\\n```\\nDone.", "add")
        >>> found.how, found.patch
        ('fenced', 'def add(a, b):\\n    return a + b')
    """
    text = readable(completion)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the linter judges invalid escapes such as "\d"
        try:
            found = _Search(text, entry_point).best()
            return found if found.how == "none" or not setup else _completed(found, setup)
        except UNPARSABLE:  # too large or too deep to parse
            return Extraction(patch=text.strip(), how="none")


def _completed(found: Extraction, setup: str) -> Extraction:
    """`found` with the definitions of `setup` that its patch uses, also through each other, and does not have."""
    tree = parse(found.patch)
    code = _summary(tree)
    wanted = set(code.used - code.bound)
    waiting = [(bound_names(node), node) for node in parse(setup).body]
    taken: set[int] = set()
    while used := [item for item in waiting if item[0] & wanted]:
        waiting = [item for item in waiting if item not in used]
        for _, node in used:
            first = min(part.lineno for part in (node, *getattr(node, "decorator_list", ())))
            taken.update(range(first, (node.end_lineno or first) + 1))
            wanted |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - code.bound
    if not taken:
        return found
    pieces = [line for number, line in enumerate(setup.split("\n"), 1) if number in taken]
    lines = found.patch.split("\n")
    future = [
        node.end_lineno or 0 for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    head = max(future, default=0)  # such an import must stay at the top
    return found.model_copy(update={"patch": "\n".join([*lines[:head], *pieces, "", *lines[head:]])})


def readable(completion: str) -> str:
    """Valid UTF-8 without NUL bytes, carriage returns and a leading byte order mark; tabs of the indentation become spaces."""
    text = completion[:LONGEST].encode("utf-8", "replace").decode().replace("\0", "").lstrip(MARK)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _LEADING_TABS.sub(lambda match: match[0].expandtabs(4), text)[:LONGEST]


Span = tuple[int, int, int, int]
"""First line and column, last line and column, as `ast` counts them (columns in bytes)."""


@dataclass(frozen=True)
class _Code:
    """Summary of a parsed candidate; its tree, a hundred times as large, is not kept."""

    bound: frozenset[str]
    used: frozenset[str]
    definitions: tuple[tuple[frozenset[str], Span], ...]
    """Imports, functions, classes and assignments at the top: names and place."""
    empty: bool


def _summary(tree: ast.Module) -> _Code:
    bound: set[str] = set()
    definitions = []
    for node in tree.body:
        names = bound_names(node)
        bound |= names
        if isinstance(node, _DEFINITIONS):
            span = (node.lineno, node.col_offset, node.end_lineno or node.lineno, node.end_col_offset or 0)
            if decorators := getattr(node, "decorator_list", None):
                span = (min(item.lineno for item in decorators), 0, *span[2:])
            definitions.append((frozenset(names), span))
    used = frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    return _Code(frozenset(bound), used, tuple(definitions), not tree.body)


class _Search:
    """The search in one completion. Results of parsing are cached, and the amount of text parsed is bounded."""

    def __init__(self, text: str, entry_point: str) -> None:
        self.text = text
        self.entry_point = entry_point
        self.left = PARSED
        self.parsed: dict[str, _Code | None] = {}
        self.error_line = 0

    def best(self) -> Extraction:
        """The patch of the first form that gives one."""
        fenced = _fenced(self.text)
        closed = self.defining([self.before_closing_fence()])
        if closed:
            return Extraction(patch=closed[-1], how="whole")
        if found := self.defining(fenced):
            return Extraction(patch=self.with_helpers(found[-1], fenced), how="fenced")
        if found := self.defining([self.text]):
            return Extraction(patch=found[-1], how="whole")
        embedded = self.embedded()
        if found := self.defining(embedded):
            return Extraction(patch=found[-1], how="embedded")
        for candidate in reversed([self.text, *embedded, *fenced]):
            if (code := self.cut(candidate)) is not None:
                return Extraction(patch=code, how="truncated")
        for candidate in [*fenced, self.text]:
            if code := self.module(candidate):
                return Extraction(patch=code, how="none")
        return Extraction(patch=self.text.strip(), how="none")

    def before_closing_fence(self) -> str:
        """The text before the first fence: the whole answer when the prompt opened the fence, else prose."""
        fence = _CLOSING_FENCE.search(self.text)
        return self.text[: fence.start()] if fence else ""

    def defining(self, candidates: list[str]) -> list[str]:
        """The modules among `candidates` that define the entry point."""
        return [code for code in map(self.module, candidates) if code and self.defines(code)]

    def module(self, candidate: str) -> str:
        """`candidate` trimmed, when it parses and holds a statement; else ""."""
        text = textwrap.dedent(candidate.strip("\n")).strip()
        code = self.code(text)
        return text if code is not None and not code.empty else ""

    def code(self, text: str) -> _Code | None:
        """Summary of `text`, parsed at most once; None when it does not parse."""
        if text not in self.parsed:
            self.parsed[text] = self.parse(text)
        return self.parsed[text]

    def parse(self, text: str) -> _Code | None:
        """Parse `text` and count its characters; None when it does not parse or the limit is reached."""
        self.left -= len(text) + EACH
        self.error_line = 0
        if self.left < 0:
            return None
        try:
            return _summary(parse(text))
        except SyntaxError as error:
            self.error_line = error.lineno or 0
        except UNPARSABLE:
            pass
        return None

    def defines(self, text: str) -> bool:
        """True when `text` binds the entry point."""
        code = self.code(text)
        return code is not None and self.entry_point in code.bound

    def with_helpers(self, text: str, blocks: list[str]) -> str:
        """`text` after the imports and definitions of other blocks whose names it uses and does not bind."""
        own = self.code(text)
        wanted = own.used - own.bound if own else frozenset()
        pieces: list[str] = []
        for block in blocks:
            whole = self.module(block)
            code = self.code(whole)
            if code is None or self.entry_point in code.bound:
                continue
            lines = whole.split("\n")
            pieces += [_segment(lines, span) for names, span in code.definitions if names & wanted]
        return "\n\n".join([*pieces, text])

    def embedded(self) -> list[str]:
        """Blocks of code between lines of prose, and all of them joined (imports far from the function)."""
        blocks: list[list[str]] = []
        current: list[str] | None = None
        for line in self.text.split("\n"):
            goes_on = not line.strip() or line[0] in " \t#)]}" or line.startswith(("else", "elif", "except", "finally"))
            if _CODE_START.match(line) or (current is not None and goes_on):
                if current is None:
                    current = []
                    blocks.append(current)
                current.append(line)
            else:
                current = None
        pieces = ["\n".join(block).rstrip() for block in blocks]
        joined = "\n".join(piece for piece in pieces if self.module(piece))
        return [*_indented(self.text), joined, *pieces]

    def cut(self, candidate: str) -> str | None:
        """The longest beginning that parses and defines the entry point with a body, for output that was cut off; else None."""
        start = re.search(rf"^[ \t]*(?:async )?def {re.escape(self.entry_point)}\b", candidate, re.MULTILINE)
        if start is None or self.left < 0:
            return None
        before = candidate[: start.start()]
        if start[0][0] == " " and _OWNER.match(_owner(before)):
            return None
        lines = textwrap.dedent(candidate[start.start() :]).split("\n")
        if self.module(before):
            head = textwrap.dedent(before).lstrip("\n").split("\n")[:-1]
        else:
            imports = (line for line in before.split("\n") if line.startswith(("import ", "from ")))
            head = [line for line in imports if self.module(line)]
        above = len(head)
        end = len(lines)
        while end > 1 and self.left > 0:
            joined = "\n".join([*head, *lines[:end]])
            text = joined.rstrip()
            self.left -= len(joined) - len(text)
            if (code := self.parse(text)) is not None:
                self.parsed[text] = code
                return text if self.defines(text) else None
            # A beginning that holds the line of the error fails too: go to just before that line.
            end = min(end - 1, max(1, self.error_line - 1 - above)) if self.error_line else end - 1
        return None


def _fenced(text: str) -> list[str]:
    """Contents of the fenced blocks; the last one may be open at the end."""
    blocks: list[list[str]] = []
    inside = False
    *lines, last = text.split("\n")
    for line in lines:
        mark = line.strip(" \t")
        if inside and mark == "```":
            blocks[-1].append("")
            inside = False
        elif inside:
            blocks[-1].append(line)
        elif mark.startswith("```") and _LANGUAGE.fullmatch(mark[3:].strip(" \t")):
            blocks.append([])
            inside = True
    if inside:
        blocks[-1].append("" if last.strip(" \t") == "```" else last)
    return ["\n".join(block) for block in blocks]


def _segment(lines: list[str], span: Span) -> str:
    """The text at `span`."""
    first, start, last, end = span
    if first == last:
        return lines[first - 1].encode()[start:end].decode()
    head, tail = lines[first - 1].encode()[start:].decode(), lines[last - 1].encode()[:end].decode()
    return "\n".join([head, *lines[first : last - 1], tail])


def _indented(text: str) -> list[str]:
    """Indented blocks (Markdown's other form of code), except those that belong to a class or function above."""
    blocks: list[list[str]] = []
    above = ""
    current: list[str] | None = None
    for line in text.split("\n"):
        if line.startswith(" ") and line.strip():
            if current is None:
                current = []
                if not _OWNER.match(above):
                    blocks.append(current)
            current.append(line)
        elif not line.strip():
            if current is not None:
                current.append("")
        else:
            above, current = line, None
    return ["\n".join(block) for block in blocks]


def _owner(before: str) -> str:
    """The last line that is not indented."""
    return next((line for line in reversed(before.split("\n")) if line.strip() and line[0] != " "), "")
