"""Patch extraction: from what a model wrote to a module that the judge can run.

Whole modules: imports and helper functions that come with the wanted function stay, also
when they stand in another fenced block. Candidates are looked for from the most to the
least explicit form (fenced block, all of the text, code between lines of prose, code cut
off at the end); the first form that parses and defines the entry point wins, and in it a
later definition before an earlier one, which tends to be an echo of the prompt.
Not covered: entry points that are methods, and code inside JSON.
"""

import ast
import re
import textwrap
import warnings

from coral_core.frozen import Frozen
from coral_core.syntax import parse

EXTRACTOR_VERSION = "3"
LONGEST = 100_000
"""Characters of a completion that are looked at; a patch is never longer."""
PARSED = 1_000_000
"""Characters parsed per completion before the search ends: a hostile text must not buy minutes."""

_FENCE = re.compile(r"^[ \t]*```[ \t]*[\w+-]*[ \t]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_CLOSING_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
_CODE_START = re.compile(
    r"^(?:def |async def |class |import |from \w[\w.]* import |@\w|[A-Za-z_]\w* *(?::[^=\n]+)?= *\S)"
)
_OWNER = re.compile(r"(?:class|def|async def) \w")
_LEADING_TABS = re.compile(r"^[ ]*\t[ \t]*", re.MULTILINE)


class Extraction(Frozen):
    """A patch and how it was found: whole, fenced, embedded, truncated or none."""

    patch: str
    how: str


def extract(completion: str, entry_point: str) -> Extraction:
    """The patch in `completion`; ``how == "none"`` gives the text back for the judge to name what is wrong with it."""
    text = _readable(completion)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a patch with "\d" in a string is the linter's matter
        return _Search(text, entry_point).best()


def _readable(completion: str) -> str:
    """Valid UTF-8 without NUL bytes and carriage returns, indented by spaces only (tabs inside a line stay)."""
    text = completion[:LONGEST].encode("utf-8", "replace").decode()
    text = text.replace("\0", "").replace("\r\n", "\n").replace("\r", "\n")
    return _LEADING_TABS.sub(lambda match: match[0].expandtabs(4), text)


class _Search:
    """One completion's search: what was parsed is kept, and how much is bounded."""

    def __init__(self, text: str, entry_point: str) -> None:
        self.text = text
        self.entry_point = entry_point
        self.left = PARSED
        self.parsed: dict[str, ast.Module | None] = {}
        self.error_line = 0

    def best(self) -> Extraction:
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
        """What comes before the first fence: all of the answer when the prompt opened the fence, else prose."""
        fence = _CLOSING_FENCE.search(self.text)
        return self.text[: fence.start()] if fence else ""

    def defining(self, candidates: list[str]) -> list[str]:
        return [code for code in map(self.module, candidates) if code and self.defines(code)]

    def module(self, candidate: str) -> str:
        """`candidate` trimmed, when it parses and holds a statement; else ""."""
        code = textwrap.dedent(candidate.strip("\n")).strip()
        tree = self.tree(code)
        return code if tree is not None and tree.body else ""

    def tree(self, code: str) -> ast.Module | None:
        if code not in self.parsed:
            self.parsed[code] = self.parse(code)
        return self.parsed[code]

    def parse(self, code: str) -> ast.Module | None:
        self.left -= len(code)
        self.error_line = 0
        if self.left < 0:
            return None
        try:
            return parse(code)
        except SyntaxError as error:
            self.error_line = error.lineno or 0
        except (ValueError, RecursionError, MemoryError):
            pass
        return None

    def defines(self, code: str) -> bool:
        tree = self.tree(code)
        return tree is not None and any(self.entry_point in _bound(node) for node in tree.body)

    def with_helpers(self, code: str, blocks: list[str]) -> str:
        """`code` after the imports and definitions of other blocks whose names it uses and does not bind."""
        wanted = _used(self.tree(code)) - _all_bound(self.tree(code))
        pieces: list[str] = []
        for block in blocks:
            tree = self.tree(self.module(block))
            if tree is None or self.entry_point in _all_bound(tree):
                continue
            for node in tree.body:
                definition = isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign))
                if definition and _bound(node) & wanted:
                    pieces.append(ast.unparse(node))
        return "\n\n".join([*pieces, code])

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
        """The longest beginning that parses and defines the entry point with a body (truncated output)."""
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
            code = "\n".join([*head, *lines[:end]]).rstrip()
            tree = self.parse(code)
            if tree is not None:
                self.parsed[code] = tree
                return code if self.defines(code) else None
            # A beginning that holds the line of the error fails too: go to just before that line.
            end = min(end - 1, max(1, self.error_line - 1 - above)) if self.error_line else end - 1
        return None


def _fenced(text: str) -> list[str]:
    return [match[1] for match in _FENCE.finditer(text)]


def _indented(text: str) -> list[str]:
    """Indented blocks (Markdown's other way to write code), without what belongs to a class or function above."""
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


def _bound(node: ast.stmt) -> set[str]:
    """Names that a top-level statement binds."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
        return {node.target.id}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return set()


def _all_bound(tree: ast.Module | None) -> set[str]:
    return {name for node in tree.body for name in _bound(node)} if tree else set()


def _used(tree: ast.Module | None) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} if tree else set()
