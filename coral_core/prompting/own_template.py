"""Prompt templates of a user's own: a YAML file with the texts of prompt and answer.

Two forms. With ``user`` (and ``system``) the file words the question, and the model's chat template puts it into a chat:

    user: |
      Fix the bug in this function of our billing system:
      {{ buggy }}
    answer: "{{ fixed }}"

With ``prompt`` the file is the whole text, special tokens included, and says how an answer ends:

    prompt: "<|user|>Fix:\\n{{ buggy }}<|bot|>"
    answer: "{{ fixed }}"
    end: "<|end|>"

``{{ buggy }}`` and ``{{ fixed }}`` are replaced, once each; nothing is executed. docs/prompts.md describes the keys.
"""

import re
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from coral_core.config.text_fields import expanded
from coral_core.config.yaml_document import read_document, read_file, shown
from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from coral_core.prompting.chat import FENCED, ChatTurn, Wording, in_chat
from coral_core.prompting.templates import PromptTemplate

KEY = ("base_model", "prompt")
LONGEST = 20_000
"""Characters of one text."""
_PLACEHOLDER = re.compile(r"\{\{\s*([\w.]*)\s*\}\}|\{%")
_ADVICE = "docs/prompts.md describes the file."


class _File(Frozen):
    """The keys of the file."""

    prompt: str | None = Field(None, max_length=LONGEST)
    user: str | None = Field(None, max_length=LONGEST)
    system: str = Field("", max_length=LONGEST)
    answer: str = Field("{{ fixed }}".join(FENCED), max_length=LONGEST)
    end: str = Field("", max_length=100)
    stop: tuple[str, ...] = Field((), max_length=8)


class OwnTemplate(NamedTuple):
    """A checked file: a whole template, or a wording for the model's chat template."""

    text: PromptTemplate | None
    """The template of the form with ``prompt``."""
    wording: Wording | None
    """The wording of the form with ``user``."""
    stop: tuple[str, ...]

    def resolved(self, turn: ChatTurn | None, model: str) -> PromptTemplate:
        """The prompt template.

        Args:
            turn: Chat form of the base model; None where it has none.
            model: Name of the base model, for the error.

        Raises:
            ConfigError: the file words a chat, and the model has no chat template.
        """
        if self.text is not None:
            return self.text
        assert self.wording is not None
        if turn is None:
            raise ConfigError(
                f"base_model.prompt: the file has the key user, and {model} has no chat template to put it into",
                KEY,
                remedy="Write the whole text under the key prompt, with end or stop.",
            )
        template = in_chat(turn, self.wording, "own")
        return template.model_copy(update={"stop": self.stop})


def read_own_template(path: str) -> OwnTemplate:
    """Read a template file.

    Args:
        path: The YAML file; a relative path is that of the working directory.

    Raises:
        ConfigError: it cannot be read, has an unknown key, does not contain the code exactly once, or ends no answer.
    """
    name = f"base_model.prompt: {shown(path, 200)}"
    try:
        file_path = expanded(path) if path.startswith("~") else Path(path)
        text = read_file(
            file_path, "Give a YAML file with the keys user or prompt (docs/prompts.md).", "prompt template"
        )
        data, _ = read_document(text, shown(path, 200))
    except ConfigError as error:
        raise ConfigError(f"base_model.prompt: {error.problem}", KEY, remedy=error.remedy) from None
    try:
        file = _File.model_validate(data if isinstance(data, dict) else {})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        problem = "is no key of a template" if first["type"] == "extra_forbidden" else first["msg"]
        raise ConfigError(f"{name}: {shown(key)}: {problem}", KEY, remedy=_ADVICE) from None
    if (file.prompt is None) == (file.user is None):
        raise ConfigError(
            f"{name}: {'neither the key user nor the key prompt' if file.user is None else 'both user and prompt'}",
            KEY,
            remedy="Give user for a question within the model's chat template, or prompt for the whole text.",
        )
    return _own_text(name, file) if file.prompt is not None else _in_a_chat(name, file)


def _in_a_chat(name: str, file: _File) -> OwnTemplate:
    if file.end:
        raise ConfigError(f"{name}: end: the model's chat template ends the answer", KEY, remedy="Take it out.")
    _placeholders(name, "system", file.system, "")
    before, after = _around(name, "user", (file.user or "").strip(), "buggy")
    answer_before, answer_after = _around(name, "answer", file.answer.strip(), "fixed")
    _check_stop(name, file.stop, answer_before)
    return OwnTemplate(None, Wording(before, after, answer_before, answer_after, file.system.strip()), file.stop)


def _own_text(name: str, file: _File) -> OwnTemplate:
    if file.system:
        raise ConfigError(f"{name}: system: it is part of a chat", KEY, remedy="Write it into prompt.")
    before, after = _around(name, "prompt", file.prompt or "", "buggy")
    answer_before, answer_after = _around(name, "answer", file.answer, "fixed")
    _check_stop(name, file.stop, answer_before)
    if not file.end and not any(mark in answer_after for mark in file.stop):
        raise ConfigError(
            f"{name}: nothing ends an answer: no end, and no text of stop stands in answer after {{{{ fixed }}}}",
            KEY,
            remedy='Give the end token, such as end: "</s>", or a text to stop at.',
        )
    template = PromptTemplate(
        name="own", before=before, after=after, answer_before=answer_before, answer_after=answer_after, end=file.end, stop=file.stop
    )  # fmt: skip
    return OwnTemplate(template, None, file.stop)


def _around(name: str, key: str, text: str, placeholder: str) -> tuple[str, str]:
    """The texts before and after ``{{ placeholder }}``, which must stand there exactly once."""
    found = _placeholders(name, key, text, placeholder)
    if len(found) != 1:
        raise ConfigError(
            f"{name}: {key}: {{{{ {placeholder} }}}} stands there {len(found)} times",
            KEY,
            remedy="Write it exactly once: the code is put there.",
        )
    return text[: found[0].start()], text[found[0].end() :]


def _placeholders(name: str, key: str, text: str, allowed: str) -> list[re.Match[str]]:
    found = list(_PLACEHOLDER.finditer(text))
    for match in found:
        if not allowed or match[1] != allowed:
            known = f"Only {{{{ {allowed} }}}} is replaced here; nothing is executed." if allowed else "Nothing is replaced here."  # fmt: skip
            raise ConfigError(f"{name}: {key}: {shown(match[0])}: no such placeholder", KEY, remedy=known)
    return found


def _check_stop(name: str, stop: tuple[str, ...], answer_before: str) -> None:
    for mark in stop:
        if not mark.strip() or len(mark) > 100:
            raise ConfigError(f"{name}: stop: {shown(repr(mark))}: is blank or too long", KEY, remedy=_ADVICE)
        if mark in answer_before:
            raise ConfigError(
                f"{name}: stop: {shown(repr(mark))}: the answer begins with it, so every answer would be empty",
                KEY,
                remedy="Choose a text that stands only after the code.",
            )
