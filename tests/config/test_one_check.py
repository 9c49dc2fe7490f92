"""One check: `coral config check`, `--dry-run`, `coral evolve` and the pre-flight of a flow refuse the same, in the same words.

It runs no code of others, and it is bounded: whatever a configuration says, it uses little processor time.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from coral_core.config import RunConfig, load_config, parse_config
from coral_core.errors import BaseModelError, CoralError
from coral_core.evolution.preflight import check, preflight
from coral_core.lm.base_model import TINY, smollm2_folder
from tests import warm_commands
from tests.config.mutations import CPU_SECONDS, in_this_process

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "CORAL_DEBUG"} | {"PYTHONPATH": str(ROOT)}
LIKE = Path(__file__).parents[1] / "problem_sources"
SMALL = "problems: {fitness: 8, retention: 2, monitor: 2, held_out: 6, pairs: 20}\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORAL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CORAL_DEBUG", raising=False)
    return tmp_path


def limited(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, ended by the system when it uses more processor time than a check may."""
    return warm_commands.run(command, cwd=cwd, environment=ENVIRONMENT | environment, cpu_seconds=int(CPU_SECONDS))


def without_place(line: str) -> str:
    return line.removeprefix("error: ").partition("c.yaml:")[2].partition(": ")[2]


BAD: list[tuple[str, str]] = [
    ("search:\n  populaton: 9\n", "search.populaton: unknown key"),
    ("store: {path: 's3://bucket/store'}\n", "store.path (value 's3://bucket/store'): is an address"),
    ("store: {path: 'file:///srv/store'}\n", "is an address"),
    ("store: {path: ~nosuchuser/store}\n", "only ~/ is read"),
    ("seed: 1\nproblems: {source: quixbugz}\n", "problems.source: quixbugz: no such source. Known: builtin, quixbugs, jsonl, package"),
    ("problems:\n  training: {source: nosuch}\n", "problems.training.source: nosuch: no such source. Known: builtin"),
    ("scoring: {roles: {nosuch: report}}\n", "no such objective. Known: bugfix"),
    ("base_model: {prompt: nosuch}\n", "is no prompt. Give auto, chat, instruct, plain, tiny"),
    ("base_model: {prompt: nosuch.yaml}\n", "base_model.prompt: nosuch.yaml: no such prompt template file"),
    ("base_model: {prompt: chat}\n", "base_model.prompt: chat: coral-tiny has no chat template"),
    ("base_model: {name: ./nowhere}\n", "base_model.name: ./nowhere: no such directory"),
    ("base_model: {name: a b}\n", "no name that a model of the Hugging Face hub can have"),
    ("base_model: {name: a/b/c}\n", "no name that a model"),
    ('base_model: {name: "coral-tiny:x"}\n', "no name that a model"),
    ("problems: {source: jsonl}\n", "problems.path: nothing given"),
    ("problems: {source: jsonl, path: none.jsonl}\n", "problems.path: none.jsonl: no such file"),
    ("problems: {source: jsonl, path: /dev/zero}\n", "/dev/zero: no such file"),
    ("problems: {source: jsonl, path: broken.jsonl}\n", "broken.jsonl:1: not JSON"),
    ("problems: {source: jsonl, path: deep.jsonl}\n", "deep.jsonl:1: buggy is nested more than 120 levels deep"),
    ("search: 5\n", "search (value 5): a section is needed, with keys of strategy, generations"),
    ("problems: {source: package, path: nowhere}\n", "problems.path: nowhere: no such directory"),
    ("problems: {source: quixbugs, path: .}\n", "half a clone"),
    (f"problems: {{source: quixbugs, path: '{LIKE / 'quixbugs_like'}', training: {{source: quixbugs}}}}\n", "accept_leaks: [quixbugs]"),
    ("base_model: {name: 'rehearsal:train=x'}\n", "base_model.name: rehearsal:train=x: 'train=x' is not train=SECONDS"),
    ("base_model: {name: 'rehearsal:train=1e300'}\n", "is not train=SECONDS"),
    ("base_model: {device: 'cuda:777'}\n", "base_model.device: cuda:777: this machine shows"),
    (SMALL + "generation: {prompt_length: 20}\n", "generation.prompt_length: 20: 18 of 18 prompts are longer"),
    ("runs: c.yaml/runs\n", "runs: c.yaml/runs: "),
    ("store:\n  path: " + "x/" * 2047 + "\n", "store.path: x/x/"),
]  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize(("text", "words"), BAD)
def test_each_way_in_refuses_the_same_in_the_same_words(text: str, words: str, place: Path) -> None:
    (place / "c.yaml").write_text(text)
    (place / "broken.jsonl").write_text("{\n")
    deep = "def f(a):\n    return " + " + ".join(["a"] * 990)
    problem = {
        "type": "problem",
        "id": "x",
        "split": "fitness",
        "entry_point": "f",
        "buggy": deep,
        "reference": deep + "+ 1",
    }
    (place / "deep.jsonl").write_text(json.dumps({**problem, "cases": [{"arguments": [1], "value": 1}]}))
    told = {}
    for name, command in {
        "config check": ["config", "check", "c.yaml"],
        "dry run": ["evolve", "c.yaml", "--dry-run"],
        "evolve": ["evolve", "c.yaml"],
    }.items():
        code, out, error = in_this_process(command)
        assert code == 2 and not out, (name, error)
        told[name] = error.splitlines()[0]
    assert len(set(told.values())) == 1, told
    line = told["config check"]
    assert line.startswith("error: c.yaml:") and words in line and "bug" not in line.partition("c.yaml")[0]
    assert not (place / "runs").exists() and not (place / "home").exists()
    try:  # a flow has no file: its parameters are what the file says
        config = parse_config(text, "c.yaml")
    except CoralError as error:
        assert str(error).splitlines()[0] == line.removeprefix("error: ")
        return
    for way in (check, preflight):
        with pytest.raises(CoralError) as caught:
            way(config)
        assert str(caught.value).splitlines()[0] == without_place(line)


