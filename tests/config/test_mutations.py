"""Configurations gone wrong end in a refusal that a person can act on: never as a bug, never after minutes.

100 seeded mutations of the shipped configurations here, 2,000 others in the slow suite; each goes through the command line. A
mutation that uses more than `mutations.CPU_SECONDS` of processor time ends its process, and is a failure. Time is
processor time: how busy the machine is changes nothing.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coral_core.config import load_config
from coral_core.errors import CoralError
from tests.config.mutations import ROOT, Mutation, arguments, keys, mutation

QUICK = range(0, 100)
SLOW = [range(start, start + 250) for start in range(100, 2100, 250)]
NO_ANSWER = 900.0
"""Seconds of a wall clock without which a batch is taken for stuck: a FIFO that is read uses no processor time."""


def fed(seeds: range, place: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    """What the command line says of each mutation, in a process of its own."""
    command = [sys.executable, "-m", "tests.config.mutations", str(seeds.start), str(seeds.stop)]
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=NO_ANSWER + len(seeds)
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    begun = [line["begin"] for line in lines if "begin" in line]
    answers = [line for line in lines if "seed" in line]
    assert done.returncode == 0, f"mutation {begun[-1:]} ended the process: {done.returncode} {done.stderr[-2000:]}"
    assert [answer["seed"] for answer in answers] == list(seeds)
    return answers


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    import os

    kept = {name: value for name, value in os.environ.items() if name not in ("CORAL_DEBUG", "PREFECT_API_URL")}
    return kept | {"PYTHONPATH": str(ROOT), "CORAL_HOME": str(tmp_path / "home"), "COLUMNS": "200"}


def judged(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        seed, code, error = answer["seed"], answer["code"], answer["err"]
        assert code in (0, 2), f"mutation {seed}: exit {code}\n{error}"
        assert "This is a bug" not in error and "Traceback" not in error, f"mutation {seed}\n{error}"
        text = error + answer["out"]
        assert all(letter.isprintable() or letter == "\n" for letter in text), f"mutation {seed} steers the terminal"
        if code == 2:
            first = error.splitlines()[0]
            assert first.startswith(("error: c.yaml:", "error: --set ")), f"mutation {seed}\n{error}"
            assert len(first) < 1000, f"mutation {seed}\n{error}"


def test_a_hundred_mutations_are_read_or_refused(tmp_path: Path, environment: dict[str, str]) -> None:
    answers = fed(QUICK, tmp_path, environment)
    judged(answers)
    codes = [answer["code"] for answer in answers]
    assert codes.count(0) >= 3 and codes.count(2) >= 50, "the mutations are too tame, or too wild"


@pytest.mark.slow(reason="2,000 more mutations")
@pytest.mark.parametrize("seeds", SLOW, ids=lambda seeds: str(seeds.start))
def test_two_thousand_mutations_are_read_or_refused(seeds: range, tmp_path: Path, environment: dict[str, str]) -> None:
    judged(fed(seeds, tmp_path, environment))


@pytest.mark.parametrize("seed", [2, 77, 133])
def test_the_installed_command_says_the_same(seed: int, tmp_path: Path, environment: dict[str, str]) -> None:
    case = mutation(seed)
    (tmp_path / "c.yaml").write_bytes(case.data)
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments(case, "c.yaml")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=NO_ANSWER,
    )  # fmt: skip
    (inside,) = fed(range(seed, seed + 1), tmp_path, environment)
    assert (done.returncode, done.stderr[:4000]) == (inside["code"], inside["err"])


def test_mutations_are_the_same_everywhere() -> None:
    assert mutation(5) == mutation(5) and isinstance(mutation(5), Mutation)
    assert len({mutation(seed).data for seed in range(100)}) > 60
    assert "genes.light.temperature.low" in keys()


@pytest.mark.parametrize("name", ["quickstart", "production", "quixbugs"])
def test_each_line_taken_out_or_given_twice_is_read_or_refused(name: str, tmp_path: Path) -> None:
    lines = (ROOT / "configs" / f"{name}.yaml").read_text().splitlines()
    file = tmp_path / "c.yaml"
    for place in range(len(lines)):
        for changed in ([*lines[:place], *lines[place + 1 :]], [*lines[:place], lines[place], *lines[place:]]):
            file.write_text("\n".join(changed))
            try:
                load_config(file)
            except CoralError as error:
                assert str(error).startswith(f"{file}:")
