"""The whole loop through the command: result, replay, resume, invariance, bad weather."""

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from coral_core import evolve, load_config
from coral_core.store.store import Store
from tests.rehearsal_runs import Coral
from tests.waiting import until

pytestmark = pytest.mark.server


def copied(finished: Coral, coral: Coral) -> Coral:
    """`coral` with the finished run's folder and store as its own."""
    shutil.copytree(finished.runs, coral.runs)
    return coral


def test_a_run_leaves_everything_it_promises(finished: Coral) -> None:
    run = finished.run
    for name in ("config.yaml", "run.json", "history.jsonl", "timings.jsonl", "report.md", "report.json"):
        assert (run / name).stat().st_size > 0, name
    assert (run / "champion" / "adapter_config.json").is_file() and (run / "champion" / "README.md").is_file()
    rows = [json.loads(line) for line in finished.history().splitlines()]
    assert [row["type"] for row in rows] == [
        "run",
        "baseline",
        "baseline",
        *["genome"] * 4,
        "generation",
        *["genome"] * 4,
        "generation",
        "final",
    ]
    assert all(row["schema_version"] == 1 for row in rows)
    report = finished.report()
    assert report["counts"]["trainings"] > 0 and report["counts"]["evaluations"] > 0 and report["seconds"] > 0
    for name in ("champion", "base_model", "default_lora"):
        assert 0 <= report[name]["held_out_pass_at_1"] <= 1
    final = rows[-1]
    assert final["held_out_openings"] == 1 and {line["name"] for line in final["held_out"]} == {
        "champion",
        "base_model",
        "default_lora",
        "longer_lora",
        "generation_0_median",
    }


def test_the_set_differences_are_kept_with_the_run(finished: Coral) -> None:
    facts = json.loads((finished.run / "run.json").read_text())
    assert "search.population=4" in facts["set"]


@pytest.mark.slow(reason="a run; tests/flows/test_damaged_runs.py repeats one in which two entries are broken")
def test_a_repeat_is_a_replay(finished: Coral, coral: Coral) -> None:
    copied(finished, coral)
    before = coral.history()
    assert coral.evolve().returncode == 0
    assert coral.history() == before
    assert coral.report()["counts"] == {"trainings": 0, "evaluations": 0}


@pytest.mark.slow(reason="two runs; make test has a broken entry of the store")
@pytest.mark.parametrize("damage", ["not-what-was-trained", "a-file-is-gone"])
def test_an_adapter_that_does_not_load_is_trained_anew(finished: Coral, coral: Coral, damage: str) -> None:
    """Its manifest is sound, so that nobody notices before an engine has it in its hands."""
    copied(finished, coral)
    store, before = Store(coral.runs / "store"), coral.history()
    for entry in list(store.entries()):
        if entry.kind == "evaluation":
            store.remove("evaluation", entry.digest)
    adapters = [store.adapter_path(entry.digest) for entry in store.entries()]
    adapter = next(path for path in adapters if (path / "adapter_model.safetensors").exists())
    if damage == "not-what-was-trained":
        config = b'{"peft_type": "LORA"}'
        (adapter / "adapter_config.json").write_bytes(config)
        manifest = json.loads((adapter / "manifest.json").read_text())
        manifest["files"]["adapter_config.json"] = hashlib.sha256(config).hexdigest()
        manifest["bytes"]["adapter_config.json"] = len(config)
        (adapter / "manifest.json").write_text(json.dumps(manifest))
    else:
        (adapter / "adapter_config.json").unlink()
    assert store.read_adapter(adapter.name) is not None or damage == "a-file-is-gone"
    result = coral.evolve()
    assert result.returncode == 0, result.stderr
    assert " INFO " not in result.stdout + result.stderr, "Prefect's own lines belong to the log in the UI"
    assert coral.history() == before and coral.report()["counts"]["trainings"] == 1
    assert store.read_adapter(adapter.name) is not None and store.set_aside_before(), "the broken one is kept aside"


@pytest.mark.parametrize(
    "settings", [{"infra__executor": "inline"}, {"infra__local_lanes": "1"}, {"infra__local_lanes": "3"}]
)
@pytest.mark.slow(reason="a run each; tests/pools compares work pools with local lanes, tests/evolution inline ones")
def test_lanes_and_executor_change_nothing(finished: Coral, coral: Coral, settings: dict[str, str]) -> None:
    result = coral.evolve(**settings)
    assert result.returncode == 0, result.stderr
    assert coral.history() == finished.history()


