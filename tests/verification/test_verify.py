"""`coral verify` on a real run: it agrees with itself, and whatever is tampered with is found and named."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from coral_core import evolve, load_config
from coral_core.jobs.jobs import Evaluation
from coral_core.judge.judge import Verdict
from coral_core.runs.records import FinalRecord, GenerationRecord, GenomeRecord
from coral_core.runs.run_folder import RunFolder
from coral_core.scoring.objectives import bugfix
from coral_core.store.store import Store
from coral_core.verification import Finding, check_all, judge_again, open_run, sample_of
from tests.rehearsal_runs import ROOT, SMALL, Coral

pytestmark = pytest.mark.server
MORE = pytest.mark.slow(reason="a verification each; make test has others of the same check")


def sampled(cases: list[Any], quick: int) -> list[Any]:
    """`cases`, of which the first `quick` are in `make test`."""
    return [*cases[:quick], *(pytest.param(*case, marks=MORE) for case in cases[quick:])]


@pytest.fixture
def copy(finished: Coral, tmp_path: Path) -> tuple[RunFolder, Store]:
    """The finished run and its store, to be changed."""
    shutil.copytree(finished.runs, tmp_path / "runs")
    path = next(path.parent for path in (tmp_path / "runs").glob("*/run.json"))
    config = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(
        config.replace(str(finished.runs), str(tmp_path / "runs"))
    )  # no part of its identity
    return RunFolder(path), Store(tmp_path / "runs" / "store")


def wrong(copy: tuple[RunFolder, Store], judged: int = 0) -> list[Finding]:
    """What verification finds to differ, `judged` evaluations judged again."""
    found, broken = open_run(*copy)
    if found is None:
        return broken
    judge_again(found, sample_of(check_all(found), judged, 0))
    return [finding for finding in found.findings if finding.status == "differs"]


def edited(folder: RunFolder, kind: str, change: Callable[[dict[str, Any]], None], which: int = 0) -> None:
    """Change the `which`-th history line of a kind."""
    path = folder.path / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change([row for row in rows if row["type"] == kind][which])
    path.write_text("".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows))


def republished(store: Store, digest: str, change: Callable[[Evaluation], Evaluation]) -> None:
    """A changed evaluation under its old digest, with a right checksum: nothing but its content gives it away."""
    found = store.read_evaluation(digest)
    assert found is not None
    store.publish_evaluation(digest, change(found))


def champion_held_out(folder: RunFolder) -> str:
    final = folder.history()[-1]
    assert isinstance(final, FinalRecord)
    return final.held_out[0].evaluation_digest


def of_the_champion(final: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the final table with the champion's evaluation: also the default LoRA's where that is the champion."""
    lines: list[dict[str, Any]] = final["held_out"]
    return [line for line in lines if line["evaluation_digest"] == lines[0]["evaluation_digest"]]


def test_a_run_agrees_with_itself_also_when_done_anew(finished: Coral) -> None:
    done = finished.call("verify", str(finished.run), "--sample", "3", "--regenerate", "--json")
    body = json.loads(done.stdout)
    assert done.returncode == 0 and body["verified"], body
    assert len(body["sample"]) == 3 and body["sample"][0]["label"] == "champion held-out"
    assert {finding["status"] for finding in body["findings"]} <= {"ok", "note"}
    for check in (
        "files",
        "versions",
        "identity",
        "problems",
        "completeness",
        "digests",
        "store",
        "champion",
        "scores",
        "search",
    ):
        assert any(finding["check"] == check for finding in body["findings"]), check
    for check in ("verdicts", "regenerated"):
        assert sum(f["check"] == check and f["status"] == "ok" for f in body["findings"]) == 3


