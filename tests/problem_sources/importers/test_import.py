"""Importers from file to problems: rows of each layout that were written for these tests, and rows that must be refused."""

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from coral_core.config.tree import ProblemsConfig
from coral_core.errors import ConfigError, ProblemError
from coral_core.problem_sources.importers import Imported, import_problems
from coral_core.problem_sources.jsonl import load_jsonl
from coral_core.problem_sources.source_conformance import complaints
from coral_core.problems.problem import Problem


def loaded(found: Imported, folder: Path) -> dict[str, Problem]:
    """The problems of an import, read as the source `jsonl` reads them, by id."""
    file = folder / "imported.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in found.lines))
    problems = load_jsonl(ProblemsConfig(source="jsonl", path=str(file)))
    everything = (*problems.fitness, *problems.monitor, *problems.held_out)
    return {problem.problem_id.removeprefix("jsonl/"): problem for problem in everything}


def conform(found: Imported, folder: Path) -> list[str]:
    loaded(found, folder)
    return complaints(load_jsonl, ProblemsConfig(source="jsonl", path=str(folder / "imported.jsonl")))


def write(file: Path, *rows: object) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def row(number: int, solution: str, test: str, head: str = "def f(a):\n", **more: Any) -> dict[str, Any]:
    fields = {"task_id": f"HumanEval/{number}", "prompt": head, "canonical_solution": solution, "entry_point": "f"}
    return fields | {"test": f"def check(candidate):\n    {test}\n"} | more


HUMANEVAL = [
    row(0, "    return [root(x) for x in a]\n", "assert candidate([4, 9]) == [2, 3]\n    assert candidate([]) == []",
        "import math\n\n\ndef root(n):\n    return math.isqrt(n)\n\n\ndef f(a):\n    '''Roots.'''\n"),
    row(1, "    return sum(a) / len(a)\n", "assert abs(candidate([1.0, 2.0]) - 1.5) < 1e-3"),
    row(2, "    for i in range(a):\n        yield i * i\n", "for n in range(1, 5):\n        assert list(candidate(n)) == [i * i for i in range(n)]"),
    row(3, "    a.sort()\n", "x = [3, 1]\n    candidate(x)\n    assert x == [1, 3]\n    assert candidate([2, 1]) is None"),
    row(4, "    return a if a < 2 else f(a - 1) + f(a - 2)\n", "assert candidate(10) == 55\n    assert candidate(a=3) == 2"),
    row(5, "    total = 0\n    for i in range(a):\n        total += i\n    return total\n", "assert candidate(20000) == 199990000\n    assert candidate(3) == 3"),
    row(6, "    return a + 1\n", "assert candidate(1) == 2", declaration="def f(a):\n", buggy_solution="    return a - 1\n", bug_type="value misuse"),
]  # fmt: skip


