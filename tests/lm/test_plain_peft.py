"""What the engine writes with an adapter is what plain PEFT writes with it, tied heads and end tokens included."""

import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from peft import PeftModel  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from coral_core.config.tree import BaseModelConfig  # noqa: E402
from coral_core.errors import BaseModelError, Infeasible  # noqa: E402
from coral_core.lm.engine import TorchBackend  # noqa: E402
from coral_core.lm.sampling import penalised, penalised_tokens  # noqa: E402
from tests.lm import engine_models  # noqa: E402
from tests.lm.small_models import edit, save_model  # noqa: E402

pytestmark = pytest.mark.torch
Texts = tuple[tuple[str, ...], ...]
CASES = [
    ("llama-tied", ("lm_head",), "lora"),
    ("llama-tied", ("lm_head",), "dora"),
    ("llama-tied", ("lm_head", "q_proj", "down_proj"), "dora"),
    ("llama", ("lm_head", "v_proj"), "lora"),
    ("qwen2-tied", ("lm_head", "k_proj"), "lora"),
    ("gpt2", ("lm_head", "c_attn"), "lora"),
    ("gpt2", ("c_attn", "c_proj"), "dora"),
    ("coral-tiny", ("lm_head",), "lora"),
]


def write(backend: TorchBackend, adapter: Path | None, light: Any = engine_models.SHORT, heavy: Any = None) -> Texts:
    return backend.generate(engine_models.writing(adapter, heavy, light)).only().completions


def plain(
    folder: Path,
    adapter: Path,
    dtype: str = "float32",
    prompts: Any = engine_models.TEXTS,
    tokens: int = 6,
    **loading: Any,
) -> Texts:
    """Greedy text of the adapter on a base model that was loaded for it, prompt by prompt.

    Not merged in float32; in half precision merged, as the engine has it, since rounding differs otherwise.
    """
    return tuple((text,) for text, _ in plain_with_margins(folder, adapter, dtype, prompts, tokens, **loading))


def plain_with_margins(
    folder: Path, adapter: Path, dtype: str, prompts: Any, tokens: int, **loading: Any
) -> list[tuple[str, float]]:
    """As `plain`, each text with its narrowest choice: the logit of the best token over the second, in standard deviations."""
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    base = AutoModelForCausalLM.from_pretrained(str(folder), dtype=getattr(torch, dtype), **loading)
    for part in base.modules():
        part.support_avx512bf16_for_cpu = False  # bitsandbytes packs 4-bit weights anew otherwise
    model: Any = PeftModel.from_pretrained(base, str(adapter)).eval()
    if dtype != "float32":
        model = model.merge_and_unload()
    found = []
    for _, text in prompts:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        written = out.sequences[0, ids.shape[1] :]
        best = [logits[0].float().topk(2).values for logits in out.logits]
        margins = [
            float((two[0] - two[1]) / logits[0].float().std()) for two, logits in zip(best, out.logits, strict=True)
        ]
        found.append(
            (tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False), min(margins))
        )
    return found


@pytest.mark.parametrize(("name", "modules", "adapter"), CASES)
def test_the_text_is_that_of_plain_peft(tmp_path: Path, name: str, modules: tuple[str, ...], adapter: str) -> None:
    folder = save_model(tmp_path / "base", name)
    backend = TorchBackend(BaseModelConfig(name=str(folder)))
    job = engine_models.job(folder, modules, adapter=adapter)
    (tmp_path / "adapter").mkdir()
    before = write(backend, None)
    backend.train(engine_models.training(job, engine_models.PAIRS, tmp_path / "adapter"))
    found = write(backend, tmp_path / "adapter", heavy=job.heavy)
    assert found == plain(folder, tmp_path / "adapter") != before
    assert write(backend, None) == before and backend.check() == backend.checksum
    head = backend.loaded.model.get_output_embeddings().weight
    assert (head is backend.loaded.model.get_input_embeddings().weight) == (name != "llama"), "tied as it was"


