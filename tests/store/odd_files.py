"""Things that may lie where a file or a folder is expected, made on purpose."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

DEEP = 100_000


def _nothing(path: Path) -> None:
    return None


def _link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _bytes(data: bytes) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(data), None)[1]


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has 108 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name[:90])
        if path.name[:90] != path.name:
            os.rename(path.name[:90], path.name)
    finally:
        os.chdir(before)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "x").write_text("y")


ODD: dict[str, Callable[[Path], None]] = {
    "gone": _nothing,
    "fifo": lambda path: os.mkfifo(path),
    "socket": _socket,
    "folder": _folder,
    "dangling": _link_to("/nowhere/at/all"),
    "itself": lambda path: path.symlink_to(path),
    "zero": _link_to("/dev/zero"),
    "stdin": _link_to("/dev/stdin"),
    "outside": _link_to("/etc/passwd"),
    "etc": _link_to("/etc"),
    "sparse": _sparse,
    "empty": _bytes(b""),
    "nul": _bytes(b"\0" * 4096),
    "latin": _bytes(b'{"a": "\xff\xfe"}'),
    "utf-16": _bytes('{"a": 1}'.encode("utf-16")),
    "bom": _bytes(b"\xef\xbb\xbf{}"),
    "five": _bytes(b"5"),
    "list": _bytes(b"[]"),
    "null": _bytes(b"null"),
    "object": _bytes(b"{}"),
    "string": _bytes(b'"\x1b[31m"'),
    "deep-list": _bytes(b"[" * DEEP),
    "deep-object": _bytes(b'{"a":' * DEEP),
    "nan": _bytes(b'{"a": NaN}'),
    "infinite": _bytes(b'{"a": 1e999}'),
    "digits": _bytes(b'{"a": ' + b"9" * 6000 + b"}"),
    "twice": _bytes(b'{"digest": 1, "digest": 2}'),
    "surrogate": _bytes(b'{"a": "\\ud800"}'),
    "many": _bytes(b"[" + b"{}," * 5_000_000 + b"{}]"),
}
"""Name -> makes it at a path where nothing is."""

NAMES = [
    ".DS_Store",
    "Thumbs.db",
    "lost+found",
    ".nfs0000000000000001",
    "file.txt:Zone.Identifier",
    "\x1b]0;gone\x07\x1b[2J",
    "two\nlines",
    "[bold red]",
    "\u202eexe",
    os.fsdecode(b"latin-\xff"),
    "a" * 64 + ".json.tmp",
    "A" * 64,
    "*",
    "~",
]
"""Names that are no digest."""


def replace(path: Path, odd: str) -> None:
    """Put the thing called `odd` where `path` is."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
    ODD[odd](path)
