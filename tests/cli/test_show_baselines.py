"""`coral show RUN tuned_lora` of a run that has none."""

from pathlib import Path

import pytest

from coral_core.errors import ConfigError
from flows.cli.show import show
from tests.report.synthetic_run import make_run


def test_a_run_with_quick_baselines_says_that_it_has_no_tuned_lora(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path)
    with pytest.raises(ConfigError, match=r"tuned_lora: .* has none, since its search\.baselines is quick") as refused:
        show(str(folder.path), "tuned_lora")
    assert "search.baselines=tuned" in str(refused.value)
