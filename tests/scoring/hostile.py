"""Completions that want to hurt whoever reads them: families of texts, each of a size that a test chooses.

Every family takes the name of the function that is asked for and a size (nests, terms, lines), and gives
what a model might write. Some hold a right patch, most do not.
"""

from collections.abc import Callable

Family = Callable[[str, int], str]


def _wrap(before: str, core: str, after: str) -> Family:
    """A function that returns `core` inside n nests of `before` and `after`."""
    return lambda name, n: f"def {name}(*a):\n    return {before * n}{core}{after * n}\n"


def _chain(first: str, each: str) -> Family:
    return lambda name, n: f"def {name}(*a):\n    return {first}{each * n}\n"


NESTS: dict[str, Family] = {
    "keyword arguments": _wrap("dict(a=", "a", ")"),
    "calls": _wrap("f(", "", ")"),
    "brackets": _wrap("[", "", "]"),
    "parentheses": _wrap("(", "1", ")"),
    "tuples": _wrap("(", "1", ",)"),
    "sets": _wrap("{", "1", "}"),
    "dictionaries": _wrap("{1:", "1", "}"),
    "subscripts": _wrap("a[", "0", "]"),
    "slices": _wrap("a[0:", "0", "]"),
    "comprehensions": _wrap("[", "1", " for b in a]"),
    "generators in calls": _wrap("list(b for b in ", "a", ")"),
    "sorted": _wrap("sorted(reversed(", "a", "))"),
    "sets of lists": _wrap("set([", "1", "])"),
    "stars": _wrap("*[", "1", "]"),
    "double stars": _wrap("{**", "{}", "}"),
    "walruses": lambda name, n: f"def {name}(*a):\n    return {''.join(f'(b{i}:=' for i in range(n))}1{')' * n}\n",
    "lambdas": _wrap("lambda:", "1", ""),
    "lambdas with defaults": _wrap("(lambda a=", "1", ":1)"),
    "nots": _wrap("not ", "a", ""),
    "minuses": _wrap("-", "1", ""),
    "tildes": _wrap("~", "1", ""),
    "awaits": lambda name, n: f"async def {name}(*a):\n    return {'await ' * n}a\n",
    "conditions": _wrap("1 if a else ", "2", ""),
    "ands": _wrap("(a and ", "a", ")"),
    "f-strings": lambda name, n: f"def {name}(*a):\n    return f'{{' + 'a' * {n} + '}}'\n    return f\"{{a{'[0]' * n}}}\"\n",
    "format specifications": lambda name, n: f"def {name}(*a):\n    return f'{{a:{{a}}}}{'{a}' * n}'\n",
    "ifs": lambda name, n: f"def {name}(*a):\n" + "".join(" " * (i + 1) + "if a:\n" for i in range(min(n, 97))) + " " * (min(n, 97) + 1) + "pass\n",
    "functions": lambda name, n: f"def {name}(*a):\n" + "".join(" " * (i + 1) + "def f():\n" for i in range(min(n, 97))) + " " * (min(n, 97) + 1) + "pass\n",
    "classes": lambda name, n: f"def {name}(*a):\n" + "".join(" " * (i + 1) + "class C:\n" for i in range(min(n, 97))) + " " * (min(n, 97) + 1) + "pass\n",
    "tries": lambda name, n: f"def {name}(*a):\n" + "".join(" " * (i + 1) + "try:\n" for i in range(min(n, 97))) + " " * (min(n, 97) + 1) + "pass\n",
    "patterns": lambda name, n: f"def {name}(*a):\n    match a:\n        case {'[' * n}{']' * n}:\n            return 1\n",
    "patterns in parentheses": lambda name, n: f"def {name}(*a):\n    match a:\n        case {'(' * n}1{')' * n}:\n            return 1\n",
    "targets": lambda name, n: f"def {name}(*a):\n    {'(' * n}b{',)' * n} = a\n",
    "withs": lambda name, n: f"def {name}(*a):\n    with {'(' * n}a{')' * n}:\n        return 1\n",
    "annotations": lambda name, n: f"def {name}(a: {'a[' * n}0{']' * n}):\n    return 1\n",
    "decorators": lambda name, n: "@print\n" * n + f"def {name}(*a):\n    return 1\n",
    "decorator calls": lambda name, n: f"@{'f(' * n}{')' * n}\ndef {name}(*a):\n    return 1\n",
}  # fmt: skip
CHAINS: dict[str, Family] = {
    "sums": _chain("1", " + 1"),
    "powers": _chain("1", " ** 1"),
    "attributes": _chain("a", ".b"),
    "items": _chain("a", "[0]"),
    "calls in a row": _chain("f", "()"),
    "strings joined": _chain("'a'", " + 'select x from b where '"),
    "strings side by side": _chain("'a'", " 'b'"),
    "percent": _chain("'%s'", " % 'a'"),
    "comparisons": _chain("1", " < 1"),
    "ors": _chain("a", " or a"),
    "arguments": lambda name, n: f"def {name}(*a):\n    return f({'a,' * n})\n",
    "items of a list": lambda name, n: f"def {name}(*a):\n    return [{'1,' * n}]\n",
    "items of a dictionary": lambda name, n: f"def {name}(*a):\n    return {{{'1:1,' * n}}}\n",
    "elifs": lambda name, n: f"def {name}(*a):\n    if a:\n        pass\n" + "    elif a:\n        pass\n" * n,
    "statements": lambda name, n: f"def {name}(*a):\n" + "    a = 1\n" * n,
    "semicolons": lambda name, n: f"def {name}(*a):\n    " + "a = 1; " * n + "\n",
    "functions in a row": lambda name, n: f"def {name}(*a):\n    return 1\n" * n,
    "imports": lambda name, n: "import os\n" * n + f"def {name}(*a):\n    return 1\n",
    "globals": lambda name, n: f"def {name}(*a):\n    global {', '.join(f'b{i}' for i in range(n))}\n",
    "parameters": lambda name, n: f"def {name}({', '.join(f'b{i}=1' for i in range(n))}):\n    return 1\n",
    "blank lines": lambda name, n: f"def {name}(*a):\n" + "\n" * n + "    return 1\n",
    "backslashes": lambda name, n: f"def {name}(*a):\n    return \\\n" + "\\\n" * n + "1\n",
    "comments": lambda name, n: f"def {name}(*a):\n" + "    # nothing\n" * n + "    return 1\n",
    "assertions": lambda name, n: f"def {name}(*a):\n" + "    assert a\n" * n,
    "evals": lambda name, n: f"def {name}(*a):\n" + "    eval(a)\n" * n,
}  # fmt: skip
LITERALS: dict[str, Family] = {
    "digits": lambda name, n: f"def {name}(*a):\n    return {'9' * n}\n",
    "hexadecimal digits": lambda name, n: f"def {name}(*a):\n    return 0x{'f' * n}\n",
    "underscored digits": lambda name, n: f"def {name}(*a):\n    return 1{'_1' * n}\n",
    "a float": lambda name, n: f"def {name}(*a):\n    return 1e{'9' * min(n, 300)}\n",
    "a long line": lambda name, n: f"def {name}(*a):\n    return '{'x' * n}'\n",
    "a long name": lambda name, n: f"def {name}(*a):\n    {'x' * n} = 1\n    return {'x' * n}\n",
    "constant folding": lambda name, n: f"def {name}(*a):\n    return 10 ** 10 ** {n}\n",
    "repeated strings": lambda name, n: f"def {name}(*a):\n    return 'ab' * {n} * {n} * {n}\n",
    "repeated tuples": lambda name, n: f"def {name}(*a):\n    return (1,) * {n} * {n} * {n}\n",
    "shifts": lambda name, n: f"def {name}(*a):\n    return 1 << {n} << {n} << 10 ** 9\n",
    "named characters": lambda name, n: f"def {name}(*a):\n    return '{chr(92)}N{{BULLET}}' * 1\n    # {'x' * n}\n",
    "escapes": lambda name, n: f"def {name}(*a):\n    return '{chr(92)}d'\n" + f"    '{chr(92)}d'\n" * n,
    "fields": lambda name, n: f"def {name}(*a):\n    return f'{'{a}' * n}'\n",
}
OPEN: dict[str, Family] = {
    f"{mark!r} never closed": (lambda name, n, mark=mark: f"def {name}(*a):\n    return {mark * n}")  # type: ignore[misc]
    for mark in ("(", "[", "{", "f(", "f(a=", "{1:", "a[", "[a for a in ", "(lambda x:", "f'{", "'''", '"', "*(", "(yield ", "(a:=", "[*", "{**", "`", "(a,", "((a for")
}  # fmt: skip
FENCES: dict[str, Family] = {
    "spaces after a fence": lambda name, n: "```" + " " * n + f"x\ndef {name}(*a):\n    return 1\n",
    "spaces after fences": lambda name, n: ("```" + " " * 300 + "x y\n") * (n // 300),
    "tabs after a fence": lambda name, n: "```" + "\t" * n + "x",
    "a fence and letters": lambda name, n: "```" + "a" * n + " b\n",
    "fences": lambda name, n: "```\n" * n,
    "fences of code": lambda name, n: f"```python\ndef {name}(*a):\n    return (\n```\n" * (n // 8),
    "helpers in fences": lambda name, n: "".join(f"```\nb{i} = 1\n```\n" for i in range(n // 4)) + f"```\ndef {name}(*a):\n    return [{', '.join(f'b{i}' for i in range(n // 4))}]\n```\n",
    "a sum as a helper": lambda name, n: f"```\nhelper = 1{'+1' * n}\n```\n```\ndef {name}(*a):\n    return helper\n```\n",
    "a helper in a line of many": lambda name, n: f"```\n{'a = 1; ' * n}helper = 1\n```\n```\ndef {name}(*a):\n    return helper, a\n```\n",
    "back-ticks": lambda name, n: "`" * n,
    "lines of prose and code": lambda name, n: "x = 1\nprose here\n" * n,
    "heads": lambda name, n: f"def {name}(*a):\n" * n,
    "heads that are cut": lambda name, n: f"def {name}(*a):\n    return (\n" * n,
    "heads and spaces": lambda name, n: (f"def {name}" + " " * 50 + "\n") * (n // 10),
    "a cut at the end of many": lambda name, n: f"def {name}(*a):\n" + "    a = 1\n" * n + "    b = (",
    "a cut before blank lines": lambda name, n: f"def {name}(*a):\n    return {'-' * 3000}1\n" + "\n" * n,
    "indented lines": lambda name, n: "prose\n\n" + "    x = 1\n\nprose\n\n" * n,
    "names and colons": lambda name, n: "a" * n + ":" + "b" * n + "\n" + "a :" * n,
    "equals and spaces": lambda name, n: "a =" + " " * n + "\n" + "a" + " " * n + "b",
    "spaces": lambda name, n: " " * n + "\n" + " " * n + "x",
    "tabs": lambda name, n: "\t" * n + f"def {name}(*a): return 1",
    "spaces and tabs": lambda name, n: " \t" * n + f"def {name}(*a): return 1",
    "lines of spaces": lambda name, n: (" " * 100 + "\n") * (n // 50) + "x",
    "quotes": lambda name, n: "'''\n" * n,
    "doctests": lambda name, n: ">>> 1\n" * n,
}  # fmt: skip
BIG: dict[str, Family] = {
    "one letter": lambda name, n: "x" * n,
    "NUL": lambda name, n: "\0" * n,
    "NUL in a patch": lambda name, n: f"def {name}(*a):\n    return 1\0{'x' * n}\n",
    "lines": lambda name, n: "\n" * n,
    "carriage returns": lambda name, n: "\r" * n,
    "surrogates": lambda name, n: "\ud800" * n,
    "surrogates in a patch": lambda name, n: f"def {name}(*a):\n    return '{chr(0xD800) * n}'\n",
    "byte order marks": lambda name, n: "\ufeff" * n + f"def {name}(*a):\n    return 1\n",
    "right to left": lambda name, n: f"def {name}(*a):\n    # " + "\u202e" * n + "\n    return 1\n",
    "combining": lambda name, n: f"def {name}(*a):\n    return 'e" + "\u0301" * n + "'\n",
    "emoji": lambda name, n: "\U0001f600" * n,
    "names to normalise": lambda name, n: f"def {name}(*a):\n    " + "\ufdfa" * n + " = 1\n",
    "other line ends": lambda name, n: (
        f"def {name}(*a):\n    # " + "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e" * n + "\n    return 1\n"
    ),
    "form feeds": lambda name, n: f"def {name}(*a):\n" + "\x0c\n" * n + "    return 1\n",
}
FAMILIES: dict[str, Family] = {**NESTS, **CHAINS, **LITERALS, **OPEN, **FENCES, **BIG}

COOKIES = [
    "# coding: x",
    "# coding: rot13",
    "# -*- coding: hex -*-",
    "# vim: set fileencoding=zip :",
    "# coding=utf-7",
    "# coding: ascii\n# größer",
    "# coding: utf-16",
    "# coding: latin-1\n# größer",
    "#!/usr/bin/python\n# coding: punycode",
    "\n# coding: unicode_escape",
    "\x0c# coding: x",
    "# coding: x\r# coding: y\r",
    "# coding:utf-8\n# coding: x",
    "\ufeff# coding: latin-1",
    "# coding: " + "x" * 5_000,
    "# coding: idna",
    "# coding: mbcs",
    "# coding: undefined",
    "# coding: bz2",
    "# coding: utf-8-sig",
]
"""What speaks to a reader of bytes and is a comment in a text."""
SWITCHES = [
    "# noqa",
    "# noqa: F401, E711, B006",
    "# ruff: noqa",
    "# ruff: noqa: F401",
    "# flake8: noqa",
    "# ruff: disable[F401]",
    "# ruff: ignore[F401]",
    "# ruff: file-ignore[F401]",
    "# nosec",
    "#nosec B307",
    "# nosec: B102, B307, B605",
    "# noseceval",
    "# type: ignore",
    "# pylint: disable=all",
    "# fmt: off",
    "# isort: skip_file",
    "# pragma: no cover",
    "# mypy: ignore-errors",
    "# bandit: skip",
    "# lgtm",
]
"""Comments that ask a linter to look away."""
PADDING: dict[str, Callable[[str], str]] = {
    "comments before": lambda text: "# a comment\n" * 500 + text,
    "comments after": lambda text: text + "\n# a comment" * 500,
    "comments between": lambda text: "\n".join(line + "\n" + "# a comment\n" * 30 for line in text.split("\n")),
    "blank lines": lambda text: text + "\n" * 500 + "# end\n",
    "form feeds": lambda text: text + "\n# " + "\x0c" * 500,
    "line separators": lambda text: text + "\n# " + "\u2028x" * 500,
    "next lines": lambda text: text + "\n# " + "\x85x" * 500,
    "vertical tabs": lambda text: text + "\n# " + "\x0bx" * 500,
    "other separators": lambda text: text + "\n# " + "\x1cx\x1dx\x1ex\u2029x" * 100,
    "docstring": lambda text: '"""' + "words\n" * 500 + '"""\n' + text,
    "strings": lambda text: text + '\n"words"' * 500,
    "constants": lambda text: text + "\n0" * 500,
    "dots": lambda text: text + "\n..." * 500,
    "passes": lambda text: text + "\npass" * 500,
    "passes in a block": lambda text: text + "\nif 1:\n" + "    pass\n" * 500,
    "semicolons": lambda text: text + "\n" + "; ".join(["pass"] * 500),
    "assignments": lambda text: text + "\nx = 1" * 500,
    "dead assignments": lambda text: text + "\nif 0:\n" + "    y = 1\n" * 500,
    "functions that nobody calls": lambda text: text + "".join(f"\n\n\ndef g{i}(a):\n    return a" for i in range(200)),
    "classes that nobody uses": lambda text: text + "".join(f"\n\n\nclass G{i}:\n    x = 1" for i in range(200)),
    "annotations": lambda text: text + "".join(f"\nz{i}: int" for i in range(500)),
    "after the return": lambda text: text.rstrip() + "\n" + "    b = 1\n" * 300,
}
"""What makes a patch longer and not better."""
