"""Progress comes from files alone: same figures whoever reads, whenever, whatever was killed."""

import multiprocessing
import os
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from coral_core.atomic_write import write_atomic
from coral_core.config.budget_config import BudgetConfig, LanePrices, Limits
from coral_core.digest import digest
from coral_core.jobs.jobs import Cost
from coral_core.ledger import LaneAccount, Ledger
from coral_core.queue.queue import JobQueue, Ticket
from coral_core.report.live_report import leaderboard, summary
from coral_core.runs.progress import Progress, ProgressInFull, build_progress, in_full, progress_of
from coral_core.runs.records import GenerationRecord, GenomeRecord, JobFailure, JobTiming, Phase, SessionTiming
from coral_core.runs.run_folder import HistoryWriter, RunFolder
from coral_core.runs.run_line import run_line
from coral_core.runs.run_reader import RunReading
from coral_core.store.store import Store
from tests.report.synthetic_run import evaluation, genome, job, make_run

ROOT = Path(__file__).parents[2]


def test_the_best_genome_brings_its_own_scores(finished_run: tuple[RunFolder, Store]) -> None:
    found = build_progress(*finished_run)
    assert (found.status, found.phase, found.percent, found.generations_done) == ("finished", "finished", 100.0, 2)
    assert found.best is not None and found.best.genome_id == "g001-001"
    records = [r for r in finished_run[0].history() if isinstance(r, GenomeRecord)]
    record = next(r for r in records if r.genome.genome_id == "g001-001")
    assert found.best.scores == record.scores and found.best.fitness == record.fitness
    assert found.best.heavy == record.genome.heavy
    assert found.population.infeasible == sum(r.infeasible is not None for r in records)
    assert found.baselines == {"base_model": 2 / 30, "default_lora": 10 / 30}


def test_jobs_are_counted_over_sessions_and_hits_for_the_latest_one(finished_run: tuple[RunFolder, Store]) -> None:
    found = build_progress(*finished_run)
    assert (found.trainings.done, found.evaluations.done, found.sessions) == (2, 2, 2)
    assert (found.cache.hits, found.cache.asked) == (2, 4)
    assert found.cost.source == "jobs" and found.cost.gpu_hours == pytest.approx(8 / 3600)
    assert found.last_event is not None and "session finished" in found.last_event.text


def test_a_replay_changes_nothing_that_was_found(open_run: tuple[RunFolder, Store]) -> None:
    folder, _ = open_run
    before = build_progress(*open_run)
    jobs = {timing.digest: timing for timing in folder.timings() if isinstance(timing, JobTiming)}
    for timing in jobs.values():
        folder.append_timing(
            timing.model_copy(update={"cached": True, "session": 299.0, "finished": 300.0, "cost": Cost()})
        )
    after = build_progress(*open_run)
    assert after.sessions == before.sessions + 1
    for name in ("best", "percent", "population", "generations_done", "hypervolume", "baselines"):
        assert getattr(after, name) == getattr(before, name), name
    assert (after.trainings.done, after.evaluations.done) == (before.trainings.done, before.evaluations.done)
    assert after.cost.gpu_hours == before.cost.gpu_hours


def _append(path: Path, name: str) -> None:
    folder = RunFolder(path)
    for number in range(100):
        folder.append_timing(job("evaluation", f"{name}-{number}", 400.0 + number))


