"""Repositories are read without running anything that they bring along."""

import os
import shutil
from pathlib import Path

import pytest

from coral_core.errors import ConfigError
from coral_core.problem_sources.history.repository import LARGEST_FILE, Change, Repository, UnreadableError
from tests.problem_sources.repositories import Builder

ONE = {"pkg/one.py": "def f(a):\n    return a\n", "README": "one\n"}


@pytest.fixture
def made(tmp_path: Path) -> Builder:
    builder = Builder(tmp_path / "repository")
    builder.commit("first", {**ONE})
    return builder


def read_everything(path: Path, revision: str = "HEAD") -> tuple[list[str], list[str]]:
    """Messages and paths, by way of every operation."""
    with Repository(path) as repository:
        newest = repository.resolve(revision)
        commits = repository.newest(newest, 50)
        for commit in commits:
            if len(commit.parents) == 1:
                repository.changes(commit)
        files = repository.tree(newest).files
        repository.contents(list(files.values()))
    return [commit.message for commit in commits], sorted(files)


def test_commits_are_read_newest_first_with_dates_and_messages(made: Builder) -> None:
    made.commit("second\n\nmore", {"pkg/one.py": "def f(a):\n    return a + 1\n"})
    with Repository(made.path) as repository:
        second, first = repository.newest(repository.resolve("HEAD"), 10)
        assert (first.message, second.message) == ("first", "second\n\nmore")
        assert second.author_time - first.author_time == 86_400
        assert second.parents == (first.name,) and first.parents == ()
        (change,) = repository.changes(second)
        assert (change.before, change.after) == ("pkg/one.py", "pkg/one.py")
        assert repository.contents([change.old])[change.old] == b"def f(a):\n    return a\n"
        assert [commit.message for commit in repository.newest(first.name, 10)] == ["first"]


