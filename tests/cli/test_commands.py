"""The `coral` command as a person uses it: a process, its output, its exit code."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from coral_core.config import RunConfig
from coral_core.problem_sources.builtin import load_builtin
from tests import warm_commands
from tests.report.synthetic_run import PROBLEMS, make_run

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "CORAL_DEBUG"} | {
    "PYTHONPATH": str(ROOT),
    "COLUMNS": "140",
}


def coral(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return warm_commands.run([*map(str, arguments)], cwd=cwd, environment=ENVIRONMENT | environment)


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """An error is one line that names the thing and the way out, never a traceback."""
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr.splitlines()[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run whose fitness problems are real built-in ones."""
    root = tmp_path_factory.mktemp("place")
    make_run(root, ids=[problem.problem_id for problem in load_builtin(PROBLEMS).fitness])
    return root


def test_help_is_quick_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom flows.cli import main\nsys.argv = ['coral', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'prefect', 'matplotlib', 'transformers') if name in sys.modules], time.process_time(), sep='|')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    heavy, seconds = done.stdout.splitlines()[-1].split("|")
    assert heavy == "[]"
    assert float(seconds) < 1.0
    for command in ("init", "config", "evolve", "runs", "report", "show", "store"):
        assert command in done.stdout


def test_init_writes_a_valid_configuration_and_never_overwrites(tmp_path: Path) -> None:
    assert coral("init", "mine.yaml", cwd=tmp_path).returncode == 0
    assert (tmp_path / "mine.yaml").read_text() == (ROOT / "configs" / "quickstart.yaml").read_text()
    refused(coral("init", "mine.yaml", cwd=tmp_path), 2, "mine.yaml", "--force")
    (tmp_path / "mine.yaml").write_text("seed: 3")
    assert coral("init", "mine.yaml", "--force", cwd=tmp_path).returncode == 0
    assert "quickstart" in (tmp_path / "mine.yaml").read_text()
    check = coral("config", "check", "mine.yaml", "--json", cwd=tmp_path)
    summary = json.loads(check.stdout)
    assert summary["valid"] is True
    assert summary["genomes_at_most"] == 32


