"""Reads commits, trees and files of a git repository that nobody trusts.

Git never sees the repository's own configuration, hooks or attributes: it works in an empty git directory of ours whose
only link to the repository is the path of its objects (``objects/info/alternates``). References are read as text. Nothing
is checked out, fetched or written. Each command has limits of time, memory and output, and an environment without
secrets. Not covered: references in the reftable format.
"""

import contextlib
import dataclasses
import re
import resource
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Self

from coral_core.errors import ConfigError, CoralError

SECONDS = 120
"""Wall clock of one git command."""
MEMORY = 4 << 30
MOST_OUTPUT = 256 << 20
LARGEST_FILE = 1 << 20
"""A larger file is left out of copies."""
LARGEST_TREE = 128 << 20
"""Bytes of all files of a commit together."""
MOST_FILES = 20_000
LONGEST_MESSAGE = 4_000
LATEST = 4_102_444_800
"""Author dates from 1970 to the year 2100 are read."""
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_AUTHOR = re.compile(rb"[^\n]*> (\d{1,12}) [+-]\d{4}")
CONFIG = """\
[core]
\trepositoryformatversion = {version}
\tbare = true
\tcommitGraph = false
\tmultiPackIndex = false
\tpackedGitWindowSize = 32m
\tpackedGitLimit = 512m
"""
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
}


class UnreadableError(CoralError):
    """A part of the repository cannot be read: objects are missing, damaged or too large."""


class Commit(NamedTuple):
    """One commit. Author names are not kept."""

    name: str
    """Hash, 40 or 64 hexadecimal digits."""
    parents: tuple[str, ...]
    author_time: int
    """Seconds since 1970; -1: not readable."""
    message: str


class Change(NamedTuple):
    """One file that differs between a commit and its parent."""

    before: str
    """Path in the parent; "": the file is new."""
    after: str
    """Path in the commit; "": the file is gone. Another path than `before` for a renamed file."""
    old: str
    """Hash of the content before."""
    new: str
    """Hash of the content after."""


@dataclasses.dataclass(frozen=True)
class Tree:
    """The regular files of a commit."""

    files: dict[str, str]
    """Path -> hash of the content."""
    left_out: tuple[str, ...]
    """Submodules, symbolic links, large files and odd paths, each with its reason."""


