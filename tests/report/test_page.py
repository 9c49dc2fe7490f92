"""report.html and what it is made of: self-contained, escaped, and right about genes, operators, repeats and two runs."""

import base64
import csv
import html
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coral_core.config import GenesConfig, ProblemsConfig
from coral_core.digest import digest
from coral_core.genome import Genome
from coral_core.jobs.jobs import Evaluation
from coral_core.queue.queue import Failure, JobQueue, Ticket
from coral_core.report.build_report import build_report
from coral_core.report.comparison import compare_runs
from coral_core.report.comparison_document import comparison_document
from coral_core.report.content import PreviousRun
from coral_core.report.document import Patches
from coral_core.report.gene_importance import epsilon_squared, gene_effects
from coral_core.report.history_records import History
from coral_core.report.html_page import html_page
from coral_core.report.markdown import markdown
from coral_core.report.operators import operator_lines
from coral_core.report.report_files import write_report
from coral_core.report.run_document import repeat_commands, run_document
from coral_core.report.spreadsheets import genomes_csv
from coral_core.runs.records import FinalRecord, GenerationRecord, GenomeRecord, Repeat, RunRecord
from coral_core.runs.run_folder import HistoryWriter, RunFolder
from coral_core.store.store import Store
from tests.report.synthetic_run import PROBLEMS, evaluation, genome, make_run

Run = tuple[RunFolder, Store]
EVIL = "\x00\x1b[2J\u202e</script><img src=x onerror=alert(1)><svg onload=alert(2)>\n+</pre><script>alert(3)</script>"


