"""What `coral up`, `coral setup` and work pools refuse before anything is started: named, with the way out."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_commands import ENVIRONMENT, coral, refused
from tests.monitoring.fake_api import FakeApi, serving


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "words"),
    [
        (["up", "--workdir", "gone"], {}, 2, ["--workdir gone", "no such directory"]),
        (["up"], {"CORAL_ROOTS": "here"}, 2, ["CORAL_ROOTS: here: is not absolute"]),
        (["up", "--port", "99999"], {}, 6, ["port 99999 (--port)", "--port 0"]),
        (["up", "--port", "-1"], {}, 6, ["port -1 (--port)"]),
        (["up"], {"CORAL_HOME": "/dev/null/x"}, 6, ["CORAL_HOME: /dev/null/x", "Not a directory"]),
        (["up"], {"CORAL_HOME": "/proc/sys"}, 6, ["CORAL_HOME: /proc/sys", "Set CORAL_HOME"]),
        (["metrics", "serve", "--port", "99999"], {}, 2, ["--port 99999", "no port"]),
        (["setup", "--type", "docker", "--store", "data"], {}, 2, ["--store data", "absolute path"]),
        (["setup", "--type", "docker", "--store", "/srv/co:ral"], {}, 2, ["--store /srv/co:ral", "colon"]),
        (["setup", "--type", "docker"], {}, 2, ["--api-url http://127.0.0.1:9/api", "the container itself"]),
        (["setup", "--type", "kubernetes"], {}, 2, ["--api-url http://127.0.0.1:9/api", "the container itself"]),
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], code: int, words: list[str]
) -> None:
    url = "" if arguments[0] == "up" else "http://127.0.0.1:9/api"  # beside a configured API it starts nothing
    places = {"CORAL_HOME": str(tmp_path / "home"), "PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": url}
    refused(coral(*arguments, cwd=tmp_path, **(places | environment)), code, *words)


def test_a_pull_policy_that_is_none_is_refused(tmp_path: Path) -> None:
    done = coral("setup", "--pull-policy", "sometimes", cwd=tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 2 and "sometimes" in done.stderr and "Always" in done.stderr


def test_work_pools_without_an_installation_are_refused_at_once(tmp_path: Path) -> None:
    """A server of one's own would have nobody to take the work, also where `coral up` left its pools."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "up.json").write_text('{"url": "http://127.0.0.1:9/api", "workers": []}')  # the machine was started anew
    (tmp_path / "c.yaml").write_text("base_model: {name: rehearsal}\ninfra: {executor: work-pools}\n")
    places = {"CORAL_HOME": str(home), "PREFECT_HOME": str(home), "PREFECT_API_URL": ""}
    refused(coral("evolve", "c.yaml", cwd=tmp_path, **places), 2, "infra.executor: work-pools", "coral up")
    assert not list(tmp_path.glob("runs/*-e1"))


def test_an_executor_without_an_api_starts_no_server(tmp_path: Path) -> None:
    program = (
        "from coral_core.config import load_config\nfrom flows.work_pools import make_executor\n"
        "make_executor(load_config('c.yaml'))\n"
    )
    (tmp_path / "c.yaml").write_text("base_model: {name: rehearsal}\ninfra: {executor: work-pools}\n")
    places = {"CORAL_HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=ENVIRONMENT | places, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1].startswith(
        "flows.installation.local_stack.NoApiError: no Prefect API is configured"
    )


def test_an_address_that_is_no_api_is_told_as_that(tmp_path: Path) -> None:
    """Prefect's answers to /work_pools/... without /api are like those to names that are not there."""
    with serving(FakeApi()) as url:
        root = url.removesuffix("/api")
        places = {"PREFECT_API_URL": root, "CORAL_HOME": str(tmp_path)}
        done = coral("status", cwd=tmp_path, **places)
        assert "it ends in /api" in done.stdout + done.stderr, done.stdout + done.stderr
        refused(coral("drain", "coral-a100", "--undo", cwd=tmp_path, **places), 6, root, "it ends in /api")


@pytest.mark.parametrize("name", ["a\nb", "x" * 5000, "a\rb"])
def test_what_was_typed_is_repeated_in_one_line(tmp_path: Path, name: str) -> None:
    """The first line names the value and the way out, whatever the value holds."""
    done = coral("report", name, cwd=tmp_path)
    first = done.stderr.splitlines()[0]
    assert done.returncode == 2 and "no such run in runs" in first and len(first) < 500


@pytest.mark.parametrize(("shell", "code"), [("runs > /dev/full", 2), ("report nosuch 2>&-", 2), ("runs >&-", 0)])
def test_an_output_that_takes_nothing_is_no_bug(tmp_path: Path, shell: str, code: int) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m flows.cli {shell}"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code and "bug of CORAL-X" not in done.stderr
