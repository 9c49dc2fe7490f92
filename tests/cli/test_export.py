"""`coral export`: what the libraries of MLflow and Weights & Biases read back; the error when they are missing."""

import importlib.util
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coral_core.report.report_files import write_report
from coral_core.report.series import tracked
from tests.report.synthetic_run import make_run

ROOT = Path(__file__).parents[2]


def need(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"the extra {name} is not installed: pip install 'coral-x[{name}]'")


def coral(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_what_is_exported_is_what_was_found(tmp_path: Path) -> None:
    folder, store = make_run(tmp_path)
    data = tracked(folder, write_report(folder, store), folder.path)
    assert data.status == "finished" and data.tags["coral.champion"] == "g001-001"
    assert data.parameters["search.population"] == 4 and data.parameters["edition"] == 1
    assert [step for step, _ in data.steps] == [0, 1] and data.steps[1][1]["best_fitness"] == pytest.approx(0.7)
    assert data.final["champion.held_out_pass_at_1"] == pytest.approx(20 / 30)
    assert len(data.genomes) == 6 and data.genomes[0]["rank"] == 2 and data.genomes[2]["infeasible"]
    assert {path.name for path in data.files} >= {"report.html", "report.json", "genomes.csv", "history.jsonl"}


def test_mlflow_reads_the_run_back(tmp_path: Path) -> None:
    need("mlflow")
    folder, _ = make_run(tmp_path)
    target = tmp_path / "mlruns"
    for _ in range(2):  # the second replaces the first
        done = coral("export", "mlflow", str(folder.path), "--tracking-uri", str(target))
        assert done.returncode == 0, done.stderr
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=target.as_uri())
    experiment = client.get_experiment_by_name("synthetic")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 6 and parent.info.run_name == folder.run_id and parent.info.status == "FINISHED"
    assert parent.data.params["search.population"] == "4"
    assert parent.data.metrics["champion.held_out_pass_at_1"] == pytest.approx(20 / 30)
    curve = client.get_metric_history(parent.info.run_id, "best_fitness")
    assert [(point.step, round(point.value, 3)) for point in curve] == [(0, 0.5), (1, 0.7)]
    failed = [run for run in children if run.info.status == "FAILED"]
    assert len(failed) == 2 and "diverged" in failed[0].data.tags["infeasible"]
    assert "report.html" in {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert not (folder.path / "report.html").exists(), "who exports may have no right to write there"


def test_an_address_that_mlflow_cannot_use_is_one_line_without_its_password(tmp_path: Path) -> None:
    need("mlflow")
    folder, _ = make_run(tmp_path)
    done = coral("export", "mlflow", str(folder.path), "--tracking-uri", "nonsense://me:secret@nowhere")
    assert done.returncode == 1 and done.stderr.startswith("error: --tracking-uri nonsense://***@nowhere")
    assert "secret" not in done.stderr.splitlines()[0] and "Traceback" not in done.stderr


def logged(raw: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: 7 bytes of header, then blocks of 32 kB in the log format of LevelDB."""
    assert raw[:4] == b":W&B"
    place, whole = 7, b""
    while place + 7 <= len(raw):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", raw[place + 4 : place + 7])
        whole += raw[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def test_wandb_reads_the_run_back(tmp_path: Path) -> None:
    need("wandb")
    folder, _ = make_run(tmp_path)
    done = coral("export", "wandb", str(folder.path), "--dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    (written,) = (tmp_path / "out" / "wandb").glob("offline-run-*")
    from wandb.proto import wandb_internal_pb2

    (binary,) = written.glob("run-*.wandb")
    steps: list[dict[str, str]] = []
    configuration = ""
    for data in logged(binary.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            steps.append({"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item})
        configuration += str(record.run.config) if record.WhichOneof("record_type") == "run" else ""
    assert [float(step["best_fitness"]) for step in steps if "best_fitness" in step] == pytest.approx([0.5, 0.7])
    assert "search.population" in configuration
    assert (written / "files" / "report.html").is_file() and not (written / "files" / "report.html").is_symlink()
    assert list((written / "files" / "media" / "table").glob("genomes*.json"))


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_library_names_its_extra(tmp_path: Path, name: str) -> None:
    folder, _ = make_run(tmp_path)
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / f"{name}.py").write_text(f"raise ImportError('no {name} here')\n")
    done = coral("export", name, str(folder.path), PYTHONPATH=f"{tmp_path / 'shadow'}:{ROOT}")
    assert done.returncode == 2 and done.stderr.startswith(
        f"error: coral export {name}: the library {name} is not installed"
    )
    assert f"coral-x[{name}]" in done.stderr and "Traceback" not in done.stderr
