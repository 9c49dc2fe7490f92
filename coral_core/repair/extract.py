"""Patch extraction: from what a model wrote to a module that the judge can run.

Whole modules: imports and helper functions that come with the wanted function stay.
Candidates are looked for from the most to the least explicit form (fenced block, code
after an explanation, code cut off at the end); the first one that parses and defines
the entry point wins, a later definition before an earlier echo of the prompt.
"""

import ast
import re
import textwrap

from coral_core.frozen import Frozen

EXTRACTOR_VERSION = "2"
LONGEST = 100_000
"""Characters of a completion that are looked at; a patch is never longer."""

_FENCE = re.compile(r"```[ \t]*[\w+-]*[ \t]*\r?\n(.*?)(?:\r?\n[ \t]*```|\Z)", re.DOTALL)
_CODE_START = re.compile(
    r"^(?:def |async def |class |import |from \w[\w.]* import |@\w|[A-Za-z_]\w* *(?::[^=\n]+)?= *\S)"
)


class Extraction(Frozen):
    """A patch and how it was found: whole, fenced, embedded, truncated or none."""

    patch: str
    how: str


def extract(completion: str, entry_point: str) -> Extraction:
    """The patch in `completion`; ``how == "none"`` gives the text back for the judge to name what is wrong with it."""
    text = completion[:LONGEST].replace("\r\n", "\n").expandtabs(4)
    if "\0" in text:
        text = text.replace("\0", "")
    for how, candidates in (("fenced", _fenced(text)), ("whole", [text]), ("embedded", _embedded(text))):
        found = [code for code in map(_module, candidates) if code and _defines(code, entry_point)]
        if found:
            return Extraction(patch=found[-1], how=how)
    for candidate in [*_fenced(text), *_embedded(text), text]:
        if (code := _cut(candidate, entry_point)) is not None:
            return Extraction(patch=code, how="truncated")
    for candidate in [*_fenced(text), text]:
        if code := _module(candidate):
            return Extraction(patch=code, how="none")
    return Extraction(patch=text.strip(), how="none")


def _fenced(text: str) -> list[str]:
    return [match[1] for match in _FENCE.finditer(text)]


def _embedded(text: str) -> list[str]:
    """Blocks of code between lines of prose, and all of them joined (imports far from the function)."""
    blocks: list[list[str]] = []
    current: list[str] | None = None
    for line in text.split("\n"):
        starts = bool(_CODE_START.match(line))
        if starts or (
            current is not None
            and (not line.strip() or line[0] in " \t#)]}" or line.startswith(("else", "elif", "except")))
        ):
            if current is None:
                current = []
                blocks.append(current)
            current.append(line)
        else:
            current = None
    pieces = ["\n".join(block).rstrip() for block in blocks]
    joined = "\n".join(piece for piece in pieces if _module(piece))
    indented = textwrap.dedent(text) if text.lstrip("\n").startswith((" ", "\t")) else ""
    return [*([indented] if indented else []), joined, *pieces]


def _module(code: str) -> str:
    """`code` trimmed, when it parses and holds a statement; else ""."""
    code = textwrap.dedent(code.strip("\n")).strip()
    tree = _parsed(code)
    return code if tree is not None and tree.body else ""


def _parsed(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _defines(code: str, entry_point: str) -> bool:
    tree = _parsed(code)
    return tree is not None and any(_binds(node, entry_point) for node in tree.body)


def _binds(node: ast.stmt, name: str) -> bool:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return node.name == name
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
    return False


def _cut(text: str, entry_point: str) -> str | None:
    """The longest beginning that parses and defines the entry point with a body (truncated output)."""
    start = re.search(rf"^[ \t]*(?:async )?def {re.escape(entry_point)}\b", text, re.MULTILINE)
    if start is None:
        return None
    before = text[: start.start()]
    heads = [_module("\n".join(line for line in before.split("\n") if line.startswith(("import ", "from "))))]
    lines = textwrap.dedent(text[start.start() :]).split("\n")
    for end in range(len(lines), max(1, len(lines) - 400), -1):
        code = _module("\n".join([*filter(None, heads), *lines[:end]]))
        if code and _defines(code, entry_point):
            return code
    return None
