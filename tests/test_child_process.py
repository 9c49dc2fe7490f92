"""The exchange with a child process: deadlines, answers in parts, and answers that are none."""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coral_core import child_process
from coral_core.child_process import ChildProcess, ProcessEndedError
from coral_core.errors import EngineError

SLEEPER = "import time; time.sleep(1000)"
ECHO = """
import json, os, sys
for line in sys.stdin:
    for chunk in json.loads(line):
        os.write(1, chunk.encode())
"""
"""Writes the texts of each request to its output, each by one call."""


class Child(ChildProcess):
    module = "unused"
    killed_error = EngineError("killed")
    largest_reply = 10_000


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Child]:
    """Makes a child that runs a program given as text."""
    real = subprocess.Popen

    def child(program: str) -> Child:
        def started(command: list[str], **rest: Any) -> "subprocess.Popen[bytes]":
            return real([sys.executable, "-c", program], **rest)

        monkeypatch.setattr(child_process.subprocess, "Popen", started)
        return Child()

    return child


def soon() -> float:
    return time.monotonic() + 60


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_request_that_is_not_read_ends_at_its_deadline(size: int, runs: Callable[[str], Child]) -> None:
    child = runs(SLEEPER)
    with pytest.raises(TimeoutError):
        child.exchange({"text": "x" * size}, time.monotonic() + 1)
    assert child.pid is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_parts_come_in_order_however_the_bytes_are_cut(
    runs: Callable[[str], Child], kept: list[Child], data: st.DataObject
) -> None:
    child = kept[0] if kept else runs(ECHO)
    kept[:] = [child]
    lines = [*data.draw(st.lists(st.text("abc", max_size=5), max_size=8)), "end"]
    text = "".join(line + "\n" for line in lines)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1))))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    seen: list[bytes] = []

    def take(line: bytes) -> bool:
        seen.append(line)
        return line != b"end\n"

    assert child.exchange(chunks, soon(), take) == b"end\n"  # type: ignore[arg-type]
    assert b"".join(seen).decode() == text


@pytest.fixture
def kept() -> Any:
    children: list[Child] = []
    yield children
    for child in children:
        child.close()


def test_what_follows_an_answer_makes_it_invalid(runs: Callable[[str], Child]) -> None:
    child = runs(ECHO)
    assert child.exchange(["part\nanswer\nmore\n"], soon(), lambda line: line == b"part\n") == b"answer\nmore\n"  # type: ignore[arg-type]
    child.close()


def test_parts_count_towards_the_largest_reply(runs: Callable[[str], Child]) -> None:
    child = runs("import os\nwhile True: os.write(1, b'x' * 999 + b'\\n')")
    seen: list[bytes] = []
    with pytest.raises(ProcessEndedError):
        child.exchange({}, soon(), lambda line: not seen.append(line))
    assert len(seen) == 10 and child.pid is None


def test_parts_do_not_move_the_deadline(runs: Callable[[str], Child]) -> None:
    child = runs("import os, time\nwhile True: os.write(1, b'\\n'); time.sleep(.05)")
    with pytest.raises(TimeoutError):
        child.exchange({}, time.monotonic() + 1, lambda line: True)
    assert child.pid is None


def test_a_part_that_is_refused_ends_the_process(runs: Callable[[str], Child]) -> None:
    child = runs(ECHO)

    def refuse(line: bytes) -> bool:
        raise ValueError(line)

    with pytest.raises(ValueError, match="part"):
        child.exchange(["part\n"], soon(), refuse)  # type: ignore[arg-type]
    assert child.pid is None