def test_the_pre_flight_of_a_flow_is_that_check(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    pytest.importorskip("prefect")
    import coral_core.evolution.preflight as module
    from flows import evolve

    assert evolve.preflight is preflight
    called = []
    monkeypatch.setattr(module, "check", lambda config, places: called.append(config) or ())
    preflight(parse_config(SMALL, "c.yaml"))
    assert called == [parse_config(SMALL, "c.yaml")]


@pytest.mark.torch
def test_an_error_has_the_line_or_the_argument_of_its_key(place: Path) -> None:
    (place / "c.yaml").write_text(f"seed: 1\n{SMALL}generation:\n  batch_size: 4\n  prompt_length: 20\n")
    assert in_this_process(["config", "check", "c.yaml"])[2].startswith("error: c.yaml:5: generation.prompt_length: 20")
    (place / "d.yaml").write_text(SMALL)
    told = in_this_process(["config", "check", "d.yaml", "--set", "generation.prompt_length=21"])[2]
    assert told.startswith("error: --set generation.prompt_length=21: generation.prompt_length: 21")


# -- no code of others ----------------------------------------------------------------------------------------


def _package(place: Path) -> str:
    """A package; its tests run confined, so the mark that they leave is their recording."""
    shutil.copytree(LIKE / "package_like", place / "own")
    return "problems: {source: package, path: own}\n"


def _has_run(place: Path) -> bool:
    """True when tests, reference solutions or plug-ins were executed."""
    return (place / "mark").exists() or any((place / "home").rglob("recordings/*.json"))


def _training_package(place: Path) -> str:
    return _package(place).replace("source: package, path: own", "training: {source: package, path: own}")


def _clone(place: Path) -> str:
    """A clone of QuixBugs whose reference solutions leave a mark."""
    clone = shutil.copytree(LIKE / "quixbugs_like", place / "clone")
    for file in (*clone.glob("correct_python_programs/*.py"), *clone.glob("python_testcases/*.py")):
        file.write_text(f"{file.read_text()}\nopen({str(place / 'mark')!r}, 'w')\n")
    return "problems: {source: quixbugs, path: clone}\ngeneration: {prompt_length: 400}\n"


def _plugin(place: Path) -> str:
    """A plug-in that leaves a mark when it is imported: a problem source and an objective."""
    (place / "plugged.py").write_text(f"open({str(place / 'mark')!r}, 'w')\n")
    info = place / "plugged-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[coral_x.problems]\nmine = plugged:load\n[coral_x.objectives]\nours = plugged:score\n"
    )
    return "problems: {source: mine}\nscoring: {roles: {ours: report}}\n"


@pytest.mark.parametrize("make", [_package, _training_package, _clone, _plugin])
def test_a_check_runs_no_code_of_others_and_says_what_it_left_out(make: Callable[[Path], str], tmp_path: Path) -> None:
    if make is _training_package:
        pytest.importorskip("tokenizers")  # it has prompts of several lengths, whose tokens are counted
    (tmp_path / "c.yaml").write_text(make(tmp_path))
    places = {
        "CORAL_HOME": str(tmp_path / "home"),
        "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{tmp_path}",
    }
    for command in (["config", "check", "c.yaml", "--json"], ["evolve", "c.yaml", "--dry-run", "--json"]):
        done = limited(command, tmp_path, **places)
        assert done.returncode == 0, done.stderr
        left_out = " ".join(json.loads(done.stdout)["not_checked"])
        assert {"_plugin": "was not loaded", "_clone": "recorded by running", "_package": "come from running its tests"}.get(
            make.__name__, "problems"
        ) in left_out  # fmt: skip
        assert not _has_run(tmp_path)
    assert "not checked here: " in limited(["config", "check", "c.yaml"], tmp_path, **places).stdout


def test_the_evolution_itself_does_run_them(place: Path) -> None:
    """So the mark of the tests above is one that can be left."""
    config = parse_config(_package(place), "c.yaml")
    with pytest.raises(CoralError):
        preflight(config)  # twelve functions are too few for the default sizes
    assert _has_run(place)


