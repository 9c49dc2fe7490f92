"""Prompt templates: what is trained on is what is asked, and the answer can be read back."""

import pytest

from coral_core.errors import ConfigError
from coral_core.prompting.extraction import extract
from coral_core.prompting.templates import INSTRUCT, TINY, template

BUGGY = "def f(a):\n    return a - 1"
FIXED = "def f(a):\n    return a + 1"


def test_the_tiny_template_is_the_text_of_pretraining() -> None:
    assert TINY.prompt(BUGGY) + TINY.answer(FIXED) == f"<bos>{BUGGY}<sep>{FIXED}<eos>"


def test_an_instruct_answer_is_extracted_from_where_the_prompt_left_off() -> None:
    answer = INSTRUCT.answer(FIXED)
    assert extract(answer, "f").patch == FIXED
    assert extract(answer[: answer.index(INSTRUCT.stop[0])], "f").patch == FIXED
    assert extract(INSTRUCT.prompt(BUGGY) + answer, "f").patch == FIXED


def test_names_and_versions() -> None:
    assert template("tiny") is TINY and template("instruct") is INSTRUCT
    assert TINY.version != INSTRUCT.version
    with pytest.raises(ConfigError, match=r"base_model.prompt: nothing.*instruct, plain, tiny"):
        template("nothing")