def test_hooks_and_configuration_of_the_repository_do_nothing(
    made: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every program that a configuration or a hook can name would leave a trace."""
    trace = tmp_path / "trace"
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$0 $@" >> {trace}\ncat\n')
    program.chmod(0o755)
    made.commit("attributes", {".gitattributes": "*.py diff=evil filter=evil\n* export-subst\n"})
    made.commit("change", {"pkg/one.py": "def f(a):\n    return a + 2\n"})
    lines = {
        "core.fsmonitor": program, "core.sshCommand": program, "core.pager": program, "core.editor": program,
        "core.askPass": program, "core.gitProxy": program, "core.hooksPath": tmp_path, "core.alternateRefsCommand": program,
        "diff.external": program, "diff.evil.textconv": program, "diff.evil.command": program,
        "filter.evil.smudge": program, "filter.evil.clean": program, "filter.evil.process": program,
        "tar.tar.command": program, "credential.helper": program, "uploadpack.packObjectsHook": program,
        "pager.rev-list": program, "pager.ls-tree": program, "alias.rev-list": f"!{program}", "alias.cat-file": f"!{program}",
        "extensions.partialClone": "origin", "remote.origin.url": f"ext::{program}", "remote.origin.promisor": "true",
        "gpg.program": program, "log.showSignature": "true", "protocol.ext.allow": "always",
    }  # fmt: skip
    for key, value in lines.items():
        made.git("config", key, str(value))
    hooks = made.path / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-checkout", "post-index-change", "reference-transaction", "fsmonitor-watchman", "pre-auto-gc"):
        shutil.copy(program, hooks / name)
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(program))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(program))
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text(f"[core]\n\tfsmonitor = {program}\n[diff]\n\texternal = {program}\n")
    before = sorted(str(path) for path in made.path.rglob("*"))
    assert read_everything(made.path)[0] == ["change", "attributes", "first"]
    assert not trace.exists()
    assert sorted(str(path) for path in made.path.rglob("*")) == before
    made.git("diff", GIT_DIR=str(made.path / ".git"))  # the trap is armed: plain git falls into it
    assert trace.exists()


def test_a_missing_object_is_not_fetched(made: Builder, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    made.git("config", "remote.origin.url", f"ext::sh -c 'touch {trace}'")
    made.git("config", "extensions.partialClone", "origin")
    blob = made.git("rev-parse", "HEAD:README")
    (made.path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with Repository(made.path) as repository:
        head = repository.resolve("HEAD")
        with pytest.raises(UnreadableError, match="partial clone"):
            repository.contents([blob])
        assert "README" not in repository.tree(head).files or repository.newest(head, 3)
    assert not trace.exists()


def test_bare_repositories_worktrees_branches_and_tags(made: Builder, tmp_path: Path) -> None:
    made.git("tag", "--annotate", "v1", "--message", "one")
    made.git("branch", "old")
    made.commit("second")
    made.git("clone", "--quiet", "--bare", str(made.path), str(tmp_path / "bare"))
    made.git("worktree", "add", "--quiet", "-b", "side", str(tmp_path / "side"))
    assert read_everything(tmp_path / "bare")[0] == ["second", "first"]
    assert read_everything(tmp_path / "side")[0] == ["second", "first"]
    for revision in ("v1", "old", made.git("rev-parse", "old")):
        assert read_everything(made.path, revision)[0] == ["first"]
    made.git("pack-refs", "--all")
    assert read_everything(made.path, "old")[0] == ["first"]
    with pytest.raises(ConfigError, match=r"problems.history.revision: nosuch: no such branch, tag or commit"):
        read_everything(made.path, "nosuch")


def test_sha256(tmp_path: Path) -> None:
    builder = Builder(tmp_path / "long", "--object-format=sha256")
    assert len(builder.commit("first", {**ONE})) == 64
    assert read_everything(builder.path) == (["first"], ["README", "pkg/one.py"])


def test_places_without_a_history_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no git repository"):
        Repository(tmp_path)
    builder = Builder(tmp_path / "empty")
    with pytest.raises(ConfigError, match="its HEAD names no commit"), Repository(builder.path) as repository:
        repository.resolve("HEAD")


def test_a_git_file_that_points_elsewhere_is_not_followed(made: Builder, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / ".git").write_text(f"gitdir: {made.path}/.git\n")
    with pytest.raises(ConfigError, match="lies elsewhere"):
        Repository(trap)
    (trap / ".git").unlink()
    (trap / ".git").symlink_to(made.path / ".git")
    with pytest.raises(ConfigError, match=r"\.git is a symbolic link"):
        Repository(trap)


def test_a_shallow_clone_names_the_commits_at_its_edge(made: Builder, tmp_path: Path) -> None:
    for number in range(3):
        made.commit(f"number {number}")
    made.git("clone", "--quiet", "--depth=2", f"file://{made.path}", str(tmp_path / "shallow"))
    with Repository(tmp_path / "shallow") as repository:
        newest, edge = repository.newest(repository.resolve("HEAD"), 10)
        assert newest.name not in repository.shallow and edge.name in repository.shallow


def test_what_cannot_be_copied_is_named(made: Builder, tmp_path: Path) -> None:
    other = Builder(tmp_path / "other")
    inner = other.commit("inner")
    os.symlink("/etc/passwd", made.path / "link")
    odd = os.fsdecode(b"odd-\xff.py")
    made.commit("odd", {"large.bin": b"\0" * (LARGEST_FILE + 1), odd: "a = 1\n"})
    made.git("update-index", "--add", "--cacheinfo", f"160000,{inner},vendored")
    made.git("commit", "--quiet", "--message", "submodule")
    with Repository(made.path) as repository:
        tree = repository.tree(repository.resolve("HEAD"))
    assert sorted(tree.files) == ["README", "pkg/one.py"]
    assert sorted(text.partition(": ")[2] for text in tree.left_out) == [
        "a submodule", "a symbolic link", "its path is not UTF-8", "larger than 1 MiB",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["../evil.py", "/evil.py", ".git/hooks/evil", "a/../../evil.py", ".GIT/x", "a\\..\\b"])
def test_paths_that_lead_elsewhere_are_left_out(made: Builder, name: str) -> None:
    from coral_core.problem_sources.history.repository import _not_copied

    assert _not_copied("100644", "blob", "3", name.encode(), name) == "its path leads elsewhere"


def test_renamed_files_keep_both_names(made: Builder) -> None:
    made.git("mv", "pkg/one.py", "pkg/two.py")
    made.commit("renamed", {"pkg/two.py": "def f(a):\n    return a\n\n\n"})
    with Repository(made.path) as repository:
        (change,) = repository.changes(repository.newest(repository.resolve("HEAD"), 1)[0])
    assert isinstance(change, Change) and (change.before, change.after) == ("pkg/one.py", "pkg/two.py")


def test_odd_commits_are_read(made: Builder) -> None:
    """A message in Latin-1, an unreadable date, and one far in the future."""
    made.git("config", "i18n.commitEncoding", "ISO-8859-1")
    (made.path / "message").write_bytes(b"caf\xe9\n")
    made.git("commit", "--quiet", "--allow-empty", "--file", str(made.path / "message"))
    tree = made.git("rev-parse", "HEAD^{tree}")
    raw = made.path / "raw"
    raw.write_text(
        f"tree {tree}\nparent {made.git('rev-parse', 'HEAD')}\nauthor A <a@b> 99999999999 +0000\ncommitter A <a@b> 1 +0000\n\nlate\n"
    )
    late = made.git("hash-object", "-t", "commit", "-w", str(raw))
    made.git("update-ref", "refs/heads/main", late)
    with Repository(made.path) as repository:
        commits = {commit.message: commit.author_time for commit in repository.newest(repository.resolve("HEAD"), 10)}
    assert set(commits) == {"late", "café", "first"} and commits["late"] == -1
