"""The engine seen from a lane: after a failure that leaves doubt the next request has another process, and the right result."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from coral_core import child_process  # noqa: E402
from coral_core.config.tree import BaseModelConfig  # noqa: E402
from coral_core.errors import (  # noqa: E402
    AdapterError,
    BaseChangedError,
    EngineError,
    EngineMemoryError,
    EngineTimeOutError,
    Infeasible,
)
from coral_core.lm.engine_client import EngineProcess, InlineEngine  # noqa: E402
from tests.lm import engine_models, faults  # noqa: E402
from tests.lm.small_models import TINY, save_model  # noqa: E402

pytestmark = pytest.mark.torch
Texts = tuple[tuple[str, ...], ...]


class FaultyProcess(EngineProcess):
    module = "tests.lm.faulty_engine"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama-tied"), "llama-tied")


@pytest.fixture(scope="module")
def job(folder: Path) -> Any:
    return engine_models.job(folder, engine_models.TARGETS["llama-tied"])


@pytest.fixture(scope="module")
def good(folder: Path, job: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("good")
    engine = InlineEngine()
    engine.load(BaseModelConfig(name=str(folder)))
    engine.train(engine_models.training(job, engine_models.PAIRS, out), 60)
    return out


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[FaultyProcess]:
    engine = FaultyProcess()
    engine.load(BaseModelConfig(name=str(folder)))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def right(folder: Path, good: Path) -> tuple[Texts, Texts]:
    """Of an engine that never failed: the texts of the base, and of the adapter."""
    engine = InlineEngine()
    engine.load(BaseModelConfig(name=str(folder)))
    return write(engine, folder), write(engine, folder, good)


def write(engine: Any, folder: Path, adapter: Path | None = None, deadline: float = 120, heavy: Any = None) -> Texts:
    """As a lane does it: the base model is loaded where it is not."""
    engine.load(BaseModelConfig(name=str(folder)))
    genes = heavy or engine_models.job(folder, engine_models.TARGETS["llama-tied"]).heavy
    texts: Texts = engine.generate(engine_models.writing(adapter, genes), deadline).only().completions
    return texts


def broken(good: Path, folder: Path, what: str) -> Path:
    """The good adapter with one thing wrong; its files are well-formed."""
    shutil.copytree(good, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    name = sorted(tensors)[0]
    options: dict[str, Any] = {
        "another rank in the configuration": {"r": 8},
        "another alpha": {"lora_alpha": 64},
        "DoRA": {"use_dora": True},
        "a module less": {"target_modules": ["q_proj"]},
        "a pattern": {"target_modules": ".*proj"},
        "no modules": {"target_modules": []},
        "modules to save": {"modules_to_save": ["embed_tokens"]},
        "a bias": {"bias": "all"},
        "trained tokens": {"trainable_token_indices": [1, 2]},
        "more layers": {"layer_replication": [[0, 2], [1, 2]]},
        "some layers": {"layers_to_transform": [0]},
        "ranks by pattern": {"rank_pattern": {"q_proj": 2}},
        "alphas by pattern": {"alpha_pattern": {"q_proj": 2}},
        "rank-stabilised": {"use_rslora": True},
        "PiSSA": {"init_lora_weights": "pissa"},
        "another method": {"peft_type": "LOHA"},
        "a class of somebody's": {"auto_mapping": {"base_model_class": "X", "parent_library": "os"}},
        "an option of a later PEFT": {"use_new_thing": True},
        "a rank that is text": {"r": "4"},
        "a huge rank": {"r": 10**9},
        "an endless alpha": {"lora_alpha": float("inf")},
    }
    changes: dict[str, Any] = {
        "a wrong shape": {name: torch.zeros(3, 3)},
        "a transposed tensor": {name: tensors[name].T.contiguous()},
        "a missing tensor": {name: None},
        "a tensor of no module": {
            "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": tensors[name].clone()
        },
        "a weight of the base": {"base_model.model.model.norm.weight": torch.zeros(32)},
        "a NaN": {
            name: torch.where(torch.arange(tensors[name].numel()).view_as(tensors[name]) == 5, torch.nan, tensors[name])
        },
        "an infinity": {name: torch.full_like(tensors[name], torch.inf)},
        "another dtype": {name: tensors[name].half()},
    }
    if what in options:
        (folder / "adapter_config.json").write_text(json.dumps(config | options[what]))
    elif what in changes:
        changed = {key: value for key, value in (tensors | changes[what]).items() if value is not None}
        save_file(changed, folder / "adapter_model.safetensors")
    elif what == "no configuration":
        (folder / "adapter_config.json").unlink()
    elif what == "no weights":
        (folder / "adapter_model.safetensors").unlink()
    elif what == "a pickle":
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    elif what == "weights cut off":
        data = (folder / "adapter_model.safetensors").read_bytes()
        (folder / "adapter_model.safetensors").write_bytes(data[:-7])
    elif what == "no JSON":
        (folder / "adapter_config.json").write_text("[" * 100_000)
    elif what == "a huge configuration":
        (folder / "adapter_config.json").write_bytes(b" " * (2 << 20))
    elif what == "a device":
        (folder / "adapter_model.safetensors").unlink()
        (folder / "adapter_model.safetensors").symlink_to("/dev/zero")
    else:
        raise AssertionError(what)
    return folder


WRONG = [
    *(
        "a wrong shape",
        "a transposed tensor",
        "a missing tensor",
        "a tensor of no module",
        "a weight of the base",
        "a NaN",
    ),
    *(
        "an infinity",
        "another dtype",
        "another rank in the configuration",
        "another alpha",
        "DoRA",
        "a module less",
        "a pattern",
    ),
    *("no modules", "modules to save", "a bias", "trained tokens", "more layers", "some layers", "ranks by pattern"),
    *(
        "alphas by pattern",
        "rank-stabilised",
        "PiSSA",
        "another method",
        "a class of somebody's",
        "an option of a later PEFT",
    ),
    *(
        "a rank that is text",
        "a huge rank",
        "an endless alpha",
        "no configuration",
        "no weights",
        "a pickle",
        "weights cut off",
    ),
    *("no JSON", "a huge configuration", "a device"),
]


def test_a_broken_adapter_is_an_error_and_changes_nothing(
    folder: Path, engine: FaultyProcess, good: Path, job: Any, right: tuple[Texts, Texts], tmp_path: Path
) -> None:
    assert (write(engine, folder), write(engine, folder, good, heavy=job.heavy)) == right
    pid = engine.pid
    for what in WRONG:
        with pytest.raises(AdapterError, match=r"The adapter cannot be used. Move .* away"):
            write(engine, folder, broken(good, tmp_path / what, what), heavy=job.heavy)
        assert engine.pid == pid, f"{what}: refused before anything was doubtful"
    assert (write(engine, folder), write(engine, folder, good, heavy=job.heavy)) == right


def test_an_adapter_of_another_base_is_an_error(
    folder: Path, engine: FaultyProcess, tmp_path: Path, right: tuple[Texts, Texts]
) -> None:
    other = InlineEngine()
    other.load(BaseModelConfig())
    job = engine_models.job(TINY, ("q_proj",))
    other.train(engine_models.training(job, engine_models.PAIRS, tmp_path), 60)
    with pytest.raises(AdapterError, match="tensor"):
        write(engine, folder, tmp_path, heavy=job.heavy)
    assert write(engine, folder) == right[0]


LOADS = pytest.mark.slow(
    reason="each loads torch in a new process; others of the kind are in make test, a deadline in test_engine.py"
)


@pytest.mark.parametrize(
    ("step", "error"),
    [(150, 0), *(pytest.param(*fault, marks=LOADS) for fault in ((5, 3), (150, 1), (150, 2), (150, 3), (150, 4)))],
)
def test_another_process_does_the_next_request_after_any_unexpected_failure(
    folder: Path, engine: FaultyProcess, good: Path, right: tuple[Texts, Texts], tmp_path: Path, step: int, error: int
) -> None:
    write(engine, folder)
    pid = engine.pid
    adapter = tmp_path / f"fault-{step}-{error}"
    shutil.copytree(good, adapter)
    expected = EngineMemoryError if error in (0, 4) else EngineError
    with pytest.raises(expected, match=r"injected|ran out of memory"):
        write(engine, folder, adapter)
    assert engine.pid is None
    assert (write(engine, folder), write(engine, folder, good)) == right
    assert engine.pid != pid


@pytest.mark.slow(
    reason="loads torch in a new process; make test has a failed generation, and tests/lm/test_rollback.py trainings"
)
def test_a_failed_training_ends_the_process_too(
    folder: Path, engine: FaultyProcess, job: Any, good: Path, right: tuple[Texts, Texts], tmp_path: Path
) -> None:
    out = tmp_path / "fault-300-1"
    out.mkdir()
    write(engine, folder)
    with pytest.raises(EngineError, match="Input/output error"):
        engine.train(engine_models.training(job, engine_models.PAIRS, out), 120)
    assert engine.pid is None and write(engine, folder) == right[0]
    clean = engine.pid
    with pytest.raises(Infeasible, match="target module nowhere"):
        missing = job.model_copy(update={"heavy": job.heavy.model_copy(update={"target_modules": ("nowhere",)})})
        engine.train(engine_models.training(missing, engine_models.PAIRS, tmp_path), 120)
    assert engine.pid == clean, "refused before anything was touched, as the checksum shows"
    (tmp_path / "again").mkdir()
    engine.train(engine_models.training(job, engine_models.PAIRS, tmp_path / "again"), 120)
    weights = [(path / "adapter_model.safetensors").read_bytes() for path in (good, tmp_path / "again")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("changed", BaseChangedError, "is not what was loaded"),
        pytest.param("other", BaseChangedError, "its result was dropped", marks=LOADS),
        pytest.param("garbage", EngineError, "sent no reply", marks=LOADS),
        pytest.param("hold", EngineTimeOutError, "took longer", marks=LOADS),
    ],
)
def test_an_engine_that_cannot_be_trusted_is_ended(
    folder: Path,
    engine: FaultyProcess,
    good: Path,
    right: tuple[Texts, Texts],
    tmp_path: Path,
    name: str,
    error: type[Exception],
    words: str,
) -> None:
    write(engine, folder)
    shutil.copytree(good, tmp_path / name)
    with pytest.raises(error, match=words):
        write(engine, folder, tmp_path / name, deadline=2 if name == "hold" else 120)
    assert engine.pid is None
    assert (write(engine, folder), write(engine, folder, good)) == right


def test_a_late_reply_is_not_taken_for_the_next_one(
    folder: Path, engine: FaultyProcess, good: Path, right: tuple[Texts, Texts], tmp_path: Path
) -> None:
    shutil.copytree(good, tmp_path / "twice")
    for _ in range(2):
        try:
            texts = write(engine, folder, tmp_path / "twice")
        except EngineError as error:
            assert "sent no reply" in str(error)
        else:
            assert texts == right[1]
    assert (write(engine, folder), write(engine, folder, good)) == right


@pytest.mark.slow(reason="loads torch in a new process; tests/test_child_process.py interrupts requests without it")
def test_an_interrupted_request_ends_its_process(
    folder: Path,
    engine: FaultyProcess,
    good: Path,
    right: tuple[Texts, Texts],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(engine, folder)

    def interrupted(*_: Any) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(child_process, "_line", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(engine, folder, good)
    assert engine.pid is None and (write(engine, folder), write(engine, folder, good)) == right


@pytest.mark.slow(reason="loads torch in a new process; tests/lm/test_engine.py kills one, too")
def test_an_engine_killed_between_requests_is_replaced(
    engine: FaultyProcess, right: tuple[Texts, Texts], folder: Path
) -> None:
    write(engine, folder)
    assert engine._process is not None
    engine._process.kill()
    engine._process.wait()
    engine.load(BaseModelConfig(name=str(folder)))
    assert write(engine, folder) == right[0]


def test_two_engines_must_load_the_same_bits(folder: Path, tmp_path: Path) -> None:
    """Files that change under one identity (here: the identity is the caller's word) are found by the checksum."""
    engine = InlineEngine()
    base = BaseModelConfig(name=str(folder))
    engine.load(base)
    engine._checksums = dict.fromkeys(engine._checksums, "another checksum")
    engine.close()
    with pytest.raises(BaseChangedError, match="two engines loaded different weights"):
        engine.load(base)


@pytest.mark.parametrize("error", range(len(faults.ERRORS)))
def test_the_engine_in_the_caller_s_process_loads_the_model_again(
    folder: Path, good: Path, right: tuple[Texts, Texts], error: int
) -> None:
    engine = InlineEngine()
    engine.load(BaseModelConfig(name=str(folder)))
    before = engine._worker
    steps = faults.Steps(200, faults.ERRORS[error])
    with pytest.raises(BaseException, match=r"injected|ran out of memory"), faults.operations(steps):
        write(engine, folder, good)
    assert engine._worker is None
    assert (write(engine, folder), write(engine, folder, good)) == right and engine._worker is not before


def test_a_model_that_fails_to_load_is_not_kept(folder: Path, right: tuple[Texts, Texts]) -> None:
    engine = InlineEngine()
    base = BaseModelConfig(name=str(folder))
    for at in (3, 60):
        with (
            pytest.raises(BaseException, match=r"injected|ran out of memory"),
            faults.operations(faults.Steps(at, faults.ERRORS[at % 3])),
        ):
            engine.load(base)
        assert engine._worker is None
    assert write(engine, folder) == right[0]


def test_weights_that_the_files_lack_are_not_random(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "part")
    tensors = load_file(tmp_path / "part" / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "part" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Exception, match=r"lack 1 tensor.*layers\.1\.mlp\.up_proj"):
        InlineEngine().load(BaseModelConfig(name=str(tmp_path / "part")))


def test_nothing_runs_after_the_end(engine: FaultyProcess) -> None:
    other = FaultyProcess()
    threading.Thread(target=other.kill).start()
    with pytest.raises(EngineError, match="was ended"):
        write(other, folder)
