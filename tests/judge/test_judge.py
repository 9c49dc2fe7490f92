"""The judge: verdicts, and attacks that must harm nobody but themselves."""

from collections.abc import Iterator

import pytest

from coral_core.errors import JudgeError, ProblemError
from coral_core.judge import judge as judge_module
from coral_core.judge.judge import Judge, PatchLimits, Verdict
from coral_core.judge.sandbox import zygote_pool as pool
from coral_core.judge.sandbox.child_clock import Allowance
from coral_core.problems.problem import Case, Problem

LIMITS = PatchLimits(cpu_seconds=0.5, wall_seconds=3.0, work_lines=20_000)
REFERENCE = "def add(a, b):\n    return a + b"
BUGGY = "def add(a, b):\n    return a - b"
CASES = tuple(Case(arguments=(a, b), value=a + b) for a, b in ((1, 2), (3, 0), (5, 5), (-1, 4)))


def problem(**changes: object) -> Problem:
    values: dict[str, object] = {
        "problem_id": "test/add",
        "source": "test",
        "family": "add",
        "variant": "0",
        "entry_point": "add",
        "bug_class": "arithmetic",
        "buggy": BUGGY,
        "reference": REFERENCE,
        "cases": CASES,
    }
    return Problem.model_validate(values | changes)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(LIMITS, workers=2) as judge:
        yield judge


def verdict(judge: Judge, patch: str, **changes: object) -> Verdict:
    return judge.judge_batch([(problem(**changes), patch)])[0]


def test_a_case_that_is_not_encoded_is_the_problems_fault_and_no_verdict(judge: Judge) -> None:
    for case in (Case(arguments=([3, 1], 2), value=3), Case(arguments=(1, 2), value={"a": 1})):
        with pytest.raises(ProblemError, match=r"problem test/add: case 0 is not in the value language .* Case\.of"):
            verdict(judge, REFERENCE, cases=(case,))
    assert verdict(judge, REFERENCE, cases=(Case.of(1, 2, value=3),)).outcome == "fixed"


def harmless(judge: Judge) -> None:
    """The next patch is judged as if nothing had happened."""
    assert verdict(judge, REFERENCE).outcome == "fixed"


@pytest.mark.parametrize(
    ("patch", "outcome"),
    [
        (REFERENCE, "fixed"),
        ("import operator\n\ndef add(a, b):\n    return operator.add(a, b)", "fixed"),
        ("def helper(a):\n    return a\n\ndef add(a, b):\n    return helper(a) + b", "fixed"),
        ("add = lambda a, b: a + b", "fixed"),
        (BUGGY, "echo"),
        ("def add(a, b):\n    return a - b  # the same", "echo"),
        ("def add(a, b):\n    return 99", "regressed"),
        ("def add(a, b):\n    return max(a, b) + min(a, b, 3)", "partial"),
        ("def other(a, b):\n    return a + b", "no-function"),
        ("", "no-function"),
        ("def add(a, b:\n    return", "syntax"),
        ("def add(a, b):\n    while True:\n        a += 1", "time-out"),
        ("def add(a, b):\n    while True: pass", "time-out"),
        ("def add(a, b):\n    return sum(range(10**12))", "time-out"),
        ("import time\ndef add(a, b):\n    time.sleep(60)", "time-out"),
        ("while True:\n    x = 1\ndef add(a, b):\n    return 1", "time-out"),
        ("import os\ndef add(a, b):\n    os._exit(0)", "crash"),
        ("raise SystemExit\ndef add(a, b):\n    return a + b", "crash"),
        ("import sys\ndef add(a, b):\n    sys.exit(0)", "regressed"),
        ("class add:\n    def __init__(self, a, b):\n        self.a = a", "regressed"),
        ("def add(a, b):\n    yield a + b", "regressed"),
        ("add = 7", "no-function"),
    ],
)
def test_each_patch_gets_its_word(judge: Judge, patch: str, outcome: str) -> None:
    assert verdict(judge, patch).outcome == outcome
    harmless(judge)


@pytest.mark.parametrize(
    "patch",
    [
        "x" * 10_000_000,
        "def add(a, b):\n    return a + b\0",
        "def f(x: '\ud800'): pass",
        "(" * 50_000,
        "-" * 100_000 + "1",
        "\n" * 1000,
    ],
)
def test_strange_texts_get_a_verdict_with_a_reason(judge: Judge, patch: str) -> None:
    found = verdict(judge, patch)
    assert found.outcome in ("syntax", "no-function") and found.message
    harmless(judge)


