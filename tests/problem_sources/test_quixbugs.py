"""The source `quixbugs`, on a small directory of our own in its layout; on a real clone with `make test-quixbugs`."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest

from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError, ProblemError
from coral_core.judge.judge import Judge
from coral_core.problem_sources import load_problems
from coral_core.problem_sources.quixbugs import load_quixbugs, missing
from coral_core.problem_sources.quixbugs_recorder import Recorder
from coral_core.problem_sources.quixbugs_table import EXCLUDED, PROGRAMS
from coral_core.problems import values
from coral_core.problems.problem import Problem, ProblemSet
from coral_core.scoring.objectives import bugfix

LIKE = Path(__file__).parent / "quixbugs_like"


def loaded(root: Path = LIKE) -> ProblemSet:
    return load_quixbugs(ProblemsConfig(source="quixbugs", path=str(root)))


def by_name(problems: ProblemSet) -> dict[str, Problem]:
    return {p.problem_id: p for split in (problems.fitness, problems.monitor, problems.held_out) for p in split}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LIKE, tmp_path / "clone"))


def test_each_kind_of_program_becomes_a_problem() -> None:
    problems = by_name(loaded())
    assert {name.removeprefix("quixbugs/") for name in problems if "/right/" not in name} == {
        "largest_gap",
        "running_totals",
        "paired_up",
        "cube_root",
        "count_routes",
        "drop_value",
    }
    assert [case.tolerance for case in problems["quixbugs/cube_root"].cases] == [0.01, 0.05, 0.001]
    routes = problems["quixbugs/count_routes"]
    assert [case.slow for case in routes.cases] == [False, False, True]
    assert routes.excluded == ("case 4: its test file skips it",)
    assert problems["quixbugs/drop_value"].variant == "graph"
    assert len(problems["quixbugs/drop_value"].cases) == 4


def test_what_trails_the_code_is_not_shown_to_the_model() -> None:
    problems = by_name(loaded())
    assert '"""' not in problems["quixbugs/largest_gap"].buggy
    assert "zip" not in problems["quixbugs/paired_up"].reference


def test_references_pass_and_buggy_versions_do_not() -> None:
    problems = [problem for problem in by_name(loaded()).values() if not problem.retention]
    with Judge() as judge:
        references = judge.judge_batch([(problem, problem.reference) for problem in problems])
        buggy = judge.judge_batch([(problem, problem.buggy) for problem in problems])
    assert [bugfix(verdict) for verdict in references] == [1.0] * len(problems)
    assert all(bugfix(verdict) < 1.0 for verdict in buggy)


def test_the_same_directory_gives_the_same_set() -> None:
    assert loaded() == loaded()


def test_right_functions_of_the_fitness_split_must_stay_right() -> None:
    rights = [problem for problem in loaded().fitness if problem.retention]
    assert rights
    assert all(problem.buggy == problem.reference and problem.bug_class == "none" for problem in rights)


def test_training_pairs_are_mutants_of_other_functions() -> None:
    problems = load_problems(ProblemsConfig(source="quixbugs", path=str(LIKE), pairs=40))
    assert len(problems.pairs) == 40
    assert problems.benchmark
    assert not problems.answers_of


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        ("python_programs/largest_gap.py", ConfigError, "python_programs/largest_gap.py missing"),
        ("python_testcases/test_cube_root.py", ConfigError, "test_cube_root.py missing"),
        ("python_testcases", ConfigError, "python_testcases/ missing"),
        ("json_testcases/paired_up.json:[[1]", ConfigError, "paired_up.json:1: not [inputs, expected] as JSON"),
        ("json_testcases/paired_up.json:", ConfigError, "paired_up.json: no test case in it"),
        ("correct_python_programs/paired_up.py:def other(): pass", ConfigError, "does not define paired_up"),
        ("correct_python_programs/paired_up.py:def paired_up(:", ConfigError, "paired_up.py:1: not Python"),
        ("correct_python_programs/drop_value.py:def drop_value(h, v): return h", ProblemError, "drop_value fails its"),
        (
            "correct_python_programs/drop_value.py:import os\nos._exit(3)\ndef drop_value(h, v): pass",
            ProblemError,
            "ended with exit code 3",
        ),
    ],
)
def test_a_spoiled_clone_is_refused_by_name(copy: Path, spoil: str, error: type[Exception], words: str) -> None:
    name, colon, content = spoil.partition(":")
    target = copy / name
    if colon:
        target.write_text(content)
    elif target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink()
    with pytest.raises(error) as caught:
        loaded(copy)
    assert words in str(caught.value)


