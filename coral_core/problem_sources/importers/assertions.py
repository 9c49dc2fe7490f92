"""What the assertions of a test ask of the value of a call: read from the syntax tree, told to the recorder before each
statement.

An assertion becomes a value case when it compares the value as a whole: ``f(x) == y``, ``f(x) is None``, ``not f(x)``,
a list, tuple or rounding of it, ``self.assertEqual(f(x), y)``. ``abs(f(x) - y) < t``, ``math.isclose``,
``pytest.approx`` and ``assertAlmostEqual`` give a tolerance. ``set(f(x)) == …`` and ``sorted(f(x)) == …`` do when the
value is a set itself. Anything else (``len(f(x)) > 2``, ``f(x)[0] == 1``, ``f(x) in …``) is a property of the value:
such a call is no case, since a right patch may return another value. A call whose value goes into a variable is read by
the assertions on that variable.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from coral_core.syntax import parse

CONVERSIONS = {"list", "tuple", "str", "int", "float", "bool", "repr", "round", "dict", "next"}
"""Functions of the value whose result is compared in its place."""
UNORDERED = {"set", "frozenset", "sorted", "Counter"}
"""Functions that lose the order of the value: fine where it has none."""
DISTANCES = {"abs", "fabs"}


@dataclass(frozen=True)
class Asked:
    """What a statement asks of the values of its calls."""

    absolute: str = ""
    relative: str = ""
    """Expressions of the tolerances."""
    refused: str = ""
    """Why the calls are no value cases."""
    needs: str = ""
    """``unordered``: only where the value is a set or a dictionary."""

    def statement(self) -> ast.stmt:
        """The call that tells it to the recorder."""
        arguments = (self.absolute or "None", self.relative or "None", repr(self.refused), repr(self.needs))
        return parse(f"coral_recorder.mode({', '.join(arguments)})").body[0]


def _merged(several: Iterable[Asked]) -> Asked:
    """What several conditions ask together: a comparison of the value decides over a property of it."""
    asked = list(several)
    compared = [one for one in asked if not one.refused]
    return (
        next((one for one in compared if one.absolute or one.relative or one.needs), compared[0])
        if compared
        else asked[0]
    )


def instrumented(code: str, names: Iterable[str]) -> str:
    """`code` with a call of the recorder before each statement that calls the function.

    Args:
        code: Python code of tests.
        names: Names by which the tests call the function.

    Raises:
        SyntaxError: the code does not parse.

    Example:
        >>> print(instrumented("assert abs(f(2) - 0.5) < 1e-6", ["f"]))
        coral_recorder.mode(1e-06, None, '', '')
        assert abs(f(2) - 0.5) < 1e-06
    """
    tree = parse(code)
    _Scope(frozenset(names), tree.body).rewrite()
    return ast.unparse(ast.fix_missing_locations(tree))


class _Scope:
    """The statements of a module or a function: variables that hold values of calls, and what is asserted of them."""

    def __init__(self, names: frozenset[str], body: list[ast.stmt]) -> None:
        self.names = names
        self.body = body
        self.holding: set[str] = set()
        self.of_variable: dict[str, Asked] = {}
        own = list(_own(body))
        for statement in own:
            if isinstance(statement, ast.Assign) and self.contains(statement.value):
                self.holding |= {
                    name.id for target in statement.targets for name in ast.walk(target) if isinstance(name, ast.Name)
                }
            elif (
                isinstance(statement, ast.AnnAssign) and statement.value is not None and self.contains(statement.value)
            ):
                self.holding |= {name.id for name in ast.walk(statement.target) if isinstance(name, ast.Name)}
        asked: dict[str, list[Asked]] = {}
        for statement in own:
            found = self.asserted(statement)
            for name in (
                {part.id for part in ast.walk(statement) if isinstance(part, ast.Name)} & self.holding if found else ()
            ):
                asked.setdefault(name, []).append(found)  # type: ignore[arg-type]
        self.of_variable = {name: _merged(several) for name, several in asked.items()}

    def rewrite(self) -> None:
        """Insert what the recorder is told, here and in the functions and classes inside."""
        self._rewrite(self.body)

    def _rewrite(self, body: list[ast.stmt]) -> None:
        result: list[ast.stmt] = []
        for statement in body:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                _Scope(self.names, statement.body).rewrite()
            else:
                for inner in _bodies(statement):
                    self._rewrite(inner)
                if any(map(self.calls, _headers(statement))):
                    result.append(self.asked(statement).statement())
            result.append(statement)
        body[:] = result

    def asked(self, statement: ast.stmt) -> Asked:
        """What a statement asks of the values of its calls."""
        if (found := self.asserted(statement)) is not None:
            return found
        targets: Sequence[ast.expr] = ()
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
        several = [self.of_variable[name] for name in names if name in self.of_variable]
        value = getattr(statement, "value", None)
        if targets and isinstance(value, ast.Call) and not self.direct(value) and self.contains(value):
            name = _name(value.func)
            return (
                Asked(needs="unordered") if name in UNORDERED else Asked(refused=f"only {name}(…) of the value is used")
            )
        return _merged(several) if several else Asked()

    def asserted(self, statement: ast.stmt) -> Asked | None:
        """What an assertion asks; None for another statement, or one without a value of a call."""
        if isinstance(statement, ast.Assert):
            return self.condition(statement.test) if self.contains(statement.test) else None
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            call = statement.value
            if _name(call.func).startswith("assert") and any(map(self.contains, call.args)):
                return self.method(_name(call.func), call)
        return None

    def method(self, name: str, call: ast.Call) -> Asked:
        """What a method of unittest asks."""
        sides = call.args[:2]
        if name in ("assertEqual", "assertEquals", "assertIs", "assertListEqual", "assertDictEqual", "assertTupleEqual", "assertSetEqual", "assertSequenceEqual", "assertMultiLineEqual"):  # fmt: skip
            return self.equal(sides)
        if name in ("assertTrue", "assertFalse", "assertIsNone"):
            return self.condition(call.args[0])
        if name == "assertAlmostEqual":
            named = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            places = ast.unparse(call.args[2]) if len(call.args) > 2 else named.get("places", "7")
            return self.close(sides, named.get("delta", f"0.5 * 10 ** -({places})"), "")
        if name == "assertCountEqual":
            return Asked(needs="unordered")
        return Asked(refused=f"{name} asks for a property of the value")

    def condition(self, test: ast.expr) -> Asked:
        """What a condition asks of the values in it."""
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
            return _merged(self.condition(part) for part in test.values if self.contains(part))
        if self.direct(test):
            return Asked()
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and self.direct(test.operand):
            return Asked()
        if isinstance(test, ast.Compare):
            return self.comparison(test)
        if isinstance(test, ast.Call):
            name = _name(test.func)
            if name == "all" and len(test.args) == 1:
                return self.every(test.args[0])
            if name == "isclose" and len(test.args) >= 2:
                named = {keyword.arg: ast.unparse(keyword.value) for keyword in test.keywords}
                return self.close(test.args[:2], named.get("abs_tol", ""), named.get("rel_tol", "1e-09"))
        return Asked(refused="the assertion asks for a property of the value, not for the value")

    def every(self, items: ast.expr) -> Asked:
        """What ``all(...)`` asks."""
        if isinstance(items, (ast.GeneratorExp, ast.ListComp)):
            found = self.condition(items.elt) if self.contains(items.elt) else Asked()
            constant = all(_is_constant(text) for text in (found.absolute, found.relative))
            return found if constant else Asked(refused="the tolerance is known inside a loop only")
        if isinstance(items, (ast.List, ast.Tuple)):
            return _merged(self.condition(part) for part in items.elts if self.contains(part))
        return Asked(refused="the assertion asks for a property of the value, not for the value")

    def comparison(self, test: ast.Compare) -> Asked:
        """What a comparison asks."""
        sides = [test.left, *test.comparators]
        if all(isinstance(operator, (ast.Eq, ast.Is)) for operator in test.ops):
            return self.equal(sides)
        if len(sides) == 2 and isinstance(test.ops[0], (ast.Lt, ast.LtE, ast.Gt, ast.GtE)):
            distance, limit = sides if isinstance(test.ops[0], (ast.Lt, ast.LtE)) else sides[::-1]
            if isinstance(distance, ast.Call) and _name(distance.func) in DISTANCES and len(distance.args) == 1:
                inner = distance.args[0]
                if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub) and not self.contains(limit):
                    return self.close([inner.left, inner.right], ast.unparse(limit), "")
        return Asked(refused="the assertion asks for a property of the value, not for the value")

    def equal(self, sides: Sequence[ast.expr]) -> Asked:
        """What the equality of `sides` asks."""
        approx = [
            part
            for side in sides
            for part in ast.walk(side)
            if isinstance(part, ast.Call) and _name(part.func) == "approx"
        ]
        if approx:
            named = {keyword.arg: ast.unparse(keyword.value) for keyword in approx[0].keywords}
            default = "1e-06" if "abs" not in named else ""
            return self.close(
                [side for side in sides if self.contains(side)], named.get("abs", ""), named.get("rel", default)
            )
        for side in sides:
            if not self.contains(side) or self.direct(side):
                continue
            if isinstance(side, (ast.List, ast.Tuple)) and all(
                self.direct(part) or not self.contains(part) for part in side.elts
            ):
                continue
            if (
                isinstance(side, ast.Call)
                and _name(side.func) in UNORDERED
                and len(side.args) == 1
                and self.direct(side.args[0])
            ):
                return Asked(needs="unordered")
            return Asked(refused="the assertion asks for a part or a property of the value, not for the value")
        return Asked()

    def close(self, sides: Sequence[ast.expr], absolute: str, relative: str) -> Asked:
        """What a comparison with tolerances asks."""
        if all(self.direct(side) or not self.contains(side) for side in sides):
            return Asked(absolute, relative)
        return Asked(refused="the assertion asks for a part or a property of the value, not for the value")

    def calls(self, node: ast.AST) -> bool:
        """Does `node` hold a call of the function?"""
        return any(isinstance(part, ast.Call) and _name(part.func) in self.names for part in ast.walk(node))

    def contains(self, node: ast.AST) -> bool:
        """Does `node` hold a call of the function, or a variable with the value of one?"""
        return self.calls(node) or any(
            isinstance(part, ast.Name) and part.id in self.holding for part in ast.walk(node)
        )

    def direct(self, node: ast.expr) -> bool:
        """Is `node` a call of the function, a variable with its value, or a conversion of one?"""
        if isinstance(node, ast.Name):
            return node.id in self.holding
        if not isinstance(node, ast.Call):
            return False
        name = _name(node.func)
        return name in self.names or (name in CONVERSIONS and bool(node.args) and self.direct(node.args[0]))


def _name(function: ast.expr) -> str:
    """The last part of the name of a function."""
    return (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )


def _is_constant(text: str) -> bool:
    return not any(isinstance(part, ast.Name) for part in ast.walk(parse(text or "0")))


def _bodies(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    """The blocks of a compound statement."""
    for field in ("body", "orelse", "finalbody"):
        if isinstance(block := getattr(statement, field, None), list):
            yield block
    for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
        yield part.body


def _headers(statement: ast.stmt) -> Iterator[ast.AST]:
    """The parts of a statement that are no blocks of it."""
    blocks = ("body", "orelse", "finalbody", "handlers", "cases")
    for field, value in ast.iter_fields(statement):
        if field not in blocks or not isinstance(value, list):
            yield from (part for part in (value if isinstance(value, list) else [value]) if isinstance(part, ast.AST))


def _own(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a scope, those in blocks included, without those of functions and classes inside."""
    for statement in body:
        yield statement
        if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for block in _bodies(statement):
                yield from _own(block)
