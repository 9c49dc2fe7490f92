"""A template file of a user's own: what it may say, and what it becomes."""

from pathlib import Path

import pytest

from coral_core.config.tree import BaseModelConfig
from coral_core.errors import ConfigError
from coral_core.prompting.chat import ChatTurn, Wording, in_chat
from coral_core.prompting.choice import resolve_prompt
from coral_core.prompting.own_template import read_own_template
from coral_core.prompting.templates import PromptTemplate

TURN = ChatTurn(before="<s><u>", after="<e><a>", end="<e>", system=("<s><sys>", "<e><u>"))
WHOLE = """\
prompt: |
  <|user|>
  Fix:
  {{ buggy }}
  <|bot|>
answer: "{{fixed}}"
end: "<|end|>"
"""


def read(folder: Path, text: str, turn: ChatTurn | None = TURN) -> PromptTemplate:
    file = folder / "mine.yaml"
    file.write_text(text)
    return resolve_prompt(BaseModelConfig(name="owner/model", prompt=str(file)), turn)


def test_a_whole_text_is_taken_letter_by_letter(tmp_path: Path) -> None:
    made = read(tmp_path, WHOLE, None)
    assert made.prompt("x = {{ 1 }}") == "<|user|>\nFix:\nx = {{ 1 }}\n<|bot|>\n"
    assert made.answer("y") == "y<|end|>" and made.end == "<|end|>" and made.add_bos


def test_a_whole_text_may_stop_at_a_text(tmp_path: Path) -> None:
    made = read(tmp_path, 'prompt: "{{ buggy }}\\n#\\n"\nanswer: "{{ fixed }}\\n# end\\n"\nstop: ["\\n# end"]\n', None)
    assert made.answer("y") == "y\n# end\n" and made.stop == ("\n# end",) and made.end == ""


def test_a_question_is_put_into_the_models_chat(tmp_path: Path) -> None:
    made = read(tmp_path, "system: You repair.\nuser: |\n  Fix:\n  {{ buggy }}\n")
    assert made.prompt("x") == "<s><sys>You repair.<e><u>Fix:\nx<e><a>"
    assert made.answer("y") == "```python\ny\n```<e>" and not made.add_bos
    same = in_chat(TURN, Wording("Fix:\n", "", "```python\n", "\n```", "You repair."))
    assert made.version == same.version


def test_the_content_of_the_file_is_the_version(tmp_path: Path) -> None:
    first = read(tmp_path, WHOLE).version
    assert read(tmp_path, "# a comment\n" + WHOLE).version == first
    assert read(tmp_path, WHOLE.replace("Fix", "Repair")).version != first


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "neither the key user nor the key prompt"),
        ("[]", "neither the key user nor the key prompt"),
        ('user: "{{ buggy }}"\nprompt: "{{ buggy }}"\n', "both user and prompt"),
        ('user: "{{ buggy }}"\ncolour: red\n', "colour: is no key of a template"),
        ('user: "no code"\n', "user: {{ buggy }} stands there 0 times"),
        ('user: "{{ buggy }} {{ buggy }}"\n', "user: {{ buggy }} stands there 2 times"),
        ('user: "{{ buggy }} {{ bos }}"\n', "user: {{ bos }}: no such placeholder"),
        ('user: "{% for m in x %}{{ buggy }}"\n', "user: {%: no such placeholder"),
        ('user: "{{ buggy }}"\nanswer: "{{ buggy }}"\n', "answer: {{ buggy }}: no such placeholder"),
        ('user: "{{ buggy }}"\nanswer: ""\n', "answer: {{ fixed }} stands there 0 times"),
        ('user: "{{ buggy }}"\nsystem: "{{ buggy }}"\n', "system: {{ buggy }}: no such placeholder"),
        ('user: "{{ buggy }}"\nend: "</s>"\n', "end: the model's chat template ends the answer"),
        ('user: "{{ buggy }}"\nstop: ["```python"]\n', "the answer begins with it"),
        ('user: "{{ buggy }}"\nstop: [""]\n', "is blank or too long"),
        ('user: ["{{ buggy }}"]\n', "user: Input should be a valid string"),
        ('prompt: "{{ buggy }}"\nanswer: "{{ fixed }}"\n', "nothing ends an answer"),
        ('prompt: "{{ buggy }}"\nanswer: "{{ fixed }}"\nstop: ["# end"]\n', "nothing ends an answer"),
        ('prompt: "{{ buggy }}"\nend: "</s>"\nsystem: "x"\n', "system: it is part of a chat"),
        (f'user: "{"x" * 20_001}{{{{ buggy }}}}"\n', "user: String should have at most 20000 characters"),
        ("user: !!python/name:os.system x\n", "the tag !!python/name:os.system is not read"),
        ("user: [\n", "not YAML"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert caught.value.problem.startswith("base_model.prompt: ") and "mine.yaml" in caught.value.problem
    assert problem in caught.value.problem and caught.value.key == ("base_model", "prompt")


def test_a_question_needs_a_chat_template(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="owner/model has no chat template"):
        read(tmp_path, 'user: "{{ buggy }}"\n', None)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    for name in ("nosuch.yaml", "folder.yaml"):
        with pytest.raises(ConfigError, match=r"base_model.prompt: .*prompt template"):
            read_own_template(str(tmp_path / name))
