"""Chat templates of tokenizers, reduced to the text around one question and one answer.

`chat_turn` renders a template a few times with placeholders and cuts the results at them. Training and generation then use
the same cut text, and nothing else is ever rendered. Decisions:

- A prompt is what the template writes with ``add_generation_prompt``; a template that ignores this flag gets the header
  that it writes before an answer.
- What the template writes between that prompt and an answer belongs to the answer and is trained (the empty thoughts of
  Qwen3). Where the whole is no continuation of the prompt, the prompt counts, since it is what generation sees.
- A prompt that ends in an open thought (DeepSeek-R1) gets the thought closed: patches are asked for without thoughts.
- The first token of the tokenizer after the answer ends it: ``<|im_end|>``, ``<end_of_turn>``. Where the template writes
  none, it is the model's end token.
- A system message that a template refuses or leaves out (Gemma) becomes the beginning of the question.

Not covered: tools, documents, several turns, and named templates other than "default".
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from coral_core.errors import BaseModelError
from coral_core.frozen import Frozen
from coral_core.prompting.templates import PromptTemplate

MOST_CHARACTERS = 2**17
"""Longest chat template; the longest in use have 20,000 characters."""
SECONDS = 60.0
"""Wall clock for the rendering process, whose processor time is limited far below."""
OTHER = "Choose base_model.prompt: instruct, or a template of your own (docs/prompts.md)."

_USER, _ANSWER, _SYSTEM = "CoralUserText", "CoralAnswerText", "CoralSystemText"
_PROBE_USER = "Fix this: <a> & \"b\" 'c' \\n {{ d }} {% e %} é\n```python\ndef f(a):\n\treturn [a]  # <b>\n```"
_PROBE_ANSWER = "```python\ndef f(a):\n    return a  # & <b> {{ c }}\n```"
_OPEN_THOUGHT = "<think>"
_EMPTY_REST = "\n\n</think>\n\n"


class ChatTemplate(NamedTuple):
    """A chat template as the tokenizer's files give it."""

    text: str
    """The jinja2 text."""
    tokens: tuple[tuple[str, str], ...]
    """Names of special tokens (``bos_token``, …) and their texts."""
    added: frozenset[str]
    """Texts of all tokens that are cut out of a text before it is split into others."""
    origin: str
    """File or name, for error messages."""


class ChatTurn(Frozen):
    """The text that a chat template writes around one question and one answer.

    Attributes:
        before: Before the question.
        after: Between question and answer, as far as it belongs to the prompt.
        answer_before: Between prompt and answer, as far as the model is to write it.
        answer_after: After the answer and before `end`.
        end: Text of the token that ends the answer.
        system: What stands before and after a system message, in place of `before`; None: the template takes none.
    """

    before: str
    after: str
    answer_before: str = ""
    answer_after: str = ""
    end: str
    system: tuple[str, str] | None = None


class Wording(NamedTuple):
    """What is asked and answered within a chat."""

    before: str
    """Question before the buggy code."""
    after: str
    """Question after the buggy code."""
    answer_before: str
    """Answer before the fixed code."""
    answer_after: str
    """Answer after the fixed code."""
    system: str = ""
    """System message; empty: none, and the template may write one of its own."""


FENCED = ("```python\n", "\n```")
"""Text before and after code that is given as one fenced block."""
CHAT = Wording(
    before=(
        "The following Python code has a bug. Find it and answer with the whole corrected code, changing no more than needed. "
        "Write one fenced code block and nothing else.\n\n```python\n"
    ),
    after="\n```",
    answer_before=FENCED[0],
    answer_after=FENCED[1],
)
"""The question of ``base_model.prompt: chat``."""


def in_chat(turn: ChatTurn, wording: Wording = CHAT, name: str = "chat") -> PromptTemplate:
    """The prompt template that puts a wording into a chat.

    Args:
        turn: The model's chat form.
        wording: Question and answer.
        name: Name of the template.

    Example:
        >>> turn = ChatTurn(before="<user>", after="<end><bot>", end="<end>")
        >>> in_chat(turn, Wording("Fix ", "", "", "")).prompt("x = 1")
        '<user>Fix x = 1<end><bot>'
    """
    before = turn.before
    if wording.system:
        before = f"{turn.before}{wording.system}\n\n"
        if turn.system is not None:
            before = turn.system[0] + wording.system + turn.system[1]
    return PromptTemplate(
        name=name,
        before=before + wording.before,
        after=wording.after + turn.after,
        answer_before=turn.answer_before + wording.answer_before,
        answer_after=wording.answer_after + turn.answer_after,
        end=turn.end,
        add_bos=False,
    )


