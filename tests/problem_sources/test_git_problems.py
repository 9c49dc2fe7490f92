"""The source `git` from end to end: every kind of commit, a killed walk, and the problem set."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError
from coral_core.problem_sources import load_problems
from coral_core.problem_sources.history import load_git
from coral_core.problem_sources.history.fix import CommitOutcome, Reason
from coral_core.problem_sources.history.history_problems import HISTORY, MUTANT, RIGHT, provenance
from coral_core.problem_sources.history.walk import walk
from coral_core.problem_sources.leak_guard import leaks
from coral_core.problem_sources.source_conformance import complaints
from coral_core.problems.problem import ProblemSet
from tests.problem_sources.repositories import DAY, Builder

pytestmark = pytest.mark.usefixtures("home")
LIKE = Path(__file__).parent / "package_like"
SIZES = {"fitness": 6, "retention": 2, "monitor": 0, "held_out": 5, "pairs": 8}
CODE = """\
LIMIT = 10

def clamp(n, low, high):
    return max(low, max(n, high))

def average(numbers):
    return sum(numbers) / len(numbers) - 1

def spell(n):
    return ", ".join(str(digit) for digit in range(n + 1))

def shorten(text, width):
    return text[:width]

def shout(text):
    return text.upper()

def todo(text):
    raise NotImplementedError

class Box:
    def put(self, n):
        return n
