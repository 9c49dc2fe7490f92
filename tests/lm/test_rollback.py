"""An error at any step of a request leaves the base model bit for bit as it was loaded, or a worker that is not used again."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from coral_core.config.tree import BaseModelConfig  # noqa: E402
from coral_core.errors import BaseChangedError, Infeasible  # noqa: E402
from coral_core.lm import generation  # noqa: E402
from coral_core.lm.base_state import BaseState  # noqa: E402
from coral_core.lm.engine import Worker  # noqa: E402
from tests.lm import engine_models, faults  # noqa: E402
from tests.lm.small_models import save_model  # noqa: E402

pytestmark = pytest.mark.torch
QUICK = [("llama-tied", "dora"), ("coral-tiny", "lora")]
SLOW = [("llama-tied", "lora"), ("llama", "dora"), ("qwen2-tied", "lora"), ("gpt2", "dora")]
KINDS = [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow(reason="make test has two other kinds")) for kind in SLOW)]
WALKS: dict[str, Callable[[faults.Steps], Any]] = {"operations": faults.operations, "calls": faults.calls}


class Engine:
    """A worker with a model, an adapter that was trained on it, and what a fresh worker writes with both."""

    def __init__(self, folder: Path, name: str, adapter: str, out: Path) -> None:
        self.base = BaseModelConfig(name=str(save_model(folder, name)))
        self.job = engine_models.job(folder, engine_models.TARGETS[name], adapter=adapter)
        self.out = out
        self.good = out / "good"
        self.worker = Worker()
        self.renew()
        self.train("good")
        self.renew()
        self.texts = [self.write(), self.write(self.good), self.write()]
        assert self.texts[0] == self.texts[2] != self.texts[1], "the adapter must show in the text"
        self.bits = self.witness()
        self.weights = (self.good / "adapter_model.safetensors").read_bytes()

    def renew(self) -> None:
        self.worker = Worker()
        self.worker.do("load", {"base": self.base.model_dump(mode="json")})

    def train(self, name: str) -> Any:
        (self.out / name).mkdir(exist_ok=True)
        request = engine_models.training(self.job, engine_models.PAIRS, self.out / name)
        return self.worker.do("train", request.model_dump(mode="json"))

    def write(self, adapter: Path | None = None) -> list[list[str]]:
        request = engine_models.writing(adapter, self.job.heavy)
        found: list[dict[str, Any]] = []
        self.worker.do("generate", request.model_dump(mode="json"), found.append)
        return [part["completions"] for part in sorted(found, key=lambda part: int(part["index"]))]

    def witness(self) -> str:
        """What is in memory, by other means than the checksum of the product."""
        model = self.worker._model.loaded.model
        total = hashlib.sha256(repr(model).encode())
        places: dict[int, int] = {}
        for name, tensor in [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]:
            tied = places.setdefault(tensor.data_ptr(), len(places))
            total.update(f"{name} {tied} {tensor.dtype} {tensor.shape} {tensor.requires_grad} {tensor.grad}".encode())
            total.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
        for name, module in model.named_modules():
            hooks = {key: len(value) for key, value in vars(module).items() if key.endswith("hooks")}
            total.update(f"{name} {type(module)} {module.training} {hooks} {sorted(vars(module))}".encode())
        settings = [model.config.to_dict(), model.generation_config.to_dict()]
        total.update(json.dumps(settings, sort_keys=True, default=str).encode())
        total.update(torch.get_rng_state().numpy().tobytes())
        return total.hexdigest()


@pytest.fixture(scope="module", params=KINDS, ids=["-".join(kind) for kind in QUICK + SLOW])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    name, adapter = request.param
    yield Engine(tmp_path_factory.mktemp(name), name, adapter, tmp_path_factory.mktemp("out"))


def steps_to_try(count: int, most: int) -> list[int]:
    """The first and last steps, and others at random; all of them where there are few."""
    edge = most // 4
    inner = range(edge + 1, max(edge + 1, count - edge + 1))
    chosen = random.Random(count).sample(inner, min(len(inner), most - 2 * edge))
    return sorted({*range(1, min(edge, count) + 1), *chosen, *range(max(1, count - edge + 1), count + 1)})


@pytest.mark.parametrize("most", [12, pytest.param(60, marks=pytest.mark.slow(reason="60 steps for each walk"))])
@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("request_", ["train", "generate", "generate base"])
def test_an_error_at_any_step_leaves_the_base_model(engine: Engine, request_: str, walk: str, most: int) -> None:
    def do() -> None:
        if request_ == "train":
            engine.train("scratch")
        else:
            engine.write(engine.good if request_ == "generate" else None)

    counted = faults.Steps()
    with faults.sparing_the_way_back(counted), WALKS[walk](counted):
        do()
    assert counted.count > 20 and engine.witness() == engine.bits
    passed_over = 0
    for number, at in enumerate(steps_to_try(counted.count, most)):
        error = faults.ERRORS[number % len(faults.ERRORS)]
        steps = faults.Steps(at, error)
        try:
            with faults.sparing_the_way_back(steps), WALKS[walk](steps):
                do()
            passed_over += 1  # a library caught the error and went on another way: then the result must be right
        except BaseException as found:
            assert "injected" in str(found) or "injected" in str(found.__context__), found
            begun = steps.raised != "engine.py:do"
            assert not (begun and engine.worker.base), f"{steps.raised}: this worker must not be used again"
        assert steps.raised, "every step is reached"
        assert engine.witness() == engine.bits, f"step {at}, {steps.raised}, {error()!r}"
        if number % 8 == 0:
            assert [engine.write(), engine.write(engine.good), engine.write()] == engine.texts, steps.raised
    assert passed_over < most / 2
    assert [engine.write(), engine.write(engine.good), engine.write()] == engine.texts
    engine.train("again")
    assert (engine.out / "again" / "adapter_model.safetensors").read_bytes() == engine.weights


@pytest.mark.parametrize("method", ["restore", "check"])
@pytest.mark.parametrize("error", faults.ERRORS)
def test_an_error_in_putting_back_or_comparing_condemns_the_worker(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, method: str, error: Callable[[], BaseException]
) -> None:
    def fail(_: Any) -> None:
        raise error()

    with monkeypatch.context() as patch:
        patch.setattr(BaseState, method, fail)
        with pytest.raises((Infeasible, type(error()))):
            engine.write(engine.good)
    assert not engine.worker.base
    engine.renew()
    assert engine.write() == engine.texts[0]


def test_a_result_is_dropped_where_the_base_was_changed_under_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a clean refusal is none then: its reason may be the changed base."""
    model = engine.worker._model.loaded.model
    original = generation.choose

    def careless(*arguments: Any) -> Any:
        next(iter(model.parameters())).data[0, 0] += 1
        return original(*arguments)

    monkeypatch.setattr(generation, "choose", careless)
    with pytest.raises(BaseChangedError, match="is not what was loaded: "):
        engine.write()
    assert not engine.worker.base
    engine.renew()
    monkeypatch.undo()
    next(iter(engine.worker._model.loaded.model.parameters())).data[0, 0] += 1
    missing = engine_models.job(Path(engine.base.name), ("nowhere",))
    request = engine_models.training(missing, engine_models.PAIRS, engine.out)
    with pytest.raises(BaseChangedError):
        engine.worker.do("train", request.model_dump(mode="json"))
    assert not engine.worker.base
    engine.renew()
