"""Objectives of plug-ins: found, measured, part of the digest; refused when unknown, broken or of another version."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from coral_core.config import RunConfig
from coral_core.config.scoring_config import plugin_objectives
from coral_core.errors import ConfigError, EngineError
from coral_core.evolution.job_runner import Planner
from coral_core.evolution.preflight import preflight
from coral_core.judge.judge import Judge
from coral_core.scoring.judged import Judged
from coral_core.scoring.measuring_process import MeasuringProcess
from coral_core.scoring.objective_conformance import _problem, complaints
from coral_core.scoring.plugins import find_objective, measure, objective_versions
from coral_core.time_limit import TimeLimit

MODULE = """
def brevity(judged):
    texts = [text for samples in judged.patches for text in samples]
    return sum(len(text) < 40 for text in texts) / len(texts) if texts else 1.0
brevity.version = "1"

def nameless(judged):
    return 1.0

calls = []
def bad(judged):
    calls.append(1)
    return len(calls) + judged.base_parameters
bad.version = "1"

def loud(judged):
    raise RuntimeError("no")
loud.version = "1"

def first(judged):
    return float(judged.verdicts[0][0].passed) if judged.verdicts else 0.0
first.version = "1"
"""
NAMES = ("brevity", "nameless", "bad", "loud", "first", "lost")
EMPTY = Judged((), (), (), frozenset(), 0, 1_000)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, names: Sequence[str], module: str) -> None:
    """A real installation, as pip leaves it."""
    (folder / f"{module}.py").write_text(code)
    metadata = folder / f"{module}-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    lines = [f"{name} = {module}:{name}" for name in names]
    (metadata / "entry_points.txt").write_text("[coral_x.objectives]\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, module, raising=False)


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, MODULE, NAMES, "coral_plugin_of_a_test")


def config(**scoring: object) -> RunConfig:
    return RunConfig.model_validate({"base_model": {"name": "rehearsal"}, "scoring": scoring})


def planner(made: RunConfig) -> Planner:
    return Planner.of_config(made)


def test_a_named_objective_is_measured_and_identifies_the_evaluation() -> None:
    roles = {"bugfix": "objective", "brevity": "objective"}
    assert set(plugin_objectives()) == set(NAMES)
    job = planner(config(roles=roles)).evaluation(None)
    plain = planner(config(roles={"bugfix": "objective"})).evaluation(None)
    assert job.objectives == {"brevity": "1"} and plain.objectives == {}
    assert job.digest() != plain.digest()
    assert job.model_copy(update={"objectives": {"brevity": "2"}}).digest() != job.digest()
    assert measure(job.objectives, EMPTY) == {"brevity": 1.0}


def test_weights_and_thresholds_may_name_it_too() -> None:
    made = config(
        weights={"bugfix": 0.5, "brevity": 0.5},
        roles={"bugfix": "objective", "brevity": "constraint"},
        thresholds={"brevity": {"base": 0.1, "limit": 0.2}},
    )
    assert objective_versions(made.scoring) == {"brevity": "1"}


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"no such objective.*bugfix.*brevity"):
        config(roles={"bugfix": "objective", "bervity": "report"})


@pytest.mark.parametrize(("name", "words"), [("nameless", "version"), ("lost", "cannot be loaded"), ("none", "Known")])
def test_one_that_is_none_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        find_objective(name)


def test_a_plugin_that_cannot_be_used_is_refused_before_a_run() -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        preflight(config(roles={"lost": "report"}))


def test_another_version_a_failure_or_a_number_out_of_range_is_an_error_not_a_score() -> None:
    for versions, words in (({"brevity": "2"}, "version 1"), ({"loud": "1"}, "failed"), ({"bad": "1"}, "not in")):
        with pytest.raises(EngineError, match=words):
            measure(versions, EMPTY)


def test_the_conformance_suite_finds_what_is_wrong() -> None:
    assert complaints(find_objective("brevity")) == []
    assert any("failed: RuntimeError" in line for line in complaints(find_objective("loud")))
    assert any("not in [0, 1]" in line for line in complaints(find_objective("bad")))
    assert any("reverse order" in line for line in complaints(find_objective("first")))
    nameless = sys.modules["coral_plugin_of_a_test"].nameless
    assert any("version" in line for line in complaints(nameless))


@pytest.mark.torch
def test_it_reaches_the_scores_of_an_evaluation(tmp_path: Path) -> None:
    from coral_core.store.store import Store
    from flows.work_pools import LocalExecutor

    made = RunConfig.model_validate(
        {
            "base_model": {"name": "rehearsal"},
            "problems": {"fitness": 4, "retention": 2, "monitor": 0, "held_out": 4, "pairs": 8},
            "scoring": {"roles": {"bugfix": "objective", "brevity": "objective"}},
            "infra": {"local_lanes": 1},
        }
    )
    store = Store(tmp_path / "store")
    store.prepare()
    with LocalExecutor(made.infra, store) as executor:
        found = executor.submit_evaluation(planner(made).evaluation(None)).result(timeout=120)
    assert found.scores is not None
    texts = [sample.patch for record in found.records for sample in record.samples]
    assert found.scores["brevity"] == pytest.approx(sum(len(text) < 40 for text in texts) / len(texts))


FUSSY = """
def fussy(judged):
    if any("poison" in text for texts in judged.patches for text in texts):
        {}
    return 0.5
