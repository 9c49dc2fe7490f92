"""The code on the model card writes the engine's tokens, on every kind of model, from any folder."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
pytest.importorskip("torch")

from coral_core.config.tree import BaseModelConfig, GenerationConfig  # noqa: E402
from coral_core.genome import DEFAULT_LORA, GREEDY, HeavyGenes, LightGenes  # noqa: E402
from coral_core.lm.base_model import lasting_name  # noqa: E402
from coral_core.lm.engine import TorchBackend  # noqa: E402
from coral_core.lm.targets import default_lora_of  # noqa: E402
from coral_core.prompting.choice import resolve_prompt  # noqa: E402
from coral_core.prompting.templates import INSTRUCT  # noqa: E402
from coral_core.report.usage import EXAMPLE, base_of, loading_code  # noqa: E402
from tests.lm.engine_models import training, writing  # noqa: E402
from tests.lm.small_models import chat_model, edit, save_model  # noqa: E402
from tests.lm.test_architecture import PAIRS, job  # noqa: E402
from tests.prompting.chat_templates import CHATML  # noqa: E402

SHAPE = GenerationConfig(batch_size=2, prompt_length=400)


def written(code: str) -> str:
    assert "```" not in code, "it stands between fences"
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "card", "exec"), {"__name__": "card"})
    return out.getvalue().removesuffix("\n")


def both(folder: Path, tmp_path: Path, light: LightGenes, **genes: Any) -> tuple[str, str]:
    """As `engine_and_card`, for an adapter that is trained for it."""
    backend = TorchBackend(BaseModelConfig(name=str(folder)))
    heavy = HeavyGenes(
        rank=4, alpha=8, dropout=0.0, adapter="lora", learning_rate=0.05, target_modules=default_lora_of(backend.identity).target_modules
    ).model_copy(update=genes)  # fmt: skip
    adapter = tmp_path / "adapter"
    adapter.mkdir(exist_ok=True)
    backend.train(training(job(backend, folder, heavy), PAIRS, adapter))
    return engine_and_card(backend, adapter, heavy, light)


def engine_and_card(backend: TorchBackend, adapter: Path, heavy: HeavyGenes, light: LightGenes) -> tuple[str, str]:
    """What the engine writes for the card's example, and what the card's code writes."""
    config = backend.loaded.config
    prompt = resolve_prompt(config, backend.identity.chat)
    asked = writing(
        adapter, heavy, light, [("a", prompt.prompt(EXAMPLE))], seed=0, shape=SHAPE, stop=prompt.stop, end=prompt.end, add_bos=prompt.add_bos
    )  # fmt: skip
    texts = backend.generate(asked).only().completions
    base = base_of(lasting_name(config), backend.identity.content_id, backend.identity.numerics_class)
    return texts[0][0], written(loading_code(base, config, prompt, heavy, light, str(adapter)))


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gpt2", "gemma2", "opt"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_the_card_writes_the_engines_tokens(
    zoo: Callable[[str], Path], name: str, penalty: float, tmp_path: Path
) -> None:
    light = GREEDY.model_copy(update={"token_limit": 24, "repetition_penalty": penalty})
    engine, card = both(zoo(name), tmp_path, light)
    assert card == engine and engine


def test_the_card_of_a_chat_ends_its_turn(tmp_path: Path) -> None:
    folder = chat_model(tmp_path / "model", CHATML)
    light = GREEDY.model_copy(update={"token_limit": 24, "repetition_penalty": 1.3})
    engine, card = both(folder, tmp_path, light)
    assert card == engine and engine


def test_settings_of_the_base_model_do_not_leak_into_the_card(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "llama")
    edit(folder / "config.json", lambda data: data.update(eos_token_id=[1, 7]))
    leaky = {
        "do_sample": True,
        "temperature": 9.0,
        "repetition_penalty": 3.0,
        "min_new_tokens": 20,
        "eos_token_id": [260, 9],
    }
    edit(folder / "generation_config.json", lambda data: data.update(leaky))
    engine, card = both(folder, tmp_path, GREEDY.model_copy(update={"token_limit": 24}))
    assert card == engine


def test_a_token_that_begins_and_ends_is_not_punished(tmp_path: Path) -> None:
    """As in GPT-2: the beginning mark in the prompt is the end token."""
    folder = save_model(tmp_path / "model", "gpt_neox")
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / file).exists():
            edit(folder / file, lambda data: data.update(bos_token="</s>"))
    light = GREEDY.model_copy(update={"token_limit": 24, "repetition_penalty": 1.5})
    engine, card = both(folder, tmp_path, light)
    assert card == engine


def test_a_tied_head_is_merged_without_its_embedding(zoo: Callable[[str], Path], tmp_path: Path) -> None:
    light = GREEDY.model_copy(update={"token_limit": 24})
    engine, card = both(zoo("llama-tied"), tmp_path, light, target_modules=("lm_head", "q_proj"))
    assert card == engine


def test_a_relative_name_is_whole_in_adapter_and_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model(tmp_path / "model", "llama")
    monkeypatch.chdir(tmp_path)
    config = BaseModelConfig(name="./model")
    backend = TorchBackend(config)
    heavy = default_lora_of(backend.identity)
    (tmp_path / "adapter").mkdir()
    backend.train(training(job(backend, Path("./model"), heavy), PAIRS, tmp_path / "adapter"))
    monkeypatch.chdir("/")
    from peft import PeftConfig

    saved = PeftConfig.from_pretrained(str(tmp_path / "adapter"))
    assert saved.base_model_name_or_path == str(folder) and saved.revision is None
    base = base_of(saved.base_model_name_or_path, "c", "n")
    assert base.name == str(folder) and base.revision is None
    assert repr(str(folder)) in loading_code(base, config, INSTRUCT, heavy, GREEDY)


def test_a_hub_model_is_named_by_its_commit() -> None:
    base = base_of("owner/model", "0123abc", "x; bfloat16; eager attention")
    assert base == ("owner/model", "0123abc", "0123abc", "eager", "bfloat16")
    code = loading_code(base, BaseModelConfig(name="owner/model"), INSTRUCT, DEFAULT_LORA, GREEDY)
    assert "revision='0123abc'" in code and 'dtype=torch.bfloat16, attn_implementation="eager"' in code
    compile(code, "card", "exec")