def test_the_command_exits_1_and_names_what_differs(copy: tuple[RunFolder, Store], coral: Coral) -> None:
    edited(copy[0], "genome", lambda row: row.update(fitness=0.99))
    done = coral.call("verify", str(copy[0].path), "--sample", "0")
    assert done.returncode == 1 and "fitness 0.99 in history.jsonl" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("kind", "change", "check", "words"),
    sampled([
        ("genome", lambda row: row.update(fitness=0.99), "scores", "fitness 0.99 in history.jsonl"),
        ("genome", lambda row: row["genome"]["heavy"].update(rank=31), "digests", "its genes give"),
        ("genome", lambda row: row["genome"]["lineage"].update(operator="magic"), "search", "not the one that the search asks for"),
        ("genome", lambda row: row.update(evaluation_digest="0" * 64), "store", "not in the store"),
        ("generation", lambda row: row.update(hypervolume=0.9), "search", "hypervolume 0.9"),
        ("final", lambda row: row["held_out"][0].update(passed=12), "scores", "bugs repaired 12"),
        ("run", lambda row: row["problems"]["digests"].update(held_out="0" * 64), "problems", "held_out split"),
        ("run", lambda row: row["identity"].update(run_seed=7), "identity", "history.jsonl is of run"),
        ("genome", lambda row: row["scores"].update(bugfix=1.0), "scores", "in the store"),
        ("genome", lambda row: row.update(training_digest="0" * 64), "digests", "training digest"),
        ("baseline", lambda row: row.update(pass_at_1=0.0123), "scores", "pass@1 0.0123"),
        ("generation", lambda row: row.update(best="g000-003x"), "search", "best g000-003x"),
        ("generation", lambda row: row.update(monitor_pass_at_1=0.987), "scores", "monitor pass@1 0.987"),
        ("final", lambda row: row.update(champion="g000-00x"), "search", "champion g000-00x"),
        ("final", lambda row: row["repeats"][0].update(fitness=0.9), "scores", "repeat 1: fitness 0.9"),
        ("run", lambda row: row.update(problems={"source": row["problems"]["source"]}), "problems", "fitness split: recorded None"),
        ("run", lambda row: row["problems"].update(source="quixbugs"), "problems", "source: history.jsonl says quixbugs"),
        ("run", lambda row: row["base_model"].update(name="another"), "identity", "base model: history.jsonl says another"),
        ("genome", lambda row: row.update(reason="because"), "scores", "reason because"),
        ("genome", lambda row: row.update(schema_version=2), "completeness", "genome record of schema 2"),
    ], quick=8),
)  # fmt: skip
def test_a_changed_line_of_the_history_is_found(
    copy: tuple[RunFolder, Store], kind: str, change: Callable[[dict[str, Any]], None], check: str, words: str
) -> None:
    edited(copy[0], kind, change)
    findings = wrong(copy)
    assert any(f.check == check and words in f.text for f in findings), [(f.check, f.text) for f in findings]


def _with(copy: tuple[RunFolder, Store], kind: str, before: str, change: Callable[[dict[str, Any]], None]) -> None:
    """A changed copy of the first line of `kind`, put in before the first line of the kind `before`."""
    path = copy[0].path / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    new = json.loads(json.dumps(next(row for row in rows if row["type"] == kind)))
    change(new)
    rows.insert(next(place for place, row in enumerate(rows) if row["type"] == before), new)
    path.write_text("".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows))


@pytest.mark.parametrize("ended", [True, False])
def test_a_genome_that_nobody_asked_for_is_found(copy: tuple[RunFolder, Store], ended: bool) -> None:
    """After the last generation the search is not played again, so a line there is held against nothing else."""
    _with(copy, "genome", "final", lambda row: row["genome"].update(genome_id="g002-007", generation=2, slot=7))
    if not ended:
        (copy[0].path / "timings.jsonl").unlink()
        path = copy[0].path / "history.jsonl"
        path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:-1]))
    assert any(f.check == "search" and "after the last generation" in f.text for f in wrong(copy))


def test_a_second_account_of_the_run_is_found(copy: tuple[RunFolder, Store]) -> None:
    _with(copy, "run", "genome", lambda row: row["problems"].update(source="quixbugs"))
    assert any(f.check == "completeness" and "2 run records" in f.text for f in wrong(copy))


def test_versions_that_were_taken_out_are_missed(copy: tuple[RunFolder, Store]) -> None:
    file = copy[0].path / "run.json"
    facts = json.loads(file.read_text())
    del facts["versions"]["ruff"]
    file.write_text(json.dumps(facts))
    assert any(f.check == "versions" and f.text.startswith("ruff: run.json names no version") for f in wrong(copy))


