"""Functions and methods taken out of a project of several modules."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coral_core.problem_sources.package.discovery import SourceFunction, completed, discover, project_of

FILES = {
    "shop/__init__.py": "from .prices import total\n",
    "shop/text.py": """
        import re
        import sys

        TABLE = {}
        PLURALS = {}

        def rule(word, plural):
            PLURALS[word] = plural

        rule("ox", "oxen")
        for letter in "ab":
            TABLE[letter] = letter.upper()
        TABLE.update(c="C")

        def shout(text):
            return "".join(TABLE.get(letter, letter) for letter in text)

        def plural(word):
            return PLURALS.get(word, word + "s")

        if sys.version_info < (3,):
            text_type = unicode
        else:
            text_type = str

        try:
            import not_installed_anywhere
        except ImportError:
            not_installed_anywhere = None

        def kind(text):
            return text_type, not_installed_anywhere is None

        if True:
            def in_block(n):
                return n + 1
    """,
    "shop/prices.py": """
        from __future__ import annotations

        from functools import lru_cache, wraps
        from typing import TYPE_CHECKING

        from . import text
        from .text import shout as loud
        from shop import text as words

        if TYPE_CHECKING:
            from .never import Thing

        def logged(function):
            @wraps(function)
            def call(*given):
                return function(*given)
            return call

        def total(items: list[Thing]) -> int:
            '''The total.

            >>> total([1])
            1
            '''
            return sum(items)

        def label(name):
            return loud(name) + text.plural(name) + words.plural("x")

        def shadowed(plural):
            return text.plural(plural)

        @logged
        def decorated(n):
            return n + 1

        @lru_cache(None)
        def cached(n):
            return n if n < 2 else cached(n - 1) + n

        class Base:
            unit = "EUR"

            def __init__(self, amount):
                self.amount = amount
                self.__secret = 1

            def unused(self):
                return undefined_helper(self)

        class Price(Base):
            def __init__(self, amount):
                super().__init__(amount)
                self.tax = 0

            @property
            def gross(self):
                return self.amount + self.tax + self.helper()

            @classmethod
            def free(cls):
                return cls(0)

            @staticmethod
            def rounded(n):
                return round(n, 2)

            def helper(self):
                return self._helper() if self.amount < 0 else 0

            def _helper(self):
                return 1

            def sum(self):
                return sum([self.amount, self.tax])
    """,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        lines = text.strip("\n").split("\n")
        path.write_text("\n".join(line[8:] if line.startswith(" " * 8) else line for line in lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def found(root: Path) -> dict[str, SourceFunction]:
    return {item.name: item for item in discover(root)}


def run(function: SourceFunction) -> dict[str, Any]:
    assert not function.reason, function.reason
    space: dict[str, Any] = {"__name__": "patch"}
    exec(compile(function.source, "<function>", "exec"), space)
    return space


def called(function: SourceFunction, *arguments: Any) -> Any:
    return run(function)[function.entry_point](*arguments)


def test_definitions_of_other_modules_come_along(found: dict[str, SourceFunction]) -> None:
    assert called(found["label"], "abc") == "ABCabcsxs"
    assert found["label"].needs == ("shop/text.py:plural", "shop/text.py:rule", "shop/text.py:shout")
    assert called(found["shadowed"], "ox") == "oxen"


def test_tables_filled_by_statements_are_full(found: dict[str, SourceFunction]) -> None:
    assert called(found["shout"], "abcd") == "ABCd"
    assert called(found["plural"], "ox") == "oxen"


def test_branches_that_do_not_run_are_left_out_and_failed_imports_are_kept(found: dict[str, SourceFunction]) -> None:
    assert called(found["kind"], "x") == (str, True)
    assert "unicode" not in found["kind"].source
    assert called(found["in_block"], 1) == 2


def test_answers_and_foreign_annotations_are_left_out(found: dict[str, SourceFunction]) -> None:
    assert ">>>" not in found["total"].source and "Thing" not in found["total"].source
    assert called(found["total"], [1, 2]) == 3


def test_decorators_go_but_for_caches(found: dict[str, SourceFunction]) -> None:
    assert "logged" not in found["decorated"].source
    assert called(found["cached"], 50) == 1275


def test_methods_are_functions_of_their_instance(found: dict[str, SourceFunction]) -> None:
    for name, entry in (("Price.gross", "gross"), ("Price.sum", "price_sum"), ("Price.__init__", "price_init")):
        assert found[name].entry_point == entry, name
    space = run(found["Price.gross"])
    price = space["Price"](5)
    assert space["gross"](price) == 5
    assert "self.amount + self.tax" not in found["Price.gross"].before, "the answer would stand in the class"
    assert "unused" not in found["Price.gross"].source, "methods that nobody names are left out"
    assert called(found["Price.sum"], price) == 5
    assert run(found["Price.free"])["free"](space["Price"]).amount == 0
    assert called(found["Price.rounded"], 1.234) == 1.23


def test_private_names_and_super_mean_the_same_outside_the_class(found: dict[str, SourceFunction]) -> None:
    space = run(found["Price.__init__"])
    made = space["Price"](3)
    assert (made.amount, made.tax, made._Base__secret) == (3, 0, 1)


def test_classes_of_recorded_instances_come_along(root: Path, found: dict[str, SourceFunction]) -> None:
    made = completed(project_of(root), found["total"], {"Price": "shop/prices.py"})
    assert run(made)["Price"](2).amount == 2
    assert made.needs == ("shop/prices.py:Base", "shop/prices.py:Price")


def test_what_cannot_stand_alone_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "import numpy_not_there\nimport b\n\n\ndef f():\n    return numpy_not_there.x\n\n\nasync def g():\n    pass\n\n\n"
        "def h():\n    return b\n\n\ndef i(x=unknown):\n    return x\n"
    )
    (tmp_path / "b.py").write_text("")
    reasons = {item.name: item.reason for item in discover(tmp_path)}
    assert "needs numpy_not_there (line 1), which is not in the standard library" in reasons["f"]
    assert "asynchronous" in reasons["g"]
    assert "uses the module b other than for its attributes" in reasons["h"]
    assert "uses the name unknown, which its module does not define" in reasons["i"]


def test_imports_that_fail_in_the_judge_take_their_other_branch(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("def fast(n):\n    return n + 1\n")
    (tmp_path / "a.py").write_text(
        "try:\n    from not_there import fast\nexcept ImportError:\n    from slow import fast\n\n"
        "try:\n    from collections import Mapping\nexcept ImportError:\n    from collections.abc import Mapping\n\n"
        "try:\n    import json as coder\nexcept ImportError:\n    coder = None\n\n\n"
        "def use(n):\n    return fast(n), Mapping.__name__, coder.dumps(n)\n"
    )
    (use,) = [item for item in discover(tmp_path) if item.name == "use"]
    assert called(use, 1) == (2, "Mapping", "1")
    assert "not_there" not in use.source


ORDER = '''
import datetime
import os
from datetime import timedelta, tzinfo

import numpy_not_there


class Stats:
    """As in boltons: descriptors of methods, names for them, and one for a method that cannot come along."""

    limit = 10

    def _mean(self):
        return sum(self.numbers) / len(self.numbers)

    mean = property(_mean)
    average = mean

    @property
    def saved(self):
        return numpy_not_there.array(self)

    stored = saved
    kept = stored

    def __init__(self, numbers):
        self.numbers = numbers

    def above(self):
        return [number for number in self.numbers if self.average < number < self.limit]


if os.sep == "/":
    def swap(one, two):
        return both(two, one)
else:
    def swap(one, two):
        return one, two

swap.__doc__ = "Both, the other way round."


def both(one, two):
    return HANDLERS["pair"](one, two) if swap.__doc__ else ()


def pair(one, two):
    return one, two


HANDLERS = {}
HANDLERS["pair"] = pair
FIRST = swap(1, 2)


def swapped(one, two):
    return swap(one, two), FIRST


class Fixed(tzinfo):
    def utcoffset(self, when):
        return timedelta(hours=2)

    def dst(self, when):
        return timedelta(0)

    def tzname(self, when):
        return self.name()

    def name(self):
        return "fixed"

    def unused(self):
        return 1


class Late(datetime.datetime):
    def isoformat(self, sep="T"):
        return "late"


def stamp(year):
    return datetime.datetime(year, 1, 1, tzinfo=Fixed()).strftime("%H %Z %z")


def late(year):
    return str(Late(year, 1, 1))
'''


def test_definitions_are_written_before_what_uses_them(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(ORDER)
    found = {item.name: item for item in discover(tmp_path)}
    space = run(found["Stats.above"])
    assert space["above"](space["Stats"]([1, 2, 6, 30])) == [] and space["above"](space["Stats"]([1, 2, 6])) == [6]
    assert not hasattr(space["Stats"], "kept"), "it is a name for what could not come along"
    assert called(found["swapped"], 3, 4) == ((4, 3), (2, 1))


def test_methods_that_the_standard_library_calls_come_along(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(ORDER)
    found = {item.name: item for item in discover(tmp_path)}
    assert called(found["stamp"], 2026) == "00 fixed +0200" and "unused" not in found["stamp"].source
    assert called(found["late"], 2026) == "late"


@st.composite
def projects(draw: st.DrawFn) -> dict[str, str]:
    """Modules that use each other's definitions, when they are imported those of earlier modules, when called any."""
    names = draw(st.permutations(["first", "last", "middle"]))
    homes = sorted(draw(st.lists(st.integers(0, 2), min_size=3, max_size=9)))
    texts: list[list[str]] = [[], [], []]
    for number, home in enumerate(homes):
        others = [(other, place) for other, place in enumerate(homes) if other != number]
        now = [f"D{other}" for other, place in others if other < number] or ["len"]
        later = [f"D{other}" if place <= home else f"{names[place]}.D{other}" for other, place in others]
        one, two, three = (draw(st.sampled_from(choice)) for choice in (now, later, later))
        kinds = (
            f"def D{number}(*args):\n    return [str({two}), str({three})]",
            f"D{number} = {one}() if isinstance({one}, type) else [str({one})]",
            f"class D{number}({one} if type({one}) is type else object):\n    tag = str({one})\n\n    def __str__(self):\n        return str({two})",
            f"@(lambda made: made if {one} is len else ({one}, made)[1])\ndef D{number}(*args):\n    return {two}",
            f"D{number} = {{}}\nD{number}[0] = {one}",
            f"D{number} = {one}(1) if type({one}) is type(lambda: 0) else {one}",
        )
        texts[home].append(draw(st.sampled_from(kinds)))
    for place in range(3):
        texts[place].append(f"SAME = {place}\n\ndef same():\n    return SAME")
    uses = draw(st.lists(st.sampled_from(range(len(homes))), min_size=1, max_size=3))
    texts[2].append(f"def target():\n    return [{', '.join(f'D{use}' for use in uses)}]")
    same = ", ".join(f"{name}.same()" for name in names[:2])
    texts[2].append(f"def homes():\n    return [SAME, {same}, same()]")
    files = {"made/__init__.py": draw(st.sampled_from(["", f"from . import {names[2]}", "from .first import *"]))}
    for place, name in enumerate(names):
        before = [f"from .{names[other]} import *" for other in range(place)]
        before += [f"from . import {names[other]}" for other in range(place)]
        after = [f"from . import {names[other]}" for other in range(place + 1, 3)]
        files[f"made/{name}.py"] = "\n\n".join([*before, *texts[place], *after]) + "\n"
    return files


