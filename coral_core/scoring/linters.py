"""Runs ruff and bandit on texts. Used in the text process only (`text_process`), which a text may crash.

The linters and the judge read the same characters. The judge compiles a `str`, in which a coding cookie is a comment, so
bandit must not honour the cookie either: two comment lines are put in front, and a cookie counts on line 1 or 2 only. A
marker line is added at the end: a linter that reports nothing there has not read the file to its end, and the file does
not count as clean. Comments that disable a linter are ignored.
"""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from coral_core.syntax import UNPARSABLE, depth, functions_at_top, parse, statements

RULES = "E,W,F,B,C4,SIM,PIE,RET,UP,PERF"
IGNORED = "E501,W292,E741,RET503"
BEFORE = "#\n#\n"
AFTER = "\n\nassert 1;\n"
SEEN_BY_RUFF, SEEN_BY_BANDIT = "E703", "B101"
"""Codes that ruff and bandit report for the marker line: the semicolon, the assert."""
DEEPEST = 100
"""Levels of a syntax tree that linters are given: both work through it by recursion, and ruff's time grows with its cube."""
CPU_SECONDS = 10
"""CPU seconds that ruff may take for one text; 200 ordinary ones take a tenth of a second together."""
WALL_SECONDS = 120.0
THREADS, STACK_BYTES = 4, 64 << 20
CONTROL = "def f(x):\n    return x\n"


class _Complaints(logging.Handler):
    """Collects errors that bandit logs: a check that failed on a text, which bandit then skips silently."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage().split(" on file ")[0])


class LinterMissing(Exception):  # noqa: N818 (a finding about this machine)
    """A linter cannot even read an ordinary text here."""


def facts(text: str) -> dict[str, Any]:
    """Findings of the interpreter and bandit on one text.

    Returns:
        `problem` (why it does not compile; then there is nothing else), `statements`, `functions` (names that
        `def` gives at the top), `refused` (why no linter is given it), `bandit` (severity -> issues, or why not).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            text.encode()
            compile(text, "<patch>", "exec", dont_inherit=True)
            tree = parse(text)
        except UNPARSABLE as error:
            return {"problem": f"{type(error).__name__}: {error}"[:200]}
        levels = depth(tree)
        result: dict[str, Any] = {"statements": statements(tree), "functions": functions_at_top(tree)}
        if levels > DEEPEST:
            return result | {"refused": f"nested {levels} levels deep, more than the {DEEPEST} that linters are given"}
        del tree
        return result | {"bandit": bandit(text)}


def linted(text: str) -> tuple[str, int]:
    """The text that linters read: the patch between two comment lines and the marker line.

    Returns:
        The text, and the line number of the marker line.
    """
    body = BEFORE + text.replace("\r\n", "\n").replace("\r", "\n").rstrip() + AFTER
    return body, body.count("\n")


_complaints = _Complaints()


@lru_cache(maxsize=1)
def _manager() -> Any:
    """Bandit's manager, made once: it costs more than most texts do."""
    logging.getLogger("stevedore").setLevel(logging.CRITICAL)  # on import: output formats that are not installed
    from bandit.core.config import BanditConfig
    from bandit.core.manager import BanditManager

    logger = logging.getLogger("bandit")
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    logger.handlers = [_complaints]
    return BanditManager(BanditConfig(), "file", quiet=True, ignore_nosec=True)


@lru_cache(maxsize=1)
def _page() -> int:
    """Descriptor of the in-memory file that bandit reads, overwritten for each text; opening files on disk may be slow."""
    return os.memfd_create("text")


def bandit(text: str) -> dict[str, int] | str:
    """Issues per severity (LOW, MEDIUM, HIGH), or the reason why bandit did not read the text."""
    manager = _manager()
    from bandit.core.metrics import Metrics

    manager.results, manager.scores, manager.skipped, manager.metrics = [], [], [], Metrics()
    body, marked = linted(text)
    page = _page()
    os.ftruncate(page, 0)
    os.pwrite(page, body.encode(), 0)
    manager.files_list = [f"/proc/self/fd/{page}"]
    _complaints.messages.clear()
    manager.run_tests()
    if skipped := manager.get_skipped():
        return f"bandit skipped it: {skipped[0][1]}"
    if _complaints.messages:
        return f"bandit did not finish: {_complaints.messages[0]}"[:200]
    counts = {"LOW": 0, "MEDIUM": 0, "HIGH": 0}
    seen = False
    for issue in manager.get_issue_list():
        if issue.lineno >= marked:
            seen |= issue.test_id == SEEN_BY_BANDIT
        else:
            counts[str(issue.severity)] = counts.get(str(issue.severity), 0) + 1
    return counts if seen else "bandit did not read it to its end"


