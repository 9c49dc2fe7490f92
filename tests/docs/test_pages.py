"""Pages are true where a program can tell: links, files, modules, commands, versions, and the length of the README."""

import importlib
import importlib.util
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

import coral_core
from flows.cli import build

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md"), *(ROOT / "examples").glob("*.md"),
]  # fmt: skip
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TOP = "benchmarks|configs|coral_core|deployments|docs|examples|flows|tests"
FILE = re.compile(rf"(?<![\w./-])((?:{TOP})/[\w./-]*\w)")
MADE_LATER = {"deployments/.env"}
MODULE = re.compile(r"(?<![\w./-])((?:coral_core|flows|benchmarks)(?:\.\w+)+)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives the headings of `page`."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_and_modules_exist(page: Path) -> None:
    text = re.sub(r"https?://\S+", "", page.read_text())
    missing = [name for name in FILE.findall(text) if name not in MADE_LATER and not (ROOT / name).exists()]
    missing += [name for name in MODULE.findall(text) if not resolves(name)]
    assert missing == []


@cache
def resolves(name: str) -> bool:
    """Is `name` a module, or an attribute of one?"""
    if (ROOT / name).is_file():  # benchmarks/x.json and the like, written with a dot only
        return True
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        return all((found := getattr(found, part, None)) is not None for part in parts[length:])
    return False


def fenced_commands() -> list[tuple[str, str]]:
    """Page and `coral` command of every fenced example, without settings in front and remarks behind."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```(?:bash|sh|console)?\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            if page.is_relative_to(ROOT / "docs" / "reference"):
                continue
            for line in block.splitlines():
                for part in re.split(r";| {2,}| # ", line):
                    match = re.match(r"(?:[A-Z_]+=\S+ )*(coral [^|<>()…]*)$", part.strip())
                    if match and "..." not in match[1]:
                        found.append((name_of(page), match[1].strip()))
    return sorted(set(found))


@pytest.mark.parametrize(("page", "command"), fenced_commands())
def test_commands_of_examples_parse(page: str, command: str) -> None:
    _, *tokens = shlex.split(command)
    build().parse_args(tokens, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    fenced = "\n".join(re.findall(r"^```\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
    named = set(
        re.findall(r"`make ([a-z0-9-]+)", page.read_text()) + re.findall(r"^make ([a-z0-9-]+)", fenced, re.MULTILINE)
    )
    assert named <= targets


def test_every_page_can_be_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text())}
    assert [name_of(page) for page in (ROOT / "docs").rglob("*.md") if page not in linked | {index}] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) < 900


def test_one_version_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    released = re.findall(r"^## (\d\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert coral_core.__version__ == citation["version"] == released[0] == version


def test_the_citation_has_what_its_format_requires() -> None:
    """https://github.com/citation-file-format/citation-file-format/blob/main/schema-guide.md"""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["message"] and citation["title"] and all("name" in author for author in citation["authors"])


def test_the_workflow_calls_the_script_of_continuous_integration() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
