"""Words of models, problems and errors on the terminal: shown as they are, never obeyed."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from coral_core.runs.records import FinalRecord, GenomeRecord, JobFailure
from coral_core.runs.run_folder import HistoryWriter, RunFolder
from coral_core.store.store import Store
from coral_core.untrusted import visible
from flows.cli.judge_patch import _print as print_verdict
from flows.cli.logs import LoggedLine
from flows.cli.logs import _print as print_line
from flows.cli.markup import listing, marked, words
from flows.cli.progress import progress, watched
from flows.cli.report import report
from flows.cli.runs import runs
from flows.cli.show import show
from tests.report.hostile import ESCAPES, EVIL, harmless
from tests.report.synthetic_run import evaluation, make_run


@pytest.fixture
def run(tmp_path: Path) -> tuple[RunFolder, Store]:
    """A finished run in which everything that others wrote is hostile."""
    folder, store = make_run(tmp_path)
    history = folder.history()
    champion = next(r for r in history if isinstance(r, FinalRecord)).held_out[0]
    found = evaluation("champion", "held_out", champion.training_digest, 20)
    first = found.records[0]
    verdict = {**first.samples[0].verdict, "outcome": EVIL, "message": EVIL}
    sample = first.samples[0].model_copy(
        update={"patch": EVIL, "completion": EVIL, "verdict": verdict, "extraction": EVIL}
    )
    bad = first.model_copy(update={"problem_id": EVIL, "bug_class": EVIL, "samples": (sample,)})
    store.publish_evaluation(
        champion.evaluation_digest,
        found.model_copy(update={"records": (bad, *found.records[1:]), "passed": (EVIL, *found.passed[1:])}),
    )
    HistoryWriter(folder).add(
        *[r.model_copy(update={"reason": EVIL}) if isinstance(r, GenomeRecord) and r.infeasible else r for r in history]
    )
    folder.append_timing(JobFailure(kind="training", digest="a" * 64, when=1.0, error=EVIL, message=EVIL))
    return folder, store


def test_no_command_obeys_what_others_wrote(run: tuple[RunFolder, Store], capsys: pytest.CaptureFixture[str]) -> None:
    path = str(run[0].path)
    for shown in (
        lambda: progress(path),
        lambda: show(path, "champion", split="held-out", limit=1),
        lambda: show(path, "g000-002"),
        lambda: report(path),
    ):
        shown()
        harmless(capsys.readouterr().out)


def test_a_run_that_cannot_be_read_is_named_whatever_its_error_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = make_run(tmp_path)
    other = folder.path.with_name("[bold]broken")
    folder.path.rename(other)
    (other / "config.yaml").write_text("name: [/data/models/x]\n")
    runs(runs=str(tmp_path / "runs"))
    assert "[bold]broken: cannot be read" in capsys.readouterr().out


def test_brackets_of_an_error_are_no_markup(run: tuple[RunFolder, Store], capsys: pytest.CaptureFixture[str]) -> None:
    said = "weights in [/data/models/x] are not there"
    run[0].append_timing(JobFailure(kind="training", digest="a" * 64, when=2.0, error="BaseModelError", message=said))
    progress(str(run[0].path))
    assert "[/data/models/x]" in capsys.readouterr().out


def test_log_lines_and_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(LoggedLine(time=1.0, level="error", source=EVIL, message=EVIL))
    print_verdict({"problem_id": EVIL, "outcome": EVIL, "message": EVIL, "cases": []}, [])
    text = capsys.readouterr().out
    harmless(text)
    assert text.count("[/data/models/x]") >= 4


def test_what_the_terminal_shows_of_a_run_that_goes_on(
    run: tuple[RunFolder, Store], capsys: pytest.CaptureFixture[str]
) -> None:
    with watched(run[0], Console(width=200, force_terminal=False)):
        pass
    text = capsys.readouterr().out
    assert "base model repairs " in text and "finished; g001-001: fitness " in text
    with watched(run[0], Console(width=200, force_terminal=True, color_system=None)):
        pass
    assert "Best genome" in capsys.readouterr().out


def test_before_a_run_has_begun_nothing_is_said_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with watched(RunFolder(tmp_path / "none"), Console(force_terminal=False)):
        pass
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("escape", ESCAPES)
def test_every_escape_is_spelt_out(escape: str) -> None:
    out = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    out.print(words(f"a{escape}b"))
    out.print(f"[bold]{marked(f'a{escape}b')}[/]")
    out.print(listing(f"a{escape}b", "python"))
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert escape not in text.replace("\x1b[1m", "").replace("\x1b[0m", "") and text.count("a\\") == 3
    text.encode()
    assert visible("kept\n\tas it is: ä ␛ 🙂") == "kept\n\tas it is: ä ␛ 🙂"