def ruff(texts: Sequence[str]) -> list[int | str] | str:
    """Violations of each text.

    Returns:
        Per text, the number of violations or the reason why ruff did not read it. A single str when ruff failed on all of
        them in one process: lint each alone then.

    Raises:
        LinterMissing: a text was not read, and an ordinary one is not read either.
    """
    counts = _ruff(texts, CPU_SECONDS + len(texts) / 20)
    if isinstance(counts, str):
        if len(texts) > 1:
            return counts
        counts = [counts]
    if any(isinstance(count, str) for count in counts):
        trial(ruff_too=True)
    return counts


def trial(ruff_too: bool = False) -> dict[str, Any]:
    """`facts` of an ordinary text, to test the linters.

    Args:
        ruff_too: Test ruff as well as bandit.

    Raises:
        LinterMissing: the text is not found clean, so the fault is this machine's.
    """
    result = facts(CONTROL)
    if result.get("bandit") != {"LOW": 0, "MEDIUM": 0, "HIGH": 0}:
        raise LinterMissing(f"of an ordinary text: {result}")
    if ruff_too and (counts := _ruff([CONTROL], CPU_SECONDS)) != [0]:
        raise LinterMissing(f"of an ordinary text: {counts}")
    return result


def _ruff(texts: Sequence[str], cpu_seconds: float) -> list[int | str] | str:
    """As `ruff`, in one process; a text says how that process ended when it did not end well."""
    from ruff import find_ruff_bin  # type: ignore[import-untyped]

    marked = {}
    with tempfile.TemporaryDirectory(prefix="coral-lint-") as folder:
        for number, text in enumerate(texts):
            file = Path(folder) / f"p{number:06d}.py"
            body, marked[file.name] = linted(text)
            file.write_text(body, encoding="utf-8", newline="")
        try:
            command = [find_ruff_bin(), "check", "--isolated", "--no-cache", "--quiet", "--ignore-noqa", "--exit-zero"]
            command += ["--no-respect-gitignore"]  # the folder may be inside a repository
            command += ["--select", RULES, "--ignore", IGNORED, "--output-format", "json-lines", folder]
            command += ["--target-version", f"py3{sys.version_info.minor}"]
            environment = {"PATH": os.defpath, "RUST_MIN_STACK": str(STACK_BYTES), "RAYON_NUM_THREADS": str(THREADS)}
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        except OSError as error:
            return f"ruff cannot be started: {error}"
        with process:
            return _violations(process, marked, int(cpu_seconds) + 1)


def _violations(process: "subprocess.Popen[bytes]", marked: dict[str, int], cpu_seconds: int) -> list[int | str] | str:
    """Count the violations that ruff prints, line by line, since a text may have any number of them."""
    timer = threading.Timer(WALL_SECONDS, process.kill)
    timer.start()
    counts: dict[str, int] = dict.fromkeys(marked, 0)
    problems: dict[str, str] = {}
    seen: set[str] = set()
    try:
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
        assert process.stdout is not None
        for line in process.stdout:
            row = json.loads(line)
            name = Path(row["filename"]).name
            if row["code"] in (None, "invalid-syntax") or row["code"].startswith("E9"):
                problems.setdefault(name, f"ruff cannot read it: {row['message']}"[:200])
            elif row["location"]["row"] < marked[name]:
                counts[name] += 1
            elif row["code"] == SEEN_BY_RUFF:
                seen.add(name)
        status = process.wait()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"ruff's answer cannot be read: {type(error).__name__}: {error}"[:200]
    finally:
        timer.cancel()
        process.kill()
    if status != 0:
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit {status}"
        return f"ruff did not come through ({how})"
    unread = "ruff did not read it to its end"
    return [problems.get(name, count if name in seen else unread) for name, count in counts.items()]
