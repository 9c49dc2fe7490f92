"""What is known of a model without loading it is what the loaded model has: modules, attention, end tokens, default LoRA."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, PreTrainedModel  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402

from benchmarks.architectures import entry  # noqa: E402
from coral_core.config.config_file import parse_config  # noqa: E402
from coral_core.config.gene_space import module_names  # noqa: E402
from coral_core.config.tree import BaseModelConfig, GenerationConfig  # noqa: E402
from coral_core.errors import BaseModelError, ConfigError, CoralError, EngineError  # noqa: E402
from coral_core.genome import GREEDY, default_lora  # noqa: E402
from coral_core.jobs.jobs import TrainingJob  # noqa: E402
from coral_core.lm import generation  # noqa: E402
from coral_core.lm.architecture import end_tokens, made_by, positions, table  # noqa: E402
from coral_core.lm.base_model import identify  # noqa: E402
from coral_core.lm.engine import TorchBackend  # noqa: E402
from coral_core.lm.generation import generate  # noqa: E402
from coral_core.lm.loaded_model import LoadedModel  # noqa: E402
from coral_core.lm.targets import (  # noqa: E402
    UnknownTargetError,
    check_targets,
    default_lora_of,
    for_model,
    resolve,
    sets_of,
)
from tests.lm.engine_models import training, writing  # noqa: E402
from tests.lm.small_models import DEFAULTS, SMALL, edit, save_model  # noqa: E402

Zoo = Callable[[str], Path]
NEEDS_EAGER = {"gemma2", "bloom", "codegen"}
VARIANTS = ("llama-tied", "llama-biases", "llama-fp16", "llama-bf16", "llama-sharded", "qwen2-tied")
KINDS = [name for name in SMALL if name not in VARIANTS]


def config(folder: Path, **changes: Any) -> BaseModelConfig:
    return BaseModelConfig(name=str(folder), **changes)


@pytest.mark.parametrize("name", SMALL)
def test_the_files_say_what_the_loaded_model_has(zoo: Zoo, name: str) -> None:
    identity = identify(config(zoo(name)))
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(str(zoo(name)))
    head = model.get_output_embeddings()
    linear = {
        path.rsplit(".", 1)[-1]
        for path, part in model.named_modules()
        if isinstance(part, (torch.nn.Linear, Conv1D)) and part is not head
    }
    known = table()[SMALL[name][0]]
    linear -= {*known.get("remapped", ()), *known.get("refused", ())}
    linear -= {path.rsplit(".", 1)[-1] for path, part in model.named_modules() if any(part.children())}
    experts = {
        f"experts.{key}"
        for path, part in model.named_modules()
        for key, parameter in part.named_parameters(recurse=False)
        if path.endswith(".experts") and parameter.ndim == 3
    }
    sets = sets_of(identity)
    assert set(identity.modules) == linear and set(sets.pop("experts", ())) == experts
    assert all(set(modules) <= linear for modules in sets.values())
    default = default_lora_of(identity)
    assert default.target_modules == DEFAULTS.get(name, ("k_proj", "o_proj", "q_proj", "v_proj"))
    assert default.learning_rate == 2e-4 and set(default.target_modules) <= linear


@pytest.mark.parametrize("name", KINDS)
def test_attention_is_what_the_class_supports(zoo: Zoo, name: str) -> None:
    model = LoadedModel(config(zoo(name)))
    used = model.model.config._attn_implementation
    assert used == ("eager" if name in NEEDS_EAGER else "sdpa")
    assert ("eager" in model.identity.numerics_class) == (used == "eager")
    assert model.end_tokens == {1} and model.pad == 2


def test_attention_can_be_chosen_and_is_part_of_the_results_identity(zoo: Zoo) -> None:
    given, eager = identify(config(zoo("llama"))), identify(config(zoo("llama"), attention="eager"))
    assert identify(config(zoo("llama"), attention="sdpa")) == given
    assert eager.numerics_class == f"{given.numerics_class}; eager attention"
    assert LoadedModel(config(zoo("llama"), attention="eager")).model.config._attn_implementation == "eager"
    with pytest.raises(BaseModelError, match=r"base_model\.attention: sdpa: bloom does not support it.*eager"):
        identify(config(zoo("bloom"), attention="sdpa"))


@pytest.mark.parametrize("model_type", sorted({model_type for model_type, _ in SMALL.values()}))
def test_the_table_is_what_the_installed_libraries_say(model_type: str) -> None:
    import transformers

    if made_by()["transformers"] != transformers.__version__:
        pytest.skip("the table was made with another version of transformers")
    class_name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    assert table()[model_type] == entry(model_type, class_name, False)


def test_the_table_knows_every_causal_language_model() -> None:
    assert set(table()) >= {model_type for model_type, _ in SMALL.values()} and len(table()) > 150
    for model_type, known in table().items():
        assert known["class"] and isinstance(known["sdpa"], bool), model_type
        assert not set(known.get("linear", ())) & set(known.get("other", ())), model_type


def genes(**changes: Any) -> Any:
    heavy = {"rank": 4, "alpha": 8, "dropout": 0.0, "adapter": "lora", "learning_rate": 1e-2}
    return default_lora("x").model_copy(update=heavy | changes)


def job(backend: TorchBackend, folder: Path, heavy: Any) -> TrainingJob:
    made = parse_config("", "test", ["training.steps=3", "training.batch_size=2", "training.warmup=1"])
    return TrainingJob(
        heavy=heavy,
        base_model=config(folder),
        base_content_id=backend.identity.content_id,
        numerics_class=backend.identity.numerics_class,
        recipe=made.training,
        recipe_version="1",
        problems=made.problems,
        pairs_digest="",
        prompt_version="",
        run_seed=0,
    )


PAIRS = [("def f(a):\n", "    return a\n</s>"), ("def g(b):\n", "    return b + 1\n</s>")]


def test_lists_of_end_tokens_are_ordinary_and_those_of_every_file_count(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    edit(folder / "config.json", lambda data: data.update(eos_token_id=[1, 7, 8]))
    edit(
        folder / "generation_config.json",
        lambda data: data.update(
            eos_token_id=[9, 10], do_sample=True, temperature=0.01, top_k=1, repetition_penalty=3.0
        ),
    )
    backend = TorchBackend(config(folder))
    assert backend.loaded.end_tokens == {1, 7, 8, 9, 10}
    shape = GenerationConfig(batch_size=1, prompt_length=16)
    light = GREEDY.model_copy(update={"token_limit": 12})
    asked = writing(None, None, light, [("a", "x = 1\n")], seed=0, shape=shape)
    plain = backend.generate(asked).only().completions
    edit(folder / "generation_config.json", lambda data: [data.pop(key) for key in ("do_sample", "temperature", "top_k", "repetition_penalty")])  # fmt: skip
    assert TorchBackend(config(folder)).generate(asked).only().completions == plain


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        (({"eos_token_id": [2, 300]}, {"eos_token_id": 5}), (2, 5, 300)),
        (({"eos_token_id": None}, None, {}), ()),
        (({"eos_token_id": "2"}, {"eos_token_id": [True, 3, "4"]}), (3,)),
    ],
)
def test_end_tokens_of_several_files(sources: Any, found: tuple[int, ...]) -> None:
    assert end_tokens(*sources) == found


@pytest.mark.parametrize(
    ("given_config", "most"),
    [
        ({"max_position_embeddings": 128}, 128),
        ({"n_positions": 64}, 64),
        ({}, None),
        ({"max_position_embeddings": 128, "alibi": True}, None),
        ({"max_position_embeddings": 128, "rope_scaling": {"type": "linear", "factor": 4.0}}, 512),
        ({"max_position_embeddings": 128, "rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, 128),
        ({"max_position_embeddings": "many"}, None),
    ],
)
def test_positions(given_config: dict[str, Any], most: int | None) -> None:
    assert positions(given_config) == most


def test_no_padding_token_is_taken_from_the_end_token(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            edit(folder / name, lambda data: data.pop("pad_token", None))
    model = LoadedModel(config(folder))
    assert model.pad == 1


def test_padding_needs_no_token_of_its_own(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            edit(folder / name, lambda data: [data.pop(key, None) for key in ("pad_token", "eos_token")])
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    larger = AutoModelForCausalLM.from_pretrained(folder)
    larger.resize_token_embeddings(rows + 8)
    larger.config.pad_token_id = rows + 3
    larger.save_pretrained(folder)
    loaded = LoadedModel(config(folder))
    assert loaded.pad == rows + 3 and loaded.end_tokens == {1}
    light, shape = GREEDY.model_copy(update={"token_limit": 6}), GenerationConfig(batch_size=2, prompt_length=24)

    def texts_of(*prompts: tuple[str, str]) -> Any:
        return generate(loaded, writing(None, None, light, prompts, seed=0, shape=shape)).only().completions

    texts, alone = texts_of(("a", "def f(a):"), ("b", "x")), texts_of(("b", "x"))
    assert texts[1] == alone[0] and texts[0][0]


def test_end_tokens_that_no_row_can_write_are_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            edit(folder / name, lambda data: data.pop("eos_token", None))
    for name in ("config.json", "generation_config.json"):
        edit(folder / name, lambda data: data.update(eos_token_id=[50256, -1]))
    with pytest.raises(BaseModelError, match="-1, 50256 have no embedding"):
        LoadedModel(config(folder))
    edit(folder / "config.json", lambda data: data.update(eos_token_id=[50256, 1]))
    assert LoadedModel(config(folder)).end_tokens == {1}


def test_spaces_of_code_are_not_tidied_up(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    tidy = {
        "clean_up_tokenization_spaces": True,
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True,
    }
    edit(folder / "tokenizer_config.json", lambda data: data.update(tidy))
    loaded = LoadedModel(config(folder))
    code = "x = ' ' + y if a != b , ' ' else n ' . '\n"
    ids = loaded.tokenizer.encode(code, add_special_tokens=False)
    assert loaded.tokenizer.decode(ids) != code, "this tokenizer does tidy up"
    assert generation._text(loaded, ids) == code


def test_files_changed_while_they_are_loaded_make_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coral_core.lm import loaded_model as module

    folder = save_model(tmp_path, "llama")
    load = module._loaded

    def changed(*arguments: Any) -> Any:
        found = load(*arguments)
        edit(folder / "generation_config.json", lambda data: data.update(eos_token_id=7))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(module, "_loaded", changed)
        with pytest.raises(EngineError, match="changed while they were loaded"):
            LoadedModel(config(folder))
    assert LoadedModel(config(folder)).end_tokens == {1, 7}


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OSError(5, "Input/output error"), EngineError), (OSError("no file named model.safetensors"), BaseModelError)],
)
def test_a_disk_that_fails_in_loading_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, kind: type[CoralError]
) -> None:
    from coral_core.lm import loaded_model

    def broken(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(loaded_model.AutoModelForCausalLM, "from_pretrained", broken)
    with pytest.raises(kind, match=r"loaded: OSError: .*(error|named)"):
        LoadedModel(config(save_model(tmp_path, "llama")))


def test_missing_tensors_are_refused_and_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_model(tmp_path, "llama")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"lack 1 tensor.*up_proj"):
        LoadedModel(config(folder))


def test_a_search_uses_the_modules_of_the_model(zoo: Zoo) -> None:
    from coral_core.search.strategy import make_search

    made = parse_config("", "test", ["genes.heavy.target_modules=[query_key_value,attention,mlp+query_key_value,all]"])
    base = identify(config(zoo("gpt_neox")))
    check_targets(made, base)
    search = make_search(for_model(made, base), (), default_lora_of(base))
    genomes = search.ask()
    assert genomes[0].heavy.target_modules == ("query_key_value",)
    assert {name for genome in genomes for name in genome.heavy.target_modules} <= set(base.modules)
    assert len({genome.heavy.target_modules for genome in genomes}) > 1


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"intermediate_size": -1}),
        ("config.json", {"hidden_act": "no-such"}),
        ("config.json", {"rope_parameters": []}),
        ("config.json", {"intermediate_size": 49}),
        ("config.json", {"num_attention_heads": 3}),
        ("tokenizer_config.json", {"eos_token": {"a": 1}}),
        ("tokenizer_config.json", {"tokenizer_class": 1.5}),
        ("generation_config.json", {"eos_token_id": {"a": 1}}),
    ],
)
def test_files_that_make_no_model_are_the_models_fault(tmp_path: Path, file: str, changes: dict[str, Any]) -> None:
    """Whatever transformers raises: no traceback, no further try, no "bug"."""
    folder = save_model(tmp_path / "model", "llama")
    edit(folder / file, lambda data: data.update(changes))
    try:
        TorchBackend(config(folder))
    except BaseModelError as error:
        assert str(folder) in str(error) and "\n" not in str(error)


def test_the_engine_refuses_sequences_beyond_the_positions(tmp_path: Path) -> None:
    """Where nobody could look at the files before: no index error in the middle of a batch."""
    folder = save_model(tmp_path / "model", "gpt2", n_positions=64)
    backend, shape = TorchBackend(config(folder)), GenerationConfig(batch_size=1, prompt_length=60)
    prompt = "x = 1\n" * 4
    length = len(backend.loaded.encode(prompt))
    light = GREEDY.model_copy(update={"token_limit": 64 - length})
    backend.generate(writing(None, None, light, [("a", prompt)], seed=0, shape=shape))
    light = GREEDY.model_copy(update={"token_limit": 65 - length})
    with pytest.raises(ConfigError, match=r"token_limit: sequences become 65 tokens long, and .* has 64 positions"):
        backend.generate(writing(None, None, light, [("a", prompt)], seed=0, shape=shape))
    asked = job(backend, folder, genes(target_modules=("c_attn",)))
    (tmp_path / "a").mkdir()
    backend.train(training(asked, [(prompt, "x" * (64 - length))], tmp_path / "a"))
    with pytest.raises(
        ConfigError, match=r"problems\.longest: sequences become \d+ tokens long.*Leave longer functions out"
    ):
        backend.generate(writing(None, None, light, [("a", "x = 1\n" * 40)], shape=GenerationConfig(prompt_length=400)))
    with pytest.raises(ConfigError, match=r"training\.sequence_length: sequences become 72 tokens"):
        backend.train(training(asked, [(prompt, "x" * (65 - length))], tmp_path / "a"))


def test_the_engine_refuses_tokens_without_embedding(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "llama")
    edit(folder / "tokenizer.json", lambda data: data["added_tokens"].append({"id": 300, "content": "<new>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}))  # fmt: skip
    with pytest.raises(
        BaseModelError, match=r"1 tokens beyond the model's 300 embeddings, such as '<new>' with id 300"
    ):
        LoadedModel(config(folder))


@given(st.text("qkvo+_proj mlpatenion-gu.\u0000\n[", max_size=30))
@settings(max_examples=300, deadline=None)
def test_every_candidate_is_understood_or_refused_with_the_names(text: str) -> None:
    base = identify(BaseModelConfig())
    try:
        modules = resolve(text, base)
    except UnknownTargetError:
        given_config = parse_config("", "test")
        heavy = given_config.genes.heavy.model_copy(update={"target_modules": (text,)})
        genes_config = given_config.genes.model_copy(update={"heavy": heavy})
        with pytest.raises(ConfigError, match="It has down_proj, gate_proj"):
            check_targets(given_config.model_copy(update={"genes": genes_config}), base)
        return
    assert modules and set(modules) <= {*base.modules, "lm_head"}
    assert modules == tuple(sorted(set(modules)))


@pytest.mark.parametrize("choice", ["q", "q+v", "attention", "mlp", "all", "q_proj+down_proj", "attention+lm_head"])
def test_candidates_of_llama_like_models_mean_what_they_meant(choice: str) -> None:
    """Digests of runs that were made before sets followed the model."""
    assert resolve(choice, identify(BaseModelConfig())) == module_names(choice)
