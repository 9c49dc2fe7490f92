"""Two editions of a run: the second begins from the first's population, and repeats byte for byte."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.rehearsal_runs import Coral
from tests.waiting import until

pytestmark = pytest.mark.server

FROM: dict[str, str] = {
    "search__start_from": "last-champion",
    "infra__executor": "inline",
    "base_model__name": "rehearsal:train=0.2",
}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def edition(coral: Coral, number: int) -> Path:
    return next(path.parent for path in coral.runs.glob(f"*-e{number}/run.json"))


def genes(row: dict[str, Any]) -> str:
    return json.dumps([row["genome"]["heavy"], row["genome"]["light"]], sort_keys=True)


@pytest.mark.slow(reason="five runs; tests/evolution/test_warm_start.py holds the choice")
def test_a_second_edition_begins_from_the_first_ones_population(coral: Coral) -> None:
    first = coral.evolve(**FROM)
    assert first.returncode == 0, first.stderr
    one = rows(edition(coral, 1))
    assert one[0]["start"]["previous"] is None, "there was none to start from"
    assert "no earlier run of this name has finished" in first.stdout

    killed_once_it_began(coral)
    another = edition(coral, 1).with_name(edition(coral, 1).name[:-1] + "7")
    shutil.copytree(edition(coral, 1), another)  # something else has finished since
    again = coral.evolve("--edition", "2", **FROM)
    assert again.returncode == 0, again.stderr
    two = rows(edition(coral, 2))
    begun = two[0]["start"]
    assert begun["previous"] == edition(coral, 1).name and len(begun["sha256"]) == 64
    assert f"starts from {begun['previous']}" in again.stdout

    born = [row for row in two if row["type"] == "genome" and row["genome"]["generation"] == 0]
    carried = [row for row in born if row["genome"]["lineage"]["operator"] == "carried"]
    old = {row["genome"]["genome_id"]: row for row in one if row["type"] == "genome"}
    champion = old[one[-1]["champion"]]
    assert carried and len(carried) <= 2 and len(born) == 4
    for row in carried:
        (parent,) = row["genome"]["lineage"]["parents"]
        run, name = parent.split("/")
        assert run == edition(coral, 1).name and genes(row) == genes(old[name])
        assert row["genome"]["automaton"] == old[name]["genome"]["automaton"]
    same = [row for row in born if genes(row) == genes(champion)]
    assert same, "the champion of the first is in the first population of the second"
    best = max(row["fitness"] for row in born if row["fitness"] is not None)
    assert best >= same[0]["fitness"]

    before = (edition(coral, 2) / "history.jsonl").read_bytes()
    replay = coral.evolve("--edition", "2", **FROM)
    assert replay.returncode == 0, replay.stderr
    assert (edition(coral, 2) / "history.jsonl").read_bytes() == before
    undisturbed(coral, before)
    report(coral)


def killed_once_it_began(coral: Coral) -> None:
    """Edition 2, killed in the middle."""
    process = coral.start("--edition", "2", **FROM)
    until(lambda: list(coral.runs.glob("*-e2/history.jsonl")) or process.poll() is not None, look=0.05)
    assert process.poll() is None
    process.kill()
    process.communicate()
    assert not any(row["type"] == "final" for row in rows(edition(coral, 2)))


def undisturbed(coral: Coral, history: bytes) -> None:
    """The same edition in another place, from the same start.json, without a kill and without the earlier run."""
    other = Coral(Path(coral.environment["CORAL_HOME"]), coral.folder / "other")
    folder = other.runs / edition(coral, 2).name
    folder.mkdir(parents=True)
    shutil.copy(edition(coral, 2) / "start.json", folder)
    result = other.evolve("--edition", "2", **FROM)
    assert result.returncode == 0, result.stderr
    assert (folder / "history.jsonl").read_bytes() == history


def report(coral: Coral) -> None:
    """The report links to the run before."""
    path = edition(coral, 2)
    data = json.loads(coral.call("report", str(path), "--json").stdout)
    first = json.loads(coral.call("report", str(edition(coral, 1)), "--json").stdout)
    assert first["previous"] is None
    previous = data["previous"]
    assert previous["run_id"] == edition(coral, 1).name and Path(previous["path"]) == edition(coral, 1)
    assert previous["champion"] == first["champion"]["genome_id"]
    assert previous["fitness"] == first["champion"]["fitness"]
    assert previous["held_out_pass_at_1"] == first["champion"]["held_out_pass_at_1"]
    assert previous["started_from"] and previous["same_problems"]
    assert f"](../{previous['run_id']}/report.md)" in (path / "report.md").read_text()
