"""Chat templates are rendered in a process of their own: without secrets, in bounded time and memory."""

import pytest

from coral_core.errors import BaseModelError
from coral_core.prompting.chat import ChatTemplate, chat_turn, in_chat
from tests.prompting.chat_templates import KINDS


def template(text: str) -> ChatTemplate:
    return ChatTemplate(text, (("eos_token", "</s>"),), frozenset(), "chat_template.jinja")


def test_a_template_is_rendered() -> None:
    known = KINDS["qwen3"]
    assert in_chat(chat_turn(known.template())).prompt("").endswith("<think>\n\n</think>\n\n")


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
LARGE = "{{ 'x' * 10000000000 }}"


@pytest.mark.parametrize("text", [ENDLESS, LARGE])
def test_time_and_memory_are_bounded(text: str) -> None:
    with pytest.raises(BaseModelError, match=r"took too much time or memory|MemoryError"):
        chat_turn(template(text))


def test_an_endless_expression_is_ended_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no processor time is used up, the wall clock ends it."""
    monkeypatch.setattr("coral_core.prompting.chat.SECONDS", 0.001)
    with pytest.raises(BaseModelError, match="took too much time or memory"):
        chat_turn(template("{{ messages[0].content }}<|end|>"))