def test_a_history_that_a_kill_cut_is_checked_as_far_as_it_goes(copy: tuple[RunFolder, Store]) -> None:
    path = copy[0].path / "history.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:-1]) + whole[-1][:100])
    assert [f.check for f in wrong(copy)] == ["completeness"], "timings.jsonl says that it had finished"
    (copy[0].path / "timings.jsonl").unlink()
    assert not wrong(copy)
    assert any("not finished" in f.text for f in open_run(*copy)[0].findings)  # type: ignore[union-attr]
    path.write_bytes(whole[0][:40])
    assert any("no whole line" in f.text for f in wrong(copy))


def _weaker_rival(row: dict[str, Any]) -> None:
    """The default LoRA's line becomes that of the weaker median genome: every digest and score in it is true."""
    default, median = (
        next(line for line in row["held_out"] if line["name"] == n) for n in ("default_lora", "generation_0_median")
    )
    default.update({key: value for key, value in median.items() if key != "name"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row.update(repeats=[]), "seed repeats none in history.jsonl"),
        (lambda row: row.update(repeats=row["repeats"][1:]), "seed repeats 2"),
        (lambda row: row.update(held_out_openings=77), "77 openings"),
        (lambda row: row["held_out"].pop(2), "held-out lines champion, base_model, longer_lora, generation_0_median"),
        (_weaker_rival, "default_lora held-out: of g"),
    ],
)
def test_what_the_final_record_leaves_out_or_gives_to_another_is_found(
    copy: tuple[RunFolder, Store], change: Callable[[dict[str, Any]], None], said: str
) -> None:
    edited(copy[0], "final", change)
    assert any(finding.check == "completeness" and said in finding.text for finding in wrong(copy))


def test_a_baseline_that_is_gone_is_found(copy: tuple[RunFolder, Store]) -> None:
    path = copy[0].path / "history.jsonl"
    lines = path.read_text().splitlines(True)
    path.write_text("".join(line for line in lines if json.loads(line).get("name") != "default_lora"))
    assert any("baselines base_model in history.jsonl" in finding.text for finding in wrong(copy))


def test_a_monitor_evaluation_that_is_gone_is_found(copy: tuple[RunFolder, Store]) -> None:
    folder, store = copy
    found, _ = open_run(folder, store)
    assert found is not None
    last = [r for r in found.records if isinstance(r, GenerationRecord)][-1]
    best = next(r for r in found.of(GenomeRecord) if r.genome.genome_id == last.best)
    check_all(found)  # the planner knows the base model's passes from here on
    store.evaluation_path(found.planner.of(best.genome, "monitor").digest()).unlink()
    assert any("the monitor evaluation" in finding.text for finding in wrong(copy))


def test_other_weights_in_the_exported_champion_are_found(copy: tuple[RunFolder, Store]) -> None:
    path = next((copy[0].path / "champion").iterdir()).parent / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert any(finding.check == "champion" for finding in wrong(copy))


