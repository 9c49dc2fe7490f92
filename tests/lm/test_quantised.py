"""4-bit base models: trained as QLoRA, generated unmerged, restored bit for bit; refused where bitsandbytes is missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from transformers import BitsAndBytesConfig  # noqa: E402

from coral_core.config.config_file import parse_config  # noqa: E402
from coral_core.config.tree import BaseModelConfig  # noqa: E402
from coral_core.errors import BaseChangedError, BaseModelError, ConfigError  # noqa: E402
from coral_core.lm import base_model  # noqa: E402
from coral_core.lm.base_model import identify, numerics_class  # noqa: E402
from coral_core.lm.engine import TorchBackend  # noqa: E402
from coral_core.lm.model_check import check_base_model  # noqa: E402
from coral_core.runs.run_folder import identify_run  # noqa: E402
from tests.lm.engine_models import training, writing  # noqa: E402
from tests.lm.test_architecture import PAIRS, genes, job  # noqa: E402
from tests.lm.test_plain_peft import plain  # noqa: E402
from tests.lm.test_usage import engine_and_card  # noqa: E402
from tests.lm.test_zoo import LIGHT, PROMPTS, SHAPE, goes_on_with_the_same_weights  # noqa: E402

Zoo = Callable[[str], Path]


def test_without_bitsandbytes_it_is_refused_before_the_start(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "find_spec", lambda name: None)
    quantised = BaseModelConfig(name=str(zoo("llama")), quantization="nf4")
    given = ["genes.heavy.rank=[4, 8]", "generation.prompt_length=100", "base_model.quantization=nf4"]
    run = parse_config("", "test", [f"base_model.name={zoo('llama')}", *given])
    for call in (lambda: identify(quantised), lambda: check_base_model(run)):
        with pytest.raises(BaseModelError, match=r"^base_model\.quantization: nf4: .*not installed.*coral-x\[bnb\]"):
            call()
    elsewhere = parse_config("", "test", [f"base_model.name={zoo('llama')}", *given, "infra.executor=work-pools"])
    assert check_base_model(elsewhere) == (), "the lanes' machines are asked"
    with pytest.raises(ConfigError, match="rehearsal has no weights"):
        check_base_model(parse_config("", "test", ["base_model={name: rehearsal, quantization: nf4}"]))


def test_it_is_part_of_the_identity_of_results_only_where_it_is_used() -> None:
    plain, quantised = BaseModelConfig(), BaseModelConfig(quantization="nf4")
    assert "nf4" not in numerics_class(plain, "sdpa")
    assert numerics_class(quantised, "sdpa").startswith(numerics_class(plain, "sdpa") + "; nf4 bitsandbytes ")
    runs = [identify_run(parse_config("", "test", [f"base_model.quantization={name}"])) for name in ("none", "nf4")]
    assert runs[0] == identify_run(parse_config("", "test")) and runs[0] != runs[1]


@pytest.mark.slow(reason="10 seconds, and needs the extra bnb")
@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_qlora_trains_and_plain_peft_writes_the_engines_text(zoo: Zoo, name: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra bnb")
    backend = TorchBackend(BaseModelConfig(name=str(zoo(name)), quantization="nf4"))
    model = backend.loaded.model
    four_bit = [part for part in model.modules() if type(part).__name__ == "Linear4bit"]
    assert len(four_bit) >= 8 and all(part.weight.dtype == torch.uint8 for part in four_bit)

    def texts(adapter: Path | None, heavy: Any = None) -> Any:
        return backend.generate(writing(adapter, heavy, LIGHT, PROMPTS, shape=SHAPE)).only().completions

    full = TorchBackend(BaseModelConfig(name=str(zoo(name))))
    bare = texts(None)
    assert bare != full.generate(writing(None, None, LIGHT, PROMPTS, shape=SHAPE)).only().completions, "4 bits show"
    for number, change in enumerate(({"adapter": "lora", "scaling": "rslora"}, {"adapter": "dora"})):
        heavy = genes(target_modules=backend.identity.modules, learning_rate=0.05, **change)
        adapter = tmp_path / str(number)
        adapter.mkdir()
        backend.train(training(job(backend, zoo(name), heavy), PAIRS, adapter))
        goes_on_with_the_same_weights(backend, zoo(name), adapter, heavy, tmp_path / f"{number}-on")
        found = texts(adapter, heavy)
        four_bits = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
        plainly = plain(zoo(name), adapter, "float32", PROMPTS, LIGHT.token_limit, quantization_config=four_bits)
        assert found == plainly != bare
        engine, card = engine_and_card(backend, adapter, heavy, LIGHT)
        assert card == engine
    assert texts(None) == bare and backend.check() == backend.checksum
    four_bit[0].weight.quant_state.absmax[0] *= 2
    with pytest.raises(BaseChangedError, match="absmax"):
        backend.check()
