"""A file to repair: which function is meant, what it needs, how a patch is put in, and that nothing is lost on writing."""

import ast
import os
from pathlib import Path

import pytest

from coral_core.errors import ConfigError
from coral_core.repair.source_file import NoPatch, SourceFile

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
        "it has 2 methods, which are not covered",
    )
    refused(tmp_path, TEXT, "defines 3 functions. Choose one with --function: helper, other, shorten")
    refused(tmp_path, TEXT, "--function shorted: no such function .*shorten", "shorted")
    refused(tmp_path, TEXT, "Box.method: is a method, which is not covered", "Box.method")
    refused(tmp_path, "def f(): ...\nif 1:\n    def g(): ...\n", "g: is within a block", "g")
    refused(tmp_path, "async def f(): ...\ndef h(): ...\n", "f: is within a block or asynchronous", "f")
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
    diff = file.diff(text, "text.py")
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


@pytest.mark.parametrize("kind", ["plain", "crlf", "marked"])
def test_writing_keeps_line_ends_mark_and_permissions(tmp_path: Path, kind: str) -> None:
    data = b"def f(a):\n    return a\n\n\nx = 1"
    data = data.replace(b"\n", b"\r\n") if kind == "crlf" else b"\xef\xbb\xbf" + data if kind == "marked" else data
    file = source(tmp_path, data)
    file.path.chmod(0o640)
    file.write(file.patched("f", "def f(a):\n    return -a"))
    assert file.path.read_bytes() == data.replace(b"return a", b"return -a")
    assert file.path.stat().st_mode & 0o777 == 0o640 and [path.name for path in tmp_path.iterdir()] == ["text.py"]


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
