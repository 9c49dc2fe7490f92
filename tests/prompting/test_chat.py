"""Chat templates become the text around one question and one answer, whatever they do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral_core.errors import BaseModelError
from coral_core.prompting import chat
from coral_core.prompting.chat import CHAT, ChatTemplate, ChatTurn, Wording, chat_turn, in_chat
from coral_core.prompting.extraction import extract
from coral_core.prompting.render_chat import render
from tests.prompting.chat_templates import KINDS

BARE = Wording("", "", "", "")
CODE = st.text(alphabet=st.sampled_from("def f(x):\n return'\"<>&{}%\\#é`"), min_size=1, max_size=60)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render here, since a process for each template takes long; test_render_process.py takes it."""
    monkeypatch.setattr(chat, "_child", lambda _, wanted: render(dict(wanted)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_and_the_answer(kind: str) -> None:
    known = KINDS[kind]
    made = in_chat(chat_turn(known.template()), BARE)
    assert made.prompt("Q") == known.prompt
    assert made.answer("A") == known.answer
    assert known.answer.endswith(made.end) and made.end
    assert not made.add_bos, "the template writes the BOS token where there is one to be"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(buggy=CODE, fixed=CODE)
def test_the_code_stays_as_it_is(kind: str, buggy: str, fixed: str) -> None:
    """What is asked is what the template itself writes, for any code; no render takes part any more."""
    known = KINDS[kind]
    made = in_chat(chat_turn(known.template()))
    question = CHAT.before + buggy + CHAT.after
    messages: list[dict[str, object]] = [{"role": "user", "content": question}]
    if kind == "parts":
        messages = [{"role": "user", "content": [{"type": "text", "text": question}]}]
    rendered = render(
        {"template": known.text, "tokens": dict(known.template().tokens), "conversations": [(messages, True)]}
    )["texts"][0]
    prompt = made.prompt(buggy)
    assert prompt.startswith(rendered.removesuffix("<think>\n"))
    assert buggy in prompt and f"```python\n{fixed}\n```" in made.answer(fixed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_system_message_is_asked_in_any_case(kind: str) -> None:
    known = KINDS[kind]
    turn = chat_turn(known.template())
    assert (turn.system is not None) == known.takes_system
    prompt = in_chat(turn, Wording("Fix: ", "", "", "", system="You repair.")).prompt("Q")
    assert prompt.count("You repair.") == 1 and prompt.index("You repair.") < prompt.index("Fix: Q")
    if not known.takes_system:
        assert "You repair.\n\nFix: Q" in prompt


@pytest.mark.parametrize("kind", KINDS)
def test_a_fenced_answer_is_read(kind: str) -> None:
    made = in_chat(chat_turn(KINDS[kind].template()))
    fixed = "def f(a):\n    return a + 1"
    answer = made.answer(fixed).removesuffix(made.end)
    assert extract(answer, "f").patch == fixed
    assert extract(f"Here is the code:\n\n{answer.strip()}\n\nIt adds one.", "f").patch == fixed
    thought = f"<think>\nMaybe def f(a): return a?\n</think>\n\n{answer}"
    assert extract(thought, "f").patch == fixed


def template(text: str, eos: str | None = "</s>") -> ChatTemplate:
    tokens = () if eos is None else (("eos_token", eos),)
    return ChatTemplate(text, tokens, frozenset({"<|end|>"}), "chat_template.jinja")


@pytest.mark.parametrize(
    ("text", "eos", "problem"),
    [
        ("{% for %}", "</s>", "is no template: TemplateSyntaxError"),
        ("{{ nothing }}", "</s>", "writes the user's text 0 times"),
        ("{% for m in messages %}{{ m.content + m.content }}{% endfor %}", "</s>", "writes the user's text 2 times"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "</s>", "the user's text 0 times"),
        ("{% for m in messages %}{{ m.content | replace('<', '&lt;') }}{% endfor %}", "</s>", "changes the text of messages"),
        ("{% for m in messages %}{{ m.content | e }}{% endfor %}", "</s>", "changes the text of messages"),
        ("{% for m in messages %}{{ m.content.split('\n')[0] }}{% endfor %}", "</s>", "changes the text of messages"),
        ("{{ messages[0].content }}", "</s>", "writes the assistant's text 0 times"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None, "names no eos_token"),
        ("{{ raise_exception('not today') }}", "</s>", "cannot be rendered: TemplateError: not today"),
        ("{{ messages.__class__.__mro__ }}", "</s>", "cannot be rendered: SecurityError"),
        ("{{ namespace(__class__=1) }}", "</s>", "cannot be rendered: SecurityError"),
        ("{% include '/etc/passwd' %}", "</s>", "cannot be rendered"),
        ("{% set _ = messages.append(1) %}", "</s>", "cannot be rendered: SecurityError"),
        ("{% for a in range(100) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}", "</s>", "more than 262144 characters"),
        ("x" * (chat.MOST_CHARACTERS + 1), "</s>", "has 131073 characters"),
    ],
)  # fmt: skip
def test_what_is_no_chat_template_is_refused_with_its_reason(text: str, eos: str | None, problem: str) -> None:
    with pytest.raises(BaseModelError) as caught:
        chat_turn(template(text, eos))
    assert caught.value.problem.startswith("base_model.prompt: chat template (chat_template.jinja): ")
    assert problem in caught.value.problem and "instruct" in caught.value.remedy


def test_the_text_does_not_depend_on_the_day() -> None:
    day = "{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    assert chat_turn(template(day)).before == "2024-07-26"


def test_equal_texts_have_one_version_and_others_another() -> None:
    turn = ChatTurn(before="<u>", after="<a>", end="<e>")
    made = in_chat(turn)
    assert made.version == in_chat(turn, CHAT, "own").version, "the name changes no result"
    others = [
        in_chat(turn.model_copy(update={key: "<x>"}))
        for key in ("before", "after", "answer_before", "answer_after", "end")
    ]
    versions = {each.version for each in (made, *others, made.model_copy(update={"add_bos": True, "stop": ("x",)}))}
    assert len(versions) == 7
