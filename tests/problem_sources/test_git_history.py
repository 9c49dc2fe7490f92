"""The source `git`: commits whose tests fail before and pass after become problems; all others are counted by reason."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError
from coral_core.problem_sources import find_problems
from coral_core.problem_sources.history import history_problems, load_git
from coral_core.problem_sources.history import walk as walk_module
from coral_core.problem_sources.history.fix import CommitOutcome, Limits, Reason
from coral_core.problem_sources.history.walk import History, walk
from coral_core.problem_sources.package.cache import Recording
from coral_core.problems.problem import ProblemSet
from tests.problem_sources.repositories import Builder
from tests.problem_sources.test_time_splits import fixed, text, usable

LIKE = Path(__file__).parent / "package_like"
RIGHT = "def clamp(n, low, high):\n    return max(low, min(n, high))\n"
WRONG = "def clamp(n, low, high):\n    return max(low, max(n, high))\n"
TEST = """\
import pytest
from pkg.numbers import clamp

@pytest.mark.parametrize("n", range(-3, 9))
def test_clamp(n):
    assert clamp(n, 0, 5) == sorted([0, n, 5])[1]
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CORAL_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"


def config(path: Path, **keys: object) -> ProblemsConfig:
    names = ("since", "max_commits", "revision", "seconds", "workers")
    limits = {"workers": 1} | {key: keys.pop(key) for key in names if key in keys}
    return ProblemsConfig.model_validate({"source": "git", "path": str(path), "history": limits, **keys})


def by_message(history: History) -> dict[str, CommitOutcome]:
    return {outcome.subject: outcome for outcome in history.outcomes}


def test_a_fix_becomes_a_problem(tmp_path: Path) -> None:
    builder = Builder(tmp_path / "shop")
    builder.commit(
        "first", {"pkg/__init__.py": "", "pkg/numbers.py": WRONG, "other/test_slow.py": "import time\ntime.sleep(99)\n"}
    )
    fix = builder.commit(
        "Clamp from above\n\nIt took the larger one.", {"pkg/numbers.py": RIGHT, "tests/test_clamp.py": TEST}
    )
    history = walk(config(builder.path, seconds=60))
    found = by_message(history)
    assert found["first"].reason == Reason.FIRST
    outcome = found["Clamp from above"]
    assert (outcome.reason, outcome.commit, outcome.author_time) == (None, fix, 1_577_836_800 + 2 * 86_400)
    (one,) = outcome.fixes
    assert one.function.definition.source == RIGHT.strip() and one.function.bugs[0].source == WRONG.strip()
    assert one.function.recorded == len(one.function.cases) == 12
    assert all(name.startswith("tests/test_clamp.py::test_clamp[") for name in outcome.failing)
    assert outcome.message.endswith("It took the larger one.")


class Examined:
    """Takes the place of the examination of a commit."""

    def __init__(self, reason: Callable[[str], Reason | None]) -> None:
        self.reason, self.commits = reason, list[str]()

    def __call__(self, repository: object, commit: object, judge: object, limits: Limits) -> CommitOutcome:
        message = commit.message  # type: ignore[attr-defined]
        self.commits.append(message)
        return CommitOutcome(
            commit=commit.name,  # type: ignore[attr-defined]
            author_time=commit.author_time,  # type: ignore[attr-defined]
            message=message,
            reason=self.reason(message),
            seconds=limits.seconds,
        )


@pytest.fixture
def ten(tmp_path: Path) -> Builder:
    builder = Builder(tmp_path / "ten")
    for number in range(10):
        builder.commit(f"number {number}")
    return builder


def test_a_walk_is_bounded_and_repeats_nothing(ten: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    examined = Examined(lambda message: Reason.NO_CODE)
    monkeypatch.setattr(walk_module, "examine", examined)
    seen: list[tuple[int, int, int]] = []
    first = walk(config(ten.path, max_commits=3), lambda *facts: seen.append(facts))
    assert [outcome.message for outcome in first.outcomes] == ["number 9", "number 8", "number 7"]
    assert seen == [(1, 3, 0), (2, 3, 0), (3, 3, 0)]
    walk(config(ten.path, max_commits=5))
    assert sorted(examined.commits) == [f"number {number}" for number in range(5, 10)]
    walk(config(ten.path, since="2020-01-04"))
    assert sorted(examined.commits) == [f"number {number}" for number in range(2, 10)]
    assert first.reasons == {"changes no code of the package": 3}


def test_outcomes_that_depend_on_the_machine_are_examined_again(ten: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    examined = Examined(lambda message: Reason.TIME if message == "number 9" else Reason.MERGE)
    monkeypatch.setattr(walk_module, "examine", examined)
    walk(config(ten.path, max_commits=2))
    walk(config(ten.path, max_commits=2))
    assert len(examined.commits) == 2
    walk(config(ten.path, max_commits=2, seconds=200))
    assert examined.commits[2:] == ["number 9"]
    monkeypatch.setattr(walk_module, "distributions", lambda: ())
    walk(config(ten.path, max_commits=2, seconds=200))
    assert examined.commits[3:] == ["number 9"]


def test_a_damaged_cache_is_examined_again(ten: Builder, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examined = Examined(lambda message: Reason.MERGE)
    monkeypatch.setattr(walk_module, "examine", examined)
    before = walk(config(ten.path, max_commits=4))
    for path, damage in zip(sorted((home / "history").iterdir()), (b"", b"{}", b"\xff\0", None), strict=True):
        path.write_bytes(damage if damage is not None else next((home / "history").iterdir()).read_bytes())
    assert walk(config(ten.path, max_commits=4)) == before
    assert len(examined.commits) in (7, 8)


def test_a_folder_that_cannot_be_written_is_warned_about(
    ten: Builder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CORAL_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(walk_module, "examine", Examined(lambda message: Reason.MERGE))
    assert len(walk(config(ten.path, max_commits=3)).outcomes) == 3
    assert len([record for record in caplog.records if "cannot be kept" in record.message]) == 1


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"path": None}, "nothing given"),
        ({"path": "/nosuch"}, "no such directory"),
        ({"path": "/"}, "no git repository"),
        ({"revision": "v9"}, "problems.history.revision: v9: no such branch"),
    ],
)
def test_bad_places_are_refused(ten: Builder, keys: dict[str, object], words: str) -> None:
    keys = dict(keys)
    with pytest.raises(ConfigError, match=words):
        place = keys.pop("path", str(ten.path))
        walk(config(ten.path, **keys).model_copy(update={"path": place}))


