"""A Python file of a user: its functions, the code that each needs, a function replaced by a patch, and a careful write.

Nothing is run. The file is read once; line ends and a byte order mark are kept. Covered are functions that the module defines
by `def` at its top level. Not covered: methods, asynchronous functions, and functions within blocks.
"""

import ast
import difflib
import hashlib
import os
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from coral_core.atomic_write import write_synced
from coral_core.bounded_read import read_file
from coral_core.errors import ConfigError, StoreError
from coral_core.syntax import UNPARSABLE, bound_names, depth, functions_at_top, parse

LARGEST = 2_000_000
"""Bytes of a file."""
LONGEST_PATCH = 50_000
"""Characters of a patch; a longer one is no repair of a function."""
DEEPEST = 120
_MARK = "\ufeff"


class NoPatch(Exception):  # noqa: N818 (a finding about a completion)
    """A completion gives no patch of the function; the text says why."""


@dataclass(frozen=True)
class SourceFile:
    """A file that parses.

    Attributes:
        path: The file, links resolved.
        text: Its text with plain line ends, without byte order mark.
        checksum: SHA-256 of its bytes.
    """

    path: Path
    text: str
    checksum: str
    crlf: bool
    marked: bool

    @classmethod
    def read(cls, path: Path) -> "SourceFile":
        """Read a file.

        Raises:
            ConfigError: it is no file of Python code in UTF-8.
        """
        try:
            real = path.expanduser().resolve()
            data = read_file(real, LARGEST)
        except (OSError, ValueError, RuntimeError) as error:  # also NUL bytes, and links in a circle
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"{path}: cannot be read ({reason})", remedy="Give a file of Python code.") from None
        try:
            whole = data.decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is not UTF-8 (byte {error.start})", remedy="Save it as UTF-8.") from None
        text = whole.removeprefix(_MARK).replace("\r\n", "\n")
        if "\r" in text or "\0" in text:
            raise ConfigError(
                f"{path}: holds single carriage returns or NUL bytes", remedy="Save it with plain line ends."
            )
        try:
            levels = depth(parse(text))
        except UNPARSABLE as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            reason = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
            raise ConfigError(
                f"{path}{line}: is not Python ({reason})",
                remedy="Repair the syntax first: a function is found by parsing the file.",
            ) from None
        if levels > DEEPEST:
            raise ConfigError(
                f"{path}: is nested more than {DEEPEST} levels deep", remedy="Repair such a file by hand."
            )
        return cls(real, text, hashlib.sha256(data).hexdigest(), "\r\n" in whole, whole.startswith(_MARK))

    def function(self, name: str | None) -> str:
        """The name of the function to repair.

        Args:
            name: As the user gave it; None: the only function of the file.

        Raises:
            ConfigError: there is no such function, there are several and none was named, or it is of a kind not covered.
        """
        body = parse(self.text).body
        plain = [node.name for node in body if isinstance(node, ast.FunctionDef)]
        names = list(dict.fromkeys(plain))
        methods = [f"{c.name}.{n.name}" for c in body if isinstance(c, ast.ClassDef) for n in c.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]  # fmt: skip
        if name is None and len(names) == 1:
            name = names[0]
        if not names:
            others = f" (it has {len(methods)} methods, which are not covered)" if methods else ""
            raise ConfigError(
                f"{self.path}: defines no function at its top level{others}", remedy="Give a file with a function."
            )
        if name is None:
            shown = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
            raise ConfigError(
                f"{self.path}: defines {len(names)} functions", remedy=f"Choose one with --function: {shown}."
            )
        if name not in names:
            where = (
                "a method"
                if name in methods
                else "within a block or asynchronous"
                if name in functions_at_top(parse(self.text))
                else ""
            )
            near = difflib.get_close_matches(name, names, 3, 0.4) or names[:3]
            raise ConfigError(
                f"--function {name[:100]}: is {where}, which is not covered" if where else f"--function {name[:100]}: no such function in {self.path}",
                remedy=f"It has {', '.join(near)}.",
            )  # fmt: skip
        if plain.count(name) > 1:
            raise ConfigError(
                f"--function {name}: is defined {plain.count(name)} times in {self.path}", remedy="Keep one definition."
            )
        return name

    def own_text(self, name: str) -> str:
        """The text of a function, decorators included."""
        first, last = _span(_definition(parse(self.text), name))
        return "\n".join(self.text.split("\n")[first - 1 : last])

    def standalone(self, name: str) -> str:
        """The function after the imports, constants and helpers of the file that it needs, directly or through each other."""
        return standalone(self.text, name)

    def patched(self, name: str, patch: str) -> str:
        """The text of the file with a function replaced by that of a patch.

        New imports of the patch are put below those of the file, new helpers in front of the function. What the file
        defines otherwise stays as it is.

        Args:
            name: The function.
            patch: Text of a module that defines it.

        Raises:
            NoPatch: the patch defines no such function, changes nothing, or cannot be put in.
        """
        if len(patch) > LONGEST_PATCH:
            raise NoPatch(f"it has more than {LONGEST_PATCH} characters")
        if any(unicodedata.category(each) in ("Cc", "Cf") and each not in "\n\t" for each in patch):
            raise NoPatch("it holds control characters, which a reader would not see")
        try:
            new, old = parse(patch), parse(self.text)
            if depth(new) > DEEPEST:
                raise NoPatch("it is nested too deeply")
            definition = _definition(new, name)
        except UNPARSABLE:
            raise NoPatch("it does not parse") from None
        except LookupError:
            raise NoPatch(f"it does not define {name}") from None
        lines, patch_lines = self.text.split("\n"), patch.split("\n")
        known = set().union(*(bound_names(node) for node in old.body)) | {name}
        extra = [
            node
            for node in new.body
            if (names := bound_names(node)) and not names & known and getattr(node, "module", "") != "__future__"
        ]
        imports = [_slice(patch_lines, node) for node in extra if isinstance(node, ast.Import | ast.ImportFrom)]
        helpers = [_slice(patch_lines, node) for node in extra if not isinstance(node, ast.Import | ast.ImportFrom)]
        first, last = _span(_definition(old, name))
        place = _imports_end(old)
        whole = [*lines[: first - 1], *(line for helper in helpers for line in (*helper, "", "")), *_slice(patch_lines, definition), *lines[last:]]  # fmt: skip
        at = min(place, first - 1)
        text = "\n".join([*whole[:at], *(line for one in imports for line in one), *whole[at:]])
        try:
            changed = parse(text)
        except UNPARSABLE:
            raise NoPatch("the file would no longer parse") from None
        if ast.dump(changed) == ast.dump(old):
            raise NoPatch("it changes nothing")
        return text

    def diff(self, text: str, shown: str) -> str:
        """Unified diff from the file to `text`.

        Args:
            text: The new text.
            shown: Name of the file in the diff.
        """
        before, after = self.text.split("\n"), text.split("\n")
        return "\n".join(difflib.unified_diff(before, after, f"a/{shown}", f"b/{shown}", lineterm=""))

    def write(self, text: str) -> None:
        """Replace the content of the file; its permissions stay.

        Raises:
            ConfigError: the file changed since it was read; nothing is written.
            StoreError: it cannot be written.
        """
        whole = (_MARK if self.marked else "") + (text.replace("\n", "\r\n") if self.crlf else text)
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            mode = stat.S_IMODE(self.path.stat().st_mode)
            write_synced(scratch, whole.encode())
            scratch.chmod(mode)
            if hashlib.sha256(read_file(self.path, LARGEST)).hexdigest() != self.checksum:
                raise ConfigError(
                    f"{self.path}: was changed meanwhile, so nothing was written", remedy="Run the command again."
                )
            os.replace(scratch, self.path)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be written ({error.strerror})", remedy="Apply the diff by hand."
            ) from error
        finally:
            scratch.unlink(missing_ok=True)