"""
TESTS = {
    "clamp": "[clamp(n, 0, 5) for n in range(-3, 9)] == [0, 0, 0, 0, 1, 2, 3, 4, 5, 5, 5, 5]",
    "average": "[average([n, n + 2, 1]) for n in range(8)] == [(2 * n + 3) / 3 for n in range(8)]",
    "spell": "[spell(n) for n in range(8)] == ['', '0', '0, 1', '0, 1, 2', '0, 1, 2, 3'] + [', '.join('01234567'[:n]) for n in (5, 6, 7)]",
    "shorten": "[shorten('abcdefgh', n) for n in range(1, 9)] == ['a', 'ab'] + ['abcdefgh'[:n - 1] + '…' for n in range(3, 8)] + ['abcdefgh']",
    "todo": "[todo(c) for c in 'abcdefgh'] == list('ABCDEFGH')",
}
EDITS = {
    "clamp": ("max(n, high)", "min(n, high)"),
    "average": (" - 1\n", "\n"),
    "spell": ("range(n + 1)", "range(n)"),
    "shorten": ("text[:width]", "text[:width] if len(text) <= width or width < 3 else text[:width - 1] + '…'"),
    "todo": ("raise NotImplementedError", "return text.upper()"),
}


def module_of_tests(*names: str) -> str:
    return "from pkg.numbers import *\n\n\n" + "\n\n".join(
        f"def test_{name}():\n    assert {TESTS[name]}\n" for name in names
    )


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """A commit of every kind; its message is what it is."""
    builder = Builder(tmp_path_factory.mktemp("everything") / "repository")
    code = CODE

    def edit(name: str) -> str:
        nonlocal code
        assert EDITS[name][0] in code
        code = code.replace(*EDITS[name])
        return code

    module, tests = "pkg/numbers.py", "tests/test_numbers.py"
    builder.commit("the first", {"pkg/__init__.py": "", module: code, tests: "def test():\n    pass\n"})
    builder.commit("a fix", {module: edit("clamp"), tests: module_of_tests("clamp")})
    builder.commit("a test before its fix", {"tests/test_more.py": module_of_tests("average")})
    builder.commit("a fix without a test", {module: edit("average")})
    builder.commit("words", {"README": "words"})
    code = code.replace("LIMIT = 10", "LIMIT = 11")
    builder.commit("a constant", {module: code})
    code = code.replace("return sum(numbers)", "total = sum(numbers)\n    return total")
    builder.commit("a refactoring", {module: code})
    builder.git("mv", tests, "tests/test_renamed.py")
    builder.commit(
        "a fix with renamed tests", {module: edit("spell"), "tests/test_renamed.py": module_of_tests("clamp", "spell")}
    )
    builder.commit("a syntax error", {module: code + "def (:\n"})
    builder.commit("the syntax error repaired", {module: code})
    code = code.replace("total = ", "total = 0 + ")
    builder.commit("does not import", {module: "import no_such_module\n" + code})
    code = code.replace("def shorten", "def cut")
    builder.commit("a new name", {module: code})
    code = code.replace("def cut", "def shorten")
    builder.commit("the old name", {module: code})
    code = code.replace("return n\n", "return [n]\n")
    builder.commit(
        "a method",
        {
            module: code,
            "tests/test_box.py": "from pkg.numbers import Box\n\n\ndef test():\n    assert Box().put(1) == [1]\n",
        },
    )
    builder.commit("a stub filled", {module: edit("todo"), "tests/test_todo.py": module_of_tests("todo")})
    builder.git("checkout", "--quiet", "-b", "side", "HEAD~1")
    builder.commit("beside", {"beside.txt": "a"})
    builder.git("checkout", "--quiet", "main")
    builder.git("merge", "--quiet", "--no-ff", "--message", "a merge", "side")
    builder.days += 1
    end = "import os\nos._exit(3)\n"
    builder.commit(
        "tests that end", {module: code.replace("    return [n]", "    return (n)"), "tests/conftest.py": end}
    )
    builder.commit("no tests that end", {"tests/conftest.py": None, module: code})
    builder.commit(
        "a fix at the end",
        {module: edit("shorten"), "tests/test_short.py": module_of_tests("shorten")},
    )
    code = code.replace("return text.upper()\n\ndef todo", "return text.upper() + '!'\n\ndef todo")
    idle = "from pkg.numbers import shout\n\n\ndef test():\n    for text in 'abcdefgh':\n        shout(text)\n"
    builder.commit("a test that asserts nothing", {module: code, "tests/test_shout.py": idle})
    builder.git("mv", module, "pkg/figures.py")
    builder.commit("a moved file")
    return builder


def config(path: Path, **keys: object) -> ProblemsConfig:
    history = {"workers": 2, "seconds": 300}
    return ProblemsConfig.model_validate({"source": "git", "path": str(path), **SIZES, "history": history, **keys})


@pytest.mark.slow(reason="two test runs for each of twelve commits")
def test_every_commit_is_a_problem_or_named(everything: Builder) -> None:
    history = walk(config(everything.path))
    found = {outcome.subject: outcome for outcome in history.outcomes}
    assert {subject: outcome.reason for subject, outcome in found.items()} == {
        "the first": Reason.FIRST,
        "a fix": None,
        "a test before its fix": Reason.NO_CODE,
        "a fix without a test": None,
        "words": Reason.NO_CODE,
        "a constant": Reason.NO_FUNCTION,
        "a refactoring": Reason.ALIKE,
        "a fix with renamed tests": None,
        "a syntax error": Reason.UNPARSABLE,
        "the syntax error repaired": Reason.UNPARSABLE,
        "does not import": Reason.NONE_PASSES,
        "a new name": Reason.RENAMED,
        "the old name": Reason.RENAMED,
        "a method": None,
        "a stub filled": Reason.UNUSABLE,
        "beside": Reason.NO_CODE,
        "a merge": Reason.MERGE,
        "tests that end": Reason.NO_TESTS_RUN,
        "no tests that end": None,
        "a fix at the end": None,
        "a test that asserts nothing": Reason.PASSES_BEFORE,
        "a moved file": Reason.NO_FUNCTION,
    }
    assert "does nothing before the commit" in found["a stub filled"].refused[0]
    assert "no_such_module" in found["does not import"].detail
    assert found["a moved file"].renames == (("pkg/numbers.py", "pkg/figures.py"),)
    assert found["a moved file"].left_out == ()
    assert sum(history.reasons.values()) + 6 == len(history.outcomes) == 22
    fixes = {
        name: outcome for outcome in found.values() for fix in outcome.fixes for name in [fix.function.definition.key]
    }
    assert fixes["pkg/numbers.py:spell"].failing == ("tests/test_renamed.py::test_spell",)
    assert fixes["pkg/numbers.py:average"].failing == ("tests/test_more.py::test_average",)
    assert fixes["pkg/numbers.py:Box.put"].failing == ("tests/test_box.py::test",)


@pytest.mark.slow(reason="waits for a test that hangs to be ended, twice")
def test_a_test_that_hangs_costs_its_limit(tmp_path: Path) -> None:
    builder = Builder(tmp_path / "hanging")
    hang = "import time\n\nfrom pkg.numbers import clamp\n\n\ndef test():\n    clamp(1, 0, 2)\n    time.sleep(9999)\n"
    builder.commit("first", {"pkg/__init__.py": "", "pkg/numbers.py": CODE, "tests/test_hang.py": hang})
    builder.commit(
        "fix", {"pkg/numbers.py": CODE.replace(*EDITS["clamp"]), "tests/test_clamp.py": module_of_tests("clamp")}
    )
    outcome = walk(config(builder.path, history={"seconds": 60})).outcomes[0]
    assert outcome.reason in (None, Reason.TIME)
    assert outcome.failing in (("tests/test_clamp.py::test_clamp",), ())


def build_shop(path: Path) -> Builder:
    """The package of the tests of `package`, in which fixes of three functions were made."""
    builder = Builder(path)
    shutil.copytree(LIKE, builder.path, dirs_exist_ok=True)
    code = CODE
    builder.commit("first", {"pkg/__init__.py": "", "pkg/numbers.py": code})
    for number, name in enumerate(("clamp", "average", "spell"), 1):
        code = code.replace(*EDITS[name])
        builder.commit(
            f"Fix {name}", {"pkg/numbers.py": code, f"tests/test_{name}.py": module_of_tests(name)}, day=100 * number
        )
    return builder


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return build_shop(tmp_path_factory.mktemp("shop") / "repository")


@pytest.fixture(scope="module")
def loaded(shop: Builder) -> ProblemSet:
    return load_git(config(shop.path))


@pytest.mark.slow(reason="runs the tests of four commits")
def test_the_problem_set(shop: Builder, loaded: ProblemSet) -> None:
    assert complaints(load_git, config(shop.path)) == []
    assert leaks(loaded, near=True) == []
    assert load_problems(config(shop.path)) == loaded
    origins = {split: [problem.source for problem in loaded.split(split)] for split in ("fitness", "held_out")}
    assert origins["held_out"].count(HISTORY) == 1 and origins["held_out"].count(MUTANT) == 4
    assert origins["fitness"].count(HISTORY) == 1 and origins["fitness"].count(RIGHT) == 2
    assert len(loaded.pairs) == 8
    (held_out,) = [problem for problem in loaded.held_out if problem.source == HISTORY]
    (fitness,) = [problem for problem in loaded.fitness if problem.source == HISTORY]
    assert (held_out.entry_point, fitness.entry_point) == ("spell", "average")
    assert any(pair.buggy == CODE.split("\n\n")[1] for pair in loaded.pairs)
    assert loaded.notes[0].startswith("held-out: 1 fixes from history of 2020-10-27 to 2020-10-27, 4 mutants")
    assert any("Time runs forward" in note for note in loaded.notes)


@pytest.mark.slow(reason="uses the set of the test before")
def test_provenance_stays_on_this_machine(
    shop: Builder, loaded: ProblemSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (problem,) = [problem for problem in loaded.held_out if problem.source == HISTORY]
    commit = provenance(problem.problem_id)
    assert isinstance(commit, CommitOutcome)
    assert (commit.message, commit.commit) == ("Fix spell", shop.git("rev-parse", "HEAD"))
    assert commit.author_time == 1_577_836_800 + 300 * DAY
    text = loaded.model_dump_json(exclude={"notes"})
    assert "Fix spell" not in text and commit.commit not in text
    assert provenance(loaded.held_out[-1].problem_id) is None
    monkeypatch.setenv("CORAL_HOME", str(tmp_path))
    assert provenance(problem.problem_id) is None


@pytest.mark.slow(reason="uses the set of the tests before")
def test_more_than_there_is_is_refused(shop: Builder, loaded: ProblemSet) -> None:
    with pytest.raises(ConfigError, match=r"3 fixes in 4 commits .* can supply held_out: \d+ \(asked: 900\)"):
        load_git(config(shop.path, held_out=900))


@pytest.mark.slow(reason="runs the tests of two commits in a process that is killed")
def test_a_killed_walk_goes_on(shop: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORAL_HOME", str(tmp_path))
    program = (
        "import sys\nfrom tests.problem_sources.test_git_problems import config\nfrom coral_core.problem_sources.history.walk import walk\n"
        "walk(config(sys.argv[1], history={'workers': 1}), lambda *facts: print(*facts, flush=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(shop.path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1 4 1\n"
        os.killpg(process.pid, signal.SIGKILL)
    (kept,) = [path for path in (tmp_path / "history").iterdir() if not path.name.startswith(".")]
    stamp = kept.stat().st_mtime_ns
    seen: list[tuple[int, ...]] = []
    history = walk(config(shop.path, history={"workers": 1, "max_commits": 2}), lambda *facts: seen.append(facts))
    assert seen == [(1, 2, 1), (2, 2, 2)] and history.problems == 2
    assert kept.stat().st_mtime_ns == stamp