@pytest.mark.parametrize("since", ["yesterday", "2020-1-1", "2020-13-01", "20200101"])
def test_since_is_a_date(since: str) -> None:
    with pytest.raises(ValueError, match="is no date"):
        config(Path("x"), since=since)


def test_history_keys_need_the_source() -> None:
    with pytest.raises(ValueError, match="history would not be read"):
        ProblemsConfig.model_validate({"history": {"max_commits": 3}})


def test_too_few_are_refused_with_the_reasons(ten: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk_module, "examine", Examined(lambda message: Reason.NO_CODE))
    with pytest.raises(ConfigError) as refused:
        load_git(config(ten.path))
    assert "can supply fitness: 0 (asked: 96)" in str(refused.value)
    assert "10 commits: changes no code of the package" in str(refused.value)
    assert "no mutants: the tests cannot be run" in str(refused.value)


def test_workers_examine_commits_at_a_time(ten: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3)

    def reason(message: str) -> Reason:
        together.wait(60)
        return Reason.NO_CODE

    monkeypatch.setattr(walk_module, "examine", Examined(reason))
    history = walk(config(ten.path, workers=3, max_commits=9))
    assert [outcome.message for outcome in history.outcomes] == [f"number {number}" for number in range(9, 0, -1)]


def test_names_and_lengths_are_selected_before_the_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits keep their sizes: other fixes and mutants fill them up."""
    outcomes = [fixed(number, number + 1, commit=f"{number + 1:02x}".ljust(40, "0")) for number in range(40)]
    functions = [usable(number, bugs=(text(number, 5), text(number, 6))) for number in range(100, 140)]
    recording = Recording(content="", passed=1, failed=(), notes=(), usable=tuple(functions), refused=())
    monkeypatch.setattr(history_problems, "walk", lambda config: History(revision="a" * 40, outcomes=tuple(outcomes)))
    monkeypatch.setattr(history_problems, "mutants", lambda *arguments: (recording, ""))
    sizes = {"fitness": 8, "retention": 3, "monitor": 2, "held_out": 10, "pairs": 20}

    def loaded(**keys: object) -> ProblemSet:
        found = find_problems(config(tmp_path, **{**sizes, **keys}))
        asked = {**sizes, **keys}
        counts = [len(found.fitness), len(found.monitor), len(found.held_out), len(found.pairs)]
        assert counts == [asked["fitness"] + asked["retention"], asked["monitor"], asked["held_out"], asked["pairs"]]  # type: ignore[operator]
        return found

    def ids(found: ProblemSet) -> list[str]:
        return [problem.problem_id for problem in (*found.fitness, *found.monitor, *found.held_out)]

    bound = sorted(len(outcome.fixes[0].function.definition.source) for outcome in outcomes)[25]
    short = loaded(longest=bound)
    texts = [text for p in (*short.fitness, *short.monitor, *short.held_out) for text in (p.buggy, p.reference)]
    assert max(map(len, [*texts, *(pair.buggy for pair in short.pairs)])) <= bound
    assert any("left out, longer than problems.longest" in note for note in short.notes)
    newest = next(name for name in ids(loaded()) if name.endswith("/280000000000"))
    assert newest.startswith("git/held_out/history/m.f39/")
    assert not any("f39" in name for name in ids(loaded(exclude=["280000000000"])))
    assert not any("/m.f39/" in name for name in ids(loaded(exclude=["m.f39"])))
    assert not any("/mutant/" in name for name in ids(loaded(exclude=["mutant"], pairs=15)))
    mutants_only = loaded(exclude=["history"], fitness=16, held_out=16)
    assert not any("/history/" in name for name in ids(mutants_only))
    assert not any("/right/" in name for name in ids(loaded(exclude=["right"], retention=0)))
    with pytest.raises(ConfigError, match="can supply fitness: 0"):
        loaded(include=["nothing"])