def test_humaneval(tmp_path: Path) -> None:
    found = import_problems("humaneval", write(tmp_path / "he.jsonl.gz", *HUMANEVAL))
    assert [(each.kind, each.detail) for each in found.refused] == []
    assert (found.mutants, found.own) == (6, 1)
    problems = loaded(found, tmp_path)
    helper = problems["HumanEval/0"]
    assert helper.setup == "import math\n\ndef root(n):\n    return math.isqrt(n)" and len(helper.cases) == 2
    assert [(case.tolerance, case.relative_tolerance) for case in problems["HumanEval/1"].cases] == [(1e-3, 1e-11)]
    assert len(problems["HumanEval/2"].cases) == 4
    assert [case.mutated for case in problems["HumanEval/3"].cases] == [(["l", [1, 3]],), (["l", [1, 2]],)]
    assert [dict(case.keywords) for case in problems["HumanEval/4"].cases] == [{}, {"a": 3}]
    assert [case.slow for case in problems["HumanEval/5"].cases] == [False, True]
    own = problems["HumanEval/6"]
    assert (own.buggy, own.bug_class, own.variant) == ("def f(a):\n    return a - 1", "constant", "own")
    assert conform(found, tmp_path) == []
    assert set(found.splits()) == {"fitness", "monitor", "held_out"}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Id of a refused row -> kind and detail."""
    folder = tmp_path_factory.mktemp("refused")
    marker = folder / "written"
    rows = [
        row(0, "    return a + 1\n", "assert candidate(1) == 3"),
        row(1, "    while True:\n        a += 1\n", "assert candidate(1) == 3"),
        row(2, "    return list(set(a))\n", "assert candidate(['a', 'b', 'c', 'd', 'e']) == candidate(['a', 'b', 'c', 'd', 'e'])"),
        row(3, "    return [a, a + 1]\n", "assert len(candidate(1)) == 2"),
        row(4, "    return list(a)\n", "assert set(candidate([1, 2])) == {1, 2}"),
        row(5, "    return complex(a)\n", "assert candidate(1) == 1"),
        row(6, f"    open({str(marker)!r}, 'w').write('x')\n    return a\n", "assert candidate(1) == 1"),
        row(7, "    import random\n    return random.SystemRandom().random()\n", "candidate(1)"),
        row(8, "    return 1\n", "assert True"),
        row(9, "    return a\n", "assert candidate(1) == 1", head="import numpy\ndef f(a=numpy.pi):\n"),
        row(10, "    print a\n", "assert candidate(1) == 1"),
        row(11, "    return a\n", "assert candidate(1) == 1", entry_point="g"),
        row(12, "    return a\n", "assert candidate(1) == 1", entry_point=3),
        row(13, "    return (" + "-" * 300 + "a)\n", "assert candidate(1) == 1"),
        row(14, "    return a\n", "assert candidate(1) == 1", declaration="def f(a):\n", buggy_solution="    return 0 + a\n"),
        row(15, "    return a\n", "assert candidate(1) == 1", declaration="def f(a):\n", buggy_solution="    return a  # same\n"),
        row(16, "    return a\n", "import os\n    os._exit(0)"),
        row(17, "    global n\n    n += 1\n    return n\n", "assert candidate(1) == 1\n    assert candidate(3) == 2", head="n = 0\ndef f(a):\n"),
        row(18, "    return a\n", "assert candidate(1) == 1") | {"prompt": "x" * 200_000},
        row(19, "    return a\n", "coral_recorder.calls = 5"),
        row(20, "    return a\n", "coral_recorder.calls.append({'arguments': 5, 'value': ['q']})"),
        row(21, "    return a\n", "candidate(1)\n    coral_recorder.calls[0]['value'] = 7"),
        row(22, "    return a\n", "global coral_step\n    candidate(1)\n    coral_recorder.calls[0]['arguments'] = [['f', 'x']]"),
        row(23, "    return a\n", "assert candidate(1) == 1\n" + "    a = 1\n" * 20_000),
        row(24, "    return a\n", "assert candidate(1) == 1", task_id="HumanEval/\x1b[31m"),
        row(25, "    return abs(a)\n", "assert candidate(1j) == 1\n    assert candidate(2j) == 2"),
        row(0, "    return a + 1\n", "assert candidate(1) == 2"),
        row(0, "    return a + 2\n", "assert candidate(1) == 3"),
        "{broken", "[1]", '{"a": ' + "[" * 5000, '{"task_id": 1, "task_id": 2}',
    ]  # fmt: skip
    found = import_problems("humaneval", write(folder / "rows.jsonl", *rows))
    assert not marker.exists()
    assert [each.problems for each in found.rows if each.problems] == [("HumanEval/0",)]
    assert sum(found.reasons().values()) == len(found.refused) == len(rows) - 1
    return {each.row if each.row != "HumanEval/0" else each.kind: (each.kind, each.detail) for each in found.refused}


@pytest.mark.parametrize(
    ("name", "kind", "detail"),
    [
        ("its tests fail on its reference", "its tests fail on its reference", "check: AssertionError"),
        ("its id is given twice", "its id is given twice", "HumanEval/0"),
        ("HumanEval/1", "its tests run into a limit", "work limit"),
        ("HumanEval/2", "a call gives another result the second time, or under another hash seed", ""),
        ("HumanEval/3", "the assertion asks for a part or a property of the value, not for the value", ""),
        ("HumanEval/4", "the assertion asks for the value without its order", ""),
        ("HumanEval/5", "the result is outside the value language", "complex"),
        ("HumanEval/6", "its tests fail on its reference", "check: "),
        ("HumanEval/7", "a call gives another result the second time, or under another hash seed", ""),
        ("HumanEval/8", "its tests do not call the function", ""),
        ("HumanEval/9", "needs modules that the sandbox lacks", "numpy"),
        ("HumanEval/10", "not Python 3", "Missing parentheses"),
        ("HumanEval/11", "no such function", "g is no function"),
        ("HumanEval/12", "not of this layout", "entry_point is no text"),
        ("HumanEval/13", "nested too deeply", "levels deep"),
        ("HumanEval/14", "no case detects its bug", "1 cases"),
        ("HumanEval/15", "buggy and reference are equal", ""),
        ("HumanEval/16", "its tests cannot be run", "ended early"),
        ("HumanEval/17", "the function by itself gives another result", ""),
        ("HumanEval/18", "too long", "characters"),
        ("HumanEval/19", "its tests cannot be run", ""),
        ("HumanEval/20", "its tests cannot be run", ""),
        ("HumanEval/21", "the function by itself gives another result", "wrong"),
        ("HumanEval/22", "not in the value language", ""),
        ("HumanEval/23", "too long", "tests"),
        ("HumanEval/\x1b[31m", "not of this layout", "printable"),
        ("HumanEval/25", "an argument is outside the value language", "complex"),
        ("line 29", "not a row", "not JSON"),
        ("line 30", "not a row", "no object but list"),
        ("line 31", "not a row", "not JSON"),
        ("line 32", "not a row", "'task_id' stands there twice"),
    ],
)
def test_a_row_that_is_no_problem_says_why(
    refused: dict[str, tuple[str, str]], name: str, kind: str, detail: str
) -> None:
    assert refused[name][0] == kind
    assert detail in refused[name][1]


MBPP: list[dict[str, Any]] = [
    {"task_id": 1, "text": "Shared.", "code": "R = 3\r\ndef helper(a):\r\n\treturn a + R\r\ndef cost(m, n):\r\n\treturn helper(m) * n",
     "test_setup_code": "BASE = 2", "test_list": ["assert cost(BASE, 2) == 10", "assert cost(4, 2) == 14"], "challenge_test_list": ["assert cost(0, 2) == 6"]},
    {"task_id": 2, "prompt": "Power.", "code": "def power(a, b):\n  return a ** b", "test_imports": ["import math"],
     "test_list": ["assert math.isclose(power(2, 0.5), 1.41421356, rel_tol=1e-3)"]},
    {"task_id": 7, "code": "class Pair(object):\n  def __init__(self, a, b):\n    self.a = a\n    self.b = b\ndef chain(arr, n):\n  return max(p.b for p in arr[:n])",
     "test_list": ["assert chain([Pair(5, 24), Pair(15, 25)], 2) == 25", "assert chain([Pair(5, 3)], 1) == 3"]},
    {"task_id": 3, "code": "def f(a):\n  return a", "test_list": []},
    {"task_id": 4, "code": "def f(a):\n  return a", "test_list": "assert f(1) == 1"},
    {"code": "def f(a):\n  return a", "test_list": ["assert f(1) == 1"]},
    {"task_id": 5, "code": "def f(a):\n  return a", "test_list": ["assert g(1) == 1"]},
]  # fmt: skip


@pytest.mark.parametrize("as_list", [False, True])
def test_mbpp(tmp_path: Path, as_list: bool) -> None:
    file = tmp_path / "mbpp.json"
    file = write(file, json.dumps(MBPP)) if as_list else write(file, *MBPP)
    found = import_problems("mbpp", file, split="fitness")
    problems = loaded(found, tmp_path)
    assert list(problems) == ["MBPP/1", "MBPP/2", "MBPP/7"]
    assert problems["MBPP/7"].setup.startswith("class Pair") and len(problems["MBPP/7"].cases) == 2
    assert problems["MBPP/1"].entry_point == "cost" and len(problems["MBPP/1"].cases) == 3
    assert problems["MBPP/2"].cases[0].relative_tolerance == 1e-3
    assert [each.kind for each in found.refused] == ["not of this layout"] * 3 + ["no such function"]
    assert conform(found, tmp_path) == []


ASSERTS = """
import math
import unittest
import numpy as np
import pytest

