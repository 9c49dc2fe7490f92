"""A merged model, loaded by transformers alone, writes the engine's text: LoRA and DoRA, tied and untied, in several files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
pytest.importorskip("torch")

from coral_core.config.tree import BaseModelConfig  # noqa: E402
from coral_core.errors import AdapterError  # noqa: E402
from coral_core.genome import GREEDY, HeavyGenes  # noqa: E402
from coral_core.lm.base_model import lasting_name  # noqa: E402
from coral_core.lm.engine import TorchBackend  # noqa: E402
from coral_core.lm.merged_model import write_merged  # noqa: E402
from coral_core.lm.requests import AdapterFolder  # noqa: E402
from coral_core.prompting.choice import resolve_prompt  # noqa: E402
from coral_core.report.usage import EXAMPLE, base_of, generation_settings, merged_loading_code  # noqa: E402
from tests.lm.engine_models import training, writing  # noqa: E402
from tests.lm.test_architecture import PAIRS, job  # noqa: E402
from tests.lm.test_usage import SHAPE, written  # noqa: E402

LIGHT = GREEDY.model_copy(update={"token_limit": 24})


def trained(name: str, tmp_path: Path, **genes: Any) -> tuple[TorchBackend, AdapterFolder]:
    """An adapter that changes what the base writes."""
    backend = TorchBackend(BaseModelConfig(name=name))
    fields: dict[str, Any] = {"rank": 4, "alpha": 8, "dropout": 0.0, "learning_rate": 0.05, "adapter": "dora", "target_modules": ("q_proj", "v_proj")}  # fmt: skip
    heavy = HeavyGenes(**fields | genes)
    (tmp_path / "adapter").mkdir()
    backend.train(training(job(backend, Path(name), heavy), PAIRS, tmp_path / "adapter"))
    return backend, AdapterFolder(folder=tmp_path / "adapter", heavy=heavy)


def engine_text(backend: TorchBackend, adapter: AdapterFolder | None) -> str:
    prompt = resolve_prompt(backend.loaded.config, backend.identity.chat)
    asked = writing(
        adapter and adapter.folder, adapter and adapter.heavy, LIGHT, [("a", prompt.prompt(EXAMPLE))], seed=0, shape=SHAPE,
        stop=prompt.stop, end=prompt.end, add_bos=prompt.add_bos,
    )  # fmt: skip
    return backend.generate(asked).only().completions[0][0]


def merged_text(backend: TorchBackend, adapter: AdapterFolder, out: Path, shard: str = "5GB") -> str:
    out.mkdir()
    config = backend.loaded.config
    prompt = resolve_prompt(config, backend.identity.chat)
    write_merged(backend.loaded, adapter, out, generation_settings(LIGHT), prompt.end, shard)
    backend.check()  # the base in memory is what was loaded
    base = base_of(lasting_name(config), backend.identity.content_id, backend.identity.numerics_class)
    code = merged_loading_code(base, prompt, LIGHT, str(out))
    assert "import" in code and "from peft" not in code and "coral_core" not in code
    return written(code)


@pytest.mark.parametrize(
    "kind", [pytest.param("lora", marks=pytest.mark.slow(reason="trains and merges on coral-tiny")), "dora"]
)
def test_coral_tiny_merged_writes_the_engines_text(kind: str, tmp_path: Path) -> None:
    backend, adapter = trained("coral-tiny", tmp_path, adapter=kind)
    engine = engine_text(backend, adapter)
    assert engine and engine != engine_text(backend, None)
    assert merged_text(backend, adapter, tmp_path / "merged") == engine
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names


@pytest.mark.slow(reason="trains and merges on three small models")
@pytest.mark.parametrize(("name", "targets"), [("llama-tied", ("lm_head", "q_proj")), ("llama", ("q_proj",)), ("gpt2", ("c_attn",))])  # fmt: skip
def test_other_models_too(zoo: Callable[[str], Path], name: str, targets: tuple[str, ...], tmp_path: Path) -> None:
    backend, adapter = trained(str(zoo(name)), tmp_path, target_modules=targets, learning_rate=0.5)
    assert merged_text(backend, adapter, tmp_path / "merged", "20KB") == engine_text(backend, adapter)
    assert (tmp_path / "merged" / "model.safetensors.index.json").exists(), "in several files"


def test_weights_that_overflow_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    backend, adapter = trained("coral-tiny", tmp_path, adapter="lora")
    file = adapter.folder / "adapter_model.safetensors"
    save_file({name: tensor * 0 + 1e30 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(AdapterError, match="not finite"):
        write_merged(backend.loaded, adapter, tmp_path, generation_settings(LIGHT))
    assert not list(tmp_path.glob("*.safetensors"))
    backend.check()
