"""The engine with the real vLLM, on coral-tiny: `make test-vllm`, which makes an environment for it.

CORAL_VLLM_PYTHON names its interpreter; without it these tests are skipped. In float32 the two engines round differently, so greedy
texts may differ where two tokens are nearly equally probable: most are equal, and the tests print how many.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

PYTHON = os.environ.get("CORAL_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow(reason="starts vLLM four times; test_vllm_engine.py tells the same of a fake"),
    pytest.mark.skipif(not PYTHON, reason="CORAL_VLLM_PYTHON names no interpreter with vLLM: make test-vllm"),
]
torch = pytest.importorskip("torch")

from coral_core.config.tree import GenerationConfig  # noqa: E402
from coral_core.errors import ConfigError, EngineDiedError, Infeasible  # noqa: E402
from coral_core.jobs.jobs import VllmSettings  # noqa: E402
from coral_core.lm.engine_client import InlineEngine  # noqa: E402
from coral_core.lm.requests import AdapterFolder  # noqa: E402
from coral_core.lm.vllm_client import VllmProcess  # noqa: E402
from coral_core.lm.vllm_interpreter import look  # noqa: E402
from tests.lm.test_vllm_engine import BASE, LIGHT, asking, saved_adapter  # noqa: E402

ASKED = [
    (str(number), f"<bos>def {name}(xs, n):\n    return {text}<sep>")
    for number, (name, text) in enumerate(
        [("last", "xs[0]"), ("first", "xs[-1]"), ("grown", "n - 1"), ("half", "n * 2"), ("both", "xs or n"), ("count", "len(n)"),
         ("taken", "xs[n:]"), ("left", "xs[:-n]"), ("added", "xs - n"), ("is_in", "n not in xs")]
    )
]  # fmt: skip
SHAPE = GenerationConfig(batch_size=4, prompt_length=48, engine="vllm")


@pytest.fixture(scope="module")
def vllm() -> Iterator[VllmProcess]:
    engine = VllmProcess(VllmSettings(python=PYTHON, rows=4, tokens=90))
    engine.load(BASE)
    yield engine
    engine.close()


def texts(engine: VllmProcess | InlineEngine, adapter: AdapterFolder | None, **changes: object) -> list[str]:
    prompts = tuple(changes.pop("prompts", ASKED))  # type: ignore[call-overload]
    written = engine.generate(asking(adapter, **{"prompts": prompts, "shape": SHAPE} | changes), 600)
    return [text for group in written.only().completions for text in group]


def equal(one: list[str], other: list[str]) -> float:
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def test_texts_are_those_of_the_torch_engine_and_repeat(vllm: VllmProcess, torch_engine: InlineEngine, each_adapter: dict[str, AdapterFolder]) -> None:  # fmt: skip
    drawn = {
        "light": LIGHT.model_copy(
            update={"sampling": True, "temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2}
        ),
        "samples": 2,
    }
    base = texts(vllm, None)
    seen = {
        "base": equal(base, texts(torch_engine, None)),
        "drawn": equal(texts(vllm, None, **drawn), texts(torch_engine, None, **drawn)),
    }
    for name, adapter in each_adapter.items():
        found = texts(vllm, adapter)
        seen[name] = equal(found, texts(torch_engine, adapter))
        assert found != base and found == texts(vllm, adapter), name
    assert texts(vllm, None) == base
    seen["other order"] = equal(texts(vllm, None, prompts=ASKED[::-1])[::-1], base)
    seen["alone"] = equal([texts(vllm, None, prompts=[each])[0] for each in ASKED], base)
    print(f"\nshare of equal texts, {vllm.identity.numerics_class}: {json.dumps(seen)}")
    assert min(seen.values()) >= 0.8


def test_an_adapter_that_cannot_be_used_leaves_it_alive(vllm: VllmProcess, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base, pid = texts(vllm, None), vllm.pid
    huge = saved_adapter(tmp_path / "huge")
    weights = huge.folder / "adapter_model.safetensors"
    save_file({name: tensor * 1e30 for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(Infeasible, match="not finite"):
        texts(vllm, huge)
    assert vllm.pid == pid and texts(vllm, None) == base


def test_beside_the_weights(torch_engine: InlineEngine, each_adapter: dict[str, AdapterFolder]) -> None:
    shape = SHAPE.model_copy(update={"merge": False})
    engine = VllmProcess(VllmSettings(python=PYTHON, rows=4, tokens=90, rank=16))
    try:
        engine.load(BASE)
        shares = {
            name: equal(
                texts(engine, each_adapter[name], shape=shape), texts(torch_engine, each_adapter[name], shape=shape)
            )
            for name in ("lora", "rslora")
        }
        print(f"\nshare of equal texts beside the weights: {json.dumps(shares)}")
        with pytest.raises(ConfigError, match="is a DoRA"):
            texts(engine, each_adapter["dora"], shape=shape)
        assert min(shares.values()) >= 0.8
    finally:
        engine.close()


def test_one_that_dies_costs_its_request_alone(vllm: VllmProcess) -> None:
    base = texts(vllm, None)
    timer = threading.Timer(0.5, lambda: os.kill(vllm.pid or 0, signal.SIGKILL))
    timer.start()
    with pytest.raises(EngineDiedError, match="ended during generate"):
        texts(vllm, None, prompts=ASKED * 60)
    vllm.load(BASE)
    assert texts(vllm, None) == base


def test_a_small_evolution_is_evaluated_by_vllm(tmp_path: Path) -> None:
    settings = {
        "generation.engine": "vllm", "infra.evaluation.python": PYTHON, "generation.batch_size": 8, "runs": tmp_path / "runs",
        "store.path": tmp_path / "store", "search.strategy": "random", "search.population": 2, "search.generations": 1, "training.steps": 4,
        "training.warmup": 1, "problems.fitness": 6, "problems.retention": 2, "problems.monitor": 2, "problems.held_out": 6,
        "problems.pairs": 16, "infra.local_lanes": 1, "infra.evaluation.minutes": 30, "genes.heavy.adapter": "[lora, dora]",
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text("name: by-vllm\n")
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "flows.cli", "evolve", str(tmp_path / "run.yaml"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (run,) = [
        path for path in (tmp_path / "runs").iterdir() if path.name.startswith("by-vllm") and not path.is_symlink()
    ]
    record = json.loads((run / "history.jsonl").read_text().splitlines()[0])
    assert look(PYTHON).name in record["base_model"]["numerics_class"]
    assert "vllm" not in record["training_numerics_class"]