def test_a_configuration_that_no_version_wrote_is_a_finding(copy: tuple[RunFolder, Store], coral: Coral) -> None:
    (copy[0].path / "config.yaml").write_text("search: 7\n")
    done = coral.call("verify", str(copy[0].path), "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["findings"][0]["check"] == "files", done.stderr


def test_a_verdict_that_was_made_better_is_found_though_its_checksum_is_right(copy: tuple[RunFolder, Store]) -> None:
    folder, store = copy

    def better(found: Evaluation) -> Evaluation:
        record = next(r for r in found.records if not r.retention and r.problem_id not in found.passed)
        sample = record.samples[0]
        verdict = {**sample.verdict, "outcome": "fixed", "cases": ["pass"] * len(sample.verdict["cases"])}
        verdict |= {"now_passing": verdict["was_failing"], "still_passing": verdict["was_passing"]}
        new = record.model_copy(update={"samples": (sample.model_copy(update={"verdict": verdict}),)})
        records = tuple(new if r is record else r for r in found.records)
        passed = tuple(r.problem_id for r in found.records if r.problem_id in found.passed or r is record)
        bugs = [Verdict.model_validate(r.samples[0].verdict) for r in records if not r.retention]
        scores = found.scores | {"bugfix": fmean(bugfix(verdict) for verdict in bugs)}
        share = found.pass_at_1 + 1 / len(bugs)
        return found.model_copy(update={"records": records, "passed": passed, "pass_at_1": share, "scores": scores})

    republished(store, champion_held_out(folder), better)
    final = folder.history()[-1]

    def along(row: dict[str, Any]) -> None:
        found = store.read_evaluation(champion_held_out(folder))
        assert found is not None
        for line in of_the_champion(row):
            line.update(pass_at_1=found.pass_at_1, passed=final.held_out[0].passed + 1, scores=found.scores)

    edited(folder, "final", along)
    shutil.rmtree(folder.path / "champion")
    assert wrong(copy, judged=0) == [], "history and store agree with each other"
    findings = wrong(copy, judged=1)
    assert findings and all(f.check == "verdicts" and f.text.startswith("champion held-out") for f in findings)
    assert any("verdict stored" in f.text and "judged again" in f.text for f in findings)


def test_a_changed_score_is_found_by_computing_it_again(copy: tuple[RunFolder, Store]) -> None:
    folder, store = copy
    republished(
        store, champion_held_out(folder), lambda e: e.model_copy(update={"scores": {**e.scores, "style": 0.999}})
    )
    edited(folder, "final", lambda row: [line["scores"].update(style=0.999) for line in of_the_champion(row)])
    assert [f.check for f in wrong(copy)] == ["champion"], "genome.json says another score"
    shutil.rmtree(folder.path / "champion")
    assert wrong(copy, judged=0) == []
    assert any("score style 0.999 stored" in f.text for f in wrong(copy, judged=1))


def test_a_patch_that_its_model_never_wrote_is_found(copy: tuple[RunFolder, Store]) -> None:
    folder, store = copy

    def swapped(found: Evaluation) -> Evaluation:
        first = found.records[0]
        sample = first.samples[0].model_copy(update={"completion": "def something_else():\n    pass\n"})
        return found.model_copy(
            update={"records": (first.model_copy(update={"samples": (sample,)}), *found.records[1:])}
        )

    republished(store, champion_held_out(folder), swapped)
    assert any("not what is extracted" in f.text for f in wrong(copy, judged=1))


def test_broken_and_missing_entries_are_told_apart(copy: tuple[RunFolder, Store]) -> None:
    folder, store = copy
    final = folder.history()[-1]
    weights = store.adapter_path(final.held_out[0].training_digest) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
    store.evaluation_path(champion_held_out(folder)).unlink()
    texts = [f.text for f in wrong(copy) if f.check == "store"]
    assert any("adapter" in text and "is broken in" in text for text in texts)
    assert any("evaluation" in text and "is not in" in text for text in texts)


def test_a_changed_configuration_is_found(copy: tuple[RunFolder, Store]) -> None:
    path = copy[0].path / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0\n", "seed: 5\n", 1))
    findings = wrong(copy)
    assert {"config_digest", "run_seed"} <= {f.text.split(":")[0] for f in findings if f.check == "identity"}


def test_other_versions_are_named_and_do_not_hide_the_rest(copy: tuple[RunFolder, Store]) -> None:
    path = copy[0].path / "run.json"
    facts = json.loads(path.read_text())
    facts["versions"].update(numpy="0.0.1", platform="Elsewhere", prefect="2.0")
    path.write_text(json.dumps(facts))
    findings = wrong(copy)
    assert [f.text.split(":")[0] for f in findings] == ["numpy"], "platform and prefect change no result"


@pytest.mark.parametrize(
    "damage", ["cut", "run.json", *(pytest.param(name, marks=MORE) for name in ("unknown", "empty", "config.yaml"))]
)
def test_files_that_cannot_be_read_are_a_finding(copy: tuple[RunFolder, Store], damage: str) -> None:
    path = copy[0].path / "history.jsonl"
    lines = path.read_text().splitlines()
    if damage == "cut":
        path.write_text("\n".join([*lines[:-1], lines[-1][:-9], ""]))
    elif damage == "unknown":
        path.write_text("\n".join([*lines, '{"type": "miracle"}', ""]))
    elif damage == "empty":
        path.write_text("")
    else:
        (copy[0].path / damage).write_text("{")
    findings = wrong(copy)
    assert findings and all(f.check == "files" for f in findings)
    if damage == "cut":
        assert f"line {len(lines)}" in findings[0].text


@pytest.mark.parametrize("damage", [None, b"\xff\x00"])
def test_a_configuration_that_cannot_be_read_is_a_finding_of_the_command(
    copy: tuple[RunFolder, Store], coral: Coral, damage: bytes | None
) -> None:
    file = copy[0].path / "config.yaml"
    file.unlink()
    if damage:
        file.write_bytes(damage)
    done = coral.call("verify", str(copy[0].path))
    assert done.returncode == 1 and "config.yaml" in done.stdout and "bug of CORAL-X" not in done.stderr, done.stderr


def test_other_weights_are_found_by_doing_it_anew(copy: tuple[RunFolder, Store], coral: Coral) -> None:
    """A run of another seed's adapter, published soundly under this digest."""
    folder, store = copy
    final = folder.history()[-1]
    digest = final.held_out[0].training_digest
    record = store.read_adapter(digest)
    assert record is not None
    scratch = store.scratch()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(store.adapter_path(digest) / name, scratch / name)
    weights = scratch / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    shutil.rmtree(store.adapter_path(digest))
    store.publish_adapter(digest, scratch, record)
    done = coral.call("verify", str(folder.path), "--sample", "1", "--regenerate")
    assert done.returncode == 1 and "the weights of adapter" in done.stdout
    assert "differs" not in [line.split()[0] for line in done.stdout.splitlines() if " verdicts " in line]


def test_a_finished_run_has_its_page_and_its_repeats(finished: Coral) -> None:
    assert (finished.run / "report.html").stat().st_size > 10_000
    report = finished.report()
    assert report["repeats"]["n"] == 2 and report["repeats"]["mean_fitness"] is not None
    final = json.loads(finished.history().splitlines()[-1])
    assert [line["replicate"] for line in final["repeats"]] == [1, 2]
    digests = {line["training_digest"] for line in [*final["repeats"], final["held_out"][0]]}
    assert len(digests) == 3, "a repeat is a training of its own"


@pytest.mark.slow(reason="two runs")
def test_a_run_that_started_from_another_one_is_played_again_from_there(coral: Coral) -> None:
    settings = {"search__start_from": "last-champion", "infra__executor": "inline"}
    for more in ((), ("--edition", "2")):
        done = coral.evolve(*more, **settings)
        assert done.returncode == 0, done.stderr
    folder = RunFolder(next(path.parent for path in coral.runs.glob("*-e2/run.json")))
    assert folder.history()[0].start.previous.endswith("-e1")
    store = Store(coral.runs / "store")
    assert wrong((folder, store)) == []
    page = (folder.path / "report.html").read_text()
    assert (
        "Started from the population of" in page
        and f'href="../{folder.history()[0].start.previous}/report.html"' in page
    )
    start = json.loads((folder.path / "start.json").read_text())
    start["genomes"][0]["heavy"]["rank"] = 31
    (folder.path / "start.json").write_text(json.dumps(start))
    assert any(f.check == "search" and "start.json" in f.text for f in wrong((folder, store)))


def test_an_honest_run_whose_default_lora_is_infeasible_agrees(tmp_path: Path) -> None:
    """Rank 8 takes more memory than there is: no held-out line of the default LoRA has a problem in it."""
    own = {
        "base_model.name": "rehearsal:full=8",
        "infra.executor": "inline",
        "runs": tmp_path / "runs",
        "store.path": tmp_path / "store",
    }
    values = [f"{key}={value}" for key, value in (SMALL | own).items()]
    run = RunFolder(evolve(load_config(ROOT / "configs" / "quickstart.yaml", values)).folder)
    rows = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
    default = next(row for row in rows if row.get("name") == "default_lora")
    assert default["infeasible"] == "out-of-memory" and rows[-1]["held_out"][2]["scores"] == {}
    copy = (run, Store(tmp_path / "store"))
    assert wrong(copy, judged=3) == []
    edited(copy[0], "final", lambda row: row["held_out"][2].update(bugs=3))
    assert any("default_lora held-out: bugs of the split 3" in f.text for f in wrong(copy))


def test_what_was_not_looked_at_is_said(finished: Coral) -> None:
    for sample in ("2", "999"):
        body = json.loads(finished.call("verify", str(finished.run), "--sample", sample, "--json").stdout)
        said = [f["text"] for f in body["findings"] if f["check"] == "unchecked"]
        assert body["verified"] and any("--regenerate" in text for text in said)
        assert any("times and costs" in text for text in said)
        assert any("were not judged again" in text for text in said) is (sample == "2")


@pytest.mark.parametrize(
    ("change", "said"),
    sampled([
        (lambda e: e.model_copy(update={"scores": {**e.scores, "bugfix": 0.99}}), "score bugfix 0.99"),
        (lambda e: e.model_copy(update={"scores": {**e.scores, "retention": 0.01}}), "score retention 0.01"),
        (lambda e: e.model_copy(update={"scores": {**e.scores, "cost": 0.99}}), "score cost 0.99"),
        (lambda e: e.model_copy(update={"pass_at_k": {"2": 1.0}}), "pass@2 1.0"),
        (lambda e: e.model_copy(update={"training_digest": "0" * 64}), "it is of adapter 0000000000000000"),
        (lambda e: e.model_copy(update={"split": "monitor"}), "of the split monitor"),
        (lambda e: e.model_copy(update={"trainable_parameters": 7}), "7 trainable parameters"),
        (lambda e: e.model_copy(update={"records": e.records[::-1], "passed": e.passed[::-1]}), "other problems than its split: another order"),
        (
            lambda e: e.model_copy(
                update={"records": tuple(r.model_copy(update={"samples": r.samples * 2}) for r in e.records)}
            ),
            "2 samples, its job asks for 1",
        ),
        (
            lambda e: Evaluation(
                evaluation_digest=e.evaluation_digest, training_digest=e.training_digest, split=e.split, infeasible="poison"
            ),
            "infeasible",
        ),
    ], quick=4),
)  # fmt: skip
def test_an_evaluation_that_its_job_cannot_have_given_is_found_without_a_sample(
    copy: tuple[RunFolder, Store], change: Callable[[Evaluation], Evaluation], said: str
) -> None:
    folder, store = copy
    genome = next(record for record in folder.history() if isinstance(record, GenomeRecord) and not record.infeasible)
    republished(store, genome.evaluation_digest, change)
    texts = [finding.text for finding in wrong(copy)]
    assert any(said in text for text in texts), texts


@pytest.mark.parametrize(
    ("name", "how"),
    sampled(
        [
            ("genome.json", "edited"), ("generation_config.json", "gone"), ("adapter_config.json", "fifo"),
            *((name, how) for how in ("edited", "gone", "link", "fifo") for name in ("genome.json", "generation_config.json", "adapter_config.json")),
        ],
        quick=3,
    ),
)  # fmt: skip
def test_each_file_of_the_exported_champion_that_is_said_to_be_checked_is(
    copy: tuple[RunFolder, Store], name: str, how: str
) -> None:
    path = copy[0].path / "champion" / name
    if how == "edited":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"added": 1}))
    else:
        text = path.read_text()
        path.unlink()
        if how == "fifo":
            os.mkfifo(path)
        elif how == "link":
            (copy[0].path / "elsewhere").write_text(text)
            path.symlink_to(copy[0].path / "elsewhere")
    assert {finding.check for finding in wrong(copy)} == {"champion"}


def test_what_lanes_said_of_the_base_model_is_checked(copy: tuple[RunFolder, Store]) -> None:
    path = copy[0].path / "base_model.json"
    said = path.read_text()
    path.write_text(said.replace('"parameters": ', '"parameters": 1'))
    assert any("base_model.json is of another" in finding.text for finding in wrong(copy))
    path.write_text("5")
    assert any("base_model.json cannot be read" in finding.text for finding in wrong(copy))
