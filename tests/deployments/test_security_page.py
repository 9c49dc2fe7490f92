"""docs/security.md says what is there: its commands have these options, its variables are read, its files exist."""

import re
import shlex
from pathlib import Path

import pytest

from coral_core.lanes.allowed_paths import ALL, LAYERS, WORDS, variable
from flows.cli import build

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
FENCED = "\n".join(re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))


def commands() -> list[str]:
    """`coral` commands of the fenced examples, without settings before and remarks behind."""
    found = []
    for line in FENCED.splitlines():
        for part in re.split(r";|  {2,}", line):
            match = re.match(r"(?:[A-Z_]+=\S+ )*(coral .*)", part.strip())
            if match:
                found.append(match[1])
    return found


def test_it_has_examples() -> None:
    assert len(commands()) >= 6


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_its_commands_have_these_options(command: str) -> None:
    _, *tokens = shlex.split(command)
    build().parse_args(tokens, exit_on_error=False, print_error=False)


def test_its_variables_are_those_that_are_read() -> None:
    known = {ALL, LAYERS, *map(variable, WORDS), "CORAL_HOME", "CORAL_CODE_ROOT", "CORAL_API_PASSWORD"}
    named = set(re.findall(r"\bCORAL_[A-Z_]+", PAGE))
    assert named == known
    compose = (ROOT / "deployments" / "compose.yaml").read_text()
    assert "CORAL_CODE_ROOT" in compose and "CORAL_API_PASSWORD" in compose


def test_pages_and_files_that_it_points_to_exist() -> None:
    for name in re.findall(
        r"\b(?:docs|deployments)/[\w./-]+\.(?:md|sh|yaml)", PAGE + (ROOT / "SECURITY.md").read_text()
    ):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("place", ["coral_core", "flows", "deployments", "docs", "README.md", "SECURITY.md"])
def test_nothing_claims_that_whoever_starts_flow_runs_is_harmless(place: str) -> None:
    path = ROOT / place
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.suffix in (".py", ".md", ".yaml", ".json")]
    assert not [str(p) for p in files if "cannot run something else" in p.read_text()]