def test_config_commands(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: tried\nsearch: {population: 6}\n")
    text = coral("config", "check", "a.yaml", "--set", "search.generations=3", "--set", "seed=2", cwd=tmp_path).stdout
    assert "tried-" in text
    assert re.search(r"genomes at most +18", text)
    shown = RunConfig.model_validate(yaml.safe_load(coral("config", "show", "a.yaml", cwd=tmp_path).stdout))
    assert shown.search.population == 6
    as_json = json.loads(coral("config", "show", "a.yaml", "--json", cwd=tmp_path).stdout)
    assert as_json["base_model"]["name"] == "coral-tiny"
    schema = json.loads(coral("config", "schema", cwd=tmp_path).stdout)
    assert "search" in schema["properties"]


def test_a_wrong_configuration_is_refused_with_line_value_and_way_out(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("search:\n  populaton: 9\n")
    refused(
        coral("config", "check", "a.yaml", cwd=tmp_path), 2, "a.yaml:2", "populaton", "9", "Did you mean population?"
    )
    refused(coral("config", "check", "none.yaml", cwd=tmp_path), 2, "none.yaml", "coral init")
    (tmp_path / "b.yaml").write_text("base_model:\n  name: /no/such/model\n")
    refused(coral("config", "check", "b.yaml", cwd=tmp_path), 2, "/no/such/model", "coral-tiny")


def test_runs_and_report(place: Path) -> None:
    data = json.loads(coral("runs", "--json", cwd=place).stdout)
    assert data["runs"][0]["run_id"].startswith("synthetic-")
    assert data["runs"][0]["champion_held_out_pass_at_1"] == pytest.approx(20 / 30)
    assert "finished" in coral("runs", cwd=place).stdout
    report = json.loads(coral("report", "latest", "--json", cwd=place).stdout)
    for who in ("champion", "base_model", "default_lora"):
        assert isinstance(report[who]["held_out_pass_at_1"], float)
    assert report["counts"] == {"trainings": 1, "evaluations": 1}
    text = coral("report", "synthetic", cwd=place)
    assert text.returncode == 0
    assert "g001-001" in text.stdout
    assert "not distinguishable" in text.stdout
    folder = Path(report["path"])
    for name in ("report.md", "report.json", "pictures/fitness.png", "champion/README.md"):
        assert (folder / name).exists()
    assert str(folder) in text.stdout


def test_a_folder_that_is_no_sound_run_does_not_hide_the_others(place: Path) -> None:
    broken = place / "runs" / "broken-e1"
    broken.mkdir()
    (broken / "run.json").write_text("{}")
    try:
        done = coral("runs", "--json", cwd=place)
        assert [item["run_id"] for item in json.loads(done.stdout)["unreadable"]] == ["broken-e1"]
        assert len(json.loads(done.stdout)["runs"]) == 1
    finally:
        (broken / "run.json").unlink()
        broken.rmdir()


def test_files_that_are_broken_are_named_and_no_bug_of_ours(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path)
    history = folder.path / "history.jsonl"
    sound = history.read_text()
    history.write_text(sound.replace('"type": "baseline"', '"type": "miracle"', 1))
    refused(coral("report", "latest", cwd=tmp_path), 3, "history.jsonl, line 2", "coral resume synthetic-")
    history.write_text(sound)
    (folder.path / "run.json").write_text("{")
    for command in ("report", "resume"):
        refused(coral(command, "latest", cwd=tmp_path), 3, "run.json: is missing or broken", "coral evolve")
    (folder.path / "config.yaml").write_text("name: [")
    status = coral("status", cwd=tmp_path, PREFECT_API_URL="", CORAL_HOME=str(tmp_path / "home"), HOME=str(tmp_path))
    assert status.returncode == 0 and f"{folder.run_id}: cannot be read" in status.stdout, status.stderr


def test_show_prints_prompts_patches_as_diffs_and_verdicts(place: Path) -> None:
    data = json.loads(coral("show", "latest", "g001-001", "--limit", "2", "--json", cwd=place).stdout)
    assert data["heavy"]["rank"] == 4
    assert data["lineage"]["parents"] == ["g000-000", "g000-001"]
    first = data["problems"][0]
    assert first["passed"] is True
    assert first["prompt"] == f"<bos>{first['buggy']}<sep>"
    assert first["samples"][0]["diff"].startswith("--- buggy\n+++ patch\n@@")
    assert first["samples"][0]["verdict"]["outcome"] == "passed"
    text = coral("show", "latest", "--failed", "--limit", "0", cwd=place).stdout
    assert "+++ patch" in text
    assert "verdict: wrong-value" in text
    assert "\n-def " in text
    assert first["problem_id"] not in text
    one = json.loads(coral("show", "latest", "champion", "--problem", first["problem_id"], "--json", cwd=place).stdout)
    assert [item["problem_id"] for item in one["problems"]] == [first["problem_id"]]
    held_out = json.loads(
        coral("show", "latest", "champion", "--split", "held-out", "--limit", "1", "--json", cwd=place).stdout
    )
    assert held_out["problems"][0]["problem_id"].startswith("builtin/held_out/")
    bare = json.loads(coral("show", "latest", "base_model", "--limit", "1", "--json", cwd=place).stdout)
    assert bare.keys() == one.keys() and bare["features"] is None
    base = coral("show", "latest", "base_model", "--limit", "1", cwd=place)
    assert base.returncode == 0
    infeasible = coral("show", "latest", "g000-002", cwd=place)
    assert "diverged: loss is NaN" in infeasible.stdout


def test_what_is_not_there_is_named_with_what_is(place: Path) -> None:
    refused(coral("report", "nothing", cwd=place), 2, "nothing", "Known: synthetic-")
    refused(coral("show", "latest", "g009-009", cwd=place), 2, "g009-009", "no such genome", "champion")
    refused(coral("show", "latest", "champion", "--problem", "zzz", cwd=place), 2, "zzz", "An id looks like builtin/")
    refused(coral("show", "latest", "g000-001", "--split", "held-out", cwd=place), 2, "held-out", "--split fitness")
    refused(coral("report", "latest", "--runs", "elsewhere", cwd=place), 2, "coral evolve")
    refused(coral("store", "ls", "--path", "elsewhere", cwd=place), 3, "elsewhere", "--path")
    refused(coral("store", "show", "zz", "--path", "store", cwd=place), 3, "zz", "coral store ls")


def test_store_commands(tmp_path: Path) -> None:
    _, store = make_run(tmp_path)
    entries = json.loads(coral("store", "ls", "--path", "store", "--json", cwd=tmp_path).stdout)["entries"]
    assert {entry["kind"] for entry in entries} == {"adapter", "evaluation"}
    adapter = next(entry["digest"] for entry in entries if entry["kind"] == "adapter")
    shown = json.loads(coral("store", "show", adapter[:12], "--path", "store", "--json", cwd=tmp_path).stdout)
    assert shown["record"]["training_digest"] == adapter
    assert coral("store", "show", adapter[:12], "--path", "store", cwd=tmp_path).returncode == 0
    sound = coral("store", "verify", "--path", "store", cwd=tmp_path)
    assert sound.returncode == 0
    assert "0 broken" in sound.stdout
    (store.adapter_path(adapter) / "adapter_model.safetensors").write_bytes(b"edited")
    broken = coral("store", "verify", "--path", "store", "--json", cwd=tmp_path)
    assert broken.returncode == 1
    assert [entry["digest"] for entry in json.loads(broken.stdout)["broken"]] == [adapter]
    refused(
        coral("store", "show", adapter, "--path", "store", cwd=tmp_path),
        3,
        adapter[:12],
        "is broken",
        "adapter_model.safetensors",
    )


def test_a_run_is_found_from_another_folder_by_its_path(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path)
    text = (folder.path / "config.yaml").read_text()
    (folder.path / "config.yaml").write_text(text.replace(str(tmp_path / "store"), "store"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = coral("report", folder.path, "--json", cwd=elsewhere)
    assert json.loads(done.stdout)["gaps"]["champion_minus_base_model"]["p_value"] is not None


def test_a_bug_of_ours_is_one_line_and_a_traceback_only_on_request(tmp_path: Path) -> None:
    code = "import flows.cli.runs as m\ndef runs(): raise RuntimeError('our fault')\nm.runs = runs\nfrom flows.cli import main; main()"

    def broken(**environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", code, "runs"],
            cwd=tmp_path,
            env=ENVIRONMENT | environment,
            capture_output=True,
            text=True,
            timeout=200,
        )

    done = broken()
    refused(done, 70, "RuntimeError: our fault")
    assert "CORAL_DEBUG=1" in done.stderr
    assert "Traceback" in broken(CORAL_DEBUG="1").stderr


LIKE = ROOT / "tests" / "problem_sources" / "quixbugs_like"


def test_problems_check_prints_each_problem(tmp_path: Path) -> None:
    done = coral("problems", "check", "quixbugs", "--root", LIKE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6 of 6 at 1.0" in done.stdout
    assert "case 4: its test file skips it" in done.stdout
    rows = json.loads(coral("problems", "check", "quixbugs", "--root", LIKE, "--json", cwd=tmp_path).stdout)
    assert {"problem", "reference", "buggy", "seconds"} <= set(rows[0])
    assert all(row["reference"]["bugfix"] == 1.0 and row["buggy"]["bugfix"] < 1.0 for row in rows)


def test_problems_check_refuses_by_name(tmp_path: Path) -> None:
    line = {
        "type": "problem",
        "id": "soft",
        "split": "fitness",
        "entry_point": "f",
        "buggy": "def f(a):\n    return abs(a)",
        "reference": "def f(a):\n    return a",
        "cases": [{"arguments": [1], "value": 1}],
    }
    (tmp_path / "bugs.jsonl").write_text(json.dumps(line))
    done = coral("problems", "check", "jsonl", "--root", "bugs.jsonl", cwd=tmp_path)
    refused(done, 1, "1 of 1 problems of jsonl are unfit: jsonl/soft")
    refused(coral("problems", "check", "quixbugs", "--root", "no", cwd=tmp_path), 2, "no: no such directory", "fetch")


def test_problems_fetch_takes_a_repository_on_disk(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    shutil.copytree(LIKE, origin)
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@b"]
    for step in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *step], check=True)
    done = coral(
        "problems", "fetch", "quixbugs", "--url", origin, "--revision", "HEAD", "--into", "clone", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "clone" / "python_programs" / "cube_root.py").exists()
    refused(
        coral("problems", "fetch", "quixbugs", "--url", tmp_path / "no", "--into", "other", cwd=tmp_path), 2, "--url"
    )


def test_a_leak_is_refused_before_a_run_and_listed(tmp_path: Path) -> None:
    leaky = [
        "--set=problems.source=quixbugs",
        f"--set=problems.path={LIKE}",
        "--set=problems.training.source=quixbugs",
    ]
    config = ROOT / "configs" / "quickstart.yaml"
    refused(coral("evolve", config, "--dry-run", *leaky, cwd=tmp_path), 2, "accept_leaks: [quixbugs]")
    listed = coral("problems", "leak-check", config, *leaky, cwd=tmp_path)
    assert listed.returncode == 1
    assert "trained on answers" in listed.stdout
    clean = coral("problems", "leak-check", config, *leaky[:2], "--set=problems.pairs=30", cwd=tmp_path)
    assert clean.returncode == 0, clean.stdout


def test_init_from_a_directory_writes_what_fits(tmp_path: Path) -> None:
    own = shutil.copytree(ROOT / "tests" / "problem_sources" / "package_like", tmp_path / "own")
    made = coral("init", "own.yaml", "--from", own, cwd=tmp_path, CORAL_HOME=str(tmp_path / "home"))
    assert made.returncode == 0, made.stderr
    assert "12 functions usable" in made.stdout
    assert "lottery: gives another result" in made.stdout
    for command in (["config", "check", "own.yaml"], ["evolve", "own.yaml", "--dry-run"]):
        done = coral(*command, cwd=tmp_path, CORAL_HOME=str(tmp_path / "home"))
        assert done.returncode == 0, done.stderr
    told = coral("init", "--from", own, "--why", "lott*", cwd=tmp_path, CORAL_HOME=str(tmp_path / "home"))
    assert "it depends on chance" in told.stdout and "that were recorded: 1" in told.stdout
    home = str(tmp_path / "home")
    refused(
        coral("init", "--from", own, "--why", "nobody", cwd=tmp_path, CORAL_HOME=home), 2, "no function of this name"
    )
    refused(
        coral("init", "x.yaml", "--from", own, "--python", "/bin/true", cwd=tmp_path), 2, "does not run as a Python"
    )
    refused(coral("init", "x.yaml", "--python", "/bin/true", cwd=tmp_path), 2, "none is given")
    refused(coral("init", "x.yaml", "--from", tmp_path / "no", cwd=tmp_path), 2, "no such directory")
    assert not (tmp_path / "x.yaml").exists()


def test_a_folder_of_somebody_else_is_named(tmp_path: Path) -> None:
    """Also where a command only reads: the folder and its user are said, and it is no bug."""
    code = (
        "import flows.cli\n"
        "def build():\n    raise PermissionError(13, 'Permission denied', '/data/runs/store')\n"
        "flows.cli.build = build\nflows.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    refused(done, 2, "/data/runs/store", "Permission denied", "user")
    assert "bug of CORAL-X" not in done.stderr
