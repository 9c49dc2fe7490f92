"""`coral init --from DIR --history`: sizes fit the fixes that are found, and what cannot be used is refused before anything is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from coral_core.config import load_config
from coral_core.config.tree import HistoryConfig, ProblemsConfig
from coral_core.errors import ConfigError
from coral_core.jobs.job_content import problem_set
from coral_core.problem_sources.history import history_problems
from coral_core.problem_sources.history.fix import CommitOutcome, Reason
from coral_core.problem_sources.history.history_problems import HISTORY
from coral_core.problem_sources.history.walk import History, extent
from coral_core.problem_sources.package.cache import Recording
from coral_core.problem_sources.package.cases import UsableFunction
from flows.cli import own_bugs, own_history
from flows.cli.init import init
from tests.problem_sources.repositories import Builder
from tests.problem_sources.test_git_problems import build_shop
from tests.problem_sources.test_time_splits import fixed, text, usable

pytest.importorskip("tokenizers")
MERGE = CommitOutcome(commit="b" * 40, author_time=86_400, message="Merge", reason=Reason.MERGE)
ALIKE = CommitOutcome(commit="c" * 40, author_time=86_400, message="Tidy", reason=Reason.ALIKE)
Pretend = Callable[..., Path]


def recording(*functions: UsableFunction, passed: int = 3) -> Recording:
    return Recording(content="", passed=passed, failed=(), notes=("why none",), usable=functions, refused=())


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Makes a repository of which these outcomes and functions are what a walk and the tests give."""

    def made(*outcomes: CommitOutcome, functions: tuple[UsableFunction, ...] = ()) -> Path:
        builder = Builder(tmp_path / "clone")
        history = History(revision=builder.commit("first"), outcomes=outcomes)
        found = recording(*functions)
        monkeypatch.setattr(own_history, "recorded", lambda *arguments: found)
        monkeypatch.setattr(history_problems, "mutants", lambda *arguments: (found, ""))
        for module in (own_history, history_problems):
            monkeypatch.setattr(module, "walk", lambda *arguments: history)
        return builder.path

    return made


def dated(count: int) -> list[CommitOutcome]:
    return [
        fixed(number, day=number + 1, commit=f"{number + 1:02x}".ljust(40, "0"), message=f"Repair f{number}")
        for number in range(count)
    ]


def mutated(numbers: range) -> tuple[UsableFunction, ...]:
    return tuple(usable(number, bugs=(text(number, 5), text(number, 6))) for number in numbers)


