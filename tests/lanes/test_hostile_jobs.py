"""A lane of a store that others can write to: what a ticket names is held to the lane's roots, and its neighbours are done."""

from pathlib import Path

from coral_core.config import RunConfig
from coral_core.jobs.job_content import job_for_patch
from coral_core.jobs.jobs import IdentityJob, Job, TestJob, kind_of
from coral_core.lanes.allowed_paths import ALL, Roots, variable
from coral_core.lanes.worker import LaneWorker
from coral_core.ledger import Ledger
from coral_core.queue.queue import JobQueue, Ticket
from coral_core.store.store import Store

FIXED = "def first_index(values, wanted):\n    return -1\n"


def package(folder: Path) -> Path:
    """A directory whose tests leave a trace when they run."""
    folder.mkdir()
    (folder / "test_it.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n\ndef test_it():\n    pass\n")
    return folder


def worked(store: Store, jobs: list[Job], roots: Roots) -> dict[str, str]:
    """Digest -> what the lane said of it; empty for a job that it did."""
    queue = JobQueue(store, "evaluation")
    queue.prepare()
    ledger = Ledger(store)
    ledger.set_budget("somebody", RunConfig().budget)
    for job in jobs:
        data = job.model_dump(mode="json")
        queue.submit(Ticket(kind=kind_of(job), digest=job.digest(), run_id="somebody", job=data, seconds=60))
    assert LaneWorker(store, queue, linger=0.5, ledger=ledger, roots=roots).run() == "idle"
    failed = {found.ticket.digest: found.ticket.failures[-1] for found in queue.all_failed()}
    assert {failure.error for failure in failed.values()} <= {"ConfigError"}
    return {job.digest(): failed[job.digest()].message if job.digest() in failed else "" for job in jobs}


def test_hostile_tickets_fail_with_the_reason_and_the_honest_one_is_judged(tmp_path: Path) -> None:
    store = Store(tmp_path / "in" / "store")
    store.prepare()
    code = package(tmp_path / "in" / "package")
    (tmp_path / "bugs.jsonl").write_text("")
    honest = job_for_patch(RunConfig(), "builtin/fitness/first-index/0000", FIXED)

    def test_of(source: str, path: Path, patch: str) -> TestJob:
        named = honest.problems.model_copy(update={"source": source, "path": str(path)})
        return honest.model_copy(update={"problems": named, "patch": patch})

    base = RunConfig().base_model
    said = worked(
        store,
        [
            test_of("package", code, "a"),
            test_of("quixbugs", code, "b"),
            test_of("jsonl", tmp_path / "bugs.jsonl", "c"),
            honest.model_copy(
                update={"judge": honest.judge.model_copy(update={"allow_missing_layers": ("landlock",)}), "patch": "d"}
            ),
            IdentityJob(queue="evaluation", base_model=base.model_copy(update={"name": str(tmp_path)})),
            honest,
        ],
        Roots.of_environment({ALL: str(tmp_path / "in")}),
    )
    words = (
        "CORAL_ROOTS_CODE",
        "CORAL_ROOTS_CODE",
        "CORAL_ROOTS_PROBLEMS",
        "CORAL_ALLOW_MISSING_LAYERS",
        "CORAL_ROOTS_MODELS",
    )
    for message, word in zip(list(said.values())[:-1], words, strict=True):
        assert word in message
    assert said[honest.digest()] == "" and JobQueue(store, "evaluation").is_done(honest.digest(), "0-")
    assert not (code / "ran").exists()


def test_code_of_a_folder_that_was_named_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    code = package(tmp_path / "package")
    honest = job_for_patch(RunConfig(), "builtin/fitness/first-index/0000", FIXED)
    job = honest.model_copy(
        update={"problems": honest.problems.model_copy(update={"source": "package", "path": str(code)})}
    )
    said = worked(store, [job], Roots.of_environment({ALL: str(tmp_path), variable("code"): str(code)}))
    assert "no Python" in said[job.digest()] or "function" in said[job.digest()], (
        "it went on to look for functions there"
    )


def test_names_in_the_queue_are_held_to_what_runs_are_called(tmp_path: Path) -> None:
    """Folders, notes and tickets that somebody else wrote name no other run, and no place outside the store."""
    store = Store(tmp_path / "in" / "store")
    store.prepare()
    queue = JobQueue(store, "evaluation")
    queue.prepare()
    job = job_for_patch(RunConfig(), "builtin/fitness/first-index/0000", FIXED)
    ticket = Ticket(kind="test", digest=job.digest(), run_id="somebody", job=job.model_dump(mode="json"), seconds=60)
    queue.submit(ticket)
    for name in ("\x1b[31mred", "a\nb", "-rf", "..x", "x" * 200):
        (queue.root / "tickets" / name).mkdir()
        (queue.root / "tickets" / name / ticket.file).write_text(ticket.model_dump_json())
    (queue.root / "tickets" / "other").mkdir()
    (queue.root / "tickets" / "other" / ticket.file).write_text(ticket.model_dump_json())
    assert queue.runs() == ["other", "somebody"]
    assert queue.waiting("other") == [] and queue.waiting("somebody") == [ticket]
    assert queue.tickets_for(ticket.digest) == [ticket]


def test_a_ticket_of_another_folder_is_not_served(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    queue = JobQueue(store, "evaluation")
    queue.prepare()
    job = job_for_patch(RunConfig(), "builtin/fitness/first-index/0000", FIXED)
    ticket = Ticket(kind="test", digest=job.digest(), run_id="somebody", job=job.model_dump(mode="json"), seconds=60)
    (queue.root / "tickets" / "other").mkdir()
    (queue.root / "tickets" / "other" / ticket.file).write_text(ticket.model_dump_json())
    assert queue.take("lane") is None and queue.claims() == []