class Repository:
    """Reads a repository; a context manager that removes its scratch directory. `resolve` comes before all other reading.

    Args:
        path: A clone, a bare repository, or a linked worktree.

    Raises:
        ConfigError: there is no repository at `path`, or its references cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own, common = git_directory(path)
        self._common = common
        self._scratch = tempfile.TemporaryDirectory(prefix="coral-git-")
        self._git = Path(self._scratch.name)
        self.shallow = frozenset(line for line in _lines(common / "shallow", path) if _HASH.fullmatch(line))
        """Commits whose parents a shallow clone leaves out."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    def resolve(self, revision: str) -> str:
        """Hash of the commit that `revision` names.

        Args:
            revision: HEAD, a branch, a tag, or a whole hash.

        Raises:
            ConfigError: there is no such commit.
        """
        name = revision if _HASH.fullmatch(revision) else self._reference(revision)
        if name is not None:
            self._prepare(name)
            with contextlib.suppress(UnreadableError):
                found = self._run("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}").decode().strip()
                if _HASH.fullmatch(found):
                    return found
        if revision == "HEAD":
            raise ConfigError(
                f"problems.path: {self.path}: its HEAD names no commit",
                remedy="Give a repository with history, or name a branch: problems.history.revision",
            )
        raise ConfigError(
            f"problems.history.revision: {revision}: no such branch, tag or commit in {self.path}",
            remedy="Give HEAD, a branch, a tag, or a whole hash.",
        )

    def newest(self, revision: str, most: int) -> list[Commit]:
        """The newest commits that are reachable from a commit, by commit date.

        Args:
            revision: Hash of the commit to begin with.
            most: Number of commits at most.
        """
        listed = self._run("rev-list", f"--max-count={most}", revision, partial=True).decode().split()
        commits = []
        for name, kind, content in self._objects(listed):
            if kind == "commit":
                commits.append(_commit(name, content))
        return commits

    def changes(self, commit: Commit) -> list[Change]:
        """The files that differ between a commit and its only parent.

        Raises:
            UnreadableError: objects are missing, or the difference is too large.
        """
        raw = self._run(
            "diff-tree", "-r", "-z", "-M", "--raw", "--no-abbrev", "--no-ext-diff", "--no-textconv",
            "--ignore-submodules=none", commit.parents[0], commit.name,
        )  # fmt: skip
        fields = iter(raw.split(b"\0"))
        found = []
        for field in fields:
            if not field.startswith(b":"):
                continue
            modes_and_hashes = field[1:].decode("ascii", "replace").split()
            if len(modes_and_hashes) != 5:
                raise UnreadableError("git's list of changes is not of the known form")
            old_mode, new_mode, old, new, status = modes_and_hashes
            first = next(fields, b"").decode("utf-8", "replace")
            second = next(fields, b"").decode("utf-8", "replace") if status[0] in "RC" else first
            before = first if _is_file(old_mode) and status[0] != "C" else ""
            after = second if _is_file(new_mode) else ""
            if before or after:
                found.append(Change(before, after, old, new))
        return found

    def tree(self, commit: str) -> Tree:
        """The files of a commit.

        Raises:
            UnreadableError: objects are missing, or there are too many files.
        """
        files: dict[str, str] = {}
        left_out: list[str] = []
        total = 0
        for row in self._run("ls-tree", "-r", "-l", "-z", "--full-tree", commit).split(b"\0"):
            facts, _, raw = row.partition(b"\t")
            if not raw:
                continue
            mode, kind, name, size = facts.decode("ascii", "replace").split()
            path = raw.decode("utf-8", "replace")
            if reason := _not_copied(mode, kind, size, raw, path):
                left_out.append(f"{path}: {reason}")
                continue
            total += int(size)
            files[path] = name
            if len(files) > MOST_FILES or total > LARGEST_TREE:
                raise UnreadableError(
                    f"commit {commit[:12]} has more than {MOST_FILES} files or {LARGEST_TREE >> 20} MiB"
                )
        return Tree(files, tuple(left_out))

    def contents(self, names: Sequence[str]) -> dict[str, bytes]:
        """Contents of files by hash.

        Args:
            names: Hashes of blobs.

        Raises:
            UnreadableError: one is missing, or they are too large together.
        """
        wanted = list(dict.fromkeys(names))
        found = {name: content for name, kind, content in self._objects(wanted) if kind == "blob"}
        if missing := [name for name in wanted if name not in found]:
            raise UnreadableError(f"{len(missing)} files are not in the repository (a partial clone?)")
        return found

    def _objects(self, names: Sequence[str]) -> Iterator[tuple[str, str, bytes]]:
        """Hash, type and content of each object that is there."""
        if not names:
            return
        data = self._run("cat-file", "--batch", given="".join(f"{name}\n" for name in names).encode(), partial=True)
        place = 0
        while place < len(data):
            end = data.find(b"\n", place)
            header = data[place:end].decode("ascii", "replace").split() if end >= 0 else []
            if len(header) < 2:
                return
            place = end + 1
            if len(header) == 3 and header[2].isdigit():
                size = int(header[2])
                yield header[0], header[1], data[place : place + size]
                place += size + 1

    def _reference(self, name: str) -> str | None:
        """Hash that a reference holds; None: there is no such reference."""
        try:
            packed = (self._common / "packed-refs").read_text("utf-8", "replace").splitlines()
        except OSError:
            packed = []
        table = {row.split(" ", 1)[1]: row.split(" ", 1)[0] for row in packed if " " in row and row[0] not in "#^"}
        tried = ["HEAD"] if name == "HEAD" else [f"refs/{kind}/{name}" for kind in ("heads", "tags", "remotes/origin")]
        for reference in tried:
            for _ in range(5):  # symbolic references
                if ".." in reference or reference.startswith("/"):
                    break
                folder = self._own if reference == "HEAD" else self._common
                text = next(iter(_lines(folder / reference, self.path)), "") or table.get(reference, "")
                if not text.startswith("ref: "):
                    if _HASH.fullmatch(text):
                        return text
                    break
                reference = text.removeprefix("ref: ").strip()
        return None

    def _prepare(self, name: str) -> None:
        """Make the git directory of ours, whose objects are those of the repository."""
        long = len(name) == 64
        objects = self._common / "objects"
        (self._git / "objects" / "info").mkdir(parents=True, exist_ok=True)
        (self._git / "refs").mkdir(exist_ok=True)
        (self._git / "HEAD").write_text("ref: refs/heads/none\n")
        text = CONFIG.format(version=1 if long else 0) + ("[extensions]\n\tobjectFormat = sha256\n" if long else "")
        (self._git / "config").write_text(text)
        (self._git / "objects" / "info" / "alternates").write_bytes(bytes(objects.resolve()) + b"\n")
        if self.shallow:
            (self._git / "shallow").write_text("".join(f"{each}\n" for each in sorted(self.shallow)))

    def _run(self, *arguments: str, given: bytes = b"", partial: bool = False) -> bytes:
        """Output of a git command.

        Args:
            arguments: The command.
            given: Its standard input.
            partial: Use the output of a command that failed.

        Raises:
            UnreadableError: it failed, took too long or wrote too much.
            ConfigError: git is not installed.
        """
        with tempfile.TemporaryFile() as source:
            source.write(given)
            source.seek(0)
            program = shutil.which("git") or "git"
            return _limited([program, f"--git-dir={self._git}", "--no-pager", *arguments], source, self._git, partial)


