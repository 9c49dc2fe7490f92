"""What is trained on is what is asked: the same tokens in training and generation, for chat templates and tokenizers of all kinds."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
pytest.importorskip("torch")
pytest.importorskip("tokenizers")

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

from coral_core.config.tree import BaseModelConfig, GenerationConfig, TrainingConfig  # noqa: E402
from coral_core.errors import BaseModelError, ConfigError  # noqa: E402
from coral_core.genome import GREEDY  # noqa: E402
from coral_core.lm.base_model import identify  # noqa: E402
from coral_core.lm.encoding import check_tokenizer, encode_pair, encode_prompt, exact_text  # noqa: E402
from coral_core.lm.engine import TorchBackend  # noqa: E402
from coral_core.lm.tokenizer_files import chat_of  # noqa: E402
from coral_core.prompting import chat  # noqa: E402
from coral_core.prompting.chat import chat_turn, in_chat  # noqa: E402
from coral_core.prompting.choice import resolve_prompt  # noqa: E402
from coral_core.prompting.extraction import extract  # noqa: E402
from coral_core.prompting.render_chat import render  # noqa: E402
from coral_core.prompting.templates import INSTRUCT, PLAIN  # noqa: E402
from tests.lm.engine_models import job, training, writing  # noqa: E402
from tests.lm.small_models import TEXTS, chat_model, edit  # noqa: E402
from tests.prompting.chat_templates import CHATML, KINDS  # noqa: E402

BUGGY, FIXED = "def f(a):\n    return a - 1", "def f(a):\n    return a + 1"
SPACE = "▁"
PRINTABLE = [chr(number) for number in range(33, 127)] + ["\n", SPACE]


@pytest.fixture(autouse=True)
def rendered_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/prompting/test_render_process.py renders in the process."""
    monkeypatch.setattr(chat, "_child", lambda _, wanted: render(dict(wanted)))


