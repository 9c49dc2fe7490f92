"""`search.baselines: tuned`: the grid is trained and evaluated like genomes, its best goes to the held-out split."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coral_core import Progress, RunConfig, evolve, open_run
from coral_core.api import EvolutionResult
from coral_core.evolution.loop import tuned_choice
from coral_core.genome import default_lora
from coral_core.lm.baselines import tuned_loras
from coral_core.report.build_report import build_report
from coral_core.report.comparison import compare_runs
from coral_core.report.comparison_document import comparison_document
from coral_core.report.markdown import markdown
from coral_core.report.run_document import run_document
from coral_core.report.series import tracked
from coral_core.runs.job_count import plan_jobs
from coral_core.runs.records import BaselineRecord, GenomeRecord, RunRecord, TunedCandidate
from coral_core.runs.run_folder import RunFolder, identify_run
from coral_core.store.store import Store
from coral_core.verification import Finding, check_all
from coral_core.verification import open_run as open_verified
from tests.evolution.test_api import settings


def config(folder: Path, baselines: str = "tuned", model: str = "rehearsal", **more: Any) -> RunConfig:
    given = settings(folder, model, **more)
    given["search"] = given["search"] | {"baselines": baselines}
    return RunConfig.model_validate(given)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvolutionResult]:
    folder = tmp_path_factory.mktemp("tuned")
    return folder, evolve(config(folder))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EvolutionResult]:
    folder = tmp_path_factory.mktemp("quick")
    return folder, evolve(config(folder, "quick"))


def baselines(result: EvolutionResult) -> dict[str, BaselineRecord]:
    return {record.name: record for record in result.history if isinstance(record, BaselineRecord)}


def jobs(result: EvolutionResult) -> list[dict[str, Any]]:
    lines = (result.folder / "timings.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["type"] == "job"]


def test_the_best_of_the_grid_by_the_champion_rule_is_evaluated_once_on_the_held_out_split(
    tuned: tuple[Path, EvolutionResult],
) -> None:
    result = tuned[1]
    run, found = result.history[0], baselines(result)
    assert isinstance(run, RunRecord) and list(found) == ["base_model", "default_lora", "tuned_lora"]
    best = found["tuned_lora"]
    assert {each.name: each.heavy for each in best.candidates} == tuned_loras(run.base_model)
    assert best.fitness == max(each.fitness or 0.0 for each in best.candidates)
    default = next(each for each in best.candidates if each.heavy == default_lora("rehearsal"))
    assert (default.evaluation_digest, default.fitness) == (found["default_lora"].evaluation_digest, found["default_lora"].fitness)  # fmt: skip
    assert len({each.fitness for each in best.candidates}) > 8, "the candidates differ"
    names = [line.name for line in result.held_out]
    assert names == ["champion", "base_model", "default_lora", "tuned_lora", "generation_0_median"]
    assert result.held_out[3].training_digest == best.training_digest
    sealed = [row for row in jobs(result) if row["split"] == "held_out"]
    assert {row["phase"] for row in sealed} == {"held-out"} and all(row["label"].endswith("held-out") for row in sealed)


def test_jobs_are_those_of_the_plan(tuned: tuple[Path, EvolutionResult]) -> None:
    plan, done = plan_jobs(config(tuned[0])), jobs(tuned[1])
    counts = {kind: len({row["digest"] for row in done if row["kind"] == kind and row["phase"] == "baselines"}) for kind in ("training", "evaluation")}  # fmt: skip
    assert counts == {"training": 16, "evaluation": 17}, "the default LoRA is one of the grid, and done once"
    assert counts["training"] <= plan.baselines.trainings and counts["evaluation"] <= plan.baselines.evaluations
    assert len(done) <= plan.total.total


def test_the_search_is_the_same_as_with_quick_baselines(
    tuned: tuple[Path, EvolutionResult], quick: tuple[Path, EvolutionResult]
) -> None:
    folder, result = quick
    found = [[record for record in each.history if isinstance(record, GenomeRecord)] for each in (result, tuned[1])]
    assert found[0] == found[1] and result.folder.name != tuned[1].folder.name
    line = next(line for line in (result.folder / "history.jsonl").read_text().splitlines() if "default_lora" in line)
    assert not {"heavy", "candidates"} & json.loads(line).keys(), "histories of quick baselines are as they were"
    assert list(baselines(result)) == ["base_model", "default_lora"]
    report = build_report(RunFolder(result.folder), Store(folder / "store"))
    assert report.tuned_lora is None and report.tuned == () and report.gaps.champion_minus_tuned_lora is None
    text = markdown(run_document(report))
    assert "was not tried; it may be stronger" in text and "tuned LoRA |" not in text


def test_quick_baselines_are_no_part_of_the_digest(tmp_path: Path) -> None:
    assert identify_run(RunConfig()).run_id == "evolution-54352dd6af-e1", "changes only with what a run computes"
    assert identify_run(config(tmp_path)).run_id != identify_run(config(tmp_path, "quick")).run_id


class StopNow(Exception):  # noqa: N818  # no error: the test ends the session
    pass


@pytest.mark.slow(reason="three runs; tests/evolution/test_api.py goes on after a kill")
def test_a_run_that_ends_among_its_baselines_goes_on(tuned: tuple[Path, EvolutionResult], tmp_path: Path) -> None:
    def look(progress: Progress) -> None:
        done = progress.trainings.done + progress.evaluations.done
        if done >= 12 and progress.phase == "baselines":
            raise StopNow

    slow = config(tmp_path, model="rehearsal:train=0.02,evaluate=0.02")
    with pytest.raises(StopNow):
        evolve(slow, progress=look)
    begun = open_run(RunFolder.of(slow, identify_run(slow)).path)
    assert begun.held_out == () and "tuned_lora" not in baselines(begun)
    result = evolve(slow)
    done = [row["digest"] for row in jobs(result) if not row["cached"]]
    assert len(done) == len(set(done)), "finished work is not done again"
    assert [line.pass_at_1 for line in result.held_out] == [line.pass_at_1 for line in tuned[1].held_out]
    history = (result.folder / "history.jsonl").read_bytes()
    assert evolve(slow) == result and (result.folder / "history.jsonl").read_bytes() == history


def test_the_report_names_the_baselines_and_their_cost(tuned: tuple[Path, EvolutionResult], tmp_path: Path) -> None:
    folder, result = tuned
    report = build_report(RunFolder(result.folder), Store(folder / "store"))
    assert report.baselines == "tuned" and report.tuned_lora is not None and report.tuned_lora.heavy is not None
    assert [line.chosen for line in report.tuned].count(True) == 1 and report.tuned[0].chosen
    assert report.gaps.champion_minus_tuned_lora is not None
    low, high = report.tuned_lora.held_out_interval or (1.0, 0.0)
    assert low <= (report.tuned_lora.held_out_pass_at_1 or 0.0) <= high
    costs = {stage.phase: (stage.trainings, stage.evaluations) for stage in report.stages}
    assert costs["baselines"] == (16, 17) and costs["searching"][0] > 0 and costs["held-out"][0] == 1
    totals = report.totals
    assert [sum(column) for column in zip(*costs.values(), strict=True)] == [totals.trainings, totals.evaluations]
    assert "tuned LoRA" in report.answer.text, "the champion is measured against the stronger opponent"
    text = markdown(run_document(report))
    for part in (
        "| tuned LoRA |",
        "Champion less tuned LoRA",
        "Candidates for the tuned LoRA",
        "search.baselines: tuned",
    ):
        assert part in text, part
    final = tracked(RunFolder(result.folder), report, result.folder).final
    assert {"tuned_lora.held_out_pass_at_1", "gaps.champion_minus_tuned_lora.p_value"} <= final.keys()
    side = (RunFolder(result.folder), Store(folder / "store"))
    assert "by the tuned LoRA" in markdown(comparison_document(compare_runs(side, side)))


def test_without_a_candidate_that_can_be_trained_there_is_a_line_and_no_score() -> None:
    heavy = default_lora("rehearsal")
    failed = [
        TunedCandidate(name=name, heavy=heavy, training_digest="0" * 64, evaluation_digest="0" * 64, scores={},
                       fitness=None, pass_at_1=None, infeasible="diverged", reason="NaN")
        for name in ("a", "b")
    ]  # fmt: skip
    scoring = RunConfig().scoring
    assert tuned_choice(failed, scoring) is failed[0]
    sound = failed[1].model_copy(update={"infeasible": None, "scores": {"syntax": 0.9, "security": 1.0, "style": 1.0}, "fitness": 0.1})  # fmt: skip
    below = sound.model_copy(update={"name": "c", "scores": {"syntax": 0.1}, "fitness": 0.9})
    assert tuned_choice([failed[0], below, sound], scoring) is sound, "thresholds come before fitness, as for champions"


def differences(folder: Path, result: EvolutionResult) -> list[Finding]:
    run, broken = open_verified(RunFolder(result.folder), Store(folder / "store"))
    assert run is not None, broken
    check_all(run)
    return [finding for finding in run.findings if finding.status == "differs"]


def weaker(row: dict[str, Any]) -> None:
    """The worst candidate is said to be the tuned LoRA."""
    worst = min(row["candidates"], key=lambda each: each["fitness"])
    row.update({key: worst[key] for key in ("heavy", "training_digest", "evaluation_digest", "scores", "fitness", "pass_at_1")})  # fmt: skip


def dropped(row: dict[str, Any]) -> None:
    row["candidates"] = [each for each in row["candidates"] if each["heavy"] != row["heavy"]]
    weaker(row)


def test_verification_agrees_with_a_run_that_is_as_it_was(tuned: tuple[Path, EvolutionResult]) -> None:
    assert differences(*tuned) == []


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        (weaker, "completeness", "chosen from its candidates"),
        (dropped, "completeness", "the base model has"),
        (lambda row: row["candidates"][3].update(fitness=0.0), "scores", "fitness 0.0 in history.jsonl"),
        (lambda row: row["candidates"][3]["heavy"].update(learning_rate=0.3), "completeness", "the base model has"),
        (lambda row: row["candidates"][3].update(evaluation_digest="0" * 64), "digests", "evaluation digest"),
        (lambda row: row.update(name="default_lora"), "completeness", "a run has base_model, default_lora, tuned_lora"),
    ],
)
def test_verification_plays_the_choice_again(
    tuned: tuple[Path, EvolutionResult],
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    check: str,
    words: str,
) -> None:
    folder, result = tuned
    shutil.copytree(result.folder, tmp_path / result.folder.name)
    copy = result.model_copy(update={"folder": tmp_path / result.folder.name})
    path = copy.folder / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(next(row for row in rows if row.get("name") == "tuned_lora"))
    path.write_text("".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows))
    found = differences(folder, copy)
    assert any(f.check == check and words in f.text for f in found), [(f.check, f.text) for f in found]


def test_a_run_with_quick_baselines_cannot_claim_tuned_ones(
    tuned: tuple[Path, EvolutionResult], quick: tuple[Path, EvolutionResult], tmp_path: Path
) -> None:
    folder, result = quick
    copy = result.model_copy(update={"folder": tmp_path / result.folder.name})
    shutil.copytree(result.folder, copy.folder)
    lines = (copy.folder / "history.jsonl").read_text().splitlines()
    stolen = next(line for line in (tuned[1].folder / "history.jsonl").read_text().splitlines() if "candidates" in line)
    (copy.folder / "history.jsonl").write_text("\n".join([*lines[:3], stolen, *lines[3:]]) + "\n")
    assert any("a run has base_model, default_lora" in finding.text for finding in differences(folder, copy))
