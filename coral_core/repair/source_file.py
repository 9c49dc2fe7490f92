"""A Python file of a user: its functions, the code that each needs, a function replaced by a patch, and a careful write.

Nothing is run. The file is read once; line ends and a byte order mark are kept, line by line. Covered are functions that the module defines
by `def` at its top level. Not covered: methods, asynchronous functions, and functions within blocks.
"""

import ast
import builtins
import difflib
import hashlib
import io
import os
import stat
import sys
import tokenize
import unicodedata
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from coral_core.atomic_write import write_synced
from coral_core.bounded_read import read_file
from coral_core.errors import ConfigError, StoreError
from coral_core.syntax import UNPARSABLE, bound_names, depth, filled_names, functions_at_top, parse, used_names

LARGEST = 2_000_000
"""Bytes of a file."""
LONGEST_PATCH = 50_000
"""Characters of a patch; a longer one is no repair of a function."""
DEEPEST = 120
_MARK = "\ufeff"
_BUILTIN = set(dir(builtins))


class NoPatch(Exception):  # noqa: N818 (a finding about a completion)
    """A completion gives no patch of the function; the text says why."""


@dataclass(frozen=True)
class SourceFile:
    """A file that parses.

    Attributes:
        path: The file, links resolved.
        whole: Its text as it is.
        text: The same with plain line ends, without byte order mark.
        checksum: SHA-256 of its bytes.
        shown: Its path below the working directory of then; its name where it lies elsewhere.
    """

    path: Path
    whole: str
    text: str
    checksum: str
    shown: str

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
        text = plain(whole)
        if "\r" in text or "\0" in text:
            raise ConfigError(
                f"{path}: holds single carriage returns or NUL bytes", remedy="Save it with plain line ends."
            )
        if (encoding := _declared(data)) not in ("utf-8", "utf-8-sig"):
            raise ConfigError(f"{path}: declares the encoding {encoding}", remedy="Save it as UTF-8, and say so.")
        try:
            tree = parse(text)
            if (levels := depth(tree)) <= DEEPEST:
                _check_compiles(tree)
        except UNPARSABLE as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            reason = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
            raise ConfigError(
                f"{path}{line}: is not Python {sys.version_info.major}.{sys.version_info.minor} ({reason})",
                remedy="Repair the syntax first: a function is found by parsing the file.",
            ) from None
        if levels > DEEPEST:
            raise ConfigError(
                f"{path}: is nested more than {DEEPEST} levels deep", remedy="Repair such a file by hand."
            )
        here = Path.cwd()
        shown = str(real.relative_to(here)) if real.is_relative_to(here) else real.name
        return cls(real, whole, text, hashlib.sha256(data).hexdigest(), shown)

    def function(self, name: str | None) -> str:
        """The name of the function to repair.

        Args:
            name: As the user gave it; None: the only function of the file.

        Raises:
            ConfigError: there is no such function, there are several and none was named, or it is of a kind not covered.
        """
        tree = parse(self.text)
        top = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not _is_overload(node)]
        names = list(dict.fromkeys(top))
        others = _not_covered(tree)
        if name is None and len(names) == 1:
            name = names[0]
        if not names:
            there = ", ".join(f"{name} is {what}" for name, what in list(others.items())[:5])
            raise ConfigError(
                f"{self.path}: defines no function at its top level{f' ({there}, which is not covered)' if others else ''}",
                remedy="Give a file with a function.",
            )
        if name is None:
            shown = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
            raise ConfigError(
                f"{self.path}: defines {len(names)} functions", remedy=f"Choose one with --function: {shown}."
            )
        if name not in names:
            where = others.get(name)
            near = difflib.get_close_matches(name, names, 3, 0.4) or names[:3]
            raise ConfigError(
                f"--function {name[:100]}: is {where}, which is not covered" if where else f"--function {name[:100]}: no such function in {self.path}",
                remedy=f"It has {', '.join(near)}.",
            )  # fmt: skip
        if top.count(name) > 1:
            raise ConfigError(
                f"--function {name}: is defined {top.count(name)} times in {self.path}", remedy="Keep one definition."
            )
        for node in tree.body:
            own = isinstance(node, ast.FunctionDef) and node.name == name
            removed = {
                part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Del)
            }
            if not own and name in bound_names(node) | (removed if isinstance(node, ast.Delete) else set()):
                raise ConfigError(
                    f"--function {name}: is bound again on line {node.lineno} of {self.path}, so the file may mean something else by it",
                    remedy="Write what is done to it as a decorator, or repair it by hand.",
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
        """The whole text of the file with a function replaced by that of a patch, which gets the line ends of the file.

        Imports that the patch needs and the file lacks are put below those of the file, helpers that it needs (functions, classes,
        constants) in front of the function. What the file defines otherwise stays as it is, and so do decorators where the
        patch has none. Other statements of the patch are left out.

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
        mark, lines = self.whole[: self.whole.startswith(_MARK)], self.whole.removeprefix(_MARK).split("\n")
        end = "\r" if 2 * self.whole.count("\r\n") > len(lines) - 1 else ""
        patch_lines = [line + end for line in patch.split("\n")]
        imports, helpers = _additions(old, new, definition)
        replaced = _definition(old, name)
        first, last = _span(replaced)
        body = replaced.lineno if not definition.decorator_list else first  # the file's decorators stay
        place = min(_imports_end(old, lines), first - 1)
        text = mark + "\n".join([
            *lines[:place], *(line + end for line in imports), *lines[place : first - 1],
            *(line for helper in helpers for line in (*_slice(patch_lines, helper), end, end)),
            *lines[first - 1 : body - 1], *_slice(patch_lines, definition), *lines[last:],
        ]).removesuffix("\r")  # fmt: skip
        try:
            changed = parse(plain(text))
            _check_compiles(changed)
        except UNPARSABLE:
            raise NoPatch("the file would no longer compile") from None
        if ast.dump(changed) == ast.dump(old):
            raise NoPatch("it changes nothing")
        return text

    def diff(self, text: str) -> str:
        """Unified diff from the file to `text`, which `git apply` and `patch -p1` take.

        Args:
            text: The new text, as `patched` returns it.
        """
        before, after = _diff_lines(self.whole), _diff_lines(text)
        return "".join(
            difflib.unified_diff(before, after, _in_header(f"a/{self.shown}"), _in_header(f"b/{self.shown}"))
        )

    def check_writable(self) -> None:
        """Refuse a file that is protected: it could be replaced all the same where its folder is not.

        Raises:
            StoreError: it may not be written.
        """
        if not (self.path.stat().st_mode & 0o222 and os.access(self.path, os.W_OK)):
            raise StoreError(f"{self.path}: is write-protected", remedy="Leave --write out, or permit writing it.")

    def write(self, text: str) -> None:
        """Replace the content of the file; its permissions stay.

        Args:
            text: The new content, as `patched` returns it.

        Raises:
            ConfigError: the file changed since it was read; nothing is written.
            StoreError: it cannot be written.
        """
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            mode = stat.S_IMODE(self.path.stat().st_mode)
            write_synced(scratch, text.encode())
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


def plain(whole: str) -> str:
    """The text of a file with plain line ends, without byte order mark."""
    return whole.removeprefix(_MARK).replace("\r\n", "\n")


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
    tree = parse(text)
    function = _definition(tree, name)
    wanted = used_names([function]) - {name}
    waiting = [node for node in tree.body if getattr(node, "name", None) != name and not _is_script(node)]
    taken: list[ast.stmt] = [
        node
        for node in waiting
        if isinstance(node, ast.ImportFrom) and (node.names[0].name == "*" or node.module == "__future__")
    ]
    waiting = [node for node in waiting if node not in taken]
    while used := [node for node in waiting if bound_names(node) & wanted or filled_names(node) & (wanted | {name})]:
        waiting = [node for node in waiting if node not in used]
        taken += used
        wanted |= used_names(used) - {name}
    # what uses the function when it is executed comes after it
    late = [
        node for node in taken if not isinstance(node, ast.FunctionDef | ast.ClassDef) and name in used_names([node])
    ]
    lines = text.split("\n")
    own = _numbers([function])
    before = (
        _numbers(node for node in taken if node not in late) - own
    )  # a line of several statements brings all of them along
    after = _numbers(late) - own - before
    return "\n\n\n".join(
        "\n".join(lines[number - 1] for number in sorted(part)) for part in (before, own, after) if part
    )


def _is_overload(node: ast.FunctionDef) -> bool:
    return any(ast.unparse(each).rpartition(".")[2] == "overload" for each in node.decorator_list)


def _numbers(nodes: Iterable[ast.stmt]) -> set[int]:
    return {number for node in nodes for number in range(_span(node)[0], _span(node)[1] + 1)}


def _is_script(node: ast.stmt) -> bool:
    """Whether a statement runs only when the file is started as a program."""
    return isinstance(node, ast.If) and not node.orelse and "__name__" in used_names([ast.Expr(node.test)])


def _additions(old: ast.Module, new: ast.Module, definition: ast.FunctionDef) -> tuple[list[str], list[ast.stmt]]:
    """Imports and helpers that a patch needs beside its function, directly or through each other, and that the file lacks.

    Raises:
        NoPatch: it needs something that cannot be put into the file without another meaning for what is there.
    """
    there: dict[
        str, str
    ] = {}  # name of the file -> what it is; what a block for programs or type checkers binds is not there
    for node in old.body:
        if not _is_script(node) and not _is_for_type_checkers(node):
            there |= _meanings(node)
    there[definition.name] = "the function"
    imports: list[str] = []
    helpers: list[ast.stmt] = []
    waiting = [node for node in new.body if node is not definition and getattr(node, "module", "") != "__future__"]
    wanted = used_names([definition]) - {definition.name}
    stars = [node for node in waiting if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]
    while used := [node for node in waiting if bound_names(node) & wanted]:
        waiting = [node for node in waiting if node not in used]
        for node in used:
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports += _missing(node, there, wanted)
                continue
            names = bound_names(node)
            if known := sorted(names & there.keys()):
                if names <= there.keys():
                    continue  # the file has its own, which stays
                raise NoPatch(f"it binds {known[0]}, which the file has, together with other names")
            if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign):
                raise NoPatch(f"it needs {sorted(names & wanted)[0]}, which a block of statements binds")
            if builtin := sorted(names & _BUILTIN):
                raise NoPatch(f"it defines {builtin[0]}, which is built in and may be meant elsewhere in the file")
            helpers.append(node)
            wanted |= used_names([node])
    found = there.keys() | set().union(*map(bound_names, helpers)) | _BUILTIN
    if any(ast.unparse(star) not in map(ast.unparse, old.body) for star in stars) and (open_ := sorted(wanted - found)):
        raise NoPatch(
            f"it needs {open_[0]} of {ast.unparse(stars[0])}, which would change what other names of the file mean"
        )
    return imports, sorted(helpers, key=lambda node: node.lineno)


def _meanings(node: ast.stmt) -> dict[str, str]:
    """Name that a statement binds -> what it is: for an import what is imported."""
    if isinstance(node, ast.Import):
        return {each.asname or each.name: each.name for each in node.names} | {
            each.name.split(".")[0]: each.name.split(".")[0] for each in node.names if not each.asname
        }
    if isinstance(node, ast.ImportFrom):
        return {each.asname or each.name: f"{'.' * node.level}{node.module or ''}.{each.name}" for each in node.names}
    return dict.fromkeys(bound_names(node), "a definition")


def _missing(node: ast.Import | ast.ImportFrom, there: dict[str, str], wanted: set[str]) -> list[str]:
    """The import without the names that the file has or nobody needs. Raises `NoPatch` where one is something else there."""
    names = []
    for alias in node.names:
        one = ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], node.level)
        meanings = _meanings(one)
        if not {name.split(".")[0] for name in meanings} & wanted or all(
            there.get(n) == m for n, m in meanings.items()
        ):
            continue
        for name, meaning in meanings.items():
            if there.get(name, meaning) != meaning:
                raise NoPatch(f"it imports {meaning} as {name}, which is something else in the file")
            if name in _BUILTIN:
                raise NoPatch(
                    f"it imports {meaning} as {name}, which is built in and may be meant elsewhere in the file"
                )
        names.append(alias)
        there |= meanings
    if not names:
        return []
    kept = ast.Import(names) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, names, node.level)
    return [ast.unparse(kept)]


def _is_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and not node.orelse and "TYPE_CHECKING" in ast.unparse(node.test)


def _not_covered(tree: ast.Module) -> dict[str, str]:
    """Functions of a module that cannot be repaired -> what they are."""
    found: dict[str, str] = {}
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in tree.body:
        if isinstance(node, ast.AsyncFunctionDef):
            found.setdefault(node.name, "asynchronous")
        elif isinstance(node, ast.ClassDef):
            found |= dict.fromkeys(_methods(node, node.name), "a method")
    for name in functions_at_top(tree):
        found.setdefault(name, "within a block")
    for outer in [each for each in ast.walk(tree) if isinstance(each, functions)]:
        for inner in [each for each in ast.walk(outer) if isinstance(each, functions) and each is not outer]:
            found.setdefault(inner.name, f"within {outer.name}")
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found.pop(node.name, None)
    return found


def _methods(node: ast.ClassDef, name: str) -> list[str]:
    """Qualified names of the methods of a class and of the classes in it."""
    own = [f"{name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = [
        each for part in node.body if isinstance(part, ast.ClassDef) for each in _methods(part, f"{name}.{part.name}")
    ]
    return own + inner


def _declared(data: bytes) -> str:
    """The encoding that a file declares; utf-8 where it declares none."""
    try:
        return tokenize.detect_encoding(io.BytesIO(data).readline)[0]
    except SyntaxError as error:
        return str(error)


def _check_compiles(tree: ast.Module) -> None:
    """Raises one of `UNPARSABLE` where the names of a tree do not compile, for example `nonlocal` at the top."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compile(tree, "file", "exec", dont_inherit=True)


def _diff_lines(text: str) -> list[str]:
    """Lines of a text for a diff, with the mark of a last line that does not end."""
    *lines, last = text.split("\n")
    return [f"{line}\n" for line in lines] + [f"{last}\n\\ No newline at end of file\n"] * bool(last)


def _in_header(name: str) -> str:
    """A path in the header of a diff, quoted as git does; a tab ends a name with spaces."""
    if any(each in '"\\\x7f' or each < " " for each in name):
        octal = (each if each not in '"\\\x7f' and each >= " " else f"\\{ord(each):03o}" for each in name)
        return f'"{"".join(octal)}"'
    return f"{name}\t" if " " in name else name


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


def _imports_end(tree: ast.Module, lines: list[str]) -> int:
    """Number of the last line of the imports at the top of a module, or of its docstring, or of its first comments."""
    end = 0
    for place, node in enumerate(tree.body):
        is_docstring = place == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not is_docstring and not isinstance(node, ast.Import | ast.ImportFrom):
            break
        end = _span(node)[1]
    return end or next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
