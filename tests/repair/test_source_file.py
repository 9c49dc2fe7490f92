"""A file to repair: which function is meant, what it needs, how a patch is put in, and that nothing is lost on writing."""

import ast
import itertools
import os
import subprocess
from pathlib import Path

import pytest

from coral_core.errors import ConfigError
from coral_core.repair.source_file import NoPatch, SourceFile, standalone

TEXT = '''\
"""Text tools."""

import os
import re

LIMIT = 3  # at most


def helper(s):
    return s[:LIMIT]


@staticmethod
def other():
    pass


def shorten(s):
    # keep the comment
    return helper(re.sub(" ", "", s)) + "."


class Box:
    def method(self):
        return 1
'''


def source(tmp_path: Path, text: str | bytes = TEXT) -> SourceFile:
    path = tmp_path / "text.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return SourceFile.read(path)


def refused(tmp_path: Path, text: str | bytes, match: str, function: str | None = None) -> None:
    with pytest.raises(ConfigError, match=match):
        source(tmp_path, text).function(function)


def test_files_that_cannot_be_repaired(tmp_path: Path) -> None:
    refused(tmp_path, "x = 1\n", "defines no function at its top level")
    refused(tmp_path, "", "defines no function")
    refused(
        tmp_path,
        "class A:\n    def f(self): ...\n    async def g(self): ...\n",
        "A.f is a method, A.g is a method, which is not covered",
    )
    refused(tmp_path, TEXT, "defines 3 functions. Choose one with --function: helper, other, shorten")
    refused(tmp_path, TEXT, "--function shorted: no such function .*shorten", "shorted")
    refused(tmp_path, TEXT, "Box.method: is a method, which is not covered", "Box.method")
    refused(tmp_path, "def f(): ...\nif 1:\n    def g(): ...\n", "g: is within a block", "g")
    refused(tmp_path, "async def f(): ...\ndef h(): ...\n", "f: is asynchronous, which is not covered", "f")
    refused(tmp_path, "async def f(): ...\n", "no function at its top level .f is asynchronous, which is not covered")
    refused(tmp_path, "try:\n    def f(): ...\nfinally: ...\n", "no function at its top level .f is within a block")
    refused(tmp_path, "def f():\n    def g(): ...\n", "g: is within f, which is not covered. It has f", "g")
    refused(tmp_path, "# coding: latin-1\ndef f(): ...\n", "declares the encoding iso-8859-1. Save it as UTF-8")
    refused(tmp_path, "# coding: klingon\ndef f(): ...\n", "declares the encoding .*klingon")
    refused(tmp_path, "def f():\n    nonlocal x\n", r"is not Python \d.\d+ \(no binding for nonlocal")
    refused(tmp_path, "def f(): ...\ndef f(): ...\n", "f: is defined 2 times", "f")
    refused(tmp_path, "def f(:\n", "text.py, line 1: is not Python")
    refused(tmp_path, b"# \xe9\ndef f(): ...\n", r"is not UTF-8 \(byte 2\)")
    refused(tmp_path, b"def f(): ...\rx = 1\n", "single carriage returns")
    refused(tmp_path, "x = " + "[" * 150 + "]" * 150, "nested more than 120 levels")
    with pytest.raises(ConfigError, match="cannot be read"):
        SourceFile.read(tmp_path / "none.py")
    with pytest.raises(ConfigError, match="cannot be read"):
        SourceFile.read(tmp_path)
    (tmp_path / "circle.py").symlink_to(tmp_path / "circle.py")
    with pytest.raises(ConfigError, match="cannot be read"):
        SourceFile.read(tmp_path / "circle.py")
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(ConfigError, match="cannot be read"):
        SourceFile.read(tmp_path / "pipe.py")
    assert source(tmp_path, "def only(): ...\n").function(None) == "only"