SCALE = 2


def scaled(x, *, by=SCALE):
    return x * by / 3


def total(xs):
    return sum(xs)


def push(xs, x=0):
    xs.append(x)


def untested(x):
    return x


def array(x):
    return np.array(x).tolist()


def safe(a, b):
    if b == 0:
        raise ZeroDivisionError("b")
    return a // b


def odd(n):
    return None if n < 0 else n % 2 == 1


@pytest.mark.parametrize(("a", "b", "c"), [(7, 2, 3), pytest.param(9, 3, 3), pytest.param(1, 1, 9, marks=pytest.mark.xfail)])
def test_safe(a, b, c):
    assert safe(a, b) == c


def test_safe_raises():
    with pytest.raises(ZeroDivisionError):
        safe(1, 0)


def test_push():
    xs = [1]
    push(xs, 5)
    assert xs == [1, 5]


def test_wrong():
    assert total([9]) == 1


@pytest.mark.skip(reason="slow")
def test_skipped():
    assert total([10]) == 10


def test_fixture(tmp_path):
    assert total([8]) == 8


class TestTotal(unittest.TestCase):
    def setUp(self):
        self.xs = [1, 2]

    def test_it(self):
        self.assertEqual(total(self.xs), 3)
        self.assertTrue(total([5]) > 3)

    @unittest.expectedFailure
    def test_fails(self):
        self.assertEqual(total([6]), 6)


