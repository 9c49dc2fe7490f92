"""The engine: identity, training, generation, its process; with the embedded base model."""

import errno
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from coral_core.config import RunConfig  # noqa: E402
from coral_core.config.tree import BaseModelConfig, GenerationConfig, TrainingConfig  # noqa: E402
from coral_core.errors import BaseModelError, ConfigError, EngineError, Infeasible  # noqa: E402
from coral_core.genome import DEFAULT_LORA, GREEDY, HeavyGenes, LightGenes  # noqa: E402
from coral_core.jobs.job_content import problem_set  # noqa: E402
from coral_core.jobs.jobs import TrainingJob  # noqa: E402
from coral_core.lm.base_model import identify  # noqa: E402
from coral_core.lm.engine import (  # noqa: E402
    TorchBackend,
    Worker,
    answer,
)
from coral_core.lm.engine_client import EngineProcess  # noqa: E402
from coral_core.prompting.templates import TINY  # noqa: E402
from tests.lm.engine_models import training, writing  # noqa: E402

pytestmark = pytest.mark.torch
PROBLEMS = RunConfig().problems.model_copy(
    update={"fitness": 12, "retention": 4, "monitor": 0, "held_out": 4, "pairs": 48}
)
SHAPE = GenerationConfig(batch_size=4, prompt_length=112)
SHORT = GREEDY.model_copy(update={"token_limit": 40})
SAMPLING = LightGenes(temperature=0.9, top_p=0.95, top_k=40, repetition_penalty=1.0, token_limit=24, sampling=True)


def job(seed: int = 0, steps: int = 8, **genes: Any) -> TrainingJob:
    heavy = HeavyGenes.model_validate(DEFAULT_LORA.model_dump() | genes)
    base = BaseModelConfig()
    return TrainingJob(
        heavy=heavy,
        base_model=base,
        base_content_id="test",
        numerics_class="test",
        recipe=TrainingConfig(steps=steps, warmup=1),
        recipe_version="1",
        problems=PROBLEMS,
        pairs_digest="test",
        prompt_version=TINY.version,
        run_seed=seed,
    )


def pairs() -> list[tuple[str, str]]:
    return [(TINY.prompt(pair.buggy), TINY.answer(pair.fixed)) for pair in problem_set(PROBLEMS).pairs]


TRAINED = job(steps=12, learning_rate=0.01)


def prompts(count: int = 6) -> list[tuple[str, str]]:
    return [(problem.problem_id, TINY.prompt(problem.buggy)) for problem in problem_set(PROBLEMS).fitness[:count]]


@pytest.fixture(scope="module")
def backend() -> TorchBackend:
    return TorchBackend(BaseModelConfig())