# -- bounded ---------------------------------------------------------------------------------------------------

EXTREMES = [
    ["problems.pairs=1000000"],
    ["problems.fitness=10000", "problems.retention=10000", "problems.monitor=10000", "problems.held_out=10000"],
    ["problems.fitness=10000", "problems.held_out=10000", "problems.bug_classes=[boolean]"],
    ["search.population=10000", "search.generations=10000", "search.diversity.minimum_unique=0.5"],
    ["search.population=10000", "search.generations=10000", "search.strategy=random"],
    ["search.population=1000", "search.diversity.spread=1000"],
    ["search.population=1000", "search.diversity.spread=1"],
    ["automaton.size=64", "automaton.steps={low: 1000, high: 1000}"],
    ["search.diversity.minimum_unique=1", "search.population=16", "genes.heavy.rank=[1, 2, 4, 8]", "genes.heavy.alpha=[8, 16]", "genes.heavy.dropout=[0.0]", "genes.heavy.target_modules=[q]", "genes.heavy.adapter=[lora]", "genes.heavy.learning_rate=[1e-4, 1e-3]"],
    ["infra.training.minutes=10000", "infra.training.lanes=1024", "infra.local_lanes=1024", "infra.linger=3600"],
    ["training.gradient_clip=1e6", "training.weight_decay=5e-324", "search.variation.gene_step=5e-324", "training.steps=1000000"],
    ["genes.heavy.target_modules=[" + ",".join(f"m{n}" for n in range(250)) + "]", "search.population=300", "base_model.name=nobody/none", "infra.executor=work-pools"],
    ["seed=9007199254740991", "problems.data_seed=9007199254740991"],
    ["search.champion_repeats=100", "generation.samples=1000", "training.batch_size=4096"],
]  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(given, marks=pytest.mark.slow(reason="seconds each; make test has a tenth of it"))
        if "search.population=10000" in given
        else given
        for given in EXTREMES
    ],
    ids=lambda given: given[0][:40],
)
def test_a_check_of_extremes_is_bounded(overrides: list[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("")
    settings = [part for item in overrides for part in ("--set", item)]
    for command in (["config", "check", "c.yaml"], ["evolve", "c.yaml", "--dry-run"]):
        done = limited([*command, *settings], tmp_path)
        is_too_large = "GB of host memory" in done.stderr.split("\n")[0]  # for this machine: one line says what fits
        assert done.returncode == (2 if is_too_large else 0), (done.returncode, done.stderr)


@pytest.mark.parametrize("name", ["quickstart", "production", "quixbugs"])
def test_the_shipped_configurations_are_checked_in_bounded_time(name: str, tmp_path: Path) -> None:
    file = str(ROOT / "configs" / f"{name}.yaml")
    own = ["--set", f"problems.path={LIKE / 'quixbugs_like'}"] if name == "quixbugs" else []
    for command in (["config", "check", file], ["evolve", file, "--dry-run"]):
        done = limited([*command, "--set", "store.path=store", *own], tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["smollm2", "quixbugs-smollm2"])
def test_the_configurations_of_smollm2_fit_a_model_of_its_kind(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the model the command that fetches it is named; with one of the same modules all but lengths is accepted.

    Lengths need its own tokenizer: the slow test of tests/cli/test_model.py.
    """
    monkeypatch.setenv("CORAL_HOME", str(tmp_path))
    own = [f"problems.path={LIKE / 'quixbugs_like'}"] if name == "quixbugs-smollm2" else []
    config = load_config(ROOT / "configs" / f"{name}.yaml", [*own, "generation.prompt_length=4000"])
    with pytest.raises(BaseModelError, match="coral model fetch smollm2"):
        check(config)
    shutil.copytree(TINY, smollm2_folder())
    changed = json.loads((TINY / "config.json").read_text()) | {"max_position_embeddings": 8192}
    (smollm2_folder() / "config.json").write_text(json.dumps(changed))
    assert not [note for note in check(config) if note.startswith("base model")]


def test_odd_paths_are_no_bug_anywhere(place: Path) -> None:
    pytest.importorskip("prefect")
    for command in (
        ["config", "check", "x" * 5000],
        ["evolve", "c" * 300, "--dry-run"],
        ["runs", "--runs", "~nosuchuser/x"],
        ["runs", "--runs", "x" * 300],
        ["init", "x" * 300],
        ["init", "/dev/null/x.yaml"],
        ["doctor", "/dev/zero"],
        ["problems", "check", "builtin", "--config", "/dev/zero"],
        ["evolve", "c.yaml", "--edition", "0"],
    ):
        code, _, error = in_this_process(command)
        assert code in (0, 1, 2, 3) and "This is a bug" not in error, (command, error)


def test_defaults_are_looked_at_and_told(place: Path) -> None:
    notes = check(RunConfig())
    assert any("the 468 built-in problems" in note or "tokenizer" in note for note in notes)