@pytest.mark.slow(reason="a run; tests/search holds the same of the search")
@pytest.mark.parametrize("executor", ["local", "inline"])
def test_the_engine_alone_writes_the_same_history(finished: Coral, tmp_path: Path, executor: str) -> None:
    """Without Prefect, by the Python API."""
    places = [f"runs={tmp_path / 'runs'}", f"store.path={tmp_path / 'store'}", f"infra.executor={executor}"]
    result = evolve(load_config(finished.run / "config.yaml", places))
    assert result.run_id == finished.run.name
    assert (result.folder / "history.jsonl").read_bytes() == finished.history()


@pytest.mark.slow(reason="a run; tests/search holds the same of the search")
def test_the_hash_seed_changes_nothing(finished: Coral, coral: Coral) -> None:
    assert coral.evolve(env={"PYTHONHASHSEED": "12345"}).returncode == 0
    assert coral.history() == finished.history()


@pytest.mark.slow(reason="a run")
def test_another_seed_and_another_edition_are_other_runs(finished: Coral, coral: Coral) -> None:
    copied(finished, coral)
    result = coral.evolve("--again")
    assert result.returncode == 0, result.stderr
    runs = {path.parent.name for path in coral.runs.glob("*/run.json")}
    assert {name.rsplit("-", 1)[1] for name in runs} == {"e1", "e2"}
    histories = {path.read_bytes() for path in coral.runs.glob("*/history.jsonl")}
    assert len(histories) == 2


@pytest.mark.slow(reason="two kills and a run; tests/evolution and tests/pools kill once each")
def test_killed_twice_it_goes_on_with_what_is_done(finished: Coral, coral: Coral) -> None:
    for jobs in (0, 3):  # as soon as there is a run, and in the middle of a generation
        process = coral.start(base_model__name="rehearsal")
        until(lambda jobs=jobs: list(coral.runs.glob("*/timings.jsonl")) and len(coral.done()) >= jobs, look=0.02)
        process.kill()
        process.communicate()
    before = coral.done()
    assert coral.evolve().returncode == 0
    done = coral.done()
    assert done[: len(before)] == before and len(done) == len(set(done)), "a finished job was done again"
    assert coral.history() == finished.history()


@pytest.mark.slow(reason="four kills and a run; make test kills twice")
def test_kill_at_random_instants_then_again(finished: Coral, coral: Coral) -> None:
    rng = random.Random(3)
    for _ in range(4):
        process = coral.start(base_model__name="rehearsal")
        time.sleep(rng.uniform(3.5, 9.0))  # subject: a random instant
        process.kill()
        process.communicate()
    assert coral.evolve().returncode == 0
    done = coral.done()
    assert len(done) == len(set(done)), "a finished job was done again"
    assert coral.history() == finished.history()


@pytest.mark.parametrize(
    ("sign", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow(reason="a run; make test has the other signal")),
    ],
)
def test_a_stop_is_clean_and_says_how_to_go_on(coral: Coral, sign: signal.Signals, code: int) -> None:
    process = coral.start(base_model__name="rehearsal:train=2,evaluate=1")
    until(lambda: engines_of(coral))
    process.send_signal(sign)
    output, _ = process.communicate(timeout=160)
    assert process.returncode == code, output
    assert "Go on with: coral resume" in output and "Traceback" not in output
    assert not engines_of(coral)


@pytest.mark.slow(reason="a run at the pace of a real engine; tests/lm and tests/pools kill engines and lanes")
def test_a_killed_engine_is_replaced_and_its_job_tried_again(coral: Coral) -> None:
    process = coral.start(base_model__name="rehearsal:train=1,evaluate=0.2")
    until(lambda: list(coral.runs.glob("*/timings.jsonl")) and coral.done())
    for pid in engines_of(coral):
        os.kill(pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    done = coral.done()
    assert len(done) == len(set(done))


@pytest.mark.slow(reason="a run each; tests/flows/test_damaged_runs.py breaks one of both kinds in one run")
@pytest.mark.parametrize("victim", ["adapters/*/adapter_model.safetensors", "evaluations/*.json"])
def test_a_broken_entry_is_redone_and_said(finished: Coral, coral: Coral, victim: str) -> None:
    copied(finished, coral)
    before = coral.history()
    path = sorted((coral.runs / "store").glob(victim))[0]
    path.write_bytes(path.read_bytes()[:-5])
    result = coral.evolve()
    assert result.returncode == 0 and "is broken" in result.stderr
    assert coral.history() == before
    assert sum(coral.report()["counts"].values()) == 1


@pytest.mark.slow(reason="a run; tests/verification has one whose default LoRA is infeasible")
def test_a_diverging_training_is_infeasible_never_zero(coral: Coral) -> None:
    result = coral.evolve(genes__heavy__learning_rate="[0.005, 0.06]")
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in coral.history().splitlines()]
    diverged = [row for row in rows if row["type"] == "genome" and row["infeasible"]]
    assert diverged and all(
        row["infeasible"] == "diverged" and row["fitness"] is None and row["reason"] for row in diverged
    )


