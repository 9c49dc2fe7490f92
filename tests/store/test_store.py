"""The store: atomic publication, checked reads, errors that a person can act on."""

import errno
import json
import logging
import os
from pathlib import Path

import pytest

from coral_core.errors import StoreError
from coral_core.jobs.jobs import Evaluation, ProblemRecord, Sample, TrainedAdapter
from coral_core.store.store import Store

DIGEST = "a" * 64


def judged(digest: str = DIGEST, passes: bool = False) -> Evaluation:
    """An evaluation of one bug."""
    verdict = {"outcome": "fixed" if passes else "wrong-value", "cases": ["pass"] if passes else ["wrong"]}
    sample = Sample(completion="x", patch="x", extraction="whole", verdict=verdict)
    record = ProblemRecord(problem_id="p", bug_class="index", retention=False, samples=(sample,))
    return Evaluation(
        evaluation_digest=digest,
        training_digest="none",
        split="fitness",
        scores={"bugfix": 0.25},
        pass_at_1=float(passes),
        passed=("p",) if passes else (),
        records=(record,),
    )


def published(root: Path, digest: str = DIGEST) -> Store:
    store = Store(root)
    store.prepare()
    scratch = store.scratch()
    (scratch / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (scratch / "adapter_model.safetensors").write_bytes(b"weights" * 100)
    store.publish_adapter(digest, scratch, TrainedAdapter(training_digest=digest, trainable_parameters=7))
    return store


def test_an_adapter_comes_back_as_published(tmp_path: Path) -> None:
    store = published(tmp_path)
    record = store.read_adapter(DIGEST)
    assert record is not None and record.trainable_parameters == 7
    assert [entry.kind for entry in store.entries(check=True)] == ["adapter"]
    assert not list((tmp_path / "tmp").iterdir())


def test_all_lanes_may_read_weights_that_a_library_wrote_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        store = Store(tmp_path)
        store.prepare()
        scratch = store.scratch()
        (scratch / "adapter_model.safetensors").touch(0o600)
        store.publish_adapter(DIGEST, scratch, TrainedAdapter(training_digest=DIGEST, trainable_parameters=7))
    finally:
        os.umask(before)
    folder = store.adapter_path(DIGEST)
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
        ("adapter_model.safetensors", "manifest.json", "training.json"), 0o640
    )


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "training.json", "manifest.json"])
@pytest.mark.parametrize("how", ["truncate", "edit", "remove"])
def test_a_broken_adapter_counts_as_absent_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, how: str
) -> None:
    store = published(tmp_path)
    victim = store.adapter_path(DIGEST) / name
    if how == "remove":
        victim.unlink()
    elif how == "truncate":
        victim.write_bytes(victim.read_bytes()[:1])
    else:
        victim.write_bytes(victim.read_bytes() + b" x")
    with caplog.at_level(logging.WARNING, "coral.store"):
        assert store.read_adapter(DIGEST) is None
    assert "broken" in caplog.text and DIGEST[:12] in caplog.text
    assert not next(store.entries(check=True)).sound
    published(tmp_path)  # made again in its place
    assert store.read_adapter(DIGEST) is not None


NO_OBJECT = {
    "list": "[]",
    "number": "7",
    "files": json.dumps({"files": [], "digest": DIGEST}),
    "above": json.dumps({"files": {"..": 1}, "digest": DIGEST}),
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", NO_OBJECT.values(), ids=NO_OBJECT)
def test_what_is_no_manifest_or_envelope_makes_a_broken_entry(tmp_path: Path, text: str) -> None:
    store = published(tmp_path)
    (store.adapter_path(DIGEST) / "manifest.json").write_text(text)
    store.evaluation_path(DIGEST).write_text(text)
    assert store.read_adapter(DIGEST) is None and store.read_evaluation(DIGEST) is None
    assert not any(entry.sound for entry in store.entries(check=True))


def test_an_adapter_without_weights_is_broken_unless_infeasible(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    store.publish_adapter(DIGEST, store.scratch(), TrainedAdapter(training_digest=DIGEST))
    assert store.read_adapter(DIGEST) is None
    other = "b" * 64
    record = TrainedAdapter(training_digest=other, infeasible="diverged", reason="loss is NaN at step 3")
    store.publish_adapter(other, store.scratch(), record)
    assert store.read_adapter(other) == record


def test_the_first_publication_of_a_digest_stays(tmp_path: Path) -> None:
    store = published(tmp_path)
    scratch = store.scratch()
    (scratch / "adapter_model.safetensors").write_bytes(b"other")
    store.publish_adapter(DIGEST, scratch, TrainedAdapter(training_digest=DIGEST, trainable_parameters=99))
    record = store.read_adapter(DIGEST)
    assert record is not None and record.trainable_parameters == 7


def test_evaluations_are_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    store.prepare()
    evaluation = judged()
    store.publish_evaluation(DIGEST, evaluation)
    assert store.read_evaluation(DIGEST) == evaluation
    path = store.evaluation_path(DIGEST)
    envelope = json.loads(path.read_text())
    envelope["evaluation"] = envelope["evaluation"].replace("0.25", "0.95")
    path.write_text(json.dumps(envelope))
    with caplog.at_level(logging.WARNING, "coral.store"):
        assert store.read_evaluation(DIGEST) is None
    assert "checksum" in caplog.text
    store.publish_evaluation(DIGEST, evaluation)
    assert store.read_evaluation(DIGEST) == evaluation


def test_an_entry_copied_under_another_digest_is_refused(tmp_path: Path) -> None:
    store = published(tmp_path)
    other = "c" * 64
    os.rename(store.adapter_path(DIGEST), store.adapter_path(other))
    assert store.read_adapter(other) is None


def test_a_full_disk_is_named_and_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.prepare()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    scratch = store.scratch()
    monkeypatch.setattr("coral_core.store.store.write_synced", full)
    with pytest.raises(StoreError, match="the disk is full"):
        store.publish_adapter(DIGEST, scratch, TrainedAdapter(training_digest=DIGEST))
    with pytest.raises(StoreError, match="the disk is full"):
        store.publish_evaluation(DIGEST, judged())
    assert not list((tmp_path / "adapters").iterdir()) and not list((tmp_path / "evaluations").iterdir())
    assert not list((tmp_path / "tmp").iterdir())


def test_a_store_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        Store(tmp_path / "file" / "store").prepare()


def test_remote_urls_are_refused_in_words() -> None:
    with pytest.raises(StoreError, match="Give a directory, local or mounted"):
        Store("s3://bucket/store")