def standalone(text: str, name: str) -> str:
    r"""A function of a module after the statements of the module that it needs.

    Args:
        text: The module.
        name: A function at its top level.

    Example:
        >>> print(standalone("import os\nimport re\n\ndef f(s):\n    return re.sub('a', 'b', s)", "f"))
        import re
        <BLANKLINE>
        <BLANKLINE>
        def f(s):
            return re.sub('a', 'b', s)
    """
    body = parse(text).body
    function = _definition(parse(text), name)
    wanted = {part.id for part in ast.walk(function) if isinstance(part, ast.Name)} - {name}
    waiting = [node for node in body if getattr(node, "name", None) != name]
    taken: list[ast.stmt] = []
    while used := [node for node in waiting if bound_names(node) & wanted]:
        waiting = [node for node in waiting if node not in used]
        taken += used
        wanted |= {part.id for node in used for part in ast.walk(node) if isinstance(part, ast.Name)}
    taken += [node for node in waiting if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    lines = text.split("\n")
    # a statement of a line with several may bring its neighbours along
    numbers = sorted({number for node in taken for number in range(_span(node)[0], _span(node)[1] + 1)})
    first, last = _span(function)
    before = "\n".join(lines[number - 1] for number in numbers if not first <= number <= last)
    own = "\n".join(lines[first - 1 : last])
    return f"{before}\n\n\n{own}" if before else own


def _definition(tree: ast.Module, name: str) -> ast.FunctionDef:
    """The last definition of a function at the top level. Raises `LookupError`."""
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if not found:
        raise LookupError(name)
    return found[-1]


def _span(node: ast.stmt) -> tuple[int, int]:
    """First and last line of a statement, decorators included."""
    return min(part.lineno for part in (node, *getattr(node, "decorator_list", ()))), node.end_lineno or node.lineno


def _slice(lines: list[str], node: ast.stmt) -> list[str]:
    first, last = _span(node)
    return lines[first - 1 : last]


def _imports_end(tree: ast.Module) -> int:
    """Number of the last line of the imports at the top of a module, or of its docstring; 0 where there is neither."""
    end = 0
    for place, node in enumerate(tree.body):
        is_docstring = place == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not is_docstring and not isinstance(node, ast.Import | ast.ImportFrom):
            break
        end = _span(node)[1]
    return end