@pytest.fixture(scope="module")
def adapter(backend: TorchBackend, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapter")
    backend.train(training(TRAINED, pairs(), out))
    return out


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def base_bits(backend: TorchBackend) -> str:
    total = hashlib.sha256()
    for name, value in sorted(backend.loaded.model.state_dict().items()):
        total.update(name.encode() + value.cpu().numpy().tobytes())
    return total.hexdigest()


def write(
    backend: TorchBackend,
    folder: Path | None,
    light: LightGenes,
    chosen: list[tuple[str, str]],
    seed: int = 1,
    samples: int = 1,
    heavy: HeavyGenes | None = None,
) -> tuple[tuple[str, ...], ...]:
    genes = heavy or TRAINED.heavy
    return (
        backend.generate(writing(folder, genes, light, chosen, seed=seed, samples=samples, shape=SHAPE))
        .only()
        .completions
    )


def test_the_embedded_model_is_small_and_identified_without_torch() -> None:
    identity = identify(BaseModelConfig())
    assert 500_000 < identity.parameters < 1_500_000 and "q_proj" in identity.modules
    folder = Path(__file__).parents[2] / "coral_core" / "lm" / "tiny"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3_000_000


def test_training_lowers_the_loss_and_says_what_it_cost(backend: TorchBackend, tmp_path: Path) -> None:
    record = backend.train(training(job(steps=20, learning_rate=0.01), pairs(), tmp_path))
    assert record.losses[-1].loss < record.losses[0].loss and not record.warnings
    assert (
        record.examples == 48 and record.cost.tokens > 0 and record.cost.seconds > 0 and record.cost.peak_memory_mb > 0
    )
    assert record.trainable_parameters == 4 * 4 * 2 * 8 * 128


def test_equal_jobs_give_equal_bits_and_seeds_matter(backend: TorchBackend, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        backend.train(training(job(seed=seed, steps=3, dropout=0.1), pairs(), tmp_path / name))
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


def test_the_base_model_is_left_as_it_was(backend: TorchBackend, adapter: Path, tmp_path: Path) -> None:
    before = base_bits(backend)
    dora = job(steps=2, adapter="dora")
    backend.train(training(dora, pairs(), tmp_path))
    write(backend, tmp_path, SHORT, prompts(2), heavy=dora.heavy)
    write(backend, adapter, SHORT, prompts(2))
    with pytest.raises(Infeasible):
        backend.train(training(job(target_modules=("no_such_proj",)), pairs(), tmp_path))
    assert base_bits(backend) == before


def test_dora_stays_dora(backend: TorchBackend, tmp_path: Path) -> None:
    backend.train(training(job(steps=2, adapter="dora"), pairs(), tmp_path))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["use_dora"] is True and config["r"] == 8 and config["base_model_name_or_path"] == "coral-tiny"


def test_greedy_output_equals_plain_peft(backend: TorchBackend, adapter: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(__file__).parents[2] / "coral_core" / "lm" / "tiny"
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    base = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(base, str(adapter)).eval()
    ours = write(backend, adapter, SHORT, prompts())
    for (_, text), found in zip(prompts(), ours, strict=True):
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.inference_mode():
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)
        assert found[0] == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_an_adapter_changes_the_output(backend: TorchBackend, adapter: Path) -> None:
    assert write(backend, adapter, SHORT, prompts()) != write(backend, None, SHORT, prompts())


def test_neighbours_and_order_change_nothing(backend: TorchBackend, adapter: Path) -> None:
    whole = dict(zip([key for key, _ in prompts()], write(backend, adapter, SAMPLING, prompts()), strict=True))
    turned = list(reversed(prompts()))
    assert dict(zip([key for key, _ in turned], write(backend, adapter, SAMPLING, turned), strict=True)) == whole
    assert write(backend, adapter, SAMPLING, prompts(1))[0] == whole[prompts(1)[0][0]]


def test_samples_differ_and_repeat(backend: TorchBackend) -> None:
    first = write(backend, None, SAMPLING, prompts(3), samples=4)
    assert first == write(backend, None, SAMPLING, prompts(3), samples=4)
    assert any(len(set(group)) > 1 for group in first)
    assert first != write(backend, None, SAMPLING, prompts(3), seed=2, samples=4)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.2},
        {"temperature": 3.0},
        {"top_p": 0.3},
        {"top_k": 2},
        {"repetition_penalty": 1.6},
        {"sampling": False},
    ],
)
def test_every_light_gene_is_honoured(backend: TorchBackend, change: dict[str, Any]) -> None:
    hot = SAMPLING.model_copy(update={"temperature": 1.5, "top_p": 1.0, "top_k": 0})
    assert write(backend, None, hot.model_copy(update=change), prompts()) != write(backend, None, hot, prompts())


def test_the_token_limit_is_honoured(backend: TorchBackend) -> None:
    short = write(backend, None, GREEDY.model_copy(update={"token_limit": 5}), prompts(3))
    assert all(len(backend.loaded.encode(group[0])) <= 7 for group in short)


def test_a_diverging_training_is_infeasible(backend: TorchBackend, tmp_path: Path) -> None:
    with pytest.raises(Infeasible) as caught:
        endless = job(steps=40, learning_rate=1.0, alpha=100_000, target_modules=backend.identity.modules)
        backend.train(training(endless, pairs(), tmp_path))
    assert caught.value.reason == "diverged" and "loss" in str(caught.value)


