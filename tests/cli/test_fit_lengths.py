"""`coral init --from` fits a configuration to problems and base model: outliers left out, lengths as needed, a warning for coral-tiny."""

import json
import os
import random
from pathlib import Path

import pytest

from coral_core.config import RunConfig, load_config
from coral_core.errors import ConfigError
from coral_core.evolution.preflight import check, token_counts
from coral_core.lm import memory_plan
from coral_core.lm.model_check import prompt_seen
from flows.cli.fit_lengths import FunctionTexts, longest_usable
from flows.cli.init import init

pytest.importorskip("tokenizers")


def bugs(folder: Path, *lines: int) -> Path:
    """A file of bugs, each in a function of so many lines, in splits in turn."""
    file = folder / "bugs.jsonl"
    rows = []
    for number, count in enumerate(lines):
        body = "".join(f"    a = a + {number + step}\n" for step in range(count))
        text = f"def f(a):\n{body}    return a\n"
        splits = ("fitness", "held_out")
        rows.append(
            {
                "type": "problem", "id": f"f{number}", "split": splits[number % 2], "entry_point": "f",
                "buggy": text.replace("return a", "return -a"), "reference": text, "cases": [{"arguments": [1], "value": 1}],
            }
        )  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def made(folder: Path, source: Path, capsys: pytest.CaptureFixture[str], model: str | None = None) -> tuple[Path, str]:
    file = folder / "own.yaml"
    init(file, from_=source, force=True, base_model=model)
    return file, capsys.readouterr().out


def test_outliers_are_left_out_and_lengths_fit_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = made(tmp_path, bugs(tmp_path, 1, 2, 14, 14, 14, 14, 15, 60), capsys)
    assert "1 left out, outliers by length (over" in out and "jsonl/f7 (" in out
    assert "coral-tiny knows short functions" in out
    config = load_config(file, [])
    assert config.problems.longest is not None and config.problems.monitor == 0
    assert config.generation.prompt_length < 250 and config.genes.light.token_limit.high > 96
    assert check(config) is not None  # every prompt that is left fits
    with pytest.raises(ConfigError, match="prompts are longer"):
        check(load_config(file, ["problems.longest=null"]))


def test_functions_without_room_in_the_base_model_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = made(tmp_path, bugs(tmp_path, 5, 6, 20, 30, 40, 50), capsys)
    assert "left out, too long for the 512 positions of coral-tiny" in out
    config = load_config(file, [])
    assert config.generation.prompt_length + config.genes.light.token_limit.high <= 512
    check(config)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_bound_keeps_has_room(seed: int) -> None:
    """Bugs of one function on both sides of the bound, texts with many tokens per character, right texts longer than bugs."""
    rng = random.Random(seed)
    letters = ("abc", "a = b + 1\n    ", "\u0565\u0580\u056f", "9", "\u20ac")

    def text() -> str:
        return "def f(a):\n    " + rng.choice(letters) * rng.randint(1, 160)

    functions = [
        FunctionTexts(f"f{number}", text(), [text() for _ in range(rng.randint(1, 4))])
        for number in range(rng.randint(1, 12))
    ]
    config = RunConfig()
    bound = longest_usable(config, functions).bound
    template = prompt_seen(config)
    assert template is not None
    kept = [
        (each.right, shown)
        for each in functions
        for shown in each.shown
        if bound is None or max(len(each.right), len(shown)) <= bound
    ]
    prompts = token_counts(config, [template.prompt(each) for pair in kept for each in pair], template.add_bos)
    answers = token_counts(config, [template.answer(right) for right, _ in kept])
    assert max(prompts, default=0) + max(config.genes.light.token_limit.high, *answers, 0) <= 512


def test_lengths_of_ordinary_problems_are_the_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = made(tmp_path, bugs(tmp_path, 2, 2, 3, 3), capsys, "coral-tiny")
    assert "left out" not in out
    assert not {"generation:", "training:", "genes:", "longest"} & set(file.read_text().split())


@pytest.mark.parametrize("megabytes", [8_000, 530, 490, 462])
def test_rows_at_a_time_fit_into_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, megabytes: int
) -> None:
    monkeypatch.setattr(memory_plan, "_machine_memory", lambda: 2 * megabytes * 10**6)  # of two lanes
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    file, _ = made(tmp_path, bugs(tmp_path, 2, 3, 12, 14, 14, 14), capsys)
    config, usual = load_config(file, []), RunConfig()
    check(config)
    rows = (config.training.micro_batch, config.training.checkpointing, config.generation.batch_size)
    if rows == (0, False, usual.generation.batch_size):
        assert megabytes == 8_000
    else:
        as_usual = [
            f"generation.batch_size={usual.generation.batch_size}",
            "training.micro_batch=0",
            "training.checkpointing=false",
        ]
        with pytest.raises(ConfigError, match="memory"):
            check(load_config(file, as_usual))


def test_a_base_model_elsewhere_and_one_without_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = made(tmp_path, bugs(tmp_path, 2, 2, 3, 60), capsys, "nobody/no-such-model")
    assert "the tokenizer of nobody/no-such-model is not on this machine" in out and "coral-tiny" not in out
    assert load_config(file, []).base_model.name == "nobody/no-such-model"
    with pytest.raises(ConfigError, match="--base-model smollm2: the lengths are fitted to problems"):
        init(tmp_path / "new.yaml", base_model="smollm2")
