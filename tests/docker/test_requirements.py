"""`make test-docker` says at its start what it needs and does not find, before anything is built. Needs no Docker."""

import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "run.sh"
PLAIN = ("bash", "cat", "dirname", "rm", "umount")
DOCKER = """#!/bin/sh
case "$1" in
    compose) exit {compose} ;;
    version) exit {daemon} ;;
esac
echo "built something: $*" >>{log}
exit 9
"""


def run(
    folder: Path, *, docker: bool = True, compose: bool, daemon: bool, more: tuple[str, ...] = (), user: int = 0
) -> str:
    """What the script says in a place with these commands and no others; it ends with exit code 1."""
    commands = folder / "bin"
    commands.mkdir()
    for name in PLAIN:
        found = shutil.which(name)
        assert found is not None
        (commands / name).symlink_to(found)
    log = folder / "log"
    scripts = {name: "#!/bin/sh\nexit 0\n" for name in more}
    scripts["id"] = f"#!/bin/sh\necho {user}\n"
    scripts["mktemp"] = f"#!/bin/sh\necho 'went on' >>{log}\nexit 1\n"
    if docker:
        scripts["docker"] = DOCKER.format(compose=int(not compose), daemon=int(not daemon), log=log)
    for name, text in scripts.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    done = subprocess.run(
        [str(commands / "bash"), str(RUN)], env={"PATH": str(commands)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    return done.stderr + (log.read_text() if log.exists() else "")


def test_the_compose_plugin_is_asked_for_before_anything_is_built(tmp_path: Path) -> None:
    said = run(tmp_path, compose=False, daemon=True)
    assert said.splitlines()[0] == "make test-docker cannot run here. Missing:"
    assert "compose plugin" in said and "docker-compose-plugin" in said and "~/.docker/cli-plugins" in said
    assert "went on" not in said and "built" not in said and len(said.splitlines()) == 2


@pytest.mark.parametrize("user", [0, 1000])
def test_everything_that_is_missing_is_said_at_once(tmp_path: Path, user: int) -> None:
    said = run(tmp_path, docker=False, compose=False, daemon=False, user=user)
    for word in ("- docker: apt-get install docker.io", "- dockerd", "- iptables"):
        assert word in said
    assert ("- root" in said) == (user != 0) and "went on" not in said


def test_where_nothing_is_missing_it_goes_on(tmp_path: Path) -> None:
    assert run(tmp_path, compose=True, daemon=True) == "went on\n"


def test_a_daemon_of_its_own_needs_what_starts_one(tmp_path: Path) -> None:
    assert run(tmp_path, compose=True, daemon=False, more=("dockerd", "iptables")) == "went on\n"