def test_a_function_stands_with_what_it_needs_and_no_more(tmp_path: Path) -> None:
    alone = source(tmp_path).standalone("shorten")
    assert "import re" in alone and "LIMIT = 3" in alone and "def helper" in alone and "# keep the comment" in alone
    assert "import os" not in alone and "def other" not in alone and "class Box" not in alone
    ast.parse(alone)
    assert source(tmp_path).own_text("other") == "@staticmethod\ndef other():\n    pass"


def test_a_patch_replaces_the_function_and_nothing_else(tmp_path: Path) -> None:
    file = source(tmp_path)
    patch = "import json\nimport re\n\nLIMIT = 99\n\ndef extra(s):\n    return json.dumps(s)\n\ndef shorten(s):\n    return extra(s) + '!'\n"
    text = file.patched("shorten", patch)
    assert text.startswith('"""Text tools."""\n\nimport os\nimport re\nimport json\n\nLIMIT = 3')
    assert "LIMIT = 99" not in text and text.count("import re") == 1
    assert text.index("def extra") < text.index("def shorten") and text.endswith(
        "class Box:\n    def method(self):\n        return 1\n"
    )
    space: dict[str, object] = {}
    exec(compile(text, "text", "exec"), space)
    assert space["shorten"]("a") == '"a"!'  # type: ignore[operator]
    diff = file.diff(text)
    assert "-    # keep the comment" in diff and "+import json" in diff and diff.startswith("--- a/text.py")


@pytest.mark.parametrize(
    ("patch", "why"),
    [
        ("def shorten(s):\n    return helper(re.sub(' ', '', s)) + '.'", "changes nothing"),
        ("def other(): pass", "does not define shorten"),
        ("def shorten(s:", "does not parse"),
        ("def shorten(s):\n    return 1 # \u202e", "control characters"),
        ("def shorten(s):\n    return '\x1b[2J'", "control characters"),
        ("def shorten(s):\n    return " + "-" * 300 + "1", "nested too deeply|does not parse"),
        ("def shorten(s):\n    return 1" + " " * 60_000, "more than 50000"),
    ],
)
def test_what_is_no_patch(tmp_path: Path, patch: str, why: str) -> None:
    with pytest.raises(NoPatch, match=why):
        source(tmp_path).patched("shorten", patch)


def test_decorators_stay_where_the_patch_has_none(tmp_path: Path) -> None:
    file = source(tmp_path, "import functools\n\n\n@functools.cache\n# why\ndef f(a):\n    return a\n")
    text = file.patched("f", "def f(a):\n    return -a")
    assert text.endswith("\n@functools.cache\n# why\ndef f(a):\n    return -a\n")
    assert "@functools.lru_cache\ndef f" in file.patched("f", "@functools.lru_cache\ndef f(a):\n    return -a")
    assert "functools.cache" not in file.patched("f", "@functools.lru_cache\ndef f(a):\n    return -a")


def test_of_an_import_only_the_new_names_are_put_in(tmp_path: Path) -> None:
    file = source(tmp_path, "import re\nfrom typing import List\n\n\ndef f(a):\n    return a\n")
    patch = "import re, math\nfrom typing import List, Optional as O\nfrom os import *\n\ndef f(a: List) -> O:\n    return math.pi"
    assert file.patched("f", patch).startswith(
        "import re\nfrom typing import List\nimport math\nfrom typing import Optional as O\n\n\ndef f(a: List)"
    )


def patched(folder: Path, text: str, patch: str) -> str:
    return source(folder, text).patched("f", patch)


def test_only_what_the_function_needs_comes_with_it(tmp_path: Path) -> None:
    """What runs when the module is imported is not judged, and does not come into the file."""
    patch = "import os\nLIMIT = 3\ndef g(a):\n    return min(a, LIMIT)\ndef unused():\n    pass\ndef f(a):\n    return g(a)\nresult = f(3)\nprint(result)\nfor i in range(3):\n    f(i)"
    text = patched(tmp_path, "@cache\ndef f(a):\n    return a\n", patch)
    assert text == "LIMIT = 3\n\n\ndef g(a):\n    return min(a, LIMIT)\n\n\n@cache\ndef f(a):\n    return g(a)\n"