@settings(deadline=None)
@given(projects())
def test_a_text_runs_wherever_its_project_can_be_imported(files: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_text(text)
        command = [sys.executable, "-c", "import made.first, made.last, made.middle"]
        assume(not subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode)
        found = {item.name: item for item in discover(Path(folder))}
        assert isinstance(called(found["target"]), list)
        assert called(found["homes"]) == [2, 0, 1, 2], "each module has its own function and constant of one name"


def test_modules_that_a_package_imports_are_modules(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "__init__.py").write_text("from . import base, special\n")
    (tmp_path / "made" / "base.py").write_text("class Base:\n    def name(self):\n        return 'base'\n")
    special = "from . import base\n\nclass Special(base.Base):\n    def full(self):\n        return self.name() + '!'\n"
    (tmp_path / "made" / "special.py").write_text(special)
    space = run({item.name: item for item in discover(tmp_path)}["Special.full"])
    assert space["full"](space["Special"]()) == "base!"


def test_imports_in_functions_stars_of_stars_and_versions_by_number(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from .base import *\nfrom .other import *\n",
        "base.py": "ONE = 1\n",
        "other.py": "from .deep import *\nfrom sys import hexversion\n\nif hexversion < 0x3000000:\n    import izip\nelse:\n    izip = zip\n\n\ndef pairs(a, b):\n    return list(izip(a, b))\n",
        "deep.py": "def two():\n    return 2\n",
        "user.py": "from made import *\n\n\ndef both():\n    from .base import ONE as one\n    from .deep import two\n\n    return [one, two(), ONE]\n\n\ndef starred():\n    return two()\n\n\ndef changed():\n    from .deep import two\n\n    two = 3\n    return two\n",
    }
    (tmp_path / "made").mkdir()
    for name, text in files.items():
        (tmp_path / "made" / name).write_text(text)
    found = {item.name: item for item in discover(tmp_path)}
    assert called(found["both"]) == [1, 2, 1] and called(found["starred"]) == 2
    assert called(found["pairs"], "ab", "cd") == [("a", "c"), ("b", "d")]
    assert found["changed"].reason == "imports two and gives it another value"


CLASSES = """
class Cache:
    __missing = object()
    default = {"a": 1}

    def __init__(self, size):
        self.__size = size

    def pop(self, key, default=__missing, *, table=default, find=lambda key: default(key)):
        if key in table:
            return table[key] + self.__size
        return "missing" if default is self.__missing else self.__plus(default)

    def __plus(self, number):
        return number + self.__size

    class Link:
        def __init__(self, name):
            self.name = name

        def shown(self):
            return f"<{self.name}>"

    class Named(Link):
        __end = "!"

        def shown(self, end=__end):
            return super().shown() + end + __class__.__name__

        @classmethod
        def of(cls, name):
            return cls(name.upper())


def default(key):
    return key
"""


def test_private_names_defaults_of_a_class_and_classes_within_classes(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(CLASSES)
    found = {item.name: item for item in discover(tmp_path)}
    space = run(found["Cache.pop"])
    cache = space["Cache"](5)
    assert [space["pop"](cache, key) for key in "ab"] == [6, "missing"] and space["pop"](cache, "b", 2) == 7
    plus = run(found["Cache.__plus"])
    assert plus["_Cache__plus"](plus["Cache"](5), 2) == 7
    shown = run(found["Cache.Named.shown"])
    named = shown["Cache"].Named("x")
    assert shown["named_shown" if "named_shown" in shown else "shown"](named) == "<x>!Named" == named.shown()
    assert "super(Cache.Named, self)" in found["Cache.Named.shown"].text
    assert "__end + " not in found["Cache.Named.shown"].before and "super()" not in found["Cache.Named.shown"].before
    assert called(found["Cache.Named.of"], shown["Cache"].Named, "x").name == "X"


def test_imports_that_give_a_name_another_meaning_and_modules_imported_in_functions(tmp_path: Path) -> None:
    files = {
        "__init__.py": "",
        "tables.py": "TABLE = {}\n\n\nclass Row:\n    tag = 'new'\n\n\ndef small():\n    return 1\n",
        "user.py": (
            "from .tables import TABLE\n\nTABLE['a'] = 1\n\n\nclass Row:\n    tag = 'old'\n\n\nfrom .tables import Row, small\n\n"
            "small = [small]\n\n\nclass Long(Row):\n    def shown(self):\n        return self.tag\n\n"
            "    def row(self):\n        from .tables import Row as Other\n\n        return Other.tag\n\n\n"
            "def filled():\n    return TABLE, small[0]()\n\n\n"
            "def late():\n    from . import tables\n    import made.tables as same\n\n    return tables.small() + same.small()\n\n\n"
            "def whole():\n    from . import tables\n\n    return dir(tables)\n"
        ),
    }
    (tmp_path / "made").mkdir()
    for name, text in files.items():
        (tmp_path / "made" / name).write_text(text)
    found = {item.name: item for item in discover(tmp_path)}
    space = run(found["Long.shown"])
    assert space["shown"](space["Long"]()) == "new" and "old" not in found["Long.shown"].source
    assert called(found["Long.row"], None) == "new"
    assert called(found["filled"]) == ({"a": 1}, 1) and called(found["late"]) == 2
    assert found["whole"].reason == "uses the module made.tables other than for its attributes"


def test_a_method_in_a_block_of_its_class_is_not_seen_twice(tmp_path: Path) -> None:
    text = "class A:\n    if True:\n        def f(self, n):\n            return n + 41\n"
    (tmp_path / "a.py").write_text(text)
    (found,) = discover(tmp_path)
    assert "41" in found.text and "41" not in found.before
    space = run(found)
    assert space["A"]().f(1) == 42
