"""Linters: they read what the judge reads, nothing that they did not read is clean, and no padding helps."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral_core import child_process
from coral_core.errors import JudgeError
from coral_core.problems.problem import Case, Problem
from coral_core.scoring import lint, linters, text_process
from coral_core.scoring.judged import Judged
from coral_core.scoring.lint import Findings, findings
from coral_core.scoring.objectives import score, security, size, style, syntax
from coral_core.scoring.text_process import TextProcess, Unread
from coral_core.syntax import depth, parse, statements
from tests.scoring.hostile import CHAINS, COOKIES, NESTS, PADDING, SWITCHES

BAD = "import os, sys\ndef f(a, b=[]):\n    if a == None: os.system('ls ' + a)\n    x = eval(a)\n    return exec(b)\n"
GOOD = "def f(a, b):\n    return a + b\n"
PROBLEM = Problem(
    problem_id="test/f",
    source="test",
    family="f",
    variant="0",
    entry_point="f",
    bug_class="arithmetic",
    buggy="def f(a, b):\n    '''Adds.'''\n    total = a - b\n    return total\n",
    reference=GOOD,
    cases=(Case(arguments=(1, 2), value=3),),
)


@pytest.fixture(scope="module")
def process() -> Iterator[TextProcess]:
    process = TextProcess()
    yield process
    process.close()


def counted(found: Findings) -> tuple[int, int, int, int]:
    assert not found.unread
    return found.style, found.security_low, found.security_medium, found.security_high


@pytest.mark.parametrize("cookie", COOKIES)
def test_no_coding_cookie_hides_anything(process: TextProcess, cookie: str) -> None:
    """What the judge runs is a text, in which a cookie is a comment: bandit and ruff must find what they find without."""
    texts = [BAD, f"{cookie}\n{BAD}", f"{cookie} \n\n{BAD}"]
    found = findings(texts, process)
    for text in texts[1:]:
        assert counted(found[text])[1:] == counted(found[BAD])[1:]
        assert found[text].style >= found[BAD].style
        assert security(text, found) == security(BAD, found) == 0


@pytest.mark.parametrize("switch", SWITCHES)
def test_no_comment_switches_anything_off(process: TextProcess, switch: str) -> None:
    everywhere = "\n".join(f"{line}  {switch}" for line in [switch, *BAD.splitlines(), switch]) + "\n"
    found = findings([BAD, everywhere, f"{switch}\n{BAD}", f"{BAD}\n{switch}"], process)
    for got in found.values():
        assert all(b >= a for a, b in zip(counted(found[BAD]), counted(got), strict=True))


def of(text: str, process: TextProcess) -> dict[str, float]:
    """Scores as an evaluation of this one patch has them."""
    judged = Judged((PROBLEM,), ((text,),), ((),), frozenset(), 1, 1_000)
    found = score(judged, [1], findings([text], process)).objectives()
    return {name: found[name] for name in ("style", "security", "syntax")}


@pytest.mark.parametrize("how", PADDING)
@pytest.mark.parametrize("text", [BAD, "import os\n\ndef f(a, b):\n    x = 1\n    return eval('a+b')\n"])
def test_padding_raises_no_score(process: TextProcess, how: str, text: str) -> None:
    plain, padded = of(text, process), of(PADDING[how](text), process)
    assert plain["style"] < 1 and plain["security"] < 1
    assert all(padded[name] <= plain[name] for name in plain), (plain, padded)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(sorted(PADDING)), min_size=1, max_size=4))
def test_no_mixture_of_padding_raises_a_score(how: list[str]) -> None:
    text = BAD
    for name in how:
        text = PADDING[name](text)
        if len(text) > 100_000:
            break
    found = findings([BAD, text])
    assert style(text, found, size(PROBLEM)) <= style(BAD, found, size(PROBLEM)) and security(text, found) == 0


def test_the_denominator_is_the_buggy_function(process: TextProcess) -> None:
    assert size(PROBLEM) == 3  # def, assignment, return; the docstring does not count
    one = "import os\n" + GOOD
    found = findings([one, GOOD], process)
    assert found[one].style == 1
    assert style(one, found, size(PROBLEM)) == pytest.approx(1 / (1 + 5 / 3)) and style(GOOD, found, 3) == 1
    assert of(one, process)["style"] == pytest.approx(1 / (1 + 5 / 3))


@pytest.mark.parametrize(
    "patch",
    [
        "", "  \n", "pass", "...", "'text'", "# only\n", "def f(", "\ud800", "x = '\ud800'", "x = 1\0", "\ufeff\ufeffx = 1", "(" * 5_000,
        "return 1", "x = " + "9" * 5_000, "x = " + "-" * 3_000 + "1", "x = 1" + " + 1" * 200, "a = b\n" * 60_000,
    ],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_what_is_not_read_is_worth_nothing_and_says_why(process: TextProcess, patch: str) -> None:
    found = findings([patch, GOOD], process)
    assert style(patch, found) == security(patch, found) == 0
    assert found[patch].style_unread and found[patch].security_unread and found[patch].unread.isprintable()
    assert counted(found[GOOD]) == (0, 0, 0, 0)


@pytest.mark.parametrize("name", [*NESTS, *CHAINS])
def test_deep_texts_are_refused_by_a_count_and_others_read(process: TextProcess, name: str) -> None:
    for n in (3, 20, 45, 97, 180):
        text = (NESTS | CHAINS)[name]("f", n)
        found = findings([text], process)[text]
        if found.compiles:
            assert ("nested" in found.unread) == (depth(parse(text)) > linters.DEEPEST), found
            assert "nested" in found.unread or not found.unread


class Here(TextProcess):
    """Asks ruff in this process."""

    def ask(self, request: dict[str, Any], until: float = 0.0) -> Any:
        return linters.ruff(request["texts"])


def test_a_text_that_overflows_ruff_s_stack_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real crashes: with a small stack, as ruff's threads have it by themselves, `if` within `if` is too much."""
    monkeypatch.setattr(linters, "STACK_BYTES", 1 << 20)
    deep = NESTS["ifs"]("f", 95)
    together = linters.ruff([GOOD, deep, BAD])
    assert isinstance(together, str) and "did not come through" in together
    found = lint._ruff([GOOD, deep, BAD], Here(), None)
    assert found[GOOD] == {"style": 0} and found[BAD] == {"style": linters.ruff([BAD])[0]}


