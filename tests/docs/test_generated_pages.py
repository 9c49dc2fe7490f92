"""The generated pages are those that the programs write now."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "program", [["docs/make_reference.py"], ["-m", "benchmarks.write_readme"]], ids=["reference", "benchmarks"]
)
def test_generated_pages_are_up_to_date(program: list[str]) -> None:
    """Help texts, configuration keys or benchmark results have changed when this fails: run `make docs`."""
    checked = subprocess.run([sys.executable, *program, "--check"], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_every_benchmark_program_is_on_the_page() -> None:
    from benchmarks.write_readme import NOT_MEASURING, ROWS

    programs = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - NOT_MEASURING
    results = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert programs == set(ROWS) and results <= programs


def test_every_argument_and_every_key_has_a_description() -> None:
    rows = [
        line
        for page in ("cli.md", "configuration.md")
        for line in (ROOT / "docs" / "reference" / page).read_text().splitlines()
        if line.startswith("| `")
    ]
    assert len(rows) > 150
    assert [row for row in rows if row.endswith("|  |")] == []
