"""Takes a function out of its project: a text that stands alone, with all that the function needs of its own project.

What it needs, directly or indirectly, comes from any module of the project or from the standard library. Of classes only the
methods that the text names, and special ones, are kept. A method becomes a function whose first argument is the instance;
in its class a forwarder takes its place. The text is written by `ast.unparse`: comments are left out, and so are examples in
docstrings, which hold answers, and annotations with names that are not at hand. Whether the text behaves as the function did
in its project is found out by calling it (`cases`).
"""

import ast
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

from coral_core.problem_sources.package.modules import (
    FUNCTIONS,
    IMPORTS,
    Function,
    Module,
    Project,
    definitions,
    in_library,
)
from coral_core.problem_sources.package.rewriting import (
    Clean,
    Refused,
    check_imports,
    copied,
    forwarded,
    global_names,
    joined,
    mangled,
    renamed,
    replaced,
    replaced_import,
    unbound,
)
from coral_core.problem_sources.package.text_parts import (
    BUILTIN,
    READINGS,
    Part,
    Reading,
    bound_in,
    decorator_name,
    holds_annotations,
    is_constant,
    is_library,
    is_special,
    names_bound,
    of_library,
    short_name,
    text_of,
)
from coral_core.syntax import parse

TRANSPARENT = {"lru_cache", "cache"}
"""Decorators that are kept on a function: it takes the same arguments and gives the same results."""
CONTEXTS = {"contextmanager", "asynccontextmanager"}
MOST_PARTS = 200
THE_METHOD = "the method itself"
"""What the entry point of a method stands for."""
Node = TypeVar("Node", bound=ast.AST)
_FUTURE = "from __future__ import annotations"


class _TooMany(Refused):
    """It needs more than a text may hold."""


@dataclass
class Standalone:
    """A function on its own."""

    entry_point: str
    before: str
    """Imports, constants and helpers that it needs."""
    text: str
    needs: tuple[str, ...]
    """Own functions and classes in `before`, as file:name, sorted."""


def standalone(
    project: Project,
    module: Module,
    node: Function,
    owners: Sequence[ast.ClassDef],
    method: str,
    classes: Mapping[str, str],
) -> Standalone:
    """Take a function or method out of its module.

    Args:
        project: All modules.
        module: The one that defines it.
        node: Its definition.
        owners: The class whose method it is, after those around that; none for a function.
        method: instance, class or static for a method; "" for a function.
        classes: Further classes that the text must define: qualified name -> file.

    Raises:
        Refused: it cannot stand alone.
    """
    return _Collection(project, module).take(node, owners, method, classes)