def test_a_text_that_breaks_ruff_is_charged_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real, poison = linters._ruff, GOOD + "# poison\n"
    monkeypatch.setattr(
        linters,
        "_ruff",
        lambda texts, seconds: "ruff did not come through" if poison in texts else real(texts, seconds),
    )
    found = lint._ruff([GOOD, poison, BAD], Here(), None)
    assert found[GOOD] == {"style": 0} and found[poison] == {"style_unread": "ruff did not come through"}
    assert found[BAD] == {"style": linters.ruff([BAD])[0]}


def test_a_text_that_takes_ruff_too_long_is_charged_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real, slow = linters._ruff, NESTS["sorted"]("f", 150)
    monkeypatch.setattr(linters, "_ruff", lambda texts, seconds: real(texts, 0.5 if slow in texts else seconds))
    (alone,) = linters.ruff([slow])
    assert isinstance(alone, str) and "SIG" in alone


def test_a_linter_that_reads_nothing_is_this_machine_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linters, "_ruff", lambda texts, seconds: "ruff cannot be started: no such file")
    with pytest.raises(linters.LinterMissing, match="no such file"):
        linters.ruff([GOOD])
    assert isinstance(linters.ruff([GOOD, BAD]), str)


@pytest.mark.parametrize("after", ["", "\n\nassert 1\n", "\n\npass;\n"])
def test_a_file_that_was_not_read_to_its_end_is_not_clean(monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    """Without the marked line, or with half of it, the linters report nothing there: as if they had skipped it."""
    real = linters.linted

    def other(text: str) -> tuple[str, int]:
        body, marked = real(text)
        return (body if text == linters.CONTROL else body.removesuffix(linters.AFTER) + (after or "\n")), marked

    monkeypatch.setattr(linters, "linted", other)
    ruff, bandit = linters.ruff([GOOD])[0], linters.bandit(GOOD)
    assert ("to its end" in str(ruff)) == (";" not in after)
    assert ("to its end" in str(bandit)) == ("assert" not in after)


@pytest.mark.parametrize(
    "call",
    [
        "tarfile.open(a).extractall(a, members=a.b())",  # its own check asks for the name of what is called
        "tarfile.open(a).extractall(a, members=(lambda: a)())",
        "importlib.import_module(package=a)",
        "importlib.__import__()",
        "RSA.generate([*a])",
        "ec.generate_private_key(curve={'a': 1, **a})",
        "mark_safe(s=a)",
    ],
)
def test_a_check_that_fails_over_a_text_is_not_a_clean_one(process: TextProcess, call: str) -> None:
    """Bandit logs an error of a check of its own and goes on without it: what it might have found counts as found."""
    text = (
        "import importlib, tarfile\nfrom Crypto.PublicKey import RSA\nfrom django.utils.safestring import mark_safe\n"
        "from cryptography.hazmat.primitives.asymmetric import ec\n\n\ndef f(a, b):\n    return "
    )
    found = findings([text + call, GOOD, text + "a"], process)
    assert security(text + call, found) == 0 and found[text + call].security_unread.startswith("bandit did not finish")
    assert not found[text + call].style_unread and found[text + call].compiles
    assert counted(found[GOOD]) == (0, 0, 0, 0) and not found[text + "a"].unread


@pytest.mark.parametrize("name", [".gitignore", ".ignore", ".rgignore", "ruff.toml", "pyproject.toml"])
def test_no_file_around_the_folder_for_ruff_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The folder for temporary files may lie in a repository that ignores it."""
    (tmp_path / ".git").mkdir()
    content = {"ruff.toml": "exclude = ['*']", "pyproject.toml": "[tool.ruff]\nexclude = ['*']"}
    (tmp_path / name).write_text(content.get(name, "*\n"))
    monkeypatch.setattr(linters.tempfile, "tempdir", str(tmp_path))
    assert linters.ruff([GOOD, BAD]) == [0, linters.ruff([BAD])[0]]


def test_where_ruff_reads_no_text_at_all_it_is_not_the_patches_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    real = linters.tempfile.TemporaryDirectory
    monkeypatch.setattr(linters.tempfile, "TemporaryDirectory", lambda prefix: real(prefix="x", suffix=".venv"))
    monkeypatch.setattr(linters, "RULES", "W")  # no rule of the selection finds the marked line
    for texts in ([GOOD, BAD], [GOOD]):
        with pytest.raises(linters.LinterMissing, match="ordinary text"):
            linters.ruff(texts)


def test_what_this_machine_refuses_is_charged_to_no_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, for one: the same error for an ordinary text."""

    class InThisProcess(TextProcess):
        def _once(self, request: dict[str, Any], until: float) -> Any:
            reply = text_process._reply(request)
            if "missing" in reply:
                raise JudgeError(reply["missing"])
            if "raised" in reply:
                raise text_process._BrokenError(reply["raised"])
            return reply["result"]

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(text_process, "CPU_SECONDS", 0.0)  # no timer in this process
    assert not findings([GOOD, BAD], InThisProcess())[BAD].unread
    monkeypatch.setattr(linters.os, "pwrite", full)
    with pytest.raises(JudgeError, match="cannot be read on this machine"):
        findings([GOOD, BAD], InThisProcess())
    monkeypatch.undo()
    monkeypatch.setattr(text_process, "CPU_SECONDS", 0.0)
    monkeypatch.setattr(linters.tempfile, "TemporaryDirectory", full)
    with pytest.raises(JudgeError, match="cannot be read on this machine"):
        findings([GOOD, BAD], InThisProcess())
    monkeypatch.undo()
    monkeypatch.setattr(text_process, "CPU_SECONDS", 0.0)
    monkeypatch.setattr(linters, "_page", lambda: 1_000_000)  # a descriptor that /proc does not show
    monkeypatch.setattr(linters.os, "pwrite", lambda *_: 0)
    monkeypatch.setattr(linters.os, "ftruncate", lambda *_: None)
    with pytest.raises(JudgeError, match="bandit skipped it"):
        findings([GOOD, BAD], InThisProcess())


@pytest.mark.parametrize("answer", [Unread("it ended the process"), None, 7, [], {}, "text"])
def test_no_answer_is_not_a_clean_one(answer: object) -> None:
    class Odd(TextProcess):
        def ask(self, request: dict[str, Any], until: float = 0.0) -> Any:
            return answer

    try:
        found = findings([GOOD], Odd())
    except (KeyError, TypeError, ValueError):
        return
    assert style(GOOD, found) == security(GOOD, found) == 0 == syntax(PROBLEM, GOOD, found)


def test_findings_do_not_depend_on_the_batch(process: TextProcess) -> None:
    texts = [GOOD, BAD, *(f("f", 30) for f in NESTS.values()), *(f("f", 300) for f in CHAINS.values())]
    together = findings(texts, process)
    for text in [*texts[:6], *texts[-6:]]:
        assert findings([text], process)[text] == together[text]


@pytest.mark.parametrize(
    ("patch", "worth"),
    [
        ("def f(a, b): return 1", 1.0),
        ("if True:\n    def f(a, b): return 1", 1.0),
        ("try:\n    import x\nexcept ImportError:\n    def f(a, b): return 1", 1.0),
        ("with open(1):\n    async def f(a, b): return 1", 1.0),
        ("for _ in 1,:\n    pass\nelse:\n    @print\n    def f(a, b): return 1", 1.0),
        ("match 1:\n    case 1:\n        def f(a, b): return 1", 1.0),
        ("class A:\n    def f(a, b): return 1", 0.5),
        ("def g():\n    def f(a, b): return 1", 0.5),
        ("f = lambda a, b: 1", 0.5),
        ("from operator import add as f", 0.5),
        ("x = 1" + " + 1" * 200 + "\ndef f(a, b): return x", 1.0),
        ("pass", 0.0),
        ("def f(a, b): return 1\nreturn 2", 0.0),
    ],
)
def test_syntax(process: TextProcess, patch: str, worth: float) -> None:
    assert syntax(PROBLEM, patch, findings([patch], process)) == worth


def test_statements_count_what_does_something() -> None:
    text = (
        "'''Doc.'''\nimport os\nx: int\ny: int = 1\ndef f():\n    'doc'\n    pass\n    ...\n    return 1; 2; 'three'\n"
    )
    assert statements(parse(text)) == 4  # import, y, def, return


BREAKERS = {
    "dies": "os.kill(os.getpid(), 9)",
    "exits": "os._exit(0)",
    "hangs": "time.sleep(1000)",
    "works": "while True: pass",
    "half a line": "sys.stdout.write('{\"result\"'); sys.stdout.flush(); os._exit(0)",
    "too much": "sys.stdout.write('x' * 2_000_000); sys.stdout.flush(); time.sleep(1000)",
    "closes": "os.close(1); time.sleep(1000)",
}
SCRIPT = (
    "import json, os, sys, time\nfor line in sys.stdin:\n    request = json.loads(line)\n    if 'poison' in str(request):\n        {}\n"
    "    print(json.dumps({{'result': request['op']}}), flush=True)\n"
)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(how, marks=pytest.mark.slow(reason="waits a whole limit more")) if how == "works" else how
        for how in BREAKERS
    ],
)
def test_whatever_becomes_of_the_process_the_next_text_is_read(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    monkeypatch.setattr(text_process, "PATIENCE", 3.0)
    monkeypatch.setattr(TextProcess, "largest_reply", 1 << 20)
    real = subprocess.Popen
    script = SCRIPT.format(BREAKERS[how])
    monkeypatch.setattr(
        child_process.subprocess, "Popen", lambda command, **rest: real([sys.executable, "-c", script], **rest)
    )
    process = TextProcess()
    assert process.ask({"op": "one"}) == "one"
    answer = process.ask({"op": "poison"})
    assert isinstance(answer, Unread) and answer.reason
    assert [process.ask({"op": op}) for op in ("two", "poison", "three")][::2] == ["two", "three"]
    process.close()


def test_a_process_that_reads_nothing_is_this_machine_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    real = subprocess.Popen
    monkeypatch.setattr(
        child_process.subprocess,
        "Popen",
        lambda command, **rest: real([sys.executable, "-c", "raise SystemExit(3)"], **rest),
    )
    with pytest.raises(JudgeError, match="cannot be read on this machine"):
        TextProcess().ask({"op": "one"})


def test_after_kill_nothing_is_read() -> None:
    process = TextProcess()
    process.ask({"op": "control"})
    process.kill()
    with pytest.raises(JudgeError, match="was ended"):
        process.ask({"op": "control"})
    process.close()


def test_cpu_time_is_limited_for_each_text_and_memory_for_all(
    process: TextProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for op in ("no such thing", "facts"):
        assert isinstance(process.ask({"op": op}), Unread)  # a request that raises
    assert process.ask({"op": "control"})["bandit"]
    assert text_process.MEMORY_BYTES <= 2 << 30 and text_process.CPU_SECONDS <= 20


def test_pairs_of_texts_that_are_equal_but_for_line_ends(process: TextProcess) -> None:
    texts = [BAD, BAD.replace("\n", "\r\n"), BAD.replace("\n", "\r")]
    found = findings(texts, process)
    for one, other in itertools.pairwise(texts):
        assert counted(found[one])[1:] == counted(found[other])[1:]