def test_no_clone_and_an_empty_directory_say_how_to_get_one(tmp_path: Path) -> None:
    for path, words in ((None, "nothing given"), (str(tmp_path / "no"), "no such directory"), (str(tmp_path), "half")):
        (complaint,) = missing(path)
        assert words in complaint
        assert "coral problems fetch quixbugs" in complaint


def test_one_known_program_makes_all_forty_due(copy: Path) -> None:
    """A sparse clone of the real thing must not pass for a small benchmark."""
    shutil.copy(copy / "python_programs" / "largest_gap.py", copy / "python_programs" / "gcd.py")
    (complaint,) = missing(str(copy))
    assert "gcd.py" in complaint or "bitcount.py" in complaint
    assert "more)" in complaint or "more missing" in complaint


def test_the_committed_split() -> None:
    splits = [known.split for known in PROGRAMS.values()]
    assert (len(splits), splits.count("fitness"), splits.count("monitor"), splits.count("held_out")) == (40, 16, 8, 16)
    assert sum(known.graph for known in PROGRAMS.values()) == 9


def test_real_clone(capsys: pytest.CaptureFixture[str]) -> None:
    from flows.cli.problems import check

    root = os.environ.get("CORAL_QUIXBUGS")
    if not root:
        pytest.skip("needs a clone of QuixBugs: make test-quixbugs QUIXBUGS=dir")
    check("quixbugs", root=Path(root), as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 40
    assert all(row["reference"]["bugfix"] == 1.0 and row["buggy"]["bugfix"] < 1.0 for row in rows)
    assert {row["problem"].split("/")[1] for row in rows if any("case" in text for text in row["excluded"])} >= set(
        EXCLUDED
    )


@pytest.mark.parametrize(
    ("call", "tolerance", "relative"),
    [
        ("approx(expected, abs=input_data[-1])", 0.01, None),
        ("approx(expected, abs=0.25)", 0.25, None),
        ("approx(expected, abs=2)", 2.0, None),
        ("approx(expected)", 1e-12, 1e-6),
        ("approx(expected, rel=0.001)", 1e-12, 0.001),
        ("approx(expected, 0.001)", 1e-12, 0.001),
        ("approx(expected, rel=0.001, abs=0.5)", 0.5, 0.001),
    ],
)
def test_tolerances_are_those_of_the_test_file(copy: Path, call: str, tolerance: float, relative: float | None) -> None:
    tests = copy / "python_testcases" / "test_cube_root.py"
    tests.write_text(
        f"import pytest\n\ndef test_cube_root(input_data, expected):\n    assert cube_root(*input_data) == pytest.{call}\n"
    )
    (case, *_) = by_name(loaded(copy))["quixbugs/cube_root"].cases
    assert (case.tolerance, case.relative_tolerance) == (tolerance, relative)


def test_what_a_call_did_before_it_raised_is_recorded() -> None:
    def pop_twice(xs: list[int]) -> int:
        xs.pop()
        return xs.pop()

    recorder = Recorder(pop_twice, values)
    for given in ([1, 2], [1], [], [True], [1]):
        with contextlib.suppress(IndexError):
            recorder(given)
    assert recorder.calls == [
        {"arguments": [["l", [1, 2]]], "nodes": [], "value": 1, "mutated": [["l", []]], "nodes_after": []},
        {"arguments": [["l", [1]]], "nodes": [], "exception": "IndexError", "mutated": [["l", []]], "nodes_after": []},
        {"arguments": [["l", []]], "nodes": [], "exception": "IndexError"},
        {
            "arguments": [["l", [True]]],
            "nodes": [],
            "exception": "IndexError",
            "mutated": [["l", []]],
            "nodes_after": [],
        },
    ]
