"""What a run is refused for before anything is started."""

import json
import shutil
from pathlib import Path

import pytest

from coral_core.config.config_file import parse_config
from coral_core.errors import ConfigError
from coral_core.evolution.preflight import preflight, token_counts
from coral_core.lm.base_model import TINY

LIKE = Path(__file__).parents[1] / "problem_sources" / "quixbugs_like"
SMALL = ["problems.fitness=8", "problems.retention=2", "problems.monitor=2", "problems.held_out=6", "problems.pairs=20"]


def test_the_defaults_pass(tmp_path: Path) -> None:
    preflight(parse_config("", "nothing", [*SMALL, f"store.path={tmp_path}", f"runs={tmp_path}"]))


@pytest.mark.torch
def test_a_prompt_that_does_not_fit_is_named_with_the_length_that_does(tmp_path: Path) -> None:
    given = [*SMALL, f"store.path={tmp_path}", f"runs={tmp_path}", "problems.source=quixbugs", f"problems.path={LIKE}"]
    with pytest.raises(
        ConfigError, match=r"generation\.prompt_length: 40: .* Set generation\.prompt_length to (\d+)"
    ) as caught:
        preflight(parse_config("", "nothing", [*given, "generation.prompt_length=40"]))
    enough = str(caught.value).rstrip(".").split()[-1]
    preflight(parse_config("", "nothing", [*given, f"generation.prompt_length={enough}"]))
    with pytest.raises(ConfigError):
        preflight(parse_config("", "nothing", [*given, f"generation.prompt_length={int(enough) - 1}"]))


@pytest.mark.parametrize("length", [1, 8, 64])
def test_tokens_are_counted_without_the_limits_that_a_tokenizer_file_holds(tmp_path: Path, length: int) -> None:
    """Tokenizers of fine-tuned models are often saved as the training used them. transformers ignores both."""
    folder = shutil.copytree(TINY, tmp_path / "model")
    texts = ["x", "def f(a):\n    return a + 1\n" * 3]
    config = parse_config("", "test", [f"base_model.name={folder}"])
    expected = token_counts(config, texts)
    document = json.loads((folder / "tokenizer.json").read_text())
    limits = {"direction": "Right", "max_length": length, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": length},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    (folder / "tokenizer.json").write_text(json.dumps(document | {"truncation": limits, "padding": padding}))
    assert token_counts(config, texts) == expected and expected[0] < expected[1]