class Page(HTMLParser):
    """Tags with their attributes, the text, and rows per table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[int] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.rows.append(0)
        if tag == "tr":
            self.rows[-1] += 1

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def page_of(run: Run) -> Page:
    write_report(*run)
    return Page((run[0].path / "report.html").read_text("utf-8"))


def rewritten(folder: RunFolder, change: dict[type, object]) -> None:
    """Replace records of a history; `change` maps a type to a function of the record."""
    records = [change[type(r)](r) if type(r) in change else r for r in folder.history()]  # type: ignore[operator]
    (folder.path / "history.jsonl").unlink()
    HistoryWriter(folder).add(*records)


def test_the_page_needs_nothing_else(finished_run: Run) -> None:
    page = page_of(finished_run)
    addresses = [a[name] for _, a in page.tags for name in ("src", "href", "srcset", "action") if a.get(name)]
    assert addresses and all(str(address).startswith(("data:", "#")) for address in addresses)
    assert not page.all("script") and not page.all("iframe") and not page.all("object")
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy)
    text = (finished_run[0].path / "report.html").read_text()
    assert "@import" not in text and "url(" not in text
    assert "prefers-color-scheme: dark" in text and any(m.get("name") == "viewport" for m in page.all("meta"))


def test_pictures_have_pixels_and_words_and_tables_have_rows(finished_run: Run) -> None:
    page = page_of(finished_run)
    images = page.all("img")
    assert len(images) >= 2
    for image in images:
        assert len(str(image["alt"])) > 20
        raw = base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(raw)).convert("L").getextrema() != (255, 255)
    assert len(page.rows) >= 8 and all(rows > 1 for rows in page.rows)
    ids = {a["id"] for a in page.all("section")}
    links = {str(a["href"])[1:] for a in page.all("a")}
    assert links == ids and {"won", "sure", "why", "patches", "cost", "failures", "reproduce"} <= ids


def test_what_a_model_or_the_store_says_is_text(tmp_path: Path) -> None:
    folder, store = make_run(tmp_path)
    line = next(r for r in folder.history() if isinstance(r, FinalRecord)).held_out[0]
    hostile = evaluation("champion", "held_out", line.training_digest, 20)
    first = hostile.records[0]
    sample = first.samples[0].model_copy(update={"patch": EVIL, "completion": EVIL})
    verdict = {**sample.verdict, "outcome": EVIL, "message": EVIL}
    bad = first.model_copy(
        update={"problem_id": EVIL, "bug_class": EVIL, "samples": (sample.model_copy(update={"verdict": verdict}),)}
    )
    changed = hostile.model_copy(update={"records": (bad, *hostile.records[1:]), "passed": (EVIL, *hostile.passed[1:])})
    store.publish_evaluation(line.evaluation_digest, changed)
    rewritten(
        folder,
        {
            GenomeRecord: lambda r: r.model_copy(
                update={
                    "reason": EVIL,
                    "genome": r.genome.model_copy(
                        update={"lineage": r.genome.lineage.model_copy(update={"operator": EVIL})}
                    ),
                }
            ),
            FinalRecord: lambda r: r.model_copy(update={"reason": EVIL}),
        },
    )
    page = page_of((folder, store))
    assert not page.all("script") and not any("onerror" in a or "onload" in a for _, a in page.tags)
    assert not any(a.get("src") == "x" for a in page.all("img"))
    assert page.words.count("alert(3)") >= 5, "the patch, its verdict, a reason and an operator are all shown"
    assert "\\x00\\x1b[2J\\u202e" in page.words and not set("\x00\x1b\u202e") & set(page.words)
    assert not set("\x00\x1b\u202e") & set(genomes_csv(History.of(folder)).decode())


@pytest.mark.parametrize(("name", "who"), [("default_lora", "the default LoRA"), ("champion", "the champion")])
def test_a_failure_is_no_score(tmp_path: Path, name: str, who: str) -> None:
    """An evaluation that is infeasible has no records, and must not be taken for one that repairs nothing."""
    folder, store = make_run(tmp_path)
    lines = next(r for r in folder.history() if isinstance(r, FinalRecord)).held_out
    line = next(line for line in lines if line.name == name)
    failed = Evaluation(
        evaluation_digest=line.evaluation_digest,
        training_digest=line.training_digest,
        split="held_out",
        infeasible="out-of-memory",
        reason="the card has 40 GB",
    )
    store.publish_evaluation(line.evaluation_digest, failed)
    report = build_report(folder, store)
    assert report.answer.verdict == "unknown" and f"{who} has no score" in report.answer.text
    assert report.gaps.champion_minus_default_lora is None
    contender = getattr(report, name)
    assert contender is not None and contender.held_out_pass_at_1 is None
    words = page_of((folder, store)).words
    assert f"{name}, held-out" in words and "the card has 40 GB" in words
    against = compare_runs((folder, store), make_run(tmp_path / "other"))
    assert ("has no score on the held-out bugs" in against.why_not) == (name == "champion")


def test_a_failed_job_and_its_reason_are_shown(finished_run: Run) -> None:
    folder, store = finished_run
    queue = JobQueue(store, "training")
    queue.prepare()
    failure = Failure(lane="l", host="h", error="EngineError", message="<b>the card fell off the bus</b>")
    queue.submit(Ticket(kind="training", digest="a" * 64, run_id=folder.run_id, job={}, seconds=9, failures=(failure,)))
    queue.submit(Ticket(kind="training", digest="b" * 64, run_id="another-run", job={}, seconds=9, failures=(failure,)))
    found = build_report(folder, store).failed_jobs
    assert [(job.digest, job.tries, job.state, job.error) for job in found] == [("a" * 64, 1, "waiting", "EngineError")]
    assert "<b>the card fell off the bus</b>" in page_of(finished_run).words


def test_a_search_that_did_not_help_is_called_that(finished_run: Run) -> None:
    found = build_report(*finished_run).answer
    assert found.verdict == "not distinguishable" and "not shown to have helped" in found.text
    assert "not distinguishable from the default LoRA" in page_of(finished_run).words


def test_the_default_lora_as_champion_is_no_success(tmp_path: Path) -> None:
    folder, store = make_run(tmp_path)

    def same(record: FinalRecord) -> FinalRecord:
        default = next(line for line in record.held_out if line.name == "default_lora")
        copy = default.model_copy(update={"name": "champion", "genome_id": "g001-001"})
        return record.model_copy(update={"held_out": (copy, *record.held_out[1:])})

    rewritten(folder, {FinalRecord: same})
    assert build_report(folder, store).answer.verdict == "default LoRA itself"


def test_a_champion_of_the_first_generation_says_that_breeding_improved_nothing(tmp_path: Path) -> None:
    folder, store = make_run(tmp_path)
    rewritten(folder, {FinalRecord: lambda r: r.model_copy(update={"champion": "g000-001"})})
    assert "breeding improved nothing" in build_report(folder, store).answer.text


def test_runs_under_way_and_just_begun_have_a_page(open_run: Run) -> None:
    folder, _ = open_run
    assert "has not been opened" in page_of(open_run).words
    (folder.path / "history.jsonl").unlink()
    (folder.path / "timings.jsonl").unlink()
    page = page_of(open_run)
    assert "no generation is finished yet" in page.words and not page.all("img")


def test_a_run_whose_genomes_all_failed_says_so(tmp_path: Path) -> None:
    folder, store = make_run(tmp_path, finished=False)
    scoreless = {"fitness": None, "scores": {}, "pass_at_1": None, "infeasible": "diverged"}
    rewritten(
        folder,
        {
            GenomeRecord: lambda r: r.model_copy(update=scoreless),
            GenerationRecord: lambda r: r.model_copy(update={"best": None, "best_fitness": None, "front": ()}),
        },
    )
    words = page_of((folder, store)).words
    assert "no genome has a score yet" in words and "no generation is finished" not in words
    assert "Every genome has a score" not in words


def test_the_page_reproduces_what_a_run_before_began(tmp_path: Path) -> None:
    folder, store = make_run(tmp_path)
    before = PreviousRun(
        run_id="last-night-e1", path="", champion="g000-000", fitness=None, held_out_pass_at_1=0.5,
        started_from=True, same_problems=None, same_base_model=None,
    )  # fmt: skip
    report = build_report(folder, store).model_copy(update={"previous": before})
    document = run_document(report)
    assert "start.json" in repeat_commands(report) and repeat_commands(report) in markdown(document)
    assert repeat_commands(report) in html.unescape(html_page(document))


def test_repeats_are_summed_up_without_the_champion(tmp_path: Path) -> None:
    folder, store = make_run(tmp_path)
    lines = tuple(
        Repeat(replicate=n, training_digest="0" * 64, evaluation_digest="1" * 64, scores={}, fitness=f, pass_at_1=f, infeasible=bad, reason="")
        for n, f, bad in ((1, 0.6, None), (2, 0.7, None), (3, None, "diverged"))
    )  # fmt: skip
    rewritten(folder, {FinalRecord: lambda r: r.model_copy(update={"repeats": lines})})
    found = build_report(folder, store).repeats
    assert found is not None and (found.n, len(found.lines), found.above_default) == (2, 3, 2)
    assert found.mean_fitness == pytest.approx(0.65) and found.sd_fitness == pytest.approx(0.0707, abs=1e-4)
    assert found.own_fitness == pytest.approx(0.7)
    assert "1 of 3 repeats had no score" in page_of((folder, store)).words


def test_operators_are_held_against_the_best_parent(finished_run: Run) -> None:
    lines = {line.operator: line for line in operator_lines(History.of(finished_run[0]))}
    assert (lines["seed"].children, lines["seed"].infeasible, lines["seed"].compared) == (3, 1, 0)
    cross = lines["crossover"]
    assert (cross.children, cross.infeasible, cross.compared, cross.improved) == (3, 1, 2, 2)
    assert cross.mean_change == pytest.approx((0.6 - 0.5 + 0.7 - 0.5) / 2)
    assert (lines["seed"].new_champions, cross.new_champions) == (1, 1)


def test_epsilon_squared_is_adjusted_r_squared() -> None:
    rng = np.random.default_rng(0)
    groups, values = rng.integers(0, 4, 60), rng.random(60)
    dummies = np.stack([groups == g for g in range(4)], axis=1).astype(float)
    rest = values - dummies @ np.linalg.lstsq(dummies, values, rcond=None)[0]
    expected = 1 - (rest @ rest / 56) / (((values - values.mean()) ** 2).sum() / 59)
    assert epsilon_squared(groups, values, 4) == pytest.approx(expected)


def made_up(effect_of_rank: float) -> History:
    """60 genomes whose fitness hangs on rank alone, or on nothing."""
    rng = np.random.default_rng(1)
    history = History()
    for number in range(60):
        made: Genome = genome(0, number, int(rng.choice([2, 4, 8])))
        heavy = made.heavy.model_copy(
            update={"alpha": float(rng.choice([8, 16])), "learning_rate": 1e-3 + number * 1e-6}
        )
        made = made.model_copy(update={"heavy": heavy})
        value = 0.3 + effect_of_rank * made.heavy.rank / 8 + 0.02 * rng.standard_normal()
        history.genomes[made.genome_id] = GenomeRecord(
            genome=made, training_digest="0" * 64, evaluation_digest="1" * 64, scores={}, fitness=value, pass_at_1=0.1
        )
    return history


def test_the_gene_that_matters_is_found_and_no_other() -> None:
    effects = {effect.gene: effect for effect in gene_effects(made_up(0.3), GenesConfig())}
    assert next(iter(effects)) == "rank"
    assert effects["rank"].clear and effects["rank"].share > 0.9 and effects["rank"].interval[0] > 0.8
    assert [level.genomes for level in effects["rank"].levels] and effects["rank"].levels[-1].value == "8"
    assert not effects["alpha"].clear and effects["alpha"].share < 0.1


def test_noise_is_no_gene_effect() -> None:
    assert not any(effect.clear for effect in gene_effects(made_up(0.0), GenesConfig()))


def test_what_further_training_gives_is_not_credited_to_a_gene() -> None:
    """Adapters that go on do so at a lower rate: the rate has no effect of its own here, the number of trainings has."""
    rng = np.random.default_rng(2)
    history = History()
    for number in range(60):
        made: Genome = genome(0, number, int(rng.choice([2, 4, 8])))
        first = made.heavy.model_copy(update={"learning_rate": float(rng.choice([1e-3, 2e-3]))})
        further = number % 3 == 0
        update = {"warm_start": first, "learning_rate": 1e-3} if further else {}
        made = made.model_copy(update={"heavy": first.model_copy(update=update)})
        history.genomes[made.genome_id] = GenomeRecord(
            genome=made, training_digest="0" * 64, evaluation_digest="1" * 64, scores={},
            fitness=0.3 + 0.2 * further + 0.02 * rng.standard_normal(), pass_at_1=0.1,
        )  # fmt: skip
    effects = {effect.gene: effect for effect in gene_effects(history, GenesConfig())}
    assert next(iter(effects)) == "trainings" and effects["trainings"].clear and effects["trainings"].share > 0.9
    assert [level.value for level in effects["trainings"].levels] == ["1", "2"]
    assert not effects["learning_rate"].clear and effects["learning_rate"].share < 0.1
    low, high = (level.mean for level in effects["learning_rate"].levels)
    assert abs(low - high) < 0.02


def test_too_few_genomes_say_nothing_about_genes(finished_run: Run) -> None:
    assert gene_effects(History.of(finished_run[0]), GenesConfig()) == ()


def test_spreadsheets_have_a_row_each_and_run_no_formula(tmp_path: Path) -> None:
    folder, store = make_run(tmp_path)
    rewritten(folder, {GenomeRecord: lambda r: r.model_copy(update={"reason": "=cmd|'/c calc'!A1"})})
    write_report(folder, store)
    rows = list(csv.DictReader(io.StringIO((folder.path / "genomes.csv").read_text())))
    assert (
        len(rows) == 6
        and rows[0]["rank"] == "2"
        and rows[0]["parents"] == ""
        and rows[3]["parents"] == "g000-000 g000-001"
    )
    assert float(rows[4]["bugfix"]) == pytest.approx(19 / 30)
    assert rows[0]["reason"].startswith("'=")
    generations = list(csv.DictReader(io.StringIO((folder.path / "generations.csv").read_text())))
    assert [row["best"] for row in generations] == ["g000-001", "g001-001"]


def two_runs(tmp_path: Path, other_problems: bool = False) -> tuple[Run, Run]:
    found = []
    for name in ("one", "two"):
        folder, store = make_run(tmp_path / name)
        digests = {"fitness": "f", "held_out": name if other_problems else "same"}
        rewritten(
            folder, {RunRecord: lambda r, d=digests: r.model_copy(update={"problems": {**r.problems, "digests": d}})}
        )
        found.append((folder, store))
    (folder, store) = found[1]
    config = folder.config()
    search = config.search.model_copy(update={"population": 5})
    from coral_core.config import dump_yaml

    (folder.path / "config.yaml").write_text(dump_yaml(config.model_copy(update={"seed": 3, "search": search})))
    weaker = evaluation("champion", "held_out", digest(["training", 1, 1]), 8)
    store.publish_evaluation(weaker.evaluation_digest, weaker)
    lines = {
        FinalRecord: lambda r: r.model_copy(
            update={"held_out": (r.held_out[0].model_copy(update={"pass_at_1": 8 / 30, "passed": 8}), *r.held_out[1:])}
        )
    }
    rewritten(folder, lines)
    return found[0], found[1]


def test_two_runs_are_compared_bug_by_bug(tmp_path: Path) -> None:
    found = compare_runs(*two_runs(tmp_path))
    assert {(d.key, d.a, d.b) for d in found.configuration} == {("seed", 0, 3), ("search.population", 4, 5)}
    assert found.comparable and found.gap is not None
    assert (found.gap.only_champion, found.gap.only_other, found.gap.verdict) == (12, 0, "better")
    assert found.gap.difference == pytest.approx(12 / 30)
    page = Page(html_page(comparison_document(found)))
    assert "search.population" in page.words and len(page.all("img")) == 1 and not page.all("script")


def test_other_held_out_problems_are_not_compared_by_bug(tmp_path: Path) -> None:
    found = compare_runs(*two_runs(tmp_path, other_problems=True))
    assert not found.comparable and found.gap is None and "different held-out problems" in found.why_not
    assert "different held-out problems" in html_page(comparison_document(found))


def test_a_run_under_way_is_not_compared(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "two", finished=False)
    found = compare_runs(one, other)
    assert not found.comparable and "has not opened its held-out split" in found.why_not


def test_every_template_escapes() -> None:
    folder = Path(__file__).parents[2] / "coral_core" / "report" / "templates"
    texts = [path.read_text() for path in folder.glob("*.j2")]
    assert len(texts) >= 2 and not any(re.search(r"\|\s*safe|autoescape false|Markup", text) for text in texts)


def test_held_out_patches_are_diffs_against_the_problems_of_the_run(tmp_path: Path) -> None:
    from coral_core.jobs.job_content import problem_set
    from coral_core.report.patches import held_out_patches

    folder, store = make_run(tmp_path)
    problems = problem_set(ProblemsConfig.model_validate(PROBLEMS.model_dump())).held_out
    line = next(r for r in folder.history() if isinstance(r, FinalRecord)).held_out[0]
    found = evaluation("champion", "held_out", line.training_digest, 1, ids=[p.problem_id for p in problems])
    fixed = found.records[0].samples[0].model_copy(update={"patch": problems[0].reference})
    same = found.records[1].samples[0].model_copy(update={"patch": problems[1].buggy})
    records = (
        found.records[0].model_copy(update={"samples": (fixed,)}),
        found.records[1].model_copy(update={"samples": (same,)}),
        *found.records[2:],
    )
    store.publish_evaluation(line.evaluation_digest, found.model_copy(update={"records": records}))
    section = held_out_patches(build_report(folder, store), store, folder.config())
    assert section is not None
    shown = section.blocks[1]
    assert isinstance(shown, Patches)
    views = {view.problem_id: view for _, group in shown.groups for view in group}
    assert views[problems[0].problem_id].is_diff and "\n+" in views[problems[0].problem_id].diff
    assert views[problems[1].problem_id].diff == ""