def test_imports_go_below_the_first_comments(tmp_path: Path) -> None:
    text = patched(
        tmp_path,
        "#!/usr/bin/env python3\n# licence\ndef f(a):\n    return a\n",
        "import math\ndef f(a):\n    return math.pi",
    )
    assert text.startswith("#!/usr/bin/env python3\n# licence\nimport math\ndef f(a):")


@pytest.mark.parametrize("block", ['if __name__ == "__main__":\n    import math', "if TYPE_CHECKING:\n    import math"])
def test_what_a_block_imports_is_not_there(tmp_path: Path, block: str) -> None:
    text = patched(tmp_path, f"def f(a):\n    return a\n{block}\n", "import math\ndef f(a):\n    return math.pi")
    assert text.startswith("import math\n")


def test_a_submodule_is_imported_beside_another(tmp_path: Path) -> None:
    file, patch = (
        "import urllib.parse\ndef f(a):\n    return a\n",
        "import urllib.request\ndef f(a):\n    return urllib.request.quote(a)",
    )
    assert patched(tmp_path, file, patch).startswith("import urllib.parse\nimport urllib.request\n")


@pytest.mark.parametrize(
    ("file", "patch", "why"),
    [
        ("import numpy as np\n", "import math as np\ndef f(a):\n    return np.pi", "imports math as np, which is something else"),
        ("", "from math import pow\ndef f(a):\n    return pow(a, 2)", "imports .*pow as pow, which is built in"),
        ("", "from math import *\ndef f(a):\n    return sqrt(a)", "needs sqrt of from math import"),
        ("", "def sum(a):\n    return 0\ndef f(a):\n    return sum(a)", "defines sum, which is built in"),
        ("", "try:\n    K = 1\nexcept KeyError:\n    K = 2\ndef f(a):\n    return K", "needs K, which a block of statements binds"),
        ("x = 1\n", "x = y = 2\ndef f(a):\n    return y", "binds x, which the file has"),
    ],
)  # fmt: skip
def test_what_would_give_the_file_another_meaning_is_no_patch(tmp_path: Path, file: str, patch: str, why: str) -> None:
    with pytest.raises(NoPatch, match=why):
        patched(tmp_path, f"{file}def f(a):\n    return a\n", patch)


@pytest.mark.parametrize(
    "again", ["f = twice(f)", "del f", "class f: pass", "try:\n    from fast import f\nexcept ImportError:\n    pass"]
)
def test_a_function_that_is_bound_again_is_refused(tmp_path: Path, again: str) -> None:
    with pytest.raises(ConfigError, match="is bound again on line 3"):
        source(tmp_path, f"def f(a):\n    return a\n{again}\n").function("f")


def test_overloads_are_no_second_definition(tmp_path: Path) -> None:
    text = (
        "@overload\ndef f(a: int) -> int: ...\n@typing.overload\ndef f(a: str) -> str: ...\ndef f(a):\n    return a\n"
    )
    assert source(tmp_path, text).function(None) == "f"


def test_a_method_of_a_nested_class_is_named_as_one(tmp_path: Path) -> None:
    text = "class A:\n    class B:\n        def f(self): pass\ndef g(): pass\n"
    with pytest.raises(ConfigError, match=r"A\.B\.f: is a method"):
        source(tmp_path, text).function("A.B.f")


ENDS = {"plain": ("\n",), "crlf": ("\r\n",), "mixed": ("\n", "\r\n", "\r\n")}
BODIES = {
    "first": "def f(a):\n\treturn a\n\n\nx = 1\n",
    "last": "import os\n\n\ndef f(a):\n\treturn a\n",
    "no line end": "import os\n\n\ndef f(a):\n\treturn a",
    "no line end after": "def f(a):\n\treturn a\nx = 1",
    "form feeds": "import os\n\x0c\n# \x0b\ndef f(a):\n\treturn a\n\x0c\nx = 'é\u2028'\n",
}
PATCHES = (
    "def f(a):\n    return -a",
    "import math\n\ndef g(a):\n    return a\n\ndef f(a):\n    b = g(a)\n    return -b\n",
)


