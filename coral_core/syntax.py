"""Thread-safe parsing, and properties of a syntax tree: names bound, used and changed at its top level, depth, statements.

`parse` is `ast.parse` under a lock. CPython before 3.11.8 and 3.12.1 has one counter of the tree depth for all threads
(gh-106905); two threads that parse at the same time sometimes raise "SystemError: AST constructor recursion depth
mismatch" (about once in a hundred evaluations). It retries, because threads of libraries do not take the lock.

Texts of models are parsed in a separate process (`scoring.text_process`), since a hostile text can take minutes and
gigabytes.
"""

import ast
import symtable
import threading
from collections.abc import Iterable, Mapping

_one_at_a_time = threading.RLock()
TRIES = 5
"""Attempts to parse a text while other threads interfere."""
UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError, SystemError)
"""Errors of `parse` for a text that has no tree."""
MUTATORS = {
    "add",
    "append",
    "appendleft",
    "clear",
    "extend",
    "insert",
    "pop",
    "register",
    "remove",
    "setdefault",
    "sort",
    "update",
}
"""Methods whose call in a statement of a module fills a table of it."""


def parse(source: str | bytes) -> ast.Module:
    """The tree of `source`. Raises what `ast.parse` raises."""
    with _one_at_a_time:
        for _ in range(TRIES - 1):
            try:
                return ast.parse(source)
            except SystemError:  # a thread of a library parsed at the same time
                continue
        return ast.parse(source)


def bound_names(statement: ast.stmt) -> set[str]:
    """Names of the module that a statement at its top level binds when it runs, also in nested blocks and patterns.

    Not covered: names that are known only when it runs (star imports, `exec`, `globals()`).

    >>> sorted(bound_names(parse("for a, b in pairs:\\n    import os.path").body[0]))
    ['a', 'b', 'os']
    """
    names: set[str] = set()
    waiting: list[tuple[ast.AST, bool]] = [(statement, False)]
    while waiting:
        node, within = waiting.pop()  # within a comprehension only `:=` binds a name of the module
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
            names.update(name for below in ast.walk(node) if isinstance(below, ast.Global) for name in below.names)
            continue
        if isinstance(node, ast.Lambda) or (isinstance(node, ast.AnnAssign) and node.value is None):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.NamedExpr) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and not within:
            names.add(node.id)
        elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            names.add(node.rest)
        inside = within or isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp))
        waiting.extend((child, inside) for child in ast.iter_child_nodes(node))
    return names


def used_names(nodes: Iterable[ast.stmt]) -> set[str]:
    """Names of the module that statements at its top level refer to or define; names that are local to a function in them do not count.

    >>> sorted(used_names(parse("def f(a=b):\\n    c = a + d\\n    return lambda: c").body))
    ['b', 'd', 'f']
    """
    names: set[str] = set()

    def look(table: symtable.SymbolTable) -> None:
        module = table.get_type() == "module"
        names.update(
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_global() or (module and symbol.is_referenced())
        )
        for child in table.get_children():
            look(child)

    for node in nodes:
        try:
            look(symtable.symtable(ast.unparse(node), "statement", "exec"))
        except UNPARSABLE:  # an f-string that `unparse` cannot write, or names that do not compile
            names.update(part.id for part in ast.walk(node) if isinstance(part, ast.Name))
    return names


def filled_names(statement: ast.AST, fillers: Mapping[str, set[str]] | None = None) -> set[str]:
    """Names whose values a statement at module level changes without binding them.

    Args:
        statement: The statement.
        fillers: Functions of the module -> names whose values their bodies change; calling one changes them too.

    >>> sorted(filled_names(parse("for i in range(9):\\n    table[i] = i\\n    more.append(i)").body[0]))
    ['more', 'table']
    """
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return set()
    names: set[str] = set()
    definition = isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    whole = [statement] if not definition else getattr(statement, "decorator_list", [])
    for part in [item for node in whole for item in ast.walk(node)]:
        if isinstance(part, ast.Name) and fillers:
            names |= fillers.get(part.id, set())
        held: ast.expr | None = None
        if isinstance(part, (ast.Subscript, ast.Attribute)) and isinstance(part.ctx, (ast.Store, ast.Del)):
            held = part.value
        elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in MUTATORS:
            held = part.func.value
        while isinstance(held, (ast.Subscript, ast.Attribute)):
            held = held.value
        if isinstance(held, ast.Name):
            names.add(held.id)
    return names


def functions_at_top(tree: ast.Module) -> list[str]:
    """Names of functions that the module defines by `def`, also in blocks (`if`, `try`, ...), in order.

    >>> functions_at_top(parse("try:\\n    def f(): ...\\nfinally:\\n    def g(): ..."))
    ['f', 'g']
    """
    names: list[str] = []
    waiting: list[ast.AST] = list(reversed(tree.body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names.append(node.name)
        elif isinstance(node, (ast.stmt, ast.ExceptHandler, ast.match_case)) and not isinstance(node, ast.ClassDef):
            below = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]
            waiting.extend(reversed(below))
    return names


def depth(tree: ast.AST) -> int:
    """Number of levels of nested nodes, counted without recursion, since a deep tree would overflow the stack."""
    deepest, waiting = 0, [(tree, 1)]
    while waiting:
        node, level = waiting.pop()
        deepest = max(deepest, level)
        waiting += [(child, level + 1) for child in ast.iter_child_nodes(node)]
    return deepest


def statements(tree: ast.AST) -> int:
    """Number of statements; `pass`, docstrings, bare constants and bare annotations are not counted.

    >>> statements(parse("def f():\\n    'A docstring.'\\n    return 1"))
    2
    """
    return sum(isinstance(node, ast.stmt) and not _empty(node) for node in ast.walk(tree))


def _empty(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass) or (isinstance(statement, ast.AnnAssign) and statement.value is None)
