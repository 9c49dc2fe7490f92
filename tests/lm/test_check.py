"""What the files of a base model can tell is refused before anything starts, with the values that would work."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coral_core.config import RunConfig
from coral_core.config.config_file import parse_config
from coral_core.errors import BaseModelError, ConfigError
from coral_core.lm.architecture import describe
from coral_core.lm.base_model import TINY
from coral_core.lm.model_check import check_base_model
from coral_core.lm.model_files import read_folder
from tests.lm.small_models import edit

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 10,
    "num_hidden_layers": 2,
    "max_position_embeddings": 512,
}


def made(folder: Path, config: dict[str, Any], tensors: dict[str, tuple[int, ...]], dtype: str = "F32") -> Path:
    """A model folder whose weights are zeros; only headers are read."""
    folder.mkdir(parents=True, exist_ok=True)
    size = {"F32": 4, "I8": 1, "F8_E4M3": 1}[dtype]
    header, end = {}, 0
    for name, shape in tensors.items():
        count = size
        for side in shape:
            count *= side
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + count]}
        end += count
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * end)
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {"<s>": 0, "</s>": 1, "<pad>": 2} | {chr(97 + n): 3 + n for n in range(7)}
    tokenizer = {"model": {"type": "BPE", "vocab": vocabulary}, "added_tokens": [{"id": 1, "content": "</s>"}]}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    marks = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | marks))
    return folder


def layers(*names: str, count: int = 2) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (10, 16)}
    return found | {f"model.layers.{n}.{name}.weight": (16, 16) for n in range(count) for name in names}


ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
MLP = tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down"))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return made(tmp_path / "llama", LLAMA, layers(*ATTENTION, *MLP))


def run(folder: Path | str, *overrides: str) -> RunConfig:
    given = ["genes.heavy.rank=[4, 8]", "generation.prompt_length=100", *overrides]
    return parse_config("", "test", [f"base_model.name={folder}", *given])


def refused(folder: Path | str, *overrides: str, error: type[Exception] = ConfigError) -> str:
    with pytest.raises(error) as caught:
        check_base_model(run(folder, *overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_model_passes_without_a_note(llama: Path) -> None:
    assert check_base_model(run(llama)) == ()
    assert check_base_model(parse_config("", "test")) == ()


NAMES = {
    "no_such_proj": "no_such_proj: no module of",
    "q+no_such": r"no_such \(part of q\+no_such\): no module of",
    "query_key_value": "query_key_value: no module of",
    "atention": "Near: attention",
    "q_porj": "Near: q_proj",
    "self_attn.q_proj": "a path, where the last part of the name is wanted. Near: q_proj",
    "model.layers.0.self_attn.q_proj": "Near: q_proj",
}


@pytest.mark.parametrize("name", NAMES)
def test_wrong_module_names_are_refused_with_those_that_the_model_has(llama: Path, name: str) -> None:
    import re

    text = refused(llama, f"genes.heavy.target_modules=[attention, {name}]")
    assert re.search(NAMES[name], text), text
    assert "It has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj, lm_head" in text
    assert "sets: default, attention, mlp, all, all-linear" in text


@pytest.mark.parametrize("name", ["q", "q+v", "attention", "mlp", "all", "all-linear", "default", "attention+lm_head", "lm_head", "mlp+q_proj", "gate+up"])  # fmt: skip
def test_sets_names_and_mixtures_are_understood(llama: Path, name: str) -> None:
    assert check_base_model(run(llama, f"genes.heavy.target_modules=[{name}]", "search.diversity.minimum_unique=0")) == ()  # fmt: skip


def test_two_names_of_one_set_are_refused(llama: Path) -> None:
    text = refused(llama, "genes.heavy.target_modules=[q, attention, q+k+v+o]")
    assert "q+k+v+o and attention are the same modules" in text


def test_wrong_names_are_refused_for_the_embedded_and_the_rehearsal_model() -> None:
    for name in ("coral-tiny", "rehearsal", "rehearsal:train=1"):
        assert "It has down_proj" in refused(name, "genes.heavy.target_modules=[q, no_such_proj]")


def test_fused_experts_are_refused_with_the_reason(tmp_path: Path) -> None:
    experts = [f"block_sparse_moe.experts.{n}.{name}" for n in range(2) for name in ("w1", "w2", "w3")]
    config = LLAMA | {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    folder = made(tmp_path / "moe", config, layers(*ATTENTION, *experts, "block_sparse_moe.gate"))
    for name in ("w1", "attention+w2", "gate", "gate_up_proj"):
        text = refused(folder, f"genes.heavy.target_modules=[q, {name}]")
        assert "one fused parameter, no linear module: name it experts.down_proj or experts.gate_up_proj" in text
        assert "It has k_proj, o_proj, q_proj, v_proj, lm_head, experts.down_proj, experts.gate_up_proj; sets: " in text
    assert "mlp: the MLP is expert weights" in refused(folder)
    assert "Near: experts.down_proj" in refused(folder, "genes.heavy.target_modules=[q, mlp.experts.down_proj]")
    assert check_base_model(run(folder, "genes.heavy.target_modules=[q, q+v, attention]")) == ()


def test_fused_experts_are_named_as_parameters_for_lora_without_dropout(tmp_path: Path) -> None:
    experts = [f"block_sparse_moe.experts.{n}.{name}" for n in range(2) for name in ("w1", "w2", "w3")]
    config = LLAMA | {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    folder = made(tmp_path / "moe", config, layers(*ATTENTION, *experts))
    lora, still = "genes.heavy.adapter=[lora]", "genes.heavy.dropout=[0.0]"
    for name in ("experts", "attention+experts", "q+experts.down_proj"):
        targets = f"genes.heavy.target_modules=[q, {name}]"
        assert check_base_model(run(folder, targets, lora, still, "genes.heavy.rank=[4, 16]")) == ()
        text = refused(folder, targets, still)
        assert text.startswith("genes.heavy.adapter: dora:") and "LoRA without dropout only" in text
        assert refused(folder, targets, lora, "genes.heavy.dropout=[0.0, 0.05]").startswith(
            "genes.heavy.dropout: 0.05:"
        )
        assert "Keep ranks up to 16" in refused(folder, targets, lora, still, "genes.heavy.rank=[4, 17]")
    assert "experts: no module of" in refused(
        made(tmp_path / "llama", LLAMA, layers(*ATTENTION)), "genes.heavy.target_modules=[experts]"
    )


def test_a_rank_above_the_matrices_is_refused(llama: Path) -> None:
    text = refused(llama, "genes.heavy.rank=[8, 17]")
    assert text.startswith("genes.heavy.rank: 17:") and "Keep ranks up to 16" in text
    assert check_base_model(run(llama, "genes.heavy.rank=[8, 16]")) == ()


def test_sequences_longer_than_the_positions_are_refused(llama: Path) -> None:
    edit(llama / "config.json", lambda data: data.update(max_position_embeddings=200))
    assert check_base_model(run(llama)) == ()
    text = refused(llama, "generation.prompt_length=105")
    assert text.startswith("generation.prompt_length: 105") and "makes 201 tokens" in text and "200 positions" in text
    assert "token_limit up to 101" in refused(llama, "genes.light.token_limit={low: 64, high: 101}")
    text = refused(llama, "training.sequence_length=201")
    assert text.startswith("training.sequence_length: 201") and "at most 200" in text
    edit(llama / "config.json", lambda data: data.update(rope_scaling={"rope_type": "yarn", "factor": 2.0}))
    assert check_base_model(run(llama, "training.sequence_length=201")) == ()


def named(**marks: Any) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        edit(folder / "tokenizer_config.json", lambda data: data.update(marks))

    return do


def configured(**changes: Any) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        edit(folder / "config.json", lambda data: data.update(changes))

    return do


def grown(count: int) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        more = {f"token{n}": 10 + n for n in range(count)}
        edit(folder / "tokenizer.json", lambda data: data["model"]["vocab"].update(more))

    return do


def without(*names: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return do


UNUSABLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no end token": (named(eos_token=None, pad_token=None), "neither tokenizer_config.json nor config.json names an end token"),
    "pad outside": (named(pad_token="[PAD]"), r"such as '\[PAD\]' with id 10 \(it is not in the vocabulary"),
    "pad as object": (named(pad_token={"content": "[PAD]"}), r"such as '\[PAD\]'"),
    "bos outside": (named(bos_token="<begin>"), "such as '<begin>' with id 10"),
    "smaller vocabulary": (grown(3), "3 tokens are beyond the model's 10 embeddings, such as 'token2' with id 12"),
    "odd number": (configured(hidden_size="x"), "says hidden_size 'x', where a number above 0 belongs"),
    "no layers": (configured(num_hidden_layers=0), "says num_hidden_layers '0'"),
    "no weights": (without("model.safetensors"), "no weights: model.safetensors is not there"),
    "no tokenizer": (without("tokenizer.json"), "no tokenizer: none of tokenizer.json"),
    "tokenizer no JSON": (lambda folder: (folder / "tokenizer.json").write_text("]"), r"tokenizer\.json: no JSON object"),
    "encoder": (configured(model_type="t5", architectures=["T5ForConditionalGeneration"]), "no causal language model"),
    "unknown type": (configured(model_type="no-such"), "'no-such' is no causal language model"),
    "own code": (configured(model_type="own", auto_map={"AutoModelForCausalLM": "modeling.Own"}), "code of its own"),
    "no type": (configured(model_type=None), "names no model_type"),
    "odd type": (configured(model_type=["llama"]), "names no model_type"),
    "headless": (configured(architectures=["LlamaModel"]), r"\['LlamaModel'\]: no causal language model"),
    "classifier": (configured(architectures=["LlamaForSequenceClassification"]), "LlamaForCausalLM was expected"),
    "quantised": (configured(quantization_config={"quant_method": "gptq"}), r"quantised \(.*gptq"),
    "both directions": (configured(model_type="bert", architectures=["BertLMHeadModel"]), "reads in both directions"),
    "no end token inside": (lambda folder: [named(eos_token=None, pad_token="<pad>")(folder), configured(eos_token_id=[-1, 10])(folder)], "names an end token of the vocabulary"),
    "positions of padding": (configured(model_type="roberta", architectures=["RobertaForCausalLM"], is_decoder=True), "computes something else after padding on the left"),
    "bare tuples": (configured(return_dict=False), "says return_dict false"),
    "state space": (configured(model_type="mamba", architectures=["MambaForCausalLM"]), "without a key-value cache"),
    "layers missing": (configured(num_hidden_layers=3), "there are no weights of layer 2"),
    "tokenizer code": (lambda folder: [(folder / "tokenizer.json").rename(folder / "vocab.txt"), named(auto_map={"AutoTokenizer": ["t.T", None]})(folder)], "tokenizer needs Python code"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_model_that_cannot_be_used_is_refused_with_the_reason(llama: Path, case: str) -> None:
    import re

    change, words = UNUSABLE[case]
    change(llama)
    text = refused(llama, error=BaseModelError)
    assert re.search(words, text), text
    assert str(llama) in text


@pytest.mark.parametrize("dtype", ["I8", "F8_E4M3"])
def test_weights_that_are_no_floats_are_refused(tmp_path: Path, dtype: str) -> None:
    folder = made(tmp_path / "small", LLAMA, layers(*ATTENTION, *MLP), dtype)
    assert f"weights of type {dtype}" in refused(folder, error=BaseModelError)


ALLOWED: dict[str, Callable[[Path], Any]] = {
    "more embeddings than tokens": lambda folder: None,
    "list of end tokens": configured(eos_token_id=[1, 5]),
    "end token of the configuration alone": lambda folder: (
        named(eos_token=None, pad_token=None)(folder),
        configured(eos_token_id=1)(folder),
    ),
    "own code beside a known type": configured(auto_map={"AutoModelForCausalLM": "modeling.Own"}),
    "no architectures": configured(architectures=None),
    "no padding token": named(pad_token=None),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_ordinary_models_are_not_refused(llama: Path, case: str) -> None:
    ALLOWED[case](llama)
    assert check_base_model(run(llama)) == ()


def test_the_tiny_prompt_needs_its_separator(llama: Path, tmp_path: Path) -> None:
    assert "<sep> is no token of" in refused(llama, "base_model.prompt=tiny")
    shutil.copytree(TINY, tmp_path / "copy")
    assert check_base_model(run(tmp_path / "copy", "base_model.prompt=tiny")) == ()


def test_attention_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    config = LLAMA | {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]}
    folder = made(tmp_path / "gemma", config, layers(*ATTENTION, *MLP))
    assert "does not support it" in refused(folder, "base_model.attention=sdpa", error=BaseModelError)
    assert check_base_model(run(folder, "base_model.attention=eager")) == ()


@pytest.mark.parametrize("end", ["</s>", "a", "<s>a"])
def test_the_end_of_an_own_template_must_be_a_special_token(llama: Path, tmp_path: Path, end: str) -> None:
    """The engine refuses other tokens of the vocabulary, too: a text that holds them may be split otherwise."""
    file = tmp_path / "own.yaml"
    file.write_text(json.dumps({"prompt": "{{ buggy }}", "end": end}))
    if end == "</s>":
        assert check_base_model(run(llama, f"base_model.prompt={file}")) == ()
    else:
        assert "is no special token of" in refused(llama, f"base_model.prompt={file}")


def test_a_name_that_layers_have_too_is_no_target(tmp_path: Path) -> None:
    """PEFT would take the layers as well, which it cannot adapt."""
    lists = {f"model.projections.{n}.weight": (16, 16) for n in range(2)}
    folder = made(tmp_path / "lists", LLAMA, layers(*ATTENTION, *MLP) | lists)
    assert check_base_model(run(folder, "genes.heavy.target_modules=[all]")) == ()
    assert "0" not in describe(read_folder(folder)).modules


def test_modules_that_peft_cannot_adapt_are_no_targets(tmp_path: Path) -> None:
    config = LLAMA | {"model_type": "falcon_h1", "architectures": ["FalconH1ForCausalLM"]}
    folder = made(tmp_path / "hybrid", config, layers(*ATTENTION, *MLP, "mamba.in_proj", "mamba.out_proj"))
    assert {"in_proj", "out_proj"} & set(describe(read_folder(folder)).modules) == {"in_proj"}
    assert "out_proj: PEFT cannot adapt it" in refused(folder, "genes.heavy.target_modules=[q, out_proj]")


def snapshot(home: Path, name: str, folder: Path, *files: str) -> Path:
    """A model in the hub's cache, as links to its files."""
    root = home / "hub" / f"models--{name.replace('/', '--')}"
    there = root / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    there.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(there.name)
    for file in files:
        (there / file).symlink_to(folder / file)
    return there