def byte_level() -> Tokenizer:
    """As that of GPT-2, Llama 3, Qwen and StarCoder."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def sentencepiece(legacy: bool) -> Tokenizer:
    """As that of Llama 2 and Mistral: a space is put in front of a text, in old files also after each special token."""
    made = Tokenizer(models.BPE())
    if legacy:
        made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
        made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        made.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    return made


TOKENIZERS = {
    "bytes": byte_level,
    "sentencepiece": lambda: sentencepiece(False),
    "sentencepiece-legacy": lambda: sentencepiece(True),
}


def tokenizer(name: str, bos: str | None, eos: str, added: tuple[str, ...]) -> Any:
    made = TOKENIZERS[name]()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if name == "bytes" else PRINTABLE
    texts = [*TEXTS, " Here is the code:\n\n```python\n", "assistant\n\n", BUGGY]
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=eos, **({} if bos is None else {"bos_token": bos}))
    fast.add_special_tokens({"additional_special_tokens": [token for token in added if token.strip()]})
    return fast


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_of_these_kinds_keep_code(name: str) -> None:
    check_tokenizer(tokenizer(name, "<s>", "</s>", ()), name)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("kind", [*KINDS, "instruct", "plain"])
def test_training_sees_the_tokens_of_generation(kind: str, name: str) -> None:
    if kind in KINDS:
        known = KINDS[kind]
        template, tokens = in_chat(chat_turn(known.template())), tokenizer(name, known.bos, known.eos, known.added)
    else:
        template, tokens = {"instruct": INSTRUCT, "plain": PLAIN}[kind], tokenizer(name, "<s>", "</s>", ())
    prompt, answer = template.prompt(BUGGY), template.answer(FIXED)
    before, after = encode_pair(tokens, prompt, answer, template.add_bos)
    assert before == encode_prompt(tokens, prompt, template.add_bos), "the prompt is what generation is given"
    assert f"{FIXED}{template.answer_after}" in exact_text(tokens, before + after)
    assert exact_text(tokens, before + after) == exact_text(
        tokens, encode_prompt(tokens, prompt + answer, template.add_bos)
    )
    if template.end:
        assert after[-1] == tokens.convert_tokens_to_ids(template.end), "the model learns to end"
        assert template.end not in exact_text(tokens, after[:-1])
    if tokens.bos_token and tokens.bos_token != tokens.eos_token:
        starts = [tokens.bos_token_id] * (prompt.startswith(tokens.bos_token) or template.add_bos)
        assert before[: len(starts)] == starts and before[len(starts)] != tokens.bos_token_id, "BOS once"
    written = tokens.decode(after, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert extract(written.partition("\n# Buggy")[0], "f").patch == FIXED


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    ("prompt", "answer"),
    [("say:", " def"), ("say: ", "def f"), ("a\n", "\nb"), ("de", "f f(a):"), ("", "def"), ("x", "")],
)
def test_a_token_across_the_end_of_the_prompt_is_taken_apart(name: str, prompt: str, answer: str) -> None:
    tokens = tokenizer(name, "<s>", "</s>", ())
    before, after = encode_pair(tokens, prompt, answer)
    assert before == encode_prompt(tokens, prompt)
    assert exact_text(tokens, before + after) == exact_text(tokens, encode_prompt(tokens, prompt + answer))


OTHER_DAY, CLOSED = {"llama-3.2"}, {"deepseek-r1", "no-generation-prompt"}


@pytest.mark.parametrize("kind", sorted(set(KINDS) - OTHER_DAY - CLOSED - {"parts"}))
def test_the_prompt_is_that_of_transformers(kind: str) -> None:
    known = KINDS[kind]
    tokens = tokenizer("bytes", known.bos, known.eos, known.added)
    template = in_chat(chat_turn(known.template()), chat.Wording("", "", "", ""))
    question = [{"role": "user", "content": BUGGY}]
    asked = {"chat_template": known.text, "add_generation_prompt": True, "enable_thinking": False}
    assert template.prompt(BUGGY) == tokens.apply_chat_template(question, tokenize=False, **asked)
    ids = tokens.apply_chat_template(question, tokenize=True, return_dict=False, **asked)
    assert ids == encode_prompt(tokens, template.prompt(BUGGY), template.add_bos)


def test_an_adapter_writes_what_it_was_trained_to_write_and_ends_its_turn(tmp_path: Path) -> None:
    """A model that has learned one pair by heart writes its answer, and nothing after it."""
    folder = chat_model(tmp_path / "model", CHATML)
    config = BaseModelConfig(name=str(folder))
    backend = TorchBackend(config)
    template = resolve_prompt(config, backend.identity.chat)
    assert template.name == "chat" and template.end == "<|im_end|>"
    wanted = job(
        folder, ("down_proj", "lm_head", "q_proj", "up_proj", "v_proj"), rank=16, learning_rate=0.02, dropout=0.0
    )
    recipe = TrainingConfig(steps=60, warmup=5, batch_size=1, sequence_length=512)
    pair = (template.prompt("x = 1"), template.answer("x = 2"))
    out = tmp_path / "adapter"
    out.mkdir()
    asked = training(wanted.model_copy(update={"recipe": recipe}), [pair], out).model_copy(
        update={"add_bos": template.add_bos}
    )
    record = backend.train(asked)
    assert record.losses[-1].loss < 0.1
    light = GREEDY.model_copy(update={"token_limit": 60})
    request = writing(out, wanted.heavy, light, [("a", pair[0])], shape=GenerationConfig(batch_size=1, prompt_length=400), end=template.end, add_bos=template.add_bos)  # fmt: skip
    generated = backend.generate(request).only()
    assert generated.completions == ((template.answer("x = 2").removesuffix(template.end),),)
    endless = backend.generate(request.model_copy(update={"end": ""})).only()
    assert len(endless.completions[0][0]) > len(generated.completions[0][0]), "its end is one for this prompt only"
    with pytest.raises(ConfigError, match=r"end '<nosuch>': it is no special token of"):
        backend.generate(request.model_copy(update={"end": "<nosuch>"}))


def test_the_files_say_what_the_chat_template_is(tmp_path: Path) -> None:
    folder = chat_model(tmp_path / "model", CHATML)
    config = BaseModelConfig(name=str(folder))
    turn = identify(config).chat
    assert turn is not None and turn.end == "<|im_end|>" and turn.system is not None
    assert identify(config.model_copy(update={"prompt": "instruct"})).chat is None, (
        "nothing is rendered that is not used"
    )
    (folder / "chat_template.jinja").unlink()
    assert chat_of(folder) is None and resolve_prompt(config, None).name == "instruct"
    named = [{"name": "tool_use", "template": "{{ tools }}"}, {"name": "default", "template": CHATML}]
    edit(folder / "tokenizer_config.json", lambda data: data.update(chat_template=named))
    assert chat_of(folder) == turn
    edit(folder / "tokenizer_config.json", lambda data: data.update(chat_template=named[:1]))
    with pytest.raises(BaseModelError, match="it has tool_use and none called default"):
        chat_of(folder)
    edit(folder / "tokenizer_config.json", lambda data: data.update(chat_template="{{ messages }}"))
    with pytest.raises(BaseModelError, match=r"base_model.prompt: chat template \(.*tokenizer_config.json\)"):
        chat_of(folder)
    edit(folder / "tokenizer_config.json", lambda data: data.update(chat_template=CHATML))
    assert chat_of(folder) == turn
    (folder / "chat_template.jinja").write_text(CHATML.replace("assistant", "bot"))
    assert "bot" in getattr(chat_of(folder), "after", ""), "the file of its own comes first"