def test_a_configuration_fits_what_the_walk_found(
    pretend: Pretend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = pretend(*dated(40), MERGE, functions=mutated(range(100, 130)))
    file = tmp_path / "own.yaml"
    init(file, from_=clone, history=True, commits=50)
    shown = capsys.readouterr().out
    assert "010000000000" in shown and "1970-01-02" in shown and "m.py:f0" in shown and "Repair f0" in shown
    assert "40 problems in 41 commits" in shown and "1 commits: a merge commit" in shown
    assert "held-out: 10 fixes from history of" in shown and "few fixes" not in shown
    config = load_config(file, [])
    problems, walked = config.problems, config.problems.history
    assert (problems.source, problems.path, walked.max_commits) == ("git", str(clone), 50)
    assert walked.revision == extent(ProblemsConfig(source="git", path=str(clone))).revision
    found = problem_set(problems)
    assert sum(problem.source == HISTORY for problem in found.held_out) == 10
    assert len(found.held_out) == problems.held_out and len(found.pairs) == problems.pairs
    assert "held_out: " in file.read_text() and "# 10 fixes, then mutants; sealed" in file.read_text()
    assert all(" #" in line for line in file.read_text().splitlines() if line.startswith("  ") and "fixes" in line)
    assert yaml.safe_load(file.read_text())["problems"]["history"] == walked.model_dump(
        include={"revision", "max_commits", "seconds"}
    )


def test_few_fixes_are_said_with_what_to_do(
    pretend: Pretend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unseen = MERGE.model_copy(update={"reason": Reason.NONE_PASSES})
    clone = pretend(*dated(3), unseen, functions=mutated(range(100, 130)))
    file = tmp_path / "own.yaml"
    init(file, from_=clone, history=True, commits=4)
    shown = capsys.readouterr().out
    assert "note: few fixes: 1 of the held-out problems are real bugs; with fewer than 6 no difference" in shown
    assert (
        "Walk further (--commits 20); or give an interpreter that runs the tests of 1 more commits (--python)" in shown
    )
    assert problem_set(load_config(file, []).problems).held_out
    init(file, from_=clone, history=True, force=True)
    assert "The whole history was walked. Give an interpreter" in capsys.readouterr().out


def test_a_monitor_split_is_left_out_where_there_are_too_few(pretend: Pretend, tmp_path: Path) -> None:
    functions = tuple(usable(n, bugs=tuple(text(n, version) for version in range(5, 15))) for n in (100, 101, 102))
    clone = pretend(*dated(1), functions=functions)
    init(tmp_path / "own.yaml", from_=clone, history=True)
    assert load_config(tmp_path / "own.yaml", []).problems.monitor == 0


def refused(file: Path, words: str, **options: Any) -> None:
    with pytest.raises(ConfigError, match=words):
        init(file, history=True, **options)
    assert not file.exists()


def long(outcome: CommitOutcome) -> CommitOutcome:
    """The same fix in a function of 5,000 more characters."""
    (fix,) = outcome.fixes
    comment = "\n" + "#" * 5000
    definition = fix.function.definition.model_copy(update={"text": fix.function.definition.text + comment})
    bugs = tuple(bug.model_copy(update={"source": bug.source + comment}) for bug in fix.function.bugs)
    function = fix.function.model_copy(update={"definition": definition, "bugs": bugs})
    return outcome.model_copy(update={"fixes": (fix.model_copy(update={"function": function}),)})


def test_a_history_without_usable_fixes_is_refused(pretend: Pretend, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    functions = mutated(range(100, 130))
    clone = pretend(MERGE, functions=functions)
    refused(file, "none of 1 commits changes the code of a function that exists before and after it", from_=clone)
    refused(file, "none of 2 commits is a fix that its tests show", from_=pretend(MERGE, ALIKE, functions=functions))
    refused(file, "can supply fitness: 0 .*The whole history was walked", from_=pretend(*dated(1)))
    refused(file, "all 1 fixes are of functions that are too long for .* coral-tiny.*--base-model", from_=pretend(long(dated(1)[0])))  # fmt: skip


def test_fixes_are_outliers_among_fixes_only(
    pretend: Pretend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mutants of many short functions do not make the fix of a long one an outlier; a fix without room is said to be left out."""
    clone = pretend(long(dated(1)[0]), *dated(9)[1:], functions=mutated(range(100, 130)))
    file = tmp_path / "own.yaml"
    init(file, from_=clone, history=True, base_model="nobody/no-such-model")
    assert load_config(file, []).problems.longest is not None
    assert "f0/010000000000 (" in capsys.readouterr().out
    few = [long(outcome) for outcome in dated(3)]
    init(file, from_=pretend(*few, functions=mutated(range(100, 130))), history=True, base_model="nobody/no-such-model", force=True)  # fmt: skip
    assert load_config(file, []).problems.longest is None


def test_places_without_a_history_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "own.yaml"
    (tmp_path / "plain").mkdir()
    refused(file, "--from .*plain: no git repository.*without --history", from_=tmp_path / "plain")
    refused(file, "no such directory", from_=tmp_path / "nowhere")
    empty = Builder(tmp_path / "empty")
    refused(file, "its HEAD names no commit", from_=empty.path)
    builder = Builder(tmp_path / "full")
    for number in range(4):
        builder.commit(f"number {number}", {"pkg/README": str(number)})
    refused(file, f"a folder of the repository {builder.path}", from_=builder.path / "pkg")
    for depth in (1, 3):
        builder.git(
            "clone", "--quiet", "--depth", str(depth), f"file://{builder.path}", str(tmp_path / f"depth{depth}")
        )
    refused(file, "a shallow clone, whose history ends after 0 commits.*--unshallow$", from_=tmp_path / "depth1")
    refused(file, "ends after 2 commits.*--unshallow, or walk what is there: --commits 2", from_=tmp_path / "depth3")
    fewer = ProblemsConfig(source="git", path=str(tmp_path / "depth3"), history=HistoryConfig(max_commits=2))
    assert extent(fewer).before_end is None
    refused(file, "--commits 0: not from 1 to 100000", from_=builder.path, commits=0)
    monkeypatch.setattr(own_history, "recorded", lambda *arguments: recording(passed=0))
    refused(file, "no test passes at commit .*--python.*\nwhy none", from_=builder.path)


def test_tests_and_functions_are_looked_for_in_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORAL_HOME", str(tmp_path / "home"))
    file = tmp_path / "own.yaml"
    builder = Builder(tmp_path / "untested")
    builder.commit("no code", {"README": "a"})
    refused(file, "the tests cannot be run at commit .*no Python file in it.*add tests", from_=builder.path)
    builder.commit("code", {"pkg/one.py": "def f(a):\n    return a\n"})
    refused(file, "no test passes at commit .*add tests", from_=builder.path)
    monkeypatch.setattr(own_history, "recorded", lambda *arguments: recording())
    refused(file, "none of 2 commits changes the code of a function", from_=builder.path)


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    bugs = tmp_path / "bugs.jsonl"
    bugs.write_text("")
    refused(file, "--history: no repository is given")
    refused(file, "a file of bugs has no history", from_=bugs)
    refused(file, "--why f: .*coral problems history", from_=tmp_path, why="f")
    with pytest.raises(ConfigError, match="--commits 3: no history is walked"):
        init(file, from_=tmp_path, commits=3)


def test_a_repository_is_mentioned_without_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(own_bugs, "configuration", lambda *arguments: "name: own\n")
    builder = Builder(tmp_path / "clone")
    init(tmp_path / "own.yaml", from_=builder.path)
    assert capsys.readouterr().out.count(f"--from {builder.path} --history") == 1
    (tmp_path / "plain").mkdir()
    init(tmp_path / "other.yaml", from_=tmp_path / "plain")
    assert "--history" not in capsys.readouterr().out


@pytest.mark.slow(
    reason="runs the tests of four commits; test_a_configuration_fits_what_the_walk_found covers the command"
)
def test_from_a_repository_to_judged_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli.problems import check

    monkeypatch.setenv("CORAL_HOME", str(tmp_path / "home"))
    builder = build_shop(tmp_path / "repository")
    file = tmp_path / "own.yaml"
    init(file, from_=builder.path, history=True)
    shown = capsys.readouterr().out
    assert "3 problems in 4 commits" in shown and "2020-10-27  pkg/numbers.py:spell" in shown
    assert "held-out: 1 fixes from history of 2020-10-27" in shown
    check("git", config=file)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "home" / "history").iterdir()}
    init(file, from_=builder.path, history=True, force=True)
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "home" / "history").iterdir()}