EVERY = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "home" / "hub"), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "home"


@pytest.mark.parametrize("name", ["coral-tiny", "rehearsal", "./nowhere", None])
@pytest.mark.parametrize("executor", ["local", "work-pools"])
def test_a_revision_is_the_hubs_alone(llama: Path, name: str | None, executor: str) -> None:
    words = ["base_model.revision=v2", f"infra.executor={executor}"]
    assert "v2: " in (text := refused(name or llama, *words)) and "is not on the hub" in text


def test_a_model_that_is_not_here_is_said_to_be_unseen(hub: Path) -> None:
    notes = check_base_model(run("owner/model", "genes.heavy.target_modules=[no_such_proj]"))
    assert len(notes) == 1 and "owner/model: it is not on this machine" in notes[0]


def test_a_model_in_the_cache_is_looked_at(hub: Path, llama: Path) -> None:
    from coral_core.lm.base_model import identify

    there = snapshot(hub, "owner/model", llama, *EVERY)
    assert check_base_model(run("owner/model")) == ()
    assert "It has down_proj" in refused("owner/model", "genes.heavy.target_modules=[no_such_proj]")
    assert identify(run("owner/model").base_model).content_id == there.name
    assert identify(run("owner/model", "base_model.revision=main").base_model).content_id == there.name


def test_a_download_that_was_not_finished_is_said(hub: Path, llama: Path) -> None:
    from coral_core.lm.base_model import identify

    snapshot(hub, "owner/half", llama, "config.json")
    notes = check_base_model(run("owner/half"))
    assert len(notes) == 1 and "owner/half: it is not on this machine, or not whole" in notes[0]
    with pytest.raises(BaseModelError, match="no weights"):
        identify(run("owner/half").base_model)


def test_a_folder_of_the_lanes_is_theirs_to_look_at(tmp_path: Path) -> None:
    missing = run(tmp_path / "not-here", "infra.executor=work-pools")
    notes = check_base_model(missing)
    assert len(notes) == 1 and "it is not on this machine" in notes[0]
    assert "no such directory" in refused(tmp_path / "not-here", error=BaseModelError)
