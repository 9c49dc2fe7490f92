"""The report of a made-up run: keys, numbers, text, pictures, export."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from coral_core.digest import digest
from coral_core.errors import StoreError
from coral_core.report.build_report import build_report
from coral_core.report.content import Report
from coral_core.report.document import Pictures
from coral_core.report.export import export_champion
from coral_core.report.html_page import html_page
from coral_core.report.live_report import summary
from coral_core.report.markdown import markdown
from coral_core.report.paired import compare, interval, resolution, sign_test
from coral_core.report.pictures import LIMIT, as_data_uri
from coral_core.report.report_files import write_report
from coral_core.report.run_document import run_document
from coral_core.runs.progress import progress_of
from coral_core.runs.records import JobFailure, SessionTiming
from coral_core.runs.run_folder import HistoryWriter, RunFolder
from coral_core.runs.run_line import run_line
from coral_core.runs.run_reader import RunReading
from coral_core.runs.sessions import WorkDone
from coral_core.store.store import Store
from tests.report.hostile import EVIL
from tests.report.synthetic_run import evaluation, job, make_run

Run = tuple[RunFolder, Store]


def test_report_json_has_the_documented_keys_and_the_right_numbers(finished_run: Run) -> None:
    folder, store = finished_run
    write_report(folder, store)
    data = json.loads((folder.path / "report.json").read_text())
    assert data["status"] == "finished"
    assert data["champion"]["genome_id"] == "g001-001"
    assert data["champion"]["held_out_pass_at_1"] == pytest.approx(20 / 30)
    assert data["base_model"]["held_out_pass_at_1"] == pytest.approx(2 / 30)
    assert data["default_lora"]["held_out_pass_at_1"] == pytest.approx(18 / 30)
    assert data["generation_0_median"]["held_out_pass_at_1"] == pytest.approx(12 / 30)
    assert data["counts"] == {"trainings": 1, "evaluations": 1}
    assert data["totals"]["sessions"] == 2
    assert (data["totals"]["trainings"], data["totals"]["evaluations"]) == (2, 2)
    assert data["totals"]["cpu_seconds"] == 12
    assert data["totals"]["tokens"] == 400
    assert data["seconds"] == 6.5
    assert data["held_out_openings"] == 1
    assert [line["genome_id"] for line in data["lineage"]] == ["g000-000", "g000-001", "g001-001"]
    assert {line["genome_id"] for line in data["pareto_front"]} == {"g000-000", "g001-001"}
    assert data["infeasible"][0]["reason"] == "diverged"
    assert data["bug_classes"][0] == {
        "bug_class": "arithmetic",
        "bugs": 10,
        "champion": 7,
        "base_model": 1,
        "default_lora": 6,
        "tuned_lora": None,
    }
    assert data["outcomes"]["champion"]["passed"] == 21, "20 bugs, and a function that stays right"
    assert data["base_check"]["verdict"] == "usable"


def test_gaps_are_paired_by_bug_and_call_noise_noise(finished_run: Run) -> None:
    gaps = build_report(*finished_run).gaps
    against_base = gaps.champion_minus_base_model
    assert against_base is not None
    assert (against_base.only_champion, against_base.only_other, against_base.verdict) == (18, 0, "better")
    against_default = gaps.champion_minus_default_lora
    assert against_default is not None
    assert (against_default.only_champion, against_default.only_other) == (2, 0)
    assert against_default.bugs == 30, "problems that are already right are no bugs"
    assert against_default.verdict == "not distinguishable"
    assert "not distinguishable from noise" in markdown(run_document(build_report(*finished_run)))


def test_a_run_under_way_reports_what_there_is(open_run: Run) -> None:
    folder, store = open_run
    report = write_report(folder, store)
    assert report.status == "running"
    assert report.champion is not None
    assert report.champion.genome_id == "g000-001"
    assert report.champion.held_out_pass_at_1 is None
    assert report.gaps.champion_minus_base_model is None
    assert report.bug_classes == ()
    assert (report.counts.trainings, report.counts.evaluations) == (1, 1)
    assert report.seconds == pytest.approx(5)
    assert report.generation_0_median is not None
    assert report.generation_0_median.genome_id == "g000-000"
    assert "still" not in (folder.path / "report.md").read_text()


def test_a_run_that_has_just_begun_can_be_reported(open_run: Run) -> None:
    folder, store = open_run
    (folder.path / "history.jsonl").unlink()
    (folder.path / "timings.jsonl").unlink()
    report = write_report(folder, store)
    assert report.champion is None
    assert report.base_check.verdict == "unknown"
    assert "no generation is finished yet" in (folder.path / "report.md").read_text()


def test_a_stopped_session_is_not_running(open_run: Run) -> None:
    folder, store = open_run
    folder.append_timing(SessionTiming(started=200, seconds=1e10, trainings=1, evaluations=1, outcome="stopped"))
    assert build_report(folder, store).status == "stopped"


def test_what_failed_and_why_is_in_the_report(open_run: Run) -> None:
    """Every failed try counts, also one that was made again well."""
    folder, store = open_run
    for name, message in (
        ("a", "the card fell off"),
        ("a", "the card fell off"),
        ("z", "the card fell off"),
        ("z", "lost"),
    ):
        folder.append_timing(
            JobFailure(kind="training", digest=digest(name), when=250.0, error="EngineError", message=message)
        )
    end = SessionTiming(
        started=200, seconds=1e10, trainings=1, evaluations=1, outcome="failed", error="StoreError: full"
    )
    folder.append_timing(end)
    report = build_report(folder, store)
    assert (report.status, report.error) == ("failed", "StoreError: full")
    tries = [(t.kind, t.error, t.message, t.count, t.jobs, t.done_later) for t in report.failed_tries]
    assert tries == [
        ("training", "EngineError", "the card fell off", 3, 2, 1),
        ("training", "EngineError", "lost", 1, 1, 0),
    ]
    document = run_document(report)
    for text in (markdown(document), html_page(document)):
        assert "What failed" in text and "The latest session failed: StoreError: full" in text
        assert text.count("the card fell off") == 1 and "has failed" in text


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        '{"type": "miracle"}',
        '{"type": "baseline", "name": "x"}',
        "7",
        "\xff",
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_broken_line_of_a_history_is_named_with_the_way_out(finished_run: Run, damage: str) -> None:
    path = finished_run[0].path / "history.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:3], damage.encode("latin-1"), *lines[3:]]))
    with pytest.raises(
        StoreError, match=r"history\.jsonl, line 4: is no record .* Take out this line and all after it"
    ):
        build_report(*finished_run)


def test_a_broken_line_of_the_timings_is_named(finished_run: Run) -> None:
    with (finished_run[0].path / "timings.jsonl").open("a") as file:
        file.write('{"type":"job","kind":"training"}\n')
    with pytest.raises(
        StoreError, match=r"timings\.jsonl, line 8: is no record of a run \(job\.session: Field required\)"
    ):
        build_report(*finished_run)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"identity": {"edition": "x"}}', '{"set": null}'])
def test_a_broken_run_json_is_named_with_the_way_out(finished_run: Run, content: str) -> None:
    (finished_run[0].path / "run.json").write_text(content)
    with pytest.raises(StoreError, match=r"run\.json: is missing or broken.* coral evolve .*config\.yaml"):
        build_report(*finished_run)


def test_an_evaluation_that_left_the_store_costs_the_test_but_not_the_report(finished_run: Run) -> None:
    folder, store = finished_run
    base = build_report(folder, store).base_model
    assert base is not None
    store.evaluation_path(str(base.held_out_evaluation_digest)).unlink()
    gap = build_report(folder, store).gaps.champion_minus_base_model
    assert gap is not None
    assert gap.difference == pytest.approx(18 / 30)
    assert gap.verdict == "unknown"
    assert "no paired test" in markdown(run_document(build_report(folder, store)))


def test_run_line(finished_run: Run) -> None:
    line = run_line(finished_run[0])
    assert (line.generation, line.generations, line.status) == (1, 2, "finished")
    assert line.champion_held_out_pass_at_1 == pytest.approx(20 / 30)


def pictures(report: Report) -> list[bytes]:
    """Fitness curve and Pareto front of a report."""
    section = next(section for section in run_document(report).sections if section.anchor == "progress")
    return [item.png for block in section.blocks if isinstance(block, Pictures) for item in block.items]


def test_pictures_are_small_png_with_content(finished_run: Run) -> None:
    found = pictures(build_report(*finished_run))
    assert len(found) == 2
    for png in found:
        assert len(png) <= LIMIT
        image = Image.open(io.BytesIO(png))
        assert image.format == "PNG"
        colours = image.convert("RGB").getcolors(100_000)
        assert colours is not None
        assert len(colours) > 4
        assert max(colours)[1] == (255, 255, 255), "the background is white on light and dark pages"


def test_pictures_of_a_long_run_stay_small(finished_run: Run) -> None:
    report = build_report(*finished_run)
    lines = tuple(
        report.generations[0].model_copy(update={"generation": n, "mean_fitness": 0.1 + n / 100}) for n in range(60)
    )
    points = tuple(
        report.evaluated[0].model_copy(
            update={
                "trainable_parameters": 1000 + 37 * n * n,
                "scores": {"bugfix": (n * 7 % 100) / 100, "retention": (n * 13 % 100) / 100, "cost": 0.5},
            }
        )
        for n in range(600)
    )
    long = report.model_copy(update={"generations": lines, "evaluated": points})
    assert all(len(png) <= LIMIT for png in pictures(long))


def test_report_links_its_pictures(finished_run: Run) -> None:
    folder, store = finished_run
    write_report(folder, store)
    text = (folder.path / "report.md").read_text()
    for name in ("pictures/fitness.png", "pictures/pareto.png"):
        assert f"({name})" in text
        assert (folder.path / name).read_bytes().startswith(b"\x89PNG")
    assert "coral evolve" in text
    assert "What it cost" in text
    assert re.search(r"training \| +\d+ \| +75.0% \| +5.0% \| +15.0% \| +5.0% \| +20.0%", text)
    assert as_data_uri(b"x").startswith("data:image/png;base64,")


def test_why_another_genome_measured_more_than_the_champion_is_said(finished_run: Run) -> None:
    report = build_report(*finished_run)
    assert report.champion is not None
    assert "measured a larger fitness" not in markdown(run_document(report))
    more = report.pareto_front[0].model_copy(update={"genome_id": "g009-009", "fitness": 0.99})
    other = report.model_copy(update={"pareto_front": (*report.pareto_front, more)})
    assert "g009-009 measured a larger fitness, 0.990" in markdown(run_document(other))


def test_what_others_wrote_is_text_in_markdown_too(finished_run: Run) -> None:
    """No image, link, heading or HTML comes out of an error, a reason, a bug class or a verdict."""
    folder, store = finished_run
    history = folder.history()
    line = next(record for record in history if record.type == "final").held_out[0]
    found = evaluation("champion", "held_out", line.training_digest, 20)
    sample = found.records[0].samples[0]
    sample = sample.model_copy(update={"verdict": {**sample.verdict, "outcome": EVIL}})
    bad = found.records[0].model_copy(update={"bug_class": EVIL, "samples": (sample,)})
    store.publish_evaluation(line.evaluation_digest, found.model_copy(update={"records": (bad, *found.records[1:])}))
    HistoryWriter(folder).add(*[r.model_copy(update={"reason": EVIL}) if r.type == "genome" else r for r in history])
    folder.append_timing(JobFailure(kind="training", digest="a" * 64, when=1e10, error=EVIL, message=EVIL))
    reading = RunReading(folder, store).refresh()
    documents = (
        markdown(run_document(build_report(folder, store))),
        summary(progress_of(reading), reading, {}),
    )
    for text, mentions in zip(documents, (3, 1), strict=True):
        tokens = [
            child
            for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
            for child in (token, *(token.children or ()))
        ]
        links = [
            token.attrs.get("src") or token.attrs.get("href")
            for token in tokens
            if token.type in ("image", "link_open")
        ]
        assert set(links) <= {"pictures/fitness.png", "pictures/pareto.png"}
        assert not [token for token in tokens if token.type in ("html_block", "html_inline")]
        assert not [token for token in tokens if token.type == "text" and "://" in token.content], (
            "some renderers link them"
        )
        said = [
            token.content for token in tokens if token.type == "code_inline" and "[/data/models/x]" in token.content
        ]
        assert len(said) >= mentions
        assert not any(ord(c) < 32 and c != "\n" for c in text)


def test_champion_is_exported_with_a_card(finished_run: Run) -> None:
    folder, store = finished_run
    report = write_report(folder, store)
    target = export_champion(folder, store, report)
    assert target == folder.path / "champion"
    assert sorted(path.name for path in target.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "generation_config.json", "genome.json",
    ]  # fmt: skip
    source = store.adapter_path(str(report.champion.training_digest if report.champion else ""))
    assert (target / "adapter_model.safetensors").read_bytes() == (source / "adapter_model.safetensors").read_bytes()
    card = (target / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "coral-tiny"
    assert front["library_name"] == "peft"
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert json.loads((target / "genome.json").read_text())["genome_id"] == "g001-001"
    export_champion(folder, store, report)  # again: replaced, not merged


def test_a_champion_without_a_sound_adapter_is_an_error(finished_run: Run) -> None:
    folder, store = finished_run
    report = build_report(folder, store)
    assert report.champion is not None
    (store.adapter_path(str(report.champion.training_digest)) / "adapter_model.safetensors").write_bytes(b"edited")
    with pytest.raises(StoreError, match="missing or broken"):
        export_champion(folder, store, report)


def test_a_killed_session_is_known_by_the_next_ones_first_line() -> None:
    work = WorkDone()
    for timing in (job("evaluation", "base", 101), job("training", "a", 102), job("training", "b", 213)):
        work.take(timing)
    assert work.sessions == 2 and work.seconds == 13 and work.totals.seconds == 4 + 13
    assert work.counts.trainings == 1 and work.counts.evaluations == 0
    assert work.totals.trainings == 2
    assert WorkDone().totals.sessions == 0


@pytest.mark.parametrize(
    ("wins", "losses", "expected"), [(0, 0, 1.0), (5, 5, 1.0), (6, 0, 0.03125), (9, 1, 0.021484375)]
)
def test_sign_test_is_exact(wins: int, losses: int, expected: float) -> None:
    assert sign_test(wins, losses) == pytest.approx(expected)
    assert sign_test(losses, wins) == pytest.approx(expected)


def test_resolution_is_the_smallest_difference_the_test_can_tell() -> None:
    assert resolution(5) is None
    assert resolution(6) == 6
    assert resolution(10) == 8
    for discordant in range(6, 80):
        smallest = resolution(discordant)
        assert smallest is not None
        losses = (discordant - smallest) // 2
        assert sign_test(discordant - losses, losses) < 0.05
        assert losses + 1 > discordant // 2 or sign_test(discordant - losses - 1, losses + 1) >= 0.05


def test_interval_holds_the_difference_and_no_difference_is_no_verdict() -> None:
    low, high = interval(18, 0, 30)
    assert low < 18 / 30 < high
    gap = compare(0.0, {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 0.0})
    assert (gap.only_champion, gap.only_other, gap.p_value, gap.verdict) == (0, 0, 1.0, "not distinguishable")


def test_with_several_samples_a_bug_gap_and_test_are_of_the_same_shares() -> None:
    """First samples alone would call this champion better; most of its tries fail."""
    bugs = [f"bug-{number}" for number in range(40)]
    champion = {bug: 0.25 for bug in bugs}
    other = {bug: float(number < 20) for number, bug in enumerate(bugs)}
    gap = compare(0.0, champion, other)
    assert gap.difference == pytest.approx(-0.25) and (gap.only_champion, gap.only_other) == (20, 20)
    assert gap.verdict == "not distinguishable" and gap.interval is not None
    assert gap.interval[0] < -0.25 < gap.interval[1]
    # many small gains that a few large losses outweigh: the sign test alone would say better
    gains = {bug: 0.25 if number < 32 else 0.0 for number, bug in enumerate(bugs)}
    losses = {bug: 0.0 if number < 32 else 1.0 for number, bug in enumerate(bugs)}
    mixed = compare(0.0, gains, losses)
    assert mixed.difference == 0.0 and mixed.p_value is not None and mixed.p_value < 0.05
    assert mixed.verdict == "not distinguishable"


def test_drawing_libraries_are_imported_only_when_a_picture_is_drawn() -> None:
    code = "import sys, coral_core.report.report_files, coral_core.report.export; print('matplotlib' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_two_builds_are_equal(tmp_path: object, finished_run: Run) -> None:
    folder, store = finished_run
    assert build_report(folder, store) == build_report(folder, store)
    assert pictures(build_report(folder, store)) == pictures(build_report(folder, store))
    assert make_run is not None


def test_a_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """Python reads NaN, JSON has none: what is printed must be readable for others."""
    folder, store = make_run(tmp_path)
    history = folder.path / "history.jsonl"
    history.write_text(re.sub(r'("bugfix": ?)[0-9.]+', r"\1NaN", history.read_text(), count=1))
    with pytest.raises(StoreError, match=r"line 2: is no record of a run \(expected value"):
        build_report(folder, store)
