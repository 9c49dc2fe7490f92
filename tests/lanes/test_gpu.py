"""Each lane has a GPU of its own: a fake nvidia-smi, real processes, real locks."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coral_core import devices
from coral_core.devices import Gpu, fits, gpus, is_given_one, to_choose_from, visible_gpus
from coral_core.errors import StoreError
from coral_core.lanes.gpu import own_gpu
from coral_core.lanes.worker import LaneWorker
from coral_core.lm.engine_client import EngineProcess
from coral_core.queue.lane_board import LaneNote
from coral_core.queue.queue import JobQueue
from coral_core.store.store import Store
from tests.queue.test_queue import genes, planner, training

A100 = "NVIDIA A100-SXM4-40GB"
LANE = """
import sys
from coral_core.queue.queue import JobQueue
from coral_core.lanes.gpu import own_gpu
from coral_core.store.store import Store
import os, logging
logging.basicConfig(stream=sys.stdout, format="%(message)s")
with own_gpu(JobQueue(Store(sys.argv[1]), sys.argv[2]), sys.argv[3], lambda idle: None) as without:
    print(without or os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives this machine GPUs of these names: GPU-0, GPU-1, ..."""

    def have(*names: str) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        lines = "".join(f"echo 'GPU-{number}, {name}'\n" for number, name in enumerate(names))
        program.write_text(f"#!/bin/sh\n{lines}")
        program.chmod(0o755)
        gpus.cache_clear()

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CORAL_LANE_GPU", "A100-40GB")
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("coral_core.lanes.gpu.BEAT_SECONDS", 0.05)
    monkeypatch.setattr("coral_core.lanes.worker.ASK_SECONDS", 0.05)
    yield have  # type: ignore[misc]
    gpus.cache_clear()


@pytest.fixture
def queue(tmp_path: Path) -> JobQueue:
    store = Store(tmp_path / "store")
    store.prepare()
    made = JobQueue(store, "training")
    made.prepare()
    return made


def lane(queue: JobQueue, name: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", LANE, str(queue.store.root), "training", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def says(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_lanes_of_one_machine_take_different_gpus_and_a_killed_one_leaves_its_own(
    machine: Any, queue: JobQueue
) -> None:
    machine(A100, A100)
    lanes = [lane(queue, f"training-{n}") for n in range(4)]
    try:
        first = {process: says(process) for process in lanes}
        held = {words: process for process, words in first.items() if words.startswith("GPU")}
        waiting = [process for process, words in first.items() if "waits for a GPU" in words]
        assert set(held) == {"GPU-0", "GPU-1"} and len(waiting) == 2
        held["GPU-1"].kill()
        held["GPU-0"].communicate("")
        assert {says(process) for process in waiting} == {"GPU-0", "GPU-1"}
    finally:
        for process in lanes:
            process.kill()
            process.communicate()


def test_the_engine_sees_the_one_that_its_lane_took(machine: Any, queue: JobQueue, monkeypatch: Any) -> None:
    machine("NVIDIA A10G", A100)
    seen: dict[str, str] = {}
    with own_gpu(queue, "training-me", lambda idle: None) as without:
        assert without is None and [gpu.name for gpu in visible_gpus()] == [A100]
        monkeypatch.setattr("coral_core.child_process.subprocess.Popen", lambda *_, env, **__: seen.update(env))
        EngineProcess()._running()
    assert seen["CUDA_VISIBLE_DEVICES"] == "GPU-1", "the first that is of the pool's kind"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("name", "kind", "right"),
    [
        (A100, "A100-40GB", True),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB", True),
        ("NVIDIA A100-SXM4-80GB", "A100-40GB", False),
        ("NVIDIA A10G", "A10G", True),
        ("NVIDIA A10", "A10G", False),
        ("NVIDIA H100 80GB HBM3", "H100", True),
    ],
)
def test_names_and_kinds(name: str, kind: str, right: bool) -> None:
    assert fits(name, kind) is right


def test_a_machine_of_another_kind_is_used_all_the_same(machine: Any) -> None:
    machine("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090")
    assert [gpu.uuid for gpu in to_choose_from("A100-40GB")] == ["GPU-0", "GPU-1"]


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"])
def test_what_somebody_chose_is_left_alone(machine: Any, queue: JobQueue, name: str, monkeypatch: Any) -> None:
    machine(A100, A100)
    monkeypatch.setenv(name, "GPU-1")
    with own_gpu(queue, "training-me", lambda idle: None) as without:
        assert without is None and os.environ.get("CUDA_VISIBLE_DEVICES") == ("GPU-1" if "CUDA" in name else None)
    assert not (queue.top / "gpus").exists()


def test_pools_that_do_not_ask_and_machines_without_one_are_left_alone(
    machine: Any, queue: JobQueue, monkeypatch: Any
) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: ())
    with own_gpu(queue, "training-me", lambda idle: None) as without:
        assert without is None and "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setattr(devices, "gpus", lambda: (Gpu("GPU-0", A100),))
    monkeypatch.setenv("CORAL_LANE_GPU", "")
    with own_gpu(queue, "training-me", lambda idle: None) as without:
        assert without is None and "CUDA_VISIBLE_DEVICES" not in os.environ


def test_several_that_somebody_chose_are_shared_out(machine: Any) -> None:
    machine(A100, A100, A100)
    chosen = {"CUDA_VISIBLE_DEVICES": "2,GPU-0"}
    assert not is_given_one(chosen) and [gpu.uuid for gpu in visible_gpus(chosen)] == ["GPU-2", "GPU-0"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == () and is_given_one({"CUDA_VISIBLE_DEVICES": ""})
    assert len(visible_gpus({"CUDA_VISIBLE_DEVICES": "MIG-1,MIG-2"})) == 3, "slices are not listed: nothing is known"


def test_a_lane_in_line_says_so_and_ends_as_others_do(
    machine: Any, queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    machine(A100)

    def ended(linger: float, command: Any = "go on") -> tuple[str, LaneNote]:
        worker = LaneWorker(queue.store, queue, linger, "me", command=lambda: command)
        why = worker.run()
        note = queue.lanes.read("training-me")
        assert note is not None and note.state == "ended" and note.ended == why and not note.jobs
        return why, note

    other = lane(queue, "training-other")
    try:
        assert says(other) == "GPU-0"
        with caplog.at_level(logging.WARNING, "coral.lane"):
            assert ended(0)[0] == "idle", "no job waits for it"
        assert "training-me waits for a GPU: other lanes of this store on" in caplog.text and "--limit" in caplog.text
        queue.submit(training(plan := planner(), genes(plan)[0]))
        assert ended(0, "stop")[0] == "cancelled" and ended(0, "finish")[0] == "drained"
        queue.lanes.ask_to_end("training-me")
        why, note = ended(0)
        assert why == "asked", "a job waits, so it would have waited, too"
        assert note.beat > 1 and not list(queue.store.root.glob("ledger/accounts/*")), "waiting costs nothing"
    finally:
        other.communicate("")


def test_a_store_that_cannot_lock_is_named(machine: Any, queue: JobQueue, monkeypatch: Any) -> None:
    machine(A100, A100)

    def no_locks(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(devices.fcntl, "flock", no_locks)
    with (
        pytest.raises(StoreError, match=r"cannot hold the locks .* CUDA_VISIBLE_DEVICES"),
        own_gpu(queue, "training-me", lambda idle: None),
    ):
        pass