@pytest.mark.parametrize("name", ["text.py", "a b.py", 'q"\\é\t.py', "below/text.py"])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("ends", ENDS)
def test_the_diff_applies_and_writing_does_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, body: str, name: str) -> None:  # fmt: skip
    """`git apply` makes of the file what `write` makes of it, line ends and mark included, and nothing else changes."""
    monkeypatch.chdir(tmp_path)
    lines = BODIES[body].split("\n")
    turns = itertools.cycle(ENDS[ends])
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    for mark, patch in itertools.product(("", "\ufeff"), PATCHES):
        data = (mark + "".join(line + next(turns) for line in lines[:-1]) + lines[-1]).encode()
        path.write_bytes(data)
        path.chmod(0o640)
        file = SourceFile.read(path)
        text = file.patched("f", patch)
        (tmp_path / "diff").write_text(file.diff(text), newline="")
        file.write(text)
        written = path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o640 and [
            each.name for each in path.parent.iterdir() if each.name != "diff"
        ] == [path.name]
        path.write_bytes(data)
        subprocess.run(["git", "apply", "--whitespace=nowarn", "diff"], check=True, cwd=tmp_path)
        assert path.read_bytes() == written
        kept = [
            line
            for line in data.splitlines(keepends=True)
            if line.strip() and b"f(a)" not in line and b"return a" not in line
        ]
        there = iter(written.splitlines(keepends=True))
        assert all(any(line == other for other in there) for line in kept), (
            "lines that are not the function's stay as they were"
        )
        assert written.endswith(b"\n") == data.endswith(b"\n")
        if ends == "crlf":
            assert written.count(b"\r\n") == written.count(b"\n") == written.count(b"\r")


@pytest.mark.parametrize(
    ("module", "call", "value"),
    [
        ("from math import *\ndef f(a):\n    return sqrt(a)\n", 4, 2),
        ("T = {}\nfor i in range(9):\n    T[i] = i * i\ndef f(a):\n    return T[a]\n", 4, 16),
        ("T = []\nT.append(3)\ndef f(a):\n    return T[0] + a\n", 4, 7),
        ("def f(a):\n    result = a + 1\n    return result\nresult = f(3)\nresult = input()\n", 4, 5),
        ("def f(a):\n    args = a\n    return args\nif __name__ == '__main__':\n    args = 1 / 0\n", 4, 4),
        ("def g(a):\n    return f(a - 1) if a else 0\ndef f(a):\n    return g(a) + 1\n", 4, 5),
        ("def f(a):\n    f.calls += 1\n    return f.calls\nf.calls = 0\n", 4, 1),
        ("def f(a):\n    return WAYS['f'] is f\nWAYS = {'f': f}\n", 4, True),
        ("def f(a):\n    return f'{a!r:>{WIDE}}' + f\"{'x' * 2}\"\nWIDE = 3\n", 4, "  4xx"),
        ("X = 1; Y = 2\ndef f(a): return a + Y\n", 4, 6),
    ],
)
def test_a_function_alone_does_what_it_does_in_its_file(module: str, call: int, value: object) -> None:
    space: dict[str, object] = {"__name__": "patch"}
    exec(compile(standalone(module, "f"), "alone", "exec"), space)
    assert space["f"](call) == value  # type: ignore[operator]


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    file = source(tmp_path)
    text = file.patched("shorten", "def shorten(s):\n    return s")
    file.path.write_text(TEXT + "# mine\n")
    with pytest.raises(ConfigError, match="was changed meanwhile, so nothing was written"):
        file.write(text)
    assert file.path.read_text() == TEXT + "# mine\n" and [path.name for path in tmp_path.iterdir()] == ["text.py"]


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    file = source(tmp_path)
    (tmp_path / "link.py").symlink_to(file.path)
    linked = SourceFile.read(tmp_path / "link.py")
    linked.write(linked.patched("shorten", "def shorten(s):\n    return s"))
    assert (tmp_path / "link.py").is_symlink() and "return s\n" in file.path.read_text()