def test_two_that_finish_at_once_are_both_counted(open_run: tuple[RunFolder, Store]) -> None:
    before = build_progress(*open_run).evaluations.done
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append, args=(open_run[0].path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert build_progress(*open_run).evaluations.done == before + 200


@pytest.mark.parametrize("seed", range(5))
def test_following_says_the_same_as_reading_anew(
    finished_run: tuple[RunFolder, Store], tmp_path: Path, seed: int
) -> None:
    """Files that grow byte by byte, also within a line, in whatever order, and a history that is replaced on the way."""
    whole, store = finished_run
    grown = RunFolder(tmp_path / "grown" / whole.run_id)
    shutil.copytree(whole.path, grown.path)
    parts = {name: (whole.path / name).read_bytes() for name in ("history.jsonl", "timings.jsonl")}
    for name in parts:
        (grown.path / name).unlink()
    follower = RunReading(grown, store, keep_generations=True)
    draw, at = random.Random(seed), dict.fromkeys(parts, 0)
    while any(at[name] < len(data) for name, data in parts.items()):
        name = draw.choice([name for name, data in parts.items() if at[name] < len(data)])
        step = draw.choice((1, 40, 700, 3000))
        with (grown.path / name).open("ab") as file:
            file.write(parts[name][at[name] : at[name] + step])
        at[name] += step
        if draw.random() < 0.1 and at["history.jsonl"]:
            write_atomic(grown.path / "history.jsonl", (grown.path / "history.jsonl").read_bytes())
        assert progress_of(follower.refresh()) == build_progress(grown, store)
    assert progress_of(follower) == build_progress(grown, store)
    assert sorted(follower.unseen) == [0, 1]


def test_genomes_of_the_generation_under_way_count_before_they_are_history(open_run: tuple[RunFolder, Store]) -> None:
    folder, store = open_run
    better = evaluation("g001-000", "fitness", digest("t"), 29)
    store.publish_evaluation(better.evaluation_digest, better)
    timing = job("evaluation", "g001-000", 500.0).model_copy(update={"digest": better.evaluation_digest})
    before = build_progress(folder, store)
    folder.append_timing(timing)
    after = build_progress(folder, store)
    assert after.best is not None and after.best.genome_id == "g001-000" and after.best.scores == better.scores
    assert after.percent > before.percent and after.population.evaluated == before.population.evaluated + 1
    assert after.phase == "searching" and after.generation == 1
    assert better.training_digest[:16] not in RunReading(folder, store).refresh().adapters
    assert after.population.unique_adapters == before.population.unique_adapters + 1
    assert after.cache.genomes_sharing_an_adapter == before.cache.genomes_sharing_an_adapter


def test_seed_repeats_of_the_champion_belong_to_the_end(open_run: tuple[RunFolder, Store]) -> None:
    """They are of a genome of an early generation, and no job of the search: not its time, not its jobs, not its phase."""
    folder, store = open_run
    text = (folder.path / "config.yaml").read_text()
    (folder.path / "config.yaml").write_text(re.sub(r"champion_repeats: \d+", "champion_repeats: 1", text))
    found = [build_progress(folder, store)]
    for at, (kind, label) in enumerate(
        [
            ("evaluation", "champion held-out"),
            ("training", "g000-000 repeat 1"),
            ("evaluation", "g000-000 repeat 1"),
            ("evaluation", "base_model held-out"),
        ]
    ):
        folder.append_timing(job(kind, label, 500.0 + 10 * at).model_copy(update={"digest": digest([kind, label])}))
        found.append(build_progress(folder, store))
    assert [step.phase for step in found[1:]] == ["held-out"] * 4
    percents = [step.percent for step in found]
    assert percents == sorted(set(percents)) and percents[-1] < 100, "the bar moves with every job"
    assert len({step.time.searching for step in found}) == 1
    assert (Phase.SEARCHING, 0) not in RunReading(folder, store).refresh().work.finished


def test_failed_tries_are_counted_and_disturb_no_other_reader(open_run: tuple[RunFolder, Store]) -> None:
    folder, store = open_run
    known = folder.timings()
    folder.append_timing(
        JobFailure(kind="training", digest=digest("x"), when=600.0, error="EngineDiedError", message="killed")
    )
    found = build_progress(folder, store)
    assert found.trainings.failed == 1 and found.last_event is not None and "killed" in found.last_event.text
    assert folder.timings()[:-1] == known


def test_running_jobs_are_those_of_lanes_that_live(open_run: tuple[RunFolder, Store]) -> None:
    folder, store = open_run
    accounts = {"lives": time.time(), "dead": time.time() - 900}
    for lane, seen in accounts.items():
        account = LaneAccount(lane=lane, queue="training", run_id=folder.run_id, digest="d", seen=seen)
        write_atomic(store.root / "ledger" / "accounts" / f"{lane}.json", account.model_dump_json().encode())
    found = build_progress(folder, store)
    assert (found.status, found.trainings.running, found.trainings.waiting) == ("running", 1, None)
    (folder.path / "beat").unlink()
    dead = build_progress(folder, store)
    assert (dead.status, dead.trainings.running) == ("stopped", 0)


def test_a_closed_ledger_pauses_once_the_jobs_in_lanes_have_ended(open_run: tuple[RunFolder, Store]) -> None:
    folder, store = open_run
    limits = BudgetConfig(evolution=Limits(gpu_hours=1.0), price=LanePrices(training=2.0))
    Ledger(store).set_budget(folder.run_id, limits)
    path = store.root / "ledger" / "accounts" / "lane.json"
    spent = {"2026-01-01": {folder.run_id: {"training": 3600.0}}}
    account = LaneAccount(
        lane="lane", queue="training", run_id=folder.run_id, digest="d", seen=time.time(), spent=spent
    )
    write_atomic(path, account.model_dump_json().encode())
    found = build_progress(folder, store)
    assert found.status == "running" and "leaves no room" in found.paused
    assert (found.cost.source, found.cost.gpu_hours, found.cost.money, found.cost.used) == ("ledger", 1.0, 2.0, 1.0)
    write_atomic(path, account.model_copy(update={"digest": ""}).model_dump_json().encode())
    paused = build_progress(folder, store)
    assert paused.status == "paused"
    shown = summary(paused, RunReading(folder, store), {}).splitlines()[0]
    assert "day turns" not in shown
    assert shown.endswith(f"`coral resume {folder.run_id} --set budget.evolution.gpu_hours=...`")
    path.write_text("{")
    unreadable = build_progress(folder, store)
    assert unreadable.status == "paused" and "cannot be read" in unreadable.paused


def test_on_work_pools_tickets_wait_and_claims_run(open_run: tuple[RunFolder, Store]) -> None:
    folder, store = open_run
    text = (folder.path / "config.yaml").read_text()
    (folder.path / "config.yaml").write_text(text.replace("executor: local", "executor: work-pools"))
    queue = JobQueue(store, "evaluation")
    queue.prepare()
    for name in ("a", "b", "c"):
        queue.submit(Ticket(kind="evaluation", digest=digest(name), run_id=folder.run_id, job={}, seconds=60))
    assert queue.take("a-lane") is not None
    found = build_progress(folder, store).evaluations
    assert (found.running, found.waiting) == (1, 2)


def test_a_session_that_said_goodbye_is_stopped(open_run: tuple[RunFolder, Store]) -> None:
    folder, store = open_run
    now = time.time() + 5
    folder.append_timing(SessionTiming(started=now - 5, seconds=5, trainings=1, evaluations=1, outcome="stopped"))
    assert build_progress(folder, store).status == "stopped"


def test_a_session_that_failed_says_why(open_run: tuple[RunFolder, Store]) -> None:
    folder, store = open_run
    why = "StoreError: /data: No space left on device"
    line = SessionTiming(started=time.time(), seconds=5, trainings=1, evaluations=1, outcome="failed", error=why)
    folder.append_timing(line)
    reading = RunReading(folder, store).refresh()
    found = progress_of(reading)
    assert (found.status, found.error) == ("failed", why)
    assert found.last_event is not None and found.last_event.text == f"session failed: {why}"
    assert "**Failed** in generation 2" in (text := summary(found, reading, {})) and why in text
    row = run_line(folder)
    assert (row.status, row.error) == ("failed", why)
    folder.append_timing(line.model_copy(update={"outcome": "stopped", "error": ""}))
    assert build_progress(folder, store).status == "stopped", "a stop is no failure"


def test_nothing_is_known_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    folder, store = make_run(tmp_path, finished=False)
    for name in ("history.jsonl", "timings.jsonl"):
        (folder.path / name).unlink()
    found = build_progress(folder, store)
    assert (found.phase, found.percent, found.best, found.generation) == ("starting", 0.0, None, None)
    assert found.seconds_left is None and found.cost.forecast_gpu_hours is None and found.last_event is None


def test_every_key_is_documented() -> None:
    """docs/json.md names every key of the schema, and the schema describes or explains itself by its name."""
    text = (ROOT / "docs" / "json.md").read_text()
    schema = ProgressInFull.model_json_schema()
    own = [schema, *(part for name, part in schema["$defs"].items() if name not in ("HeavyGenes", "LightGenes"))]
    missing = {
        key for part in own for key in part.get("properties", ()) if f"`{key}`" not in text and f"`{key}[]`" not in text
    }
    assert missing == set()


def test_json_and_back(finished_run: tuple[RunFolder, Store]) -> None:
    found = build_progress(*finished_run)
    assert Progress.model_validate_json(found.model_dump_json()) == found and found.schema_version == 1
    whole = in_full(RunReading(*finished_run).refresh())
    assert ProgressInFull.model_validate_json(whole.model_dump_json()) == whole
    assert whole.model_dump(include=set(Progress.model_fields)) == found.model_dump()


def test_in_full_says_what_tables_and_pictures_of_the_artifacts_show(finished_run: tuple[RunFolder, Store]) -> None:
    reading = RunReading(*finished_run).refresh()
    found = in_full(reading)
    shown = [(row["place"], row["genome"], round(row["fitness"], 4)) for row in leaderboard(reading)]
    assert [(leader.place, leader.genome_id, round(leader.fitness or 0, 4)) for leader in found.leaders] == shown
    assert len(shown) == 4 and found.leaders[0].parents == ("g000-000", "g000-001") and found.leaders[0].heavy.rank == 4
    first, second = found.by_generation
    assert (first.best_fitness, second.best_fitness) == (0.5, 0.7) and second.hypervolume == pytest.approx(0.3)
    assert (first.front_size, second.front_size) == (2, 2) and (second.genomes, second.infeasible) == (3, 1)
    rank = first.genes["rank"]
    assert (rank.least, rank.mean, rank.most) == (2, pytest.approx(14 / 3), 8) and first.genes["dora"].mean == 1
    assert "temperature" not in first.genes, "none of them samples"
    assert {point.genome_id for point in found.points if point.on_front} == {"g000-000", "g001-001"}
    assert found.baseline_fitness == {"base_model": 0.3, "default_lora": 0.3}
    assert found.device.evaluation.shares()["computing"] == pytest.approx(0.75)
    assert "busy 75 %, loading 5 %, waiting 20 % (for the judge 15 %, for jobs and the store 5 %)" in summary(
        found, reading, {}
    )
    lanes = found.lanes
    assert lanes is not None and lanes.began == 201
    worked = lanes.seconds_per_column * (sum(lanes.training) + sum(lanes.evaluation))
    assert worked == pytest.approx(4, rel=1e-3) and len(lanes.training) == 180, (
        "two jobs of two seconds in this session"
    )


def test_in_full_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    folder, store = make_run(tmp_path, finished=False)
    for name in ("history.jsonl", "timings.jsonl"):
        (folder.path / name).unlink()
    found = in_full(RunReading(folder, store).refresh())
    assert (found.by_generation, found.leaders, found.points, found.lanes) == ((), (), (), None)


# -- the history is added to, never rewritten ------------------------------------------------


def test_a_replayed_history_is_left_alone_and_a_cut_one_completed(finished_run: tuple[RunFolder, Store]) -> None:
    folder, _ = finished_run
    path = folder.path / "history.jsonl"
    whole, records = path.read_bytes(), folder.history()
    mark = (path.stat().st_ino, path.stat().st_mtime_ns)
    _replay(folder, records)
    assert path.read_bytes() == whole and (path.stat().st_ino, path.stat().st_mtime_ns) == mark
    for cut in (0, 1, 500, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        if cut:
            assert len(folder.history()) == whole[:cut].count(b"\n")
        _replay(folder, records)
        assert path.read_bytes() == whole


def test_a_champion_that_others_measured_better_than_is_found_among_older_genomes(
    finished_run: tuple[RunFolder, Store],
) -> None:
    """Evolution names its champion among the 256 fittest, also by what models expect of them."""
    folder, store = finished_run
    records = folder.history()
    one = next(each for each in records if isinstance(each, GenomeRecord))
    end = next(each for each in records if isinstance(each, GenerationRecord))
    (folder.path / "history.jsonl").unlink()

    def generation(number: int, slots: int, best: str) -> list[Any]:
        genomes = [
            one.model_copy(update={"genome": genome(number, slot, 2), "fitness": 0.9 - 0.01 * slot})
            for slot in range(slots)
        ]
        return [*genomes, end.model_copy(update={"generation": number, "best": best})]

    HistoryWriter(folder).add(
        records[0], *generation(0, 60, "g000-000"), *generation(1, 1, "g001-000"), *generation(2, 1, "g000-050")
    )
    reading = RunReading(folder, store).refresh()
    assert reading.champion is not None and reading.champion.genome_id == "g000-050" and len(reading.leaders) == 20


def _replay(folder: RunFolder, records: list[GenomeRecord]) -> None:
    writer = HistoryWriter(folder)
    for record in records:
        writer.add(record)


def test_what_a_replay_finds_otherwise_is_dropped_from_there_on(finished_run: tuple[RunFolder, Store]) -> None:
    folder, _ = finished_run
    records = folder.history()
    changed = records[3].model_copy(update={"fitness": 0.123})
    writer = HistoryWriter(folder)
    writer.add(*records[:3])
    assert len(folder.history()) == len(records)
    writer.add(changed)
    assert folder.history() == [*records[:3], changed]
    writer.add(records[4])
    assert folder.history() == [*records[:3], changed, records[4]]


def test_adding_costs_the_same_late_as_early(tmp_path: Path) -> None:
    """What is written and read per record does not grow with the history (counted in bytes, not in time)."""
    folder, _ = make_run(tmp_path, finished=False)
    (folder.path / "history.jsonl").unlink()
    writer, record = HistoryWriter(folder), GenomeRecord(
        genome=genome(0, 0, 2), training_digest="0" * 64, evaluation_digest="1" * 64, scores={}, fitness=None, pass_at_1=None
    )  # fmt: skip
    written = []
    for _ in range(300):
        before, asking = _io()
        writer.add(record)
        written.append(_io()[0] - before - asking)
    assert max(written[200:]) <= max(written[1:50])


def _io() -> tuple[int, int]:
    """Bytes that this process read and wrote so far, and the bytes of this question, which the next answer counts."""
    text = Path(f"/proc/{os.getpid()}/io").read_text()
    facts = dict(line.split(": ") for line in text.splitlines())
    return int(facts["rchar"]) + int(facts["wchar"]), len(text)