class TestScaled:
    def test_it(self):
        assert scaled(3) == pytest.approx(2.0)
        assert scaled(3, by=5) == pytest.approx(5.0, abs=1e-3)


assert odd(3)
assert not odd(2)
assert odd(-1) is None
for n in range(4):
    assert odd(n) == bool(n % 2)
assert array([1]) == [1]
if __name__ == "__main__":
    assert odd(8) == 5
"""


def test_a_file_of_asserts(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(ASSERTS)
    found = import_problems("asserts", file, bugs=2)
    reasons = {each.row: (each.kind, each.detail) for each in found.refused}
    assert reasons == {
        "untested": ("no test calls it", "untested"),
        "array": ("needs modules that the sandbox lacks", "numpy"),
    }
    problems = loaded(found, tmp_path)
    arguments = {name.partition("#")[0]: [list(case.given()) for case in one.cases] for name, one in problems.items()}
    assert arguments == {
        "mine/scaled": [[3], [3, 5]],
        "mine/total": [[["l", [1, 2]]]],
        "mine/push": [[["l", [1]], 5]],
        "mine/safe": [[7, 2], [9, 3], [1, 0]],
        "mine/odd": [[3], [2], [-1], [0], [1]],
    }
    scaled = next(one for name, one in problems.items() if name.startswith("mine/scaled"))
    assert [case.tolerance for case in scaled.cases] == [1e-12, 1e-3]
    total = next(one for name, one in problems.items() if name.startswith("mine/total"))
    assert total.cases[0].mutated == (["l", [1, 2]],)
    assert conform(found, tmp_path) == []


OLD = '''"""Words."""

import re

SEPARATOR = "-"


def slug(text, limit=None):
    """A slug."""
    words = re.findall(r"[a-z]+", text)
    if limit:
        words = words[1:limit]
    return SEPARATOR.join(words)


def other(x):
    return x
'''
NEW = OLD.replace("words[1:limit]", "words[:limit]")
TEST = """import unittest

import requests
from words import other, slug


class TestSlug(unittest.TestCase):
    def test_limit(self):
        self.assertEqual(slug("a b c", limit=2), "a-b")

    def test_other(self):
        self.assertEqual(other(1), 1)


def test_plain():
    assert slug("x y") == "x-y"