def test_a_loss_that_does_not_fall_is_a_warning(backend: TorchBackend, tmp_path: Path) -> None:
    record = backend.train(training(job(steps=6, learning_rate=1e-9), pairs(), tmp_path))
    assert record.losses[-1].loss >= record.losses[0].loss or not record.warnings


def test_a_prompt_that_is_too_long_names_the_number(backend: TorchBackend) -> None:
    with pytest.raises(ConfigError, match="prompt_length 8 is too short"):
        shape = GenerationConfig(batch_size=1, prompt_length=8)
        backend.generate(writing(None, None, SHORT, prompts(1), shape=shape))


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere"])
def test_a_missing_base_model_is_named(name: str) -> None:
    with pytest.raises(BaseModelError, match="no such directory"):
        identify(BaseModelConfig(name=name))


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"no config\.json"):
        identify(BaseModelConfig(name=str(tmp_path)))


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    engine = EngineProcess()
    yield engine
    engine.close()


def test_the_process_gives_what_the_backend_gives(engine: EngineProcess, backend: TorchBackend, adapter: Path) -> None:
    assert engine.load(BaseModelConfig()) == backend.identity
    found = engine.generate(writing(adapter, TRAINED.heavy, SHORT, prompts(), shape=SHAPE), 60).only()
    assert found.completions == write(backend, adapter, SHORT, prompts()) and found.cost.tokens > 0


def test_adapters_and_the_bare_base_share_a_request(
    engine: EngineProcess, backend: TorchBackend, adapter: Path
) -> None:
    engine.load(BaseModelConfig())
    adapted = writing(adapter, TRAINED.heavy, SHORT, prompts(), shape=SHAPE)
    bare = writing(None, None, SHORT, prompts(), shape=SHAPE)
    entries = (*adapted.entries, *bare.entries, *adapted.entries)
    found = engine.generate(adapted.model_copy(update={"entries": entries}), 60).entries
    texts = write(backend, adapter, SHORT, prompts()), write(backend, None, SHORT, prompts())
    assert [written.completions for written in found] == [texts[0], texts[1], texts[0]] and texts[0] != texts[1]
    assert all(written.cost.tokens and written.cost.cpu_seconds for written in found)


def test_a_killed_engine_is_an_error_and_the_next_one_works(engine: EngineProcess) -> None:
    base = BaseModelConfig(name="rehearsal:evaluate=30")
    engine.load(base)
    assert engine.pid is not None
    pid, asked = engine.pid, writing(None, None, SHORT, prompts(1), shape=SHAPE)
    import threading

    threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(EngineError, match="SIGKILL"):
        engine.generate(asked, 60)
    engine.load(BaseModelConfig(name="rehearsal"))
    assert engine.generate(asked, 60).only().completions[0]


def test_a_deadline_ends_the_engine(engine: EngineProcess) -> None:
    engine.load(BaseModelConfig(name="rehearsal:evaluate=30"))
    with pytest.raises(EngineError, match="took longer than its 1 s"):
        engine.generate(writing(None, None, SHORT, prompts(1), shape=SHAPE), 1)


def test_prefect_settings_do_not_reach_the_engine(engine: EngineProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://secret")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    engine.load(BaseModelConfig(name="rehearsal"))
    environment = Path(f"/proc/{engine.pid}/environ").read_bytes()
    assert b"PREFECT" not in environment and b"secret" not in environment


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("I/O error: No space left (os error 28)")]
)
def test_a_full_disk_is_the_store_s_matter_not_the_genome_s(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(op: str, body: dict[str, Any], send: Any) -> Any:
        raise error

    worker = Worker()
    monkeypatch.setattr(worker, "do", full)
    reply = answer(worker, {"id": 1, "op": "train", "out": "/somewhere"}, print)
    assert reply["error"] == "StoreError" and "/somewhere: the disk is full" in reply["problem"] and not reply["base"]