def git_directory(path: Path) -> tuple[Path, Path]:
    """The git directory of a clone, and the one that holds its objects (another one for a linked worktree).

    A ``.git`` file is followed only when the directory that it names points back, and a symbolic link is not: otherwise a
    directory that nobody trusts could name any repository of this machine.

    Raises:
        ConfigError: there is no repository at `path`.
    """
    own = path / ".git"
    for link in (own, own / "objects", path / "objects"):
        if link.is_symlink():
            raise ConfigError(
                f"problems.path: {path}: {link.name} is a symbolic link", remedy="Give the repository that it leads to."
            )
    if own.is_file():
        named = next(iter(_lines(own, path)), "")
        target = (path / named.removeprefix("gitdir:").strip()).resolve()
        back = next(iter(_lines(target / "gitdir", path)), "")
        shared = next(iter(_lines(target / "commondir", path)), "")
        if not named.startswith("gitdir:") or not back or not shared or Path(back).resolve() != own.resolve():
            raise ConfigError(
                f"problems.path: {path}: its repository lies elsewhere (a submodule?)",
                remedy="Give a clone of the repository itself.",
            )
        return target, (target / shared).resolve()
    for folder in (own, path):
        if (folder / "HEAD").is_file() and (folder / "objects").is_dir():
            return folder, folder
    raise ConfigError(
        f"problems.path: {path}: no git repository",
        remedy="Give the folder that contains .git, or a bare repository; problems.source: package reads a plain directory.",
    )


def _lines(path: Path, root: Path) -> list[str]:
    """Lines of a small file of a git directory; none when it does not exist. Raises `ConfigError` when it is too large."""
    try:
        if not path.is_file():
            return []
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(
            f"problems.path: {root}: {path.name} cannot be read ({error.strerror})", remedy="Is it a git repository?"
        ) from None
    if len(data) > LARGEST_FILE:
        raise ConfigError(f"problems.path: {root}: {path.name} is too large", remedy="Is it a git repository?")
    return [line.strip() for line in data.decode("utf-8", "replace").splitlines() if line.strip()]


def _limited(command: Sequence[str], source: IO[bytes], folder: Path, partial: bool) -> bytes:
    try:
        process = subprocess.Popen(
            command,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={**ENVIRONMENT, "HOME": str(folder)},
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(f"problems.source: git: git cannot be run ({error})", remedy="Install git.") from None
    with contextlib.suppress(OSError):
        resource.prlimit(process.pid, resource.RLIMIT_AS, (MEMORY, MEMORY))
    timer = threading.Timer(SECONDS, process.kill)
    timer.start()
    with process:
        try:
            data = process.stdout.read(MOST_OUTPUT + 1) if process.stdout else b""
            if len(data) <= MOST_OUTPUT:
                process.wait()
        finally:
            process.kill()
            timer.cancel()
    code = process.returncode
    what = command[3]
    if len(data) > MOST_OUTPUT:
        raise UnreadableError(f"git {what} wrote more than {MOST_OUTPUT >> 20} MiB")
    if code and not (partial and data):
        raise UnreadableError(f"git {what} failed with exit code {code}: objects are missing, damaged or too large")
    return data


def _commit(name: str, content: bytes) -> Commit:
    header, _, message = content.partition(b"\n\n")
    parents, author_time, encoding = [], -1, "utf-8"
    for line in header.split(b"\n"):
        key, _, value = line.partition(b" ")
        if key == b"parent":
            parents.append(value.decode("ascii", "replace"))
        elif key == b"author" and author_time < 0 and (match := _AUTHOR.fullmatch(value)):
            author_time = int(match[1]) if int(match[1]) < LATEST else -1
        elif key == b"encoding":
            encoding = value.decode("ascii", "replace")
    try:
        text = message.decode(encoding, "replace")
    except LookupError:
        text = message.decode("utf-8", "replace")
    return Commit(name, tuple(parents), author_time, text.strip()[:LONGEST_MESSAGE])


def _is_file(mode: str) -> bool:
    return mode in ("100644", "100755", "100664")


def _not_copied(mode: str, kind: str, size: str, raw: bytes, path: str) -> str:
    """Why an entry of a tree is not copied; "" when it is."""
    if kind == "commit":
        return "a submodule"
    if not _is_file(mode):
        return "a symbolic link"
    if path.encode() != raw:
        return "its path is not UTF-8"
    if "\\" in path or any(part in ("", ".", "..") or part.lower() == ".git" for part in path.split("/")):
        return "its path leads elsewhere"
    if not size.isdigit() or int(size) > LARGEST_FILE:
        return f"larger than {LARGEST_FILE >> 20} MiB"
    return ""