fussy.version = "1"
"""
FAILURES = {
    "raises": "raise ValueError('\\ud800 \\x1b[31m odd')",
    "recurses": "return fussy(judged)",
    "returns text": "return 'much'",
    "returns nan": "return float('nan')",
    "returns too much": "return 7",
    "exits": "raise SystemExit(0)",
    "dies": "__import__('os').kill(__import__('os').getpid(), 9)",
}


@pytest.mark.parametrize("how", FAILURES)
def test_one_that_fails_over_what_a_model_wrote_gives_nothing_to_that_evaluation(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fussy").mkdir()
    install(
        tmp_path / "fussy", monkeypatch, FUSSY.format(FAILURES[how]), ("fussy",), f"coral_fussy_{how.replace(' ', '_')}"
    )
    problem = _problem(0)
    with Judge(workers=1) as judge:
        verdicts = tuple(judge.judge_batch([(problem, "x = 'poison'"), (problem, problem.reference)]))
    judged = Judged((problem,), (("x = 'poison'", problem.reference),), (verdicts,), frozenset(), 1, 1_000)
    clean = Judged((problem,), ((problem.buggy, problem.reference),), (verdicts,), frozenset(), 1, 1_000)
    process = MeasuringProcess()
    try:
        remarks: dict[str, str] = {}
        assert process.measure({"fussy": "1"}, judged, TimeLimit(60), remarks) == {"fussy": 0.0}
        assert remarks["fussy"].startswith("objective fussy") and remarks["fussy"].isprintable()
        assert process.measure({"fussy": "1"}, clean, TimeLimit(60), remarks := {}) == {"fussy": 0.5} and not remarks
        with pytest.raises(EngineError, match="version 1"):
            process.measure({"fussy": "2"}, judged, TimeLimit(60))
    finally:
        process.close()


ODD = """
def answers(value):
    def objective(judged):
        return value
    objective.version = "1"
    return objective

text, words, truth, none = answers("0.5"), answers(b"1"), answers(True), answers(None)
whole = answers(1)
"""


@pytest.mark.parametrize("name", ["text", "words", "truth", "none"])
def test_what_is_no_number_is_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "more").mkdir()
    install(tmp_path / "more", monkeypatch, ODD, ["text", "words", "truth", "none", "whole"], "coral_plugin_of_words")
    with pytest.raises(EngineError, match=f"objective {name} failed"):
        measure({name: "1"}, EMPTY)
    assert measure({"whole": "1"}, EMPTY) == {"whole": 1.0}


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nsys.exit(0)\n",
        "raise SystemExit\n",
        "class Odd:\n    @property\n    def version(self): raise ValueError('no')\nodd = Odd()\n",
    ],
)
def test_a_plugin_that_ends_its_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Else a command would end with the plug-in's exit status, and say nothing."""
    (tmp_path / "more").mkdir()
    install(tmp_path / "more", monkeypatch, code, ["odd"], "coral_plugin_that_ends")
    with pytest.raises(ConfigError, match=r"odd: its plug-in .* cannot be loaded"):
        find_objective("odd")