"""


class Fix:
    """A repository with a fix, as rows of SWE-bench and folders of BugsInPy describe it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "words"
        self.root.mkdir()
        self.git("init", "-q")
        self.base = self.commit(OLD, TEST.replace("limit=2", "limit=0"))
        self.patch = self.diff(NEW, TEST.replace("limit=2", "limit=0"))
        self.tests = self.diff(NEW, TEST)
        self.fixed = self.git("rev-parse", "HEAD").strip()

    def git(self, *arguments: str) -> str:
        settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(self.root), *settings, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def commit(self, module: str, tests: str) -> str:
        (self.root / "words.py").write_text(module)
        (self.root / "test_words.py").write_text(tests)
        self.git("add", ".")
        self.git("commit", "-qm", "x")
        return self.git("rev-parse", "HEAD").strip()

    def diff(self, module: str, tests: str) -> str:
        self.commit(module, tests)
        return self.git("diff", "HEAD~1", "HEAD")

    def row(self, **changes: Any) -> dict[str, Any]:
        fields = {"instance_id": "me__words-1", "repo": "me/words", "base_commit": self.base, "patch": self.patch}
        return fields | {"test_patch": self.tests, "FAIL_TO_PASS": '["test_words.py::TestSlug::test_limit"]'} | changes

    def bug(self, folder: Path, info: str | None = None, patch: str | None = None) -> Path:
        folder.mkdir(parents=True)
        own = f'python_version="3.8"\nbuggy_commit_id="{self.base}"\nfixed_commit_id="{self.fixed}"\ntest_file="test_words.py"\n'
        (folder / "bug.info").write_text(own if info is None else info)
        (folder / "bug_patch.txt").write_text(self.patch if patch is None else patch)
        (folder / "run_test.sh").write_text("touch /tmp/executed")
        return folder


@pytest.fixture(scope="module")
def fix(tmp_path_factory: pytest.TempPathFactory) -> Fix:
    return Fix(tmp_path_factory.mktemp("fix"))


def whole(path: str, *texts: str) -> str:
    """A diff that shows a whole file, or adds one."""
    import difflib

    old, new = ("", texts[0]) if len(texts) == 1 else texts
    name = "/dev/null" if len(texts) == 1 else f"a/{path}"
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), name, f"b/{path}", n=99, lineterm="")
    return "\n".join(lines) + "\n"


SMALL_OLD, SMALL_NEW = "K = 1\n\n\ndef inc(a):\n    return a - K\n", "K = 1\n\n\ndef inc(a):\n    return a + K\n"
SMALL_TEST = "from pkg.small import inc\n\n\ndef test_inc():\n    assert inc(2) == 3\n    assert inc(0) == 1\n"


def test_swe_bench_from_files_alone(tmp_path: Path, fix: Fix) -> None:
    alone = fix.row(instance_id="a", patch=whole("pkg/small.py", SMALL_OLD, SMALL_NEW), test_patch=whole("tests/test_small.py", SMALL_TEST))  # fmt: skip
    rows = [
        alone,
        fix.row(instance_id="b"),
        alone | {"instance_id": "c", "test_patch": fix.tests},
        fix.row(instance_id="d", patch="nothing"),
        fix.row(instance_id="e", patch=whole("README.md", "a\n", "b\n")),
        fix.row(instance_id="f", patch=fix.patch + whole("more.py", "a = 1\n", "a = 2\n")),
        fix.row(instance_id="g", patch=whole("new.py", "a = 1\n")),
        {"instance_id": "h"},
    ]
    found = import_problems("swe", write(tmp_path / "swe.jsonl", *rows), pairs=True)
    problem = loaded(found, tmp_path)["a"]
    assert (problem.setup, problem.buggy, len(problem.cases)) == ("K = 1", SMALL_OLD.strip(), 2)
    reasons = {each.row: (each.kind, each.pair) for each in found.refused}
    assert reasons == {
        "b": ("needs a checkout", False),
        "c": ("needs a checkout", True),
        "d": ("not a diff", False),
        "e": ("no Python in the fix", False),
        "f": ("the fix changes several files", False),
        "g": ("the fix adds or removes a file", False),
        "h": ("not of this layout", False),
    }
    assert [line["fixed"] for line in found.lines if line["type"] == "pair"] == ["def inc(a):\n    return a + K"]
    assert conform(found, tmp_path) == []


