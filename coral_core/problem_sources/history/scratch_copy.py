"""Writes the files of a commit into scratch directories: as the commit has them, and with the code of its parent."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from coral_core.problem_sources.history.changed_functions import is_code
from coral_core.problem_sources.history.repository import Change, Commit, Repository, Tree, UnreadableError


class FixFiles:
    """The files of a commit that may be a fix.

    Args:
        repository: The repository.
        commit: The commit.
        changes: The files that it changes.
    """

    def __init__(self, repository: Repository, commit: Commit, changes: Iterable[Change]) -> None:
        self._repository = repository
        self._changes = list(changes)
        self.tree: Tree = repository.tree(commit.name)
        self._contents = repository.contents(list(self.tree.files.values()))

    def keep_tests_of(self, names: set[str]) -> None:
        """Leave out test modules that cannot concern the change: it does not touch them, and they name no function of it.

        Modules that a kept one names stay, too. Other files of the tests always do.

        Args:
            names: Names by which tests may call the changed functions.
        """
        touched = {change.after for change in self._changes}
        modules = {path: self._contents[name] for path, name in self.tree.files.items() if _is_test_module(path)}
        kept = {path for path, text in modules.items() if path in touched or _mentions(text, names)}
        while more := {
            path
            for path in modules.keys() - kept
            if any(_mentions(modules[one], {path.rsplit("/", 1)[-1].removesuffix(".py")}) for one in kept)
        }:
            kept |= more
        files = {path: name for path, name in self.tree.files.items() if path not in modules or path in kept}
        self.tree = Tree(files, self.tree.left_out)

    def write_after(self, folder: Path) -> None:
        """Write the files as the commit has them. Raises `UnreadableError`."""
        _write(folder, {path: self._contents[name] for path, name in self.tree.files.items()})

    def write_before(self, folder: Path) -> None:
        """Write the tests of the commit, with the code as it was before. Raises `UnreadableError`."""
        files = dict(self.tree.files)
        for change in self._changes:
            if is_code(change.after):
                files.pop(change.after, None)
        before = {change.before: change.old for change in self._changes if is_code(change.before)}
        contents = self._contents | self._repository.contents(list(before.values()))
        _write(folder, {path: contents[name] for path, name in (files | before).items()})


def write_commit(repository: Repository, commit: str, folder: Path) -> Tree:
    """Write the files of a commit into a directory.

    Raises:
        UnreadableError: objects are missing, or a file cannot be written.
    """
    tree = repository.tree(commit)
    contents = repository.contents(list(tree.files.values()))
    _write(folder, {path: contents[name] for path, name in tree.files.items()})
    return tree


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    try:
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    except (OSError, ValueError) as error:  # a file where a folder must be, a name that is too long
        raise UnreadableError(f"its files cannot be written ({error})") from None


def _is_test_module(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return name.endswith(".py") and (name.startswith("test_") or name.endswith("_test.py"))


def _mentions(text: bytes, names: set[str]) -> bool:
    words = set(re.findall(rb"\w+", text))
    return any(name.encode() in words for name in names)
