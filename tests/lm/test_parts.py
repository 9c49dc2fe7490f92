"""Completions come prompt by prompt. Parts that are not what was asked for end the engine, and a result needs all of them."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from coral_core import child_process
from coral_core.config.tree import BaseModelConfig, GenerationConfig
from coral_core.errors import BaseChangedError, EngineDiedError, EngineError, EngineTimeOutError, Infeasible
from coral_core.genome import LightGenes
from coral_core.lm.engine_client import EngineProcess, InlineEngine
from coral_core.lm.requests import Entry, GenerationRequest

SCRIPT = """
import json, sys, time
lines = json.loads(sys.argv[1])
for request in sys.stdin:
    request = json.loads(request)
    number = request["id"]
    if request["op"] == "load":
        identity = {"name": "x", "content_id": "c", "parameters": 1, "modules": [], "numerics_class": "n"}
        out = [{"id": number, "base": "sum", "result": identity}]
    else:
        out = [line if isinstance(line, (int, str)) else {"id": number} | line for line in lines]
    for line in out:
        if line == "hold":
            time.sleep(1000)
        if isinstance(line, int):
            sys.exit(line)
        print(line if isinstance(line, str) else json.dumps(line), flush=True)
"""
"""An engine that answers every request but load with the lines of its argument."""
ASKED = GenerationRequest(
    entries=(
        Entry(
            adapter=None,
            light=LightGenes(sampling=True, temperature=0.8, top_p=0.9, top_k=0, repetition_penalty=1.0, token_limit=9),
            samples=2,
            seed=1,
        ),
    ),
    prompts=(("a", "x"), ("b", "y"), ("c", "z")),
    shape=GenerationConfig(),
)
RESULT = {"base": "sum", "result": {"entries": [{"seconds": 1.0}]}}


def part(index: object, *texts: object) -> dict[str, Any]:
    return {"part": {"index": index, "completions": list(texts)}}


GOOD = [part(2, "e", "f"), part(0, "a", "b"), part(1, "c", "d")]
Engines = Callable[[list[Any]], EngineProcess]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    """Makes a loaded engine that answers with given lines."""
    real = subprocess.Popen

    def made(lines: list[Any]) -> EngineProcess:
        def started(command: list[str], **rest: Any) -> "subprocess.Popen[bytes]":
            return real([sys.executable, "-c", SCRIPT, json.dumps(lines)], **rest)

        monkeypatch.setattr(child_process.subprocess, "Popen", started)
        engine = EngineProcess()
        engine.load(BaseModelConfig())
        return engine

    return made


def test_completions_are_in_the_order_of_the_prompts_and_come_as_they_are_written(engines: Engines) -> None:
    engine, seen = engines([*GOOD, RESULT]), []
    found = engine.generate(ASKED, 60, lambda _, index, texts: seen.append((index, texts))).only()
    assert found.completions == (("a", "b"), ("c", "d"), ("e", "f")) and found.cost.seconds == 1.0
    assert seen == [(2, ("e", "f")), (0, ("a", "b")), (1, ("c", "d"))]
    assert engine.pid is not None
    engine.close()


@pytest.mark.parametrize(
    ("lines", "error", "words"),
    [
        ([*GOOD, part(0, "a", "b"), RESULT], EngineError, "prompt 0 again"),
        ([*GOOD[:2], RESULT], EngineError, "2 of 3 prompts"),
        ([RESULT], EngineError, "0 of 3 prompts"),
        ([RESULT, *GOOD], EngineError, "sent no reply|0 of 3"),
        ([part(3, "a", "b")], EngineError, "prompt 3"),
        ([{"part": {"entry": 1, "index": 0, "completions": ["a", "b"]}}], EngineError, "entry 1, prompt 0"),
        ([*GOOD, {"base": "sum", "result": {"entries": []}}], EngineError, "and 0 costs"),
        ([part(-1, "a", "b")], EngineError, "no valid part"),
        ([part(0, "a")], EngineError, "prompt 0 with 1 completions"),
        ([part(0, "a", "b", "c")], EngineError, "prompt 0 with 3"),
        ([part(0, "a", 7)], EngineError, "no valid part"),
        ([part("first", "a", "b")], EngineError, "no valid part"),
        ([part(10**3000, "a", "b")], EngineError, "generate: the engine sent"),
        ([{"part": {"index": 0, "completions": ["a", "b"], "more": 1}}], EngineError, "no valid part"),
        ([{"part": [0, "a", "b"]}], EngineError, "no valid part"),
        ([GOOD[0] | {"id": 7}], EngineError, "sent no reply"),
        ([GOOD[0], "not JSON"], EngineError, "sent no reply"),
        ([*GOOD, {"base": "sum", "result": {"completions": []}}], EngineError, "no valid result"),
        ([*GOOD, {"base": "other", "result": {}}], BaseChangedError, "its result was dropped"),
        ([*GOOD, {"result": {}}], BaseChangedError, "no checksum"),
        ([*GOOD, 3], EngineDiedError, "exit status 3"),
        ([*GOOD, "hold"], EngineTimeOutError, "took longer"),
    ],
)
def test_an_engine_that_sends_something_else_is_ended(
    engines: Engines, lines: list[Any], error: type[EngineError], words: str
) -> None:
    engine = engines(lines)
    with pytest.raises(error, match=words):
        engine.generate(ASKED, 1 if "hold" in lines else 60)
    assert engine.pid is None


def test_a_clean_refusal_after_parts_keeps_the_engine(engines: Engines) -> None:
    engine = engines([*GOOD, {"base": "sum", "error": "Infeasible", "problem": "no", "reason": "diverged"}])
    with pytest.raises(Infeasible):
        engine.generate(ASKED, 60)
    assert engine.pid is not None
    engine.close()


def test_an_error_of_the_receiver_ends_the_request(engines: Engines) -> None:
    def refuse(entry: int, index: int, texts: tuple[str, ...]) -> None:
        raise RuntimeError("full")

    engine = engines([*GOOD, RESULT])
    with pytest.raises(RuntimeError, match="full"):
        engine.generate(ASKED, 60, refuse)
    assert engine.pid is None
    inline = InlineEngine()
    inline.load(BaseModelConfig(name="rehearsal"))
    with pytest.raises(RuntimeError, match="full"):
        inline.generate(ASKED, 60, refuse)
    assert inline._worker is None


@pytest.mark.parametrize("kind", [EngineProcess, InlineEngine])
def test_the_rehearsal_sends_each_prompt_once(kind: type[Any]) -> None:
    engine, seen = kind(), []
    engine.load(BaseModelConfig(name="rehearsal"))
    found = engine.generate(ASKED, 60, lambda _, index, texts: seen.append(texts)).only()
    engine.close()
    assert tuple(seen) == found.completions and len(seen) == 3


def test_parts_belong_to_generations_only(engines: Engines) -> None:
    engine = engines([])
    engine.close()
    with pytest.raises(EngineError, match="generate before load"):
        engine.generate(ASKED, 60)
    other = InlineEngine()
    with pytest.raises(EngineError, match="a part of an answer that has none"):
        other._ask(type(other.load(BaseModelConfig(name="rehearsal"))), "generate", ASKED.model_dump(mode="json"), 60)