class _Collection:
    """What one function needs."""

    def __init__(self, project: Project, module: Module) -> None:
        self.project, self.module = project, module
        self.parts: dict[tuple[str, int], Part] = {}
        self.imports: dict[str, str] = {}
        self.owners: dict[str, str] = {}
        """Name of the text -> what it stands for."""
        self.aliases: dict[str, str] = {}
        self.renamed: dict[str, dict[str, str]] = {}
        """File -> name in it -> name in the text, where that is another."""
        self.attributes: set[str] = set()
        self.needed: dict[tuple[str, str, bool], str] = {}
        """File, name and early -> what the text calls it, as far as it was needed."""
        self.own = ""
        self.left_out: dict[str, str] = {}

    def take(
        self, node: Function, owners: Sequence[ast.ClassDef], method: str, classes: Mapping[str, str]
    ) -> Standalone:
        owner = owners[-1] if owners else None
        if isinstance(node, ast.AsyncFunctionDef):
            raise Refused("an asynchronous function: the judge calls plain functions")
        assert isinstance(node, ast.FunctionDef)
        if any(decorator_name(item) in CONTEXTS for item in node.decorator_list):
            raise Refused("a context manager: what the block under it sees is not recorded")
        whole = copied(node) if node.decorator_list else node  # decorators are rewritten where they stand
        decorators, function = getattr(whole, "decorator_list", []), replaced(node, decorator_list=[])
        target = self._cleaned(function, self.module)
        assert isinstance(target, ast.FunctionDef)
        if owner is not None:
            earlier = takewhile(lambda item: item is not node, owner.body)
            names = {name for item in earlier for name in bound_in(item)}
            target = unbound(target, ".".join(item.name for item in owners), names)
            if target.name == "__new__":
                raise Refused("makes an instance: __new__ is called with a class that has none yet")
        name = target.name if owner is None else self._entry_point(target, owner)
        target.name = self.own = name
        self.owners[name] = f"{self.module.file}:{node.name}" if owner is None else THE_METHOD
        target = self._text_of(target, self.module, name)
        if owner is not None:
            top = owners[0]
            place = next((p for p in self.module.places(top.name) if self._defines(p, top)), None)
            if place is None:
                raise Refused(f"its class {top.name} is defined more than once, or in a branch that does not run")
            self._claim(top.name, f"{self.module.file}:{top.name}")
            self._add_class(self.module, place, forwarded(top, node, name, method))
        for qualified, file in sorted(classes.items()):
            other = self.project.modules.get(file)
            if other is None:
                raise Refused(f"gets or gives instances of {qualified} of {file}, which cannot be read")
            name_of_class = qualified.split(".")[0]
            if self._need(other, name_of_class) != name_of_class:  # its instances are made by that name
                raise Refused(f"needs two things called {name_of_class}")
        self._keep_methods()
        recursive = name in {item.id for item in ast.walk(target) if isinstance(item, ast.Name)}
        if owner is None and decorators and (recursive or self._uses(name)):
            function.decorator_list = decorators
        else:
            kept = [item for item in decorators if owner is None and decorator_name(item) in TRANSPARENT]
            function.decorator_list = kept
        if function.decorator_list:
            target.decorator_list = [self._text_of(item, self.module, name) for item in function.decorator_list]
            self._keep_methods()
        return self._written(target, name)

    # -- what is needed ---------------------------------------------------------------------

    def _defines(self, place: int, owner: ast.ClassDef) -> bool:
        return any(item is owner for item in definitions([self.module.statements[place]]))

    def _entry_point(self, node: ast.FunctionDef, owner: ast.ClassDef) -> str:
        """A name of the text for a method: its own, unless that means something else there."""
        taken = BUILTIN | global_names(node) | set(self.module.binding)
        for name in (
            node.name,
            f"{owner.name.lower().strip('_')}_{node.name.strip('_')}",
            f"method_{node.name.strip('_')}",
        ):
            if name not in taken and not name.startswith("__") and not self._stars_give(name):
                return name
        raise Refused(f"there is no free name for it: {node.name} means something else in its module")

    def _stars_give(self, name: str) -> bool:
        """May a star import of the module give this name?"""
        bases = [self.module.base_of(star) for star in self.module.stars]
        return self._star_that_defines(self.module, name, {self.module.file}) is not None or any(
            in_library(base, name) for base in bases
        )

    def _uses(self, name: str) -> bool:
        return any(name in part.names for part in self.parts.values()) or name in self.left_out

    def _claim(self, name: str, meaning: str) -> bool:
        """Give a name of the text a meaning; False when it has it already. Raises `Refused` when it has another."""
        known = self.owners.setdefault(name, meaning)
        if known != meaning:
            raise Refused(f"needs two things called {name}: {known} and {meaning}")
        if len(self.owners) > 3 * MOST_PARTS or len(self.parts) > MOST_PARTS:
            raise _TooMany(f"needs more than {MOST_PARTS} other definitions")
        return True

    def _call(self, module: Module, name: str, meaning: str) -> str:
        """Give what `module` calls `name` a name of the text: the same, or where that is taken one with the module's name."""
        called = name
        if self.owners.get(name, meaning) != meaning and not name.startswith("__"):
            called = f"{short_name(module)}_{name}"
            if not called.isidentifier() or called in module.binding:
                called = name
        self._claim(called, meaning)
        if called != name:
            self.renamed.setdefault(module.file, {})[name] = called
        return called

    def _need(self, module: Module, name: str, early: bool = True) -> str:
        """Have the text define `name` as `module` does.

        Args:
            module: The module.
            name: The name.
            early: It is used when the text is executed; in the body of a function an unknown name may never be reached.

        Returns:
            What the text calls it.

        Raises:
            Refused: it cannot be defined.
        """
        key = (module.file, name, early)
        if key not in self.needed:
            self.needed[key] = self._defined(module, name, early)
        return self.needed[key]

    def _defined(self, module: Module, name: str, early: bool) -> str:
        meaning = f"{module.file}:{name}"
        if module is self.module and name == self.own and self.owners.get(name) in (meaning, THE_METHOD):
            return name
        places = module.places(name)
        if not places:
            return self._need_of_star(module, name, early)
        if isinstance(module.statements[places[-1]], IMPORTS):  # it counts, whatever the name stood for before
            return self._need_import(module, module.statements[places[-1]], name)
        statements = [module.statements[place] for place in places]
        if all(
            isinstance(item, (ast.Assign, ast.AnnAssign)) and isinstance(item.value, ast.Constant)
            for item in statements
        ):
            meaning = "; ".join(map(ast.unparse, statements))  # equal constants of two modules are one
            if self.owners.get(name) == meaning:
                return name
        called = self._call(module, name, meaning)
        for place in places:
            if (module.file, place) not in self.parts:
                self._add(module, place)
        return called

    def _need_of_star(self, module: Module, name: str, early: bool) -> str:
        other = self._star_that_defines(module, name, {module.file})
        if other is not None:
            return self._same(module, name, self._need(other, name))
        for star in module.stars:
            base = module.base_of(star)
            if base.split(".")[0] in sys.stdlib_module_names and hasattr(importlib.import_module(base), name):
                return self._import(module, name, parse(f"from {base} import {name}").body[0])
        if name not in BUILTIN and (early or module.stars):
            why = "may come from a star import" if module.stars else "its module does not define"
            raise Refused(f"uses the name {name}, which {why}")
        return name

    def _star_that_defines(self, module: Module, name: str, seen: set[str]) -> Module | None:
        """The project's module that gives `name` to a module by star imports, directly or through others."""
        for star in reversed(module.stars):  # of several the last one counts
            other = self.project.find(module.base_of(star))
            if other is None or other.file in seen:
                continue
            seen.add(other.file)
            if found := other if other.places(name) else self._star_that_defines(other, name, seen):
                return found
        return None

    def _same(self, module: Module, name: str, called: str) -> str:
        """Note that `name` of a module is what the text calls `called`."""
        if name != called:
            self.renamed.setdefault(module.file, {})[name] = called
        return called

    def _need_import(self, module: Module, statement: ast.stmt, name: str) -> str:
        if isinstance(statement, ast.ImportFrom):
            base, alias = module.base_of(statement), statement.names[0]
            other = self.project.find(base)
            if other is not None and (self.project.defines(other, base, alias.name) or other.stars):
                called, meaning = self._need(other, alias.name), f"{other.file}:{alias.name} as {name}"
                if name in (called, alias.name) or self.owners.get(name, meaning) != meaning:
                    return self._same(module, name, called)
                if self._claim(name, meaning):
                    self.aliases[name] = called
                return name
            if self.project.knows(f"{base}.{alias.name}") or self.project.knows(base):
                raise Refused(f"uses {base}.{alias.name} other than for its attributes")
        else:
            assert isinstance(statement, ast.Import)
            if self.project.knows(statement.names[0].name):
                raise Refused(f"uses the module {statement.names[0].name} other than for its attributes")
        check_imports(statement)
        return self._import(module, name, statement)

    def _import(self, module: Module, name: str, statement: ast.stmt) -> str:
        """Import `name` from the standard library, as `statement` of the module does."""
        assert isinstance(statement, IMPORTS)
        called = self._call(module, name, text := ast.unparse(statement))
        if called != name:
            text = ast.unparse(replaced_import(statement, called))
        self.imports[called] = text
        return called

    def _add(self, module: Module, place: int) -> None:
        statement = module.statements[place]
        if isinstance(statement, ast.ClassDef):
            self._add_class(module, place, statement)
            return
        part = self.parts[module.file, place] = Part(module, place, statement)
        part.statement = self._part_of(statement, module, part)

    def _add_class(self, module: Module, place: int, node: ast.ClassDef) -> None:
        """Add a class without its methods; `_keep_methods` adds those that are used."""
        part = self.parts[module.file, place] = Part(module, place, node)
        for item in node.body:
            if isinstance(item, FUNCTIONS):
                part.methods.setdefault(item.name, []).append(item)
        part.own_methods = tuple(part.methods)
        for base in node.bases:  # a library calls what its class defines, by no name of the text
            self.attributes |= of_library(module, base).intersection(part.own_methods)
        part.statement = made = self._part_of(node, module, part, set(part.methods))
        assert isinstance(made, ast.ClassDef)
        part.bound = {name for item in made.body for name in bound_in(item)}

    def _keep_methods(self) -> None:
        """Add the methods of classes that the text names, and special ones; those that cannot stand alone are left out."""
        again = True
        while again:
            again = False
            for part in list(self.parts.values()):
                for name in [name for name in part.methods if self._calls(part, name)]:
                    group, again = part.methods.pop(name), True
                    before = (
                        dict(self.parts),
                        dict(self.imports),
                        dict(self.owners),
                        dict(self.aliases),
                        {file: dict(names) for file, names in self.renamed.items()},
                        set(self.attributes),
                        dict(self.needed),
                    )
                    try:
                        inside = {item.name for item in part.kept} | set(part.methods) | {name}
                        kept = [self._part_of(item, part.module, part, inside | part.bound) for item in group]
                    except _TooMany:  # what is left out would depend on what happened to come first
                        raise
                    except Refused as refused:
                        self.parts, self.imports, self.owners, self.aliases, self.renamed = before[:5]
                        self.attributes, self.needed = before[5:]
                        self.left_out[name] = str(refused)
                    else:
                        part.kept += [item for item in kept if isinstance(item, FUNCTIONS)]

    def _calls(self, part: Part, name: str) -> bool:
        """May the text call the method `name` of a class, outside the class by its private name?"""
        owner = getattr(part.statement, "name", "")
        return name in self.attributes or is_special(name) or mangled(owner, name) in self.attributes

    # -- the text ---------------------------------------------------------------------------

    def _cleaned(self, node: ast.stmt, module: Module) -> ast.stmt:
        """A copy without examples in docstrings and without annotations that need what is not at hand."""
        cleaned: ast.stmt = Clean(lambda name: is_library(module, name)).visit(copied(node))
        return cleaned

    def _part_of(self, item: ast.stmt, module: Module, part: Part, inside: Iterable[str] = ()) -> ast.stmt:
        """A statement or method of a module as the text has it; all that it uses is needed.

        Args:
            item: It; of a class without its methods.
            module: The module.
            part: Notes the names that it uses.
            inside: Names of the class that its decorators and defaults may use.

        Raises:
            Refused: it cannot be in the text.
        """
        whole = item
        if isinstance(item, ast.ClassDef):
            rest: list[ast.stmt] = [inner for inner in item.body if not isinstance(inner, FUNCTIONS)]
            whole = replaced(item, body=rest or [ast.Pass()])
        reading, made = READINGS.get(item), set[str]()
        if reading is None:
            resolve = _Attributes(self, module, cleaned := self._cleaned(whole, module))
            reading, made = Reading.of(resolve.visit(cleaned)), resolve.made
            if not made:  # else it depends on the names that the text has already
                READINGS[item] = reading
        self._use(reading, module, "", made, part, inside)
        assert isinstance(reading.node, ast.stmt)
        return reading.node

    def _text_of(self, node: Node, module: Module, own: str) -> Node:
        """`node` as the text has it; all that it uses is needed. Raises `Refused`.

        Args:
            node: A statement or expression of `module`.
            module: The module.
            own: Name that it binds itself and that is not needed.
        """
        resolve = _Attributes(self, module, node)
        found: Node = resolve.visit(node)
        self._use(Reading.of(found), module, own, resolve.made)
        return found

    def _use(
        self,
        reading: "Reading",
        module: Module,
        own: str,
        made: Set[str],
        part: Part | None = None,
        inside: Iterable[str] = (),
    ) -> None:
        """Have the text define all that a statement uses, but for `own` and names of other modules that are `made` for it."""
        self.attributes |= reading.attributes
        names, early, node = set(reading.names - {own} - made), reading.early - {own}, reading.node
        if isinstance(node, FUNCTIONS) and inside:
            self.attributes |= names & set(inside)
            names = {name for name in names if name not in inside or name in reading.later}
        elif isinstance(node, ast.ClassDef):
            self.attributes |= names & set(inside)
            names -= set(inside)
        if part is not None:
            part.names |= names | made
        for name in sorted(names):
            if not (part is not None and isinstance(part.statement, ast.ClassDef) and name == part.statement.name):
                self._need(module, name, name in early)

    def _written(self, target: ast.FunctionDef, name: str) -> Standalone:
        """The text: imports, then definitions in the order in which an import of the project executes them.

        Constants come first: one may stand for an equal one of another module.
        """
        turns = self.project.executed
        order = sorted(
            self.parts.values(), key=lambda part: (not is_constant(part), turns[part.module.file, part.place])
        )
        bound: set[str] = set()
        lines: list[str] = []
        waiting = dict(self.aliases)
        for part in order:
            names = self.renamed.get(part.module.file, {})
            lines.append(text_of(part, names))
            bound |= {names.get(each, each) for each in names_bound(part)}
            for alias in [alias for alias, original in waiting.items() if original in bound]:
                lines.append(f"{alias} = {waiting.pop(alias)}")
        texts = [
            *sorted(set(self.imports.values()), key=lambda text: (text.startswith("from"), text)),
            *lines,
            *(f"{alias} = {original}" for alias, original in waiting.items()),
        ]
        own = ast.unparse(ast.fix_missing_locations(renamed(target, self.renamed.get(self.module.file, {}))))
        annotated = any(map(holds_annotations, (target, *(part.statement for part in order))))
        if annotated and any(module.future for module in (self.module, *(part.module for part in order))):
            texts.insert(0, _FUTURE)
        needs = {
            f"{part.module.file}:{part.statement.name}"
            for part in order
            if isinstance(part.statement, (*FUNCTIONS, ast.ClassDef))
        }
        return Standalone(name, joined(texts), own, tuple(sorted(needs)))


