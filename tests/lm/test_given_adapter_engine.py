"""An adapter that plain PEFT made writes plain PEFT's text in the engine, also saved in half precision."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from coral_core.config.tree import BaseModelConfig, GenerationConfig  # noqa: E402
from coral_core.lm.adapters import CONFIG, WEIGHTS  # noqa: E402
from coral_core.lm.base_model import TINY  # noqa: E402
from coral_core.lm.engine import TorchBackend  # noqa: E402
from coral_core.lm.given_adapter import check_base, read_given_adapter  # noqa: E402
from coral_core.lm.requests import AdapterFolder  # noqa: E402
from tests.lm.engine_models import SHORT, writing  # noqa: E402

SHAPE = GenerationConfig(batch_size=2, prompt_length=64)
ASKED = [("a", "<bos>def add(a, b):\n    return a - b<sep>")]


@pytest.mark.slow(reason="loads coral-tiny three times")
@pytest.mark.parametrize(("dora", "dtype"), [(False, "bfloat16"), (True, "float32")])
def test_the_engine_writes_what_peft_writes(tmp_path: Path, dora: bool, dtype: str) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=64, target_modules=r".*\.(q|v)_proj", use_dora=dora, use_rslora=dora, init_lora_weights=False)  # fmt: skip
    get_peft_model(base, config).save_pretrained(tmp_path / "given")
    half = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(tmp_path / "given" / WEIGHTS).items()}
    save_file(half, tmp_path / "given" / WEIGHTS)

    backend = TorchBackend(BaseModelConfig(name="coral-tiny"))
    adapter = read_given_adapter(tmp_path / "given", backend.loaded.config)
    check_base(adapter, BaseModelConfig(name=str(TINY)), backend.identity.content_id)
    (tmp_path / "stored").mkdir()
    (tmp_path / "stored" / CONFIG).write_bytes(adapter.canonical_config())
    (tmp_path / "stored" / WEIGHTS).write_bytes((tmp_path / "given" / WEIGHTS).read_bytes())
    folder = AdapterFolder(folder=tmp_path / "stored", heavy=adapter.heavy, is_given=True)
    asked = writing(None, None, prompts=ASKED, shape=SHAPE)
    given = tuple(entry.model_copy(update={"adapter": folder}) for entry in asked.entries)
    engine = backend.generate(asked.model_copy(update={"entries": given})).only().completions[0][0]
    bare = backend.generate(asked).only().completions[0][0]

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    plain = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    merged = PeftModel.from_pretrained(plain, tmp_path / "given").merge_and_unload().eval()
    ids = tokenizer.encode(ASKED[0][1], add_special_tokens=False, return_tensors="pt")
    out = merged.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=SHORT.token_limit)
    text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert engine == text and engine != bare