@lru_cache(maxsize=16)
def chat_turn(template: ChatTemplate) -> ChatTurn:
    """Reduce a chat template to the text around question and answer.

    Args:
        template: From the files of a tokenizer; not trusted. It is rendered in a process with limits.

    Raises:
        BaseModelError: it is no template, takes too long, does not take a question and an answer, changes their text, or
            names no token that ends an answer.
    """
    if len(template.text) > MOST_CHARACTERS:
        raise _unusable(template, f"has {len(template.text)} characters, and at most {MOST_CHARACTERS} are read")
    asked, whole = [_user(_USER)], [_user(_USER), _assistant(_ANSWER)]
    probe = [_user(_PROBE_USER), _assistant(_PROBE_ANSWER)]
    with_system = [{"role": "system", "content": _SYSTEM}, _user(_USER)]
    conversations = [
        (asked, True),
        (asked, False),
        (whole, False),
        (probe[:1], True),
        (probe, False),
        (with_system, True),
    ]
    texts = _rendered(template, conversations)
    if isinstance(texts[0], dict):  # some take only messages that are lists of parts
        texts = _rendered(template, [(_in_parts(messages), asks) for messages, asks in conversations])
    *needed, system_text = texts
    for text in needed:
        if isinstance(text, dict):
            raise _unusable(template, f"cannot be rendered: {text['error']}")
    prompt, unasked, full, probe_prompt, probe_full = needed
    before, after = _cut(template, prompt, _USER, "the user's text")
    head, tail = _cut(template, full, _ANSWER, "the assistant's text")
    full_before, between = _cut(template, head, _USER, "the user's text")
    if (
        probe_prompt != before + _PROBE_USER + after
        or probe_full != full_before + _PROBE_USER + between + _PROBE_ANSWER + tail
    ):
        raise _unusable(template, "changes the text of messages, so that code would not stay as it is")
    after, answer_before = _boundary(prompt, unasked, head, after)
    answer_after, end = _end(template, tail)
    turn = ChatTurn(before=before, after=after, answer_before=answer_before, answer_after=answer_after, end=end)
    return turn.model_copy(update={"system": _system(system_text, prompt.partition(_USER)[2])})


def _boundary(prompt: str, unasked: str, head: str, after: str) -> tuple[str, str]:
    """Where the prompt ends and the answer begins.

    Args:
        prompt: Question, rendered with the generation prompt.
        unasked: Question, rendered without it.
        head: Question and answer, rendered up to the answer.
        after: The part of `prompt` after the question.

    Returns:
        The text after the question that belongs to the prompt, and the text before the answer that belongs to the answer.
    """
    if prompt.rstrip().endswith(_OPEN_THOUGHT):
        return after.rstrip() + _EMPTY_REST, ""
    if not head.startswith(prompt):
        return after, ""
    rest = head[len(prompt) :]
    if prompt == unasked and rest.strip():  # the flag is ignored
        return after + rest, ""
    return after, rest


def _end(template: ChatTemplate, tail: str) -> tuple[str, str]:
    """Text between answer and end token, and the end token."""
    places = [(tail.index(token), -len(token), token) for token in template.added if token and token in tail]
    if places:
        place, _, token = min(places)
        return tail[:place], token
    end = dict(template.tokens).get("eos_token")
    if not end:
        raise _unusable(template, "ends an answer with no token, and tokenizer_config.json names no eos_token")
    return tail.rstrip(), end


def _system(text: Any, after: str) -> tuple[str, str] | None:
    """Text before and after a system message, where the template writes it before the question."""
    if not isinstance(text, str) or text.count(_SYSTEM) != 1 or text.count(_USER) != 1:
        return None
    before, _, rest = text.partition(_SYSTEM)
    between, found, end = rest.partition(_USER)
    return (before, between) if found and end == after else None


def _cut(template: ChatTemplate, text: str, mark: str, what: str) -> tuple[str, str]:
    if text.count(mark) != 1:
        raise _unusable(template, f"writes {what} {text.count(mark)} times, and once is needed")
    before, _, after = text.partition(mark)
    return before, after


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _in_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message | {"content": [{"type": "text", "text": message["content"]}]} for message in messages]


def _rendered(template: ChatTemplate, conversations: list[tuple[list[dict[str, Any]], bool]]) -> list[Any]:
    """The text of each conversation, or ``{"error": reason}``."""
    request = {"template": template.text, "tokens": dict(template.tokens), "conversations": conversations}
    reply = _child(template, request)
    if "error" in reply:
        raise _unusable(template, f"is no template: {reply['error']}")
    texts: list[Any] = reply["texts"]
    return texts


def _child(template: ChatTemplate, request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "coral_core.prompting.render_chat"],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=SECONDS,
            env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # no secrets of this process
            start_new_session=True,
            check=False,
        )
        reply = json.loads(done.stdout) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError):
        reply = None
    if not isinstance(reply, dict):
        raise _unusable(template, "took too much time or memory")
    return reply


def _unusable(template: ChatTemplate, problem: str) -> BaseModelError:
    return BaseModelError(f"base_model.prompt: chat template ({template.origin}): {problem}", remedy=OTHER)