class _Attributes(ast.NodeTransformer):
    """Replaces ``module.name`` by ``name`` where the module is one of the project's own."""

    def __init__(self, collection: _Collection, module: Module, node: ast.AST) -> None:
        self.collection, self.module, self.node = collection, module, node
        self.local = {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}
        self.local |= {
            part.id for part in ast.walk(node) if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load)
        }
        self.made: set[str] = set()
        self.modules: dict[str, str] = {}
        """Names of the project's modules that it imports itself."""
        for part in ast.walk(node):
            if isinstance(part, IMPORTS) and part is not node:
                self.modules |= self._modules_of(part)
        if twice := self.modules.keys() & self.local:
            raise Refused(f"imports {min(twice)} and gives it another value")

    def visit_Import(self, node: ast.Import) -> ast.AST:
        """An import in a function: the project's modules are left out, since the text uses no modules of the project."""
        mine = self._modules_of(node) if node is not self.node else {}
        kept = [each for each in node.names if (each.asname or each.name.split(".")[0]) not in mine]
        return node if not mine else ast.copy_location(ast.Import(kept) if kept else ast.Pass(), node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        """An import of what the project defines: the text defines it, so it is left out, or becomes an assignment."""
        project, base = self.collection.project, self.module.base_of(node)
        found, mine = project.find(base), self._modules_of(node)
        names = [each for each in node.names if (each.asname or each.name) not in mine]
        defined = (found is not None and project.defines(found, base, each.name) for each in names)
        if not project.knows(base) or not all(defined):
            return node
        if mine and node is self.node:
            raise Refused(f"uses the module {next(iter(mine.values()))} other than for its attributes")
        assigned: dict[str, str] = {}
        for each in names:
            assert found is not None
            name, called = each.asname or each.name, self.collection._need(found, each.name)
            self.made.add(called)
            if name != called:
                assigned[name] = called
            elif name in self.local or node is self.node:
                raise Refused(f"imports {name} and gives it another value")
        if not assigned:
            return ast.copy_location(ast.Pass(), node)
        targets, found_names = (", ".join(each) for each in (assigned.keys(), assigned.values()))
        return ast.copy_location(parse(f"{targets} = {found_names}").body[0], node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self.modules:
            raise Refused(f"uses the module {self.modules[node.id]} other than for its attributes")
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        names: list[ast.Attribute] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            names.insert(0, inner)
            inner = inner.value
        dotted = self._module_called(inner) if isinstance(inner, ast.Name) else ""
        if not dotted:
            return self.generic_visit(node)
        project = self.collection.project
        for place, item in enumerate(names):
            if project.knows(f"{dotted}.{item.attr}"):
                dotted = f"{dotted}.{item.attr}"
                continue
            found = project.find(dotted)
            if found is None:
                raise Refused(f"uses {dotted}.{item.attr}, which the project does not define")
            if not isinstance(item.ctx, ast.Load):
                raise Refused(f"changes {dotted}.{item.attr}, a variable of another module")
            called = name = self.collection._need(found, item.attr)
            if name in self.local or (name in self.module.binding and self._means(name) != f"{found.file}:{item.attr}"):
                name = f"{dotted.rpartition('.')[2]}_{item.attr}"
                if name != called and self.collection._claim(name, f"{found.file}:{item.attr} as {name}"):
                    self.collection.aliases[name] = called
            self.made.add(name)
            made: ast.expr = ast.copy_location(ast.Name(name, ast.Load()), item)
            for outer in names[place + 1 :]:
                made = ast.copy_location(ast.Attribute(made, outer.attr, outer.ctx), outer)
            return made
        raise Refused(f"uses the module {dotted} other than for its attributes")

    def _means(self, name: str) -> str:
        statement = self.module.statements[self.module.binding[name][-1]]
        if isinstance(statement, ast.ImportFrom):
            other = self.collection.project.find(self.module.base_of(statement))
            return f"{other.file}:{statement.names[0].name}" if other else ""
        return f"{self.module.file}:{name}"

    def _module_called(self, node: ast.Name) -> str:
        """Name of the project's module that a name stands for; "" for any other name."""
        places = self.module.binding.get(node.id, ())
        if node.id in self.local or not (places or node.id in self.modules):
            return ""
        statement = self.module.statements[places[-1]] if places else None
        return self.modules.get(node.id) or (self._modules_of(statement).get(node.id, "") if statement else "")

    def _modules_of(self, statement: ast.stmt) -> dict[str, str]:
        """Names that an import gives to modules of the project -> these; none for any other statement."""
        project, found = self.collection.project, dict[str, str]()
        for alias in statement.names if isinstance(statement, IMPORTS) else ():
            if isinstance(statement, ast.Import):
                if project.knows(alias.name):
                    name = alias.name if alias.asname else alias.name.split(".")[0]
                    found[alias.asname or name] = name
                continue
            assert isinstance(statement, ast.ImportFrom)
            base = self.module.base_of(statement)
            other, name = project.find(base), f"{base}.{alias.name}"
            if project.knows(name) and not (other is not None and project.defines(other, base, alias.name)):
                found[alias.asname or alias.name] = name
        return found
