"""`coral problems prompt`: what a model is asked and what it is trained to answer."""

import json
from pathlib import Path

import pytest

from tests.config.mutations import in_this_process

SMALL = "problems: {fitness: 4, retention: 0, monitor: 0, held_out: 4, pairs: 8}\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(SMALL)
    return tmp_path


def test_prompt_and_answer_are_shown_letter_by_letter(place: Path) -> None:
    pytest.importorskip("tokenizers")
    code, out, _ = in_this_process(["problems", "prompt", "c.yaml", "--json"])
    shown = json.loads(out)
    assert code == 0 and shown["template"] == "tiny" and shown["version"] == "tiny-1"
    assert shown["prompt"].startswith("<bos>def ") and shown["answer"].endswith("<eos>")
    assert shown["prompt_tokens"] > 10 < shown["answer_tokens"]
    code, text, _ = in_this_process(["problems", "prompt", "c.yaml", "--problem", shown["problem"]])
    assert code == 0 and shown["prompt"] in text and shown["answer"] in text


def test_a_template_of_ones_own_is_shown_and_a_wrong_one_refused(place: Path) -> None:
    file = place / "mine.yaml"
    file.write_text('prompt: "<bos>{{ buggy }}<sep>"\nanswer: "{{ fixed }}"\nend: "<eos>"\n')
    command = ["problems", "prompt", "c.yaml", "--set", "base_model.prompt=mine.yaml"]
    code, out, _ = in_this_process([*command, "--json"])
    shown = json.loads(out)
    assert code == 0 and shown["template"] == "own" and shown["ends_with"] == "<eos>"
    assert shown["prompt"].startswith("<bos>def ") and shown["prompt"].endswith("<sep>")
    file.write_text('prompt: "<bos>{{ buggy }}<sep>"\nanswer: "{{ fixed }}"\nend: "<nosuch>"\n')
    code, _, error = in_this_process(command)
    assert code == 2 and "end '<nosuch>': it is no special token of coral-tiny" in error
    code, _, error = in_this_process(["problems", "prompt", "c.yaml", "--set", "base_model.name=rehearsal", "--set", "base_model.prompt=chat"])  # fmt: skip
    assert code == 2 and "rehearsal has no chat template" in error