def test_fixes_with_a_clone(tmp_path: Path, fix: Fix) -> None:
    rows = [
        fix.row(),
        fix.row(instance_id="gone", base_commit="0" * 40),
        fix.row(instance_id="no commit", base_commit="--upload-pack=x"),
        fix.row(instance_id="outside", patch=fix.patch.replace("a/words.py", "a/../../words.py")),
        fix.row(instance_id="other", patch=fix.patch.replace("words[1:limit]", "words[3:limit]")),
    ]
    swe = import_problems("swe", write(tmp_path / "swe.jsonl", *rows), repo=fix.root)
    assert [(each.row, each.kind) for each in swe.refused] == [
        ("gone", "not in the clone"),
        ("no commit", "not of this layout"),
        ("outside", "not in the clone"),
        ("other", "the diff does not apply"),
    ]
    fix.bug(tmp_path / "projects/words/bugs/1")
    fix.bug(tmp_path / "projects/words/bugs/2", info="python_version=3")
    fix.bug(tmp_path / "projects/words/bugs/10", patch="nothing")
    bugs = import_problems("bugsinpy", tmp_path / "projects", repo=fix.root)
    assert [(each.row, each.kind) for each in bugs.refused] == [
        ("words/2", "not of this layout"),
        ("words/10", "not a diff"),
    ]
    for found, name in ((swe, "me__words-1"), (bugs, "words/1")):
        problem = loaded(found, tmp_path)[name]
        assert problem.variant == "own" and "words[1:limit]" in problem.buggy
        assert [(list(case.arguments), dict(case.keywords), case.value) for case in problem.cases] == [
            (["a b c"], {"limit": 2}, "a-b"),
            (["x y"], {}, "x-y"),
        ]
        assert conform(found, tmp_path) == []


def test_bugsinpy_from_files_alone(tmp_path: Path, fix: Fix) -> None:
    fix.bug(tmp_path / "bugs/1")
    fix.bug(tmp_path / "bugs/2", patch=whole("pkg/small.py", SMALL_OLD, SMALL_NEW))
    (tmp_path / "bugs/2/bug.info").unlink()
    (tmp_path / "bugs/2/bug.info").symlink_to(tmp_path / "bugs/1/bug.info")
    fix.bug(tmp_path / "bugs/3", patch=whole("pkg/small.py", SMALL_OLD, SMALL_NEW))
    found = import_problems("bugsinpy", tmp_path, pairs=True)
    assert [(each.kind, each.pair) for each in found.rows] == [
        ("needs a checkout", False),
        ("not of this layout", True),
        ("needs a checkout", True),
    ]
    assert not Path("/tmp/executed").exists()


@pytest.mark.parametrize(
    ("layout", "data", "words"),
    [
        ("humaneval", b"\x1f\x8bbroken", "not a whole gzip file"),
        ("humaneval", gzip.compress(b"{}\n" * 1000, mtime=0)[:-9], "not a whole gzip file"),
        ("mbpp", b"[{]", "not JSON"),
        ("asserts", b"def f(:", "not Python 3"),
        ("asserts", b"\xff\xfe", "not UTF-8"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, layout: str, data: bytes, words: str) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ProblemError, match=words):
        import_problems(layout, tmp_path / "file")


def test_arguments_that_cannot_be(tmp_path: Path) -> None:
    for layout in ("humaneval", "mbpp", "swe", "asserts", "bugsinpy"):
        with pytest.raises(ConfigError, match="nowhere"):
            import_problems(layout, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no such layout"):
        import_problems("defects4j", tmp_path)
    with pytest.raises(ConfigError, match="--bugs 0"):
        import_problems("mbpp", tmp_path, bugs=0)
    with pytest.raises(ConfigError, match="mbpp does not read them"):
        import_problems("mbpp", tmp_path, pairs=True)
    with pytest.raises(ConfigError, match="no git repository"):
        import_problems("swe", tmp_path, repo=tmp_path / "gone")
    fifo = tmp_path / "fifo"
    subprocess.run(["mkfifo", str(fifo)], check=True)
    with pytest.raises(ConfigError, match="FIFO"):
        import_problems("mbpp", fifo)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coral_core.problem_sources.importers import untrusted_rows

    monkeypatch.setattr(untrusted_rows, "LARGEST_UNPACKED", 10_000)
    monkeypatch.setattr(untrusted_rows, "LONGEST_ROW", 1_000)
    with pytest.raises(ProblemError, match="more than"):
        import_problems("mbpp", write(tmp_path / "bomb.gz", *["{}" + " " * 900] * 20))
    found = import_problems("mbpp", write(tmp_path / "long.gz", "{" + " " * 3_000, {"task_id": 1}))
    assert [(each.row, each.kind) for each in found.rows] == [("line 1", "not a row"), ("1", "not of this layout")]