@pytest.mark.parametrize("how", [(), ("--dry-run",)], ids=["run", "dry run"])
def test_modules_that_the_model_does_not_have_are_refused_before_anything_starts(
    coral: Coral, how: tuple[str, ...]
) -> None:
    result = coral.evolve(*how, genes__heavy__target_modules="[q, no_such_proj]")
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert "genes.heavy.target_modules: no_such_proj: no module of rehearsal" in result.stderr
    assert "It has down_proj, gate_proj, k_proj" in result.stderr and "Prefect" not in result.stderr + result.stdout
    assert not coral.runs.exists() or not list(coral.runs.glob("*/run.json"))


@pytest.mark.slow(reason="a run; tests/verification holds it without a server")
def test_a_run_whose_default_lora_is_infeasible_verifies(coral: Coral) -> None:
    """Rows of infeasible genomes have no verdicts to count, and are as honest as others."""
    result = coral.evolve(base_model__name="rehearsal:full=8", genes__heavy__rank="[4, 8, 16]")
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in coral.history().splitlines()]
    assert [row["infeasible"] for row in rows if row.get("name") == "default_lora"] == ["out-of-memory"]
    verified = coral.call("verify", "latest", "--runs", str(coral.runs), "--json")
    differing = [found for found in json.loads(verified.stdout)["findings"] if found["status"] == "differs"]
    assert verified.returncode == 0 and differing == []


def test_a_run_that_fails_says_why_everywhere(coral: Coral) -> None:
    result = coral.evolve(
        genes__heavy__learning_rate="[0.06]", search__diversity__minimum_unique="0", search__generations="1"
    )
    assert result.returncode == 1 and "there is no champion" in result.stderr
    report = coral.report()
    assert report["status"] == "failed" and report["error"].startswith("NoChampionError: no genome could be")
    latest = ("latest", "--runs", str(coral.runs))
    shown = json.loads(coral.call("progress", *latest, "--json").stdout)
    assert (shown["status"], shown["error"]) == ("failed", report["error"])
    assert shown["last_event"]["text"] == f"session failed: {report['error']}"
    for said in (coral.call("progress", *latest).stdout, coral.call("runs", "--runs", str(coral.runs)).stdout):
        assert "failed" in said and "NoChampionError" in said


def test_a_port_in_use_is_named(coral: Coral, tmp_path: Path) -> None:
    coral.environment["CORAL_HOME"] = str(tmp_path / "other-home")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        result = coral.evolve("--port", str(port))
    assert result.returncode != 0
    assert result.stderr.startswith(f"error: port {port}") and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base_model__name": "/no/such/model"}, "no such directory"),
        ({"search__population": "2"}, "too small"),
        ({"store__path": "/proc/store"}, "store"),
    ],
)
def test_bad_input_is_one_clear_line(coral: Coral, settings: dict[str, str], words: str) -> None:
    result = coral.evolve(**settings)
    assert result.returncode != 0
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and words in errors[0], result.stderr
    assert "Traceback" not in result.stderr


def test_dry_run_starts_nothing(coral: Coral) -> None:
    result = coral.evolve("--dry-run", "--json")
    plan = json.loads(result.stdout)
    assert plan["trainings_at_most"] >= 4 and len(plan["genomes"]) == 4
    assert not coral.runs.exists()


@pytest.mark.slow(reason="a server of its own")
def test_nothing_is_left_running(coral: Coral, tmp_path: Path) -> None:
    coral.environment["CORAL_HOME"] = str(tmp_path / "own-home")
    assert coral.evolve().returncode == 0
    left = subprocess.run(
        ["pgrep", "-f", "flows.prefect_api.local_server"], capture_output=True, text=True
    ).stdout.split()
    homes = [Path(f"/proc/{pid}/environ").read_bytes() for pid in left if Path(f"/proc/{pid}").exists()]
    assert not any(str(tmp_path).encode() in home for home in homes)


def engines_of(coral: Coral) -> list[int]:
    """Engine processes whose parent runs `coral` with these folders."""
    found = []
    for pid in subprocess.run(["pgrep", "-f", "coral_core.lm.engine"], capture_output=True, text=True).stdout.split():
        try:
            parent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
            if str(coral.runs).encode() in Path(f"/proc/{parent}/cmdline").read_bytes():
                found.append(int(pid))
        except (OSError, IndexError):
            continue
    return found