def test_a_penalty_leaves_end_tokens_alone_until_they_are_written() -> None:
    """A prompt that begins with its end token, as GPT-2 and StarCoder2 have it."""
    seen = [penalised_tokens(ids, {2}) for ids in ([2, 5, 6], [2, 7, 2, 7, 8])]
    assert seen == [{5, 6}, {7, 8}]
    logits = torch.full((2, 10), 3.0)
    logits[1, 8] = -3.0
    found = penalised(logits, seen, 1.5)
    assert found.tolist() == [[2.0 if n in (5, 6) else 3.0 for n in range(10)], [{7: 2.0, 8: -4.5}.get(n, 3.0) for n in range(10)]]  # fmt: skip
    assert float(logits.min()) == -3.0, "the model's logits are not written to"


def test_a_model_whose_end_begins_texts_stops_under_a_penalty_as_without(tmp_path: Path) -> None:
    """The model always ends at once; were the end token of the prompt punished, it would go on."""
    folder = save_model(tmp_path / "base", "llama")
    for file in ("config.json", "generation_config.json"):
        edit(folder / file, lambda data: data.update(bos_token_id=1, eos_token_id=1, pad_token_id=1))
    edit(folder / "tokenizer_config.json", lambda data: data.update(bos_token="</s>", pad_token="</s>"))
    backend = TorchBackend(BaseModelConfig(name=str(folder)))
    assert backend.loaded.encode("x")[0] == 1 and 1 in backend.loaded.end_tokens
    with torch.no_grad():
        head = backend.loaded.model.lm_head.weight
        norm = backend.loaded.model.model.norm.weight
        norm.fill_(1.0)
        head.zero_()
    write(backend, None)  # the shapes are tried once, after which the model is restored without our hook
    hidden: list[Any] = []
    handle = backend.loaded.model.lm_head.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0][:, -1]))
    write(backend, None)
    handle.remove()
    with torch.no_grad():
        # the end token's logit is a little above that of another one, for each of the prompts
        for state in hidden[0][: len(engine_models.TEXTS)]:
            head[1] += state
            head[9] += 0.9 * state
    penalty = engine_models.SHORT.model_copy(update={"repetition_penalty": 2.0})
    assert write(backend, None) == write(backend, None, penalty)


@pytest.mark.parametrize("adapted", [True, False])
def test_outputs_that_are_no_numbers_are_no_text(tmp_path: Path, adapted: bool) -> None:
    folder = save_model(tmp_path / "base", "llama-tied")
    backend = TorchBackend(BaseModelConfig(name=str(folder)))
    job = engine_models.job(folder, ("q_proj",))
    backend.train(engine_models.training(job, engine_models.PAIRS, tmp_path))
    if adapted:
        from safetensors.torch import load_file, save_file

        path = tmp_path / "adapter_model.safetensors"
        save_file({name: tensor * 0 + 1e38 for name, tensor in load_file(path).items()}, path)
        with pytest.raises(Infeasible, match="not finite at token 1") as caught:
            write(backend, tmp_path, heavy=job.heavy)
        assert caught.value.reason == "diverged" and backend.check() == backend.checksum
        return
    with torch.no_grad():
        backend.loaded.model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(BaseModelError, match=r"outputs of .* are not finite"):
        write(backend, None)


def test_a_run_is_not_affected_by_who_used_the_random_numbers_before(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "base", "llama-tied")
    backend = TorchBackend(BaseModelConfig(name=str(folder)))
    job = engine_models.job(folder, ("q_proj",))
    torch.manual_seed(1)
    expected = torch.rand(1)
    for name in ("a", "b"):
        torch.manual_seed(1)
        (tmp_path / name).mkdir()
        backend.train(engine_models.training(job, engine_models.PAIRS, tmp_path / name))
        assert torch.rand(1) == expected
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
    backend.train(engine_models.training(job, engine_models.PAIRS, tmp_path))
    shutil.rmtree(folder)
    files = [(path / "adapter_model.safetensors").read_bytes() for path in (tmp_path / "a", tmp_path / "b", tmp_path)]
    assert files[0] == files[1] == files[2]
