"""The live comparison: its sections, the time limit, and that it goes on."""

import json
from pathlib import Path
from typing import Any

from benchmarks.live_search import main
from benchmarks.write_readme import ROWS

SMALL = (
    "base_model.name=rehearsal", "search.population=4", "search.elites=1", "problems.fitness=8", "problems.retention=4",
    "problems.held_out=8", "problems.pairs=16", "search.baselines=tuned",
)  # fmt: skip


def measured(folder: Path, **options: Any) -> dict[str, Any] | None:
    given = {
        "work": folder / "work",
        "results": folder,
        "executor": "inline",
        "trainings": 6,
        "page": folder / "page",
        **options,
    }
    pairs = [part for key, value in given.items() for part in (f"--{key}", str(value))]
    pairs += ["--variants", "evolution", "random", "new adapters=evolution:search.variation.warm_start_rate=0"]
    main([*pairs, *(part for setting in SMALL for part in ("--set", setting))])
    path = folder / "live_search.json"
    return json.loads(path.read_text()) if path.exists() else None


def test_seeds_are_added_until_the_time_is_over(tmp_path: Path) -> None:
    assert measured(tmp_path, seeds=2, minutes=0) is None
    first = measured(tmp_path, seeds=1)
    found = measured(tmp_path, seeds=2)
    assert first is not None and found is not None
    assert "2 seeds" in (tmp_path / "page" / "comparison.md").read_text()
    assert list((tmp_path / "page" / "pictures").glob("*.png"))
    section, earlier = found["models"]["rehearsal"], first["models"]["rehearsal"]
    assert section["seeds"] == [0, 1] and section["values"].keys() == {"evolution", "random", "new adapters"}
    for name, values in section["values"].items():
        assert len(values["held_out"]) == 2 and values["held_out"][:1] == earlier["values"][name]["held_out"]
    assert {(test["variant"], test["against"]) for test in section["tests"]} == {
        ("evolution", "random"),
        ("new adapters", "evolution"),
    }
    for lines in section["held_out_lines"].values():
        assert lines.keys() >= {"champion", "base_model", "default_lora", "tuned_lora"}
        assert all(len(values) == 2 for values in lines.values())
    assert section["held_out_lines"]["evolution"]["champion"] == section["values"]["evolution"]["held_out"]
    against = section["champion_against"]["evolution"]
    assert against["tuned_lora"]["seeds"] == 2 and "champion" not in against
    assert any("evolution's champion against the tuned LoRA" in what for what, _ in ROWS["live_search"](found))
    assert any("new adapters against evolution" in what for what, _ in ROWS["live_search"](found))
