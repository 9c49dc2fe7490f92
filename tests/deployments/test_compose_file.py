"""`deployments/compose.yaml` as Compose would read it, without Docker: who needs the password, and who can reach what."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deployments" / "compose.yaml"
SCRIPT = ROOT / "deployments" / "make_secrets.sh"
GIVEN = {
    "CORAL_STORE": "/srv/coral",
    "DOCKER_GID": "998",
    "CORAL_API_PASSWORD": "a1b2c3",
    "POSTGRES_PASSWORD": "d4e5f6",
}
VARIABLE = re.compile(r"\$\{(\w+)(?:(:?[-?])((?:[^{}]|\$\{[^}]*\})*))?\}")


class UnsetError(Exception):
    """A variable that the file requires."""


def filled(text: str, given: dict[str, str]) -> str:
    """Compose's interpolation, as far as the file uses it: ${A}, ${A:-default}, ${A:?message}."""

    def one(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if given.get(name):
            return given[name]
        if kind and "?" in kind:
            raise UnsetError(f"{name}: {rest}")
        return filled(rest, given) if kind else ""

    return VARIABLE.sub(one, text)


def rendered(given: dict[str, str]) -> dict[str, Any]:
    lines = [line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    data: dict[str, Any] = yaml.safe_load(filled("\n".join(lines), given))
    return data


def test_it_renders_with_what_its_first_lines_ask_for() -> None:
    services = rendered(GIVEN)["services"]
    assert set(services) == {"postgres", "server", "setup", "control", "a100", "a10g", "coral"}


@pytest.mark.parametrize("name", ["CORAL_API_PASSWORD", "POSTGRES_PASSWORD"])
@pytest.mark.parametrize("value", [None, ""])
def test_without_a_password_nothing_starts_and_the_way_out_is_named(name: str, value: str | None) -> None:
    given = {key: text for key, text in GIVEN.items() if key != name} | ({} if value is None else {name: value})
    with pytest.raises(UnsetError, match=rf"^{name}: .*make_secrets.sh"):
        rendered(given)


def test_the_server_asks_for_the_password_and_all_who_use_it_have_it() -> None:
    services = rendered(GIVEN)["services"]
    assert services["server"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"] == "coral:a1b2c3"
    users = {name for name, service in services.items() if "PREFECT_API_URL" in service["environment"]}
    assert users == set(services) - {"postgres"}
    for name in users:
        environment = services[name]["environment"]
        assert environment["PREFECT_API_AUTH_STRING"] == "coral:a1b2c3", name
        assert name == "server" or "PREFECT_SERVER_API_AUTH_STRING" not in environment, name


def test_no_password_stands_in_the_file_or_in_a_command_line() -> None:
    for service in rendered(GIVEN)["services"].values():
        spoken = [service.get("command"), service.get("entrypoint"), service.get("labels"), service.get("healthcheck")]
        assert "a1b2c3" not in str(spoken) and "d4e5f6" not in str(spoken)
    assert not re.search(r"(?i)password:\s*['\"]?[a-z0-9]+\s*$", FILE.read_text(), re.MULTILINE)


def test_pages_of_other_origins_may_not_use_it() -> None:
    origins = rendered(GIVEN)["services"]["server"]["environment"]["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"]
    assert origins == "http://127.0.0.1:4200,http://localhost:4200"


def test_only_the_server_is_published_and_on_loopback() -> None:
    ports = {name: service["ports"] for name, service in rendered(GIVEN)["services"].items() if "ports" in service}
    assert ports == {"server": ["127.0.0.1:4200:4200"]}


def test_the_health_check_asks_what_answers_without_a_password() -> None:
    """Prefect lets GET /api/health and /api/ready through, and nothing else."""
    test = rendered(GIVEN)["services"]["server"]["healthcheck"]["test"]
    assert re.findall(r"http://127\.0\.0\.1:4200(/[\w/]+)", " ".join(test)) == ["/api/health"]


def script(file: Path) -> "subprocess.CompletedProcess[str]":
    loose = {"preexec_fn": lambda: os.umask(0)}
    return subprocess.run(["bash", str(SCRIPT), str(file)], capture_output=True, text=True, timeout=60, **loose)  # type: ignore[call-overload,no-any-return]


def test_the_script_writes_what_the_file_asks_for_readable_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    done = script(file)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and [path.name for path in tmp_path.iterdir()] == [".env"]
    given = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert set(given) == {"CORAL_API_PASSWORD", "POSTGRES_PASSWORD"} and len(set(given.values())) == 2
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in given.values()), "part of an address: no quoting"
    assert not any(value in done.stdout + done.stderr for value in given.values())
    rendered(GIVEN | given)


def test_the_script_leaves_what_is_there_alone(tmp_path: Path) -> None:
    file, elsewhere = tmp_path / ".env", tmp_path / "elsewhere"
    file.write_text("CORAL_API_PASSWORD=mine\n")
    assert script(file).returncode == 0 and file.read_text() == "CORAL_API_PASSWORD=mine\n"
    file.unlink()
    file.symlink_to(elsewhere)
    assert script(file).returncode == 0 and not elsewhere.exists(), "a link that somebody left is not followed"


def test_images_and_git_never_carry_the_passwords() -> None:
    assert "deployments/.env*" in (ROOT / ".gitignore").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored.index("deployments/.env*") > ignored.index("!deployments"), "the last pattern that fits decides"