ESCAPES = {
    "read passwd": "def add(a, b):\n    return open('/etc/passwd').read()",
    "read parent environment": "import os\ndef add(a, b):\n    return open(f'/proc/{os.getppid()}/environ').read()",
    "read own maps": "def add(a, b):\n    return open('/proc/self/maps').read()",
    "list root": "import os\ndef add(a, b):\n    return os.listdir('/')",
    "write tmp": "def add(a, b):\n    open('/tmp/coral-escape', 'w').write('x')\n    return 1",
    "write shared memory": "def add(a, b):\n    open('/dev/shm/coral-escape', 'w').write('x')\n    return 1",
    "remove file": "import os\ndef add(a, b):\n    os.unlink('/tmp/coral-escape')",
    "fork": "import os\ndef add(a, b):\n    return os.fork()",
    "spawn": "import subprocess\ndef add(a, b):\n    return subprocess.run(['id']).returncode",
    "execute": "import os\ndef add(a, b):\n    os.execv('/bin/sh', ['sh', '-c', 'exit 0'])",
    "thread": "import threading\ndef add(a, b):\n    t = threading.Thread(target=print)\n    t.start()",
    "socket": "import socket\ndef add(a, b):\n    return socket.create_connection(('127.0.0.1', 80))",
    "unix socket": "import socket\ndef add(a, b):\n    return socket.socket(socket.AF_UNIX)",
    "kill parent": "import os\ndef add(a, b):\n    os.kill(os.getppid(), 9)",
    "kill all": "import os\ndef add(a, b):\n    os.kill(-1, 9)",
    "raise limit": "import resource\ndef add(a, b):\n    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "ctypes": "import ctypes\ndef add(a, b):\n    return ctypes.CDLL(None).getpid()",
    "environment": "import os\ndef add(a, b):\n    return {k: v for k, v in os.environ.items() if k != 'PATH' and 'HASH' not in k}['HOME']",
    "site packages": "import pydantic\ndef add(a, b):\n    return 1",
    "our package": "import coral_core\ndef add(a, b):\n    return 1",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_no_way_out(judge: Judge, name: str) -> None:
    found = verdict(judge, ESCAPES[name])
    assert not found.passed
    assert found.outcome in ("regressed", "crash", "partial"), found
    assert found.outcome == "crash" or any(case.startswith("exception:") for case in found.cases), found.cases
    harmless(judge)


FORGERIES = {
    "prints": 'print(\'{"case": 0, "value": 3}\')\ndef add(a, b):\n    return 0',
    "writes to every descriptor": (
        "import os\ndef add(a, b):\n    for fd in range(64):\n        try:\n"
        '            os.write(fd, b\'{"case": 0, "value": 3}\\n\')\n        except OSError:\n            pass\n    return 0'
    ),
    "writes done": (
        "import os\nfor fd in range(64):\n    try:\n        os.write(fd, b'{\"done\": 4}\\n')\n    except OSError:\n        pass\n"
        "def add(a, b):\n    return 0"
    ),
    "lying equality": "class Yes:\n    def __eq__(self, other):\n        return True\ndef add(a, b):\n    return Yes()",
    "subclass of int": "class Int(int):\n    def __eq__(self, other):\n        return True\ndef add(a, b):\n    return Int(0)",
    "subclass of list": "class L(list):\n    def __eq__(self, other):\n        return True\ndef add(a, b):\n    return L()",
    "True for 1": "def add(a, b):\n    return True",
    "patched json": 'import json\njson.dumps = lambda *a, **k: \'{"case": 0, "value": 3}\'\ndef add(a, b):\n    return 0',
    "patched builtins": "import builtins\nbuiltins.type = lambda *a: int\nbuiltins.len = lambda x: 4\ndef add(a, b):\n    return 0",
    "exit 0": "import os\nos._exit(0)\ndef add(a, b):\n    return 0",
    "bare exception class": "class AssertionError(Exception): pass\ndef add(a, b):\n    raise AssertionError",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_no_pass_is_forged(judge: Judge, name: str) -> None:
    found = verdict(judge, FORGERIES[name])
    assert not found.passed and found.now_passing == 0, found
    harmless(judge)


RESOURCES = {
    "memory": "def add(a, b):\n    return [0] * 10**9",
    "growing list": "def add(a, b):\n    x = [1]\n    while True:\n        x += x",
    "endless generator": "def add(a, b):\n    while True:\n        yield a",
    "deep recursion": "def add(a, b):\n    return add(a, b)",
    "gigantic integer": "def add(a, b):\n    return 10 ** 100_000",
    "gigantic string": "def add(a, b):\n    return 'x' * 10_000_000",
    "endless output": "import sys\ndef add(a, b):\n    while True:\n        sys.stdout.write('x' * 10_000)",
    "no more tracing": "import sys\ndef add(a, b):\n    sys.settrace(None)\n    while True:\n        a += 1",
    "swallowed limits": "def add(a, b):\n    while True:\n        try:\n            a += 1\n        except BaseException:\n            pass",
    "many files": "def add(a, b):\n    return [open('/dev/null') for _ in range(10_000)]",
    "cyclic value": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "deep value": "def add(a, b):\n    x = []\n    for _ in range(5_000):\n        x = [x]\n    return x",
}


@pytest.mark.parametrize("name", RESOURCES)
def test_no_resource_is_exhausted(judge: Judge, name: str) -> None:
    found = verdict(judge, RESOURCES[name])
    assert not found.passed and found.now_passing == 0
    harmless(judge)


def test_the_reference_is_nowhere_in_the_child(judge: Judge) -> None:
    """A patch that looks for the answer in every object it can reach does not find it."""
    secret = "answer_to_nothing_4711"
    patch = (
        "import gc, sys\n"
        "def add(a, b):\n"
        "    wanted = 'answer_to' + '_nothing_4711'\n"
        "    for item in gc.get_objects():\n"
        "        try:\n            text = repr(item)\n        except Exception:\n            continue\n"
        "        if wanted in text and 'wanted' not in text:\n            return a + b\n"
        "    return 0\n"
    )
    reference = f"def add(a, b):\n    {secret} = a + b\n    return {secret}"
    assert verdict(judge, patch, reference=reference).now_passing == 0


def test_equal_patches_are_judged_once_and_order_does_not_matter(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    patches = [REFERENCE, "def add(a, b):\n    return 3", BUGGY, REFERENCE]
    calls: list[str] = []
    real = Judge._run
    monkeypatch.setattr(Judge, "_run", lambda self, p, patch: calls.append(patch) or real(self, p, patch))
    first = judge.judge_batch([(problem(), patch) for patch in patches])
    assert len(calls) == len(set(calls))
    second = judge.judge_batch([(problem(), patch) for patch in reversed(patches)])
    assert first == list(reversed(second))


def test_sets_of_strings_iterate_alike_in_every_child() -> None:
    """A patch whose result depends on the order of a set has one verdict, whichever zygote judges it."""
    patch = "def add(a, b):\n    return ''.join({'alpha', 'beta', 'gamma', 'delta', 'epsilon'})"
    seen = set()
    for _ in range(3):
        with Judge(LIMITS, workers=1) as fresh:
            case = Case(arguments=(1, 2), value="alphabetagammadeltaepsilon")
            seen.add(fresh.judge_batch([(problem(cases=(case,)), patch)])[0].model_dump_json())
            request = {"source": patch, "entry_point": "add", "cases": [{"arguments": [1, 2], "mutated": False}]}
            request["limits"] = {**LIMITS.model_dump(), "items": 1000, "recursion": 1000, "total_cpu_seconds": 3}
            seen.add(fresh._pool.run(request, Allowance(3.0), 10_000).lines[1].decode())
    assert len(seen) == 2


def test_a_reference_that_fails_its_own_cases_is_named(judge: Judge) -> None:
    with pytest.raises(JudgeError, match="test/add"):
        judge.reference_lines([problem(reference=BUGGY)])


def test_without_the_base_layers_it_refuses_unless_accepted_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "detect_layers", lambda: {"landlock": False, "seccomp": True})
    with pytest.raises(JudgeError, match="landlock missing"):
        Judge(LIMITS)
    with Judge(LIMITS, allow_missing_layers=("landlock",)) as weaker:
        assert verdict(weaker, REFERENCE).passed


def test_a_dead_zygote_is_replaced(judge: Judge) -> None:
    harmless(judge)
    for zygote in list(judge._pool._zygotes):
        zygote._process.kill()
        zygote._process.wait()
    harmless(judge)


def test_versions_are_there() -> None:
    assert judge_module.JUDGE_VERSION and judge_module.ORACLE_VERSION
