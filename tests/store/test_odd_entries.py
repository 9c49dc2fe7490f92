"""Whatever lies in a store is an entry that is sound, one that is broken, or foreign; nobody is held up, led out or shouted at."""

import hashlib
import json
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from coral_core.bounded_read import OddFileError, list_folder, read_file
from coral_core.errors import CoralError, StoreError
from coral_core.jobs.jobs import Evaluation, TrainedAdapter
from coral_core.json_object import json_object
from coral_core.lm.versions import ENGINE_VERSION, RECIPE_VERSION
from coral_core.store.store import Store
from flows.cli import build
from tests.store.odd_files import NAMES, ODD, replace
from tests.store.test_store import DIGEST, judged, published

OTHER = "b" * 64
FILES = ["adapter_config.json", "adapter_model.safetensors", "training.json", "manifest.json"]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail what takes longer: a FIFO would hold it up for ever."""

    def ended(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def code_of(*arguments: str) -> int:
    """Exit code of a command; an error that is none of ours is raised."""
    try:
        with within(60):
            build()(list(arguments))
    except SystemExit as ended:
        return int(ended.code or 0)
    except CoralError as error:
        assert str(error)
        return error.exit_code
    return 0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of one sound adapter and one sound evaluation."""
    made = published(tmp_path / "store")
    made.publish_evaluation(OTHER, judged(OTHER))
    return made


def places(store: Store) -> dict[str, Path]:
    """Everything that may be exchanged."""
    found = {name: store.adapter_path(DIGEST) / name for name in FILES}
    return found | {"adapter": store.adapter_path(DIGEST), "evaluation": store.evaluation_path(OTHER)}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", [*FILES, "adapter", "evaluation"])
def test_any_thing_in_any_place_is_broken_and_done_again(
    store: Store, place: str, odd: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(places(store)[place], odd)
    where = ("--path", str(store.root))
    gone = odd == "gone" and place in ("adapter", "evaluation")
    assert code_of("store", "ls", *where) == 0
    assert code_of("store", "verify", *where) == (0 if gone else 1)
    digest = OTHER if place == "evaluation" else DIGEST
    assert code_of("store", "show", digest[:8], *where) == 3
    assert "\x1b]" not in capsys.readouterr().out
    with within(60):
        assert (store.read_evaluation(OTHER) if place == "evaluation" else store.read_adapter(DIGEST)) is None
        published(store.root)
        store.publish_evaluation(OTHER, judged(OTHER))
    assert store.read_adapter(DIGEST) is not None and store.read_evaluation(OTHER) is not None
    assert code_of("store", "verify", *where) == 0


def test_names_that_are_no_digest_are_foreign_and_are_shown_harmlessly(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES:
        for folder in ("adapters", "evaluations"):
            (store.root / folder / name).write_text("x")
    for odd in ODD:
        ODD[odd](store.root / "adapters" / f"odd-{odd}")
    where = ("--path", str(store.root))
    for command in ("ls", "verify"):
        assert code_of("store", command, *where) == 0
        shown = capsys.readouterr().out
        assert "\x1b" not in shown and "\u202e" not in shown and "two\\x0alines" in shown and "[bold red]" in shown
        assert code_of("store", command, *where, "--json") == 0
        body = json.loads(capsys.readouterr().out)
        assert {"folder": "adapters", "name": "latin-\\udcff", "what": "a file"} in body["foreign"]
    assert len(list(store.entries(check=True))) == 2 and store.size().adapters == 1


@pytest.mark.parametrize(
    "asked", ["../", "../../", "..", ".", "*", "", "?", "[a-f]", "/etc", "a/../..", "~", "A" * 64, "a" * 65, "a\n", "\0", "a*"]
)  # fmt: skip
def test_an_entry_is_named_by_digits_alone(store: Store, asked: str, capsys: pytest.CaptureFixture[str]) -> None:
    (store.root.parent / "secret.json").write_text("{}")
    with pytest.raises(StoreError, match="digest"):
        store.find(asked)
    for names in (store.adapter_path, store.evaluation_path):
        with pytest.raises(StoreError, match="is no digest"):
            names(asked)
    assert store.read_adapter(asked) is None and store.read_evaluation(asked) is None
    assert not store.is_published("adapter", asked)
    if asked:
        assert code_of("store", "show", "--path", str(store.root), "--", asked) in (2, 3)
        assert "secret" not in capsys.readouterr().out


def test_links_within_a_store_are_not_followed_and_the_store_itself_may_be_one(store: Store, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(store.adapter_path(DIGEST), elsewhere)
    store.adapter_path(DIGEST).symlink_to(elsewhere)
    assert store.read_adapter(DIGEST) is None
    published(store.root)
    assert not store.adapter_path(DIGEST).is_symlink() and (elsewhere / "manifest.json").exists()
    (tmp_path / "link").symlink_to(store.root)
    assert Store(tmp_path / "link").read_adapter(DIGEST) is not None
    shutil.move(store.root / "adapters", tmp_path / "adapters")
    (store.root / "adapters").symlink_to(tmp_path / "adapters")
    assert store.read_adapter(DIGEST) is None
    for refused in (store.prepare, lambda: list(store.entries())):
        with pytest.raises(StoreError, match="links within a store are not followed"):
            refused()


def test_a_broken_entry_is_said_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    replace(store.evaluation_path(OTHER), "fifo")
    with caplog.at_level(logging.WARNING, "coral.store"):
        for _ in range(5):
            assert store.read_evaluation(OTHER) is None
    assert caplog.text.count("is broken") == 1 and "a FIFO, not a file" in caplog.text


def test_a_broken_entry_that_cannot_be_moved_is_an_error_with_a_way_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(store.adapter_path(DIGEST), "folder")
    replace(store.evaluation_path(OTHER), "folder")

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(StoreError, match=r"cannot be moved away .Permission denied.*Remove it"):
        published(store.root)
    with pytest.raises(StoreError, match=r"cannot be moved away .Permission denied.*Remove it"):
        store.publish_evaluation(OTHER, judged(OTHER))
    assert not [name for name in os.listdir(store.root / "tmp") if not name.startswith("broken-")]


def enveloped(store: Store, body: Any) -> None:
    """Put `body` into the store as an evaluation with a right checksum."""
    text = body if isinstance(body, str) else json.dumps(body)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    envelope = {"schema_version": 1, "engine_version": ENGINE_VERSION, "sha256": checksum, "evaluation": text}
    store.evaluation_path(OTHER).write_text(json.dumps(envelope))


@pytest.mark.parametrize(
    "body", ["5", "[]", "null", '"x"', "{}", "true", "", "[" * 10_000, '{"a":' * 10_000, "NaN", '{"scores": {"bugfix": 1e999}}']
)  # fmt: skip
def test_bodies_that_are_no_evaluation_are_broken(store: Store, body: str) -> None:
    enveloped(store, body)
    assert store.read_evaluation(OTHER) is None
    assert code_of("store", "verify", "--path", str(store.root)) == 1
    assert code_of("store", "show", OTHER, "--path", str(store.root)) == 3


def first_verdict(**values: object) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["records"][0]["samples"][0]["verdict"].update(values)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["scores"].update(bugfix=1e308),
        lambda body: body["scores"].update(bugfix=-0.1),
        lambda body: body["scores"].update(bugfix="0.5x"),
        lambda body: body["scores"].update(bugfix=None),
        lambda body: body.update(scores=[0.5]),
        lambda body: body.update(pass_at_1=1.0),
        lambda body: body.update(pass_at_k={"2": 7.0}),
        lambda body: body.update(passed=["p"]),
        lambda body: body.update(passed=["elsewhere"]),
        lambda body: body.update(trainable_parameters=-1),
        lambda body: body.update(evaluation_digest="c" * 64),
        lambda body: body.update(evaluation_digest="../" + "c" * 61),
        lambda body: body.update(training_digest="../../etc"),
        lambda body: body.update(split="elsewhere"),
        lambda body: body.update(infeasible="diverged"),
        lambda body: body.update(infeasible="bored"),
        lambda body: body.update(more=1),
        lambda body: body.pop("split"),
        lambda body: body.update(records=[]),
        lambda body: body.update(records=body["records"] * 2),
        lambda body: body.update(cost={"seconds": -1}),
        lambda body: body["records"][0].update(samples=[]) or body.update(pass_at_1=0.5),
        first_verdict(cases=["pass"]),
        first_verdict(cases="pass"),
        first_verdict(cases=[1]),
        first_verdict(cases=None),
        first_verdict(outcome=3),
        first_verdict(now_passing=-1),
        first_verdict(lines=-7),
    ],
)
def test_an_evaluation_that_contradicts_itself_is_broken(
    store: Store, change: Callable[[dict[str, Any]], None]
) -> None:
    body = judged(OTHER).model_dump(mode="json")
    change(body)
    enveloped(store, body)
    assert store.read_evaluation(OTHER) is None
    assert code_of("store", "verify", "--path", str(store.root)) == 1


def test_a_key_that_stands_twice_is_no_evaluation(store: Store) -> None:
    body = judged(OTHER).model_dump_json()
    enveloped(store, body.replace('"pass_at_1":0.0', '"pass_at_1":1.0,"pass_at_1":0.0'))
    assert store.read_evaluation(OTHER) is None


def test_nobody_publishes_what_nobody_would_read(store: Store) -> None:
    for changed in (
        judged(OTHER).model_copy(update={"scores": {"bugfix": float("nan")}}),
        judged(OTHER).model_copy(update={"pass_at_1": 0.5}),
    ):
        with pytest.raises(StoreError, match="is not published, because"):
            store.publish_evaluation(OTHER, changed)
    assert store.read_evaluation(OTHER) == judged(OTHER)


def resealed(store: Store, change: Callable[[Path, dict[str, Any]], None]) -> None:
    """Change an adapter and its manifest, whose checksums are made right again afterwards where they can be."""
    folder = store.adapter_path(DIGEST)
    manifest = json.loads((folder / "manifest.json").read_text())
    change(folder, manifest)
    for name in manifest["files"] if isinstance(manifest["files"], dict) else ():
        path = folder / name
        if path.is_file() and manifest["files"][name] is not None:
            data = path.read_bytes()
            manifest["files"][name] = hashlib.sha256(data).hexdigest()
            if isinstance(manifest.get("bytes"), dict) and name in manifest["bytes"]:
                manifest["bytes"][name] = len(data)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def record(**values: object) -> Callable[[Path, dict[str, Any]], None]:
    def change(folder: Path, manifest: dict[str, Any]) -> None:
        found = json.loads((folder / "training.json").read_text())
        (folder / "training.json").write_text(json.dumps(found | values))

    return change


@pytest.mark.parametrize(
    "change",
    [
        record(trainable_parameters="seven"),
        record(trainable_parameters=-7),
        record(losses=5),
        record(losses=[{"step": 1, "loss": "x"}]),
        record(infeasible="bored"),
        record(training_digest="c" * 64),
        record(cost={"seconds": 1e308}),
        record(more=1),
        lambda folder, manifest: (folder / "training.json").write_text("[]"),
        lambda folder, manifest: (folder / "more.bin").write_text("x"),
        lambda folder, manifest: (folder / "more").mkdir(),
        lambda folder, manifest: manifest["files"].update({"../../secret": "0" * 64}),
        lambda folder, manifest: manifest["files"].update({"/etc/passwd": "0" * 64}),
        lambda folder, manifest: manifest["files"].update({"gone": "0" * 64}),
        lambda folder, manifest: manifest["files"].update({"adapter_model.safetensors": None}),
        lambda folder, manifest: manifest["files"].pop("adapter_model.safetensors"),
        lambda folder, manifest: manifest["bytes"].update({"x": 1}),
        lambda folder, manifest: manifest.update(bytes=[]),
        lambda folder, manifest: manifest.update(files=[]),
        lambda folder, manifest: manifest.update(digest="c" * 64),
    ],
)
def test_an_adapter_whose_record_or_manifest_is_odd_is_broken(
    store: Store, change: Callable[[Path, dict[str, Any]], None], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("x")
    resealed(store, change)
    assert store.read_adapter(DIGEST) is None
    assert code_of("store", "verify", "--path", str(store.root)) == 1
    published(store.root)
    assert store.read_adapter(DIGEST) is not None


def test_what_desktops_leave_in_a_folder_breaks_no_adapter(store: Store) -> None:
    for name in (".DS_Store", "._training.json", "Thumbs.db", "desktop.ini"):
        (store.adapter_path(DIGEST) / name).write_text("x")
    assert store.read_adapter(DIGEST) is not None


@pytest.mark.parametrize("key", ["bytes", "engine_version", "recipe_version"])
def test_an_adapter_whose_manifest_leaves_something_out_is_broken(store: Store, key: str) -> None:
    resealed(store, lambda _, manifest: manifest.pop(key))
    assert store.read_adapter(DIGEST) is None
    assert [entry.sound for entry in store.entries(check=True)] == [False, True]


def test_entries_of_other_versions_are_told_apart_and_cleared(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--path", str(store.root))
    assert [(entry.version, entry.current) for entry in store.entries()] == [
        (RECIPE_VERSION, True),
        (ENGINE_VERSION, True),
    ]
    monkeypatch.setattr("coral_core.store.store.ENGINE_VERSION", "77")
    assert code_of("store", "ls", *where) == 0 and f"engine {ENGINE_VERSION} (other)" in capsys.readouterr().out
    assert code_of("store", "verify", *where) == 0 and "1 made by another version" in capsys.readouterr().out
    assert code_of("store", "clear", *where) == 2
    assert code_of("store", "clear", "--other-versions", *where) == 0
    assert "would be removed" in capsys.readouterr().out and store.read_evaluation(OTHER) is not None
    assert code_of("store", "clear", "--other-versions", "--yes", *where) == 0
    assert store.read_evaluation(OTHER) is None and store.read_adapter(DIGEST) is not None
    replace(store.adapter_path(DIGEST), "fifo")
    published(store.root)  # sets the FIFO aside
    replace(store.adapter_path(DIGEST), "folder")
    assert code_of("store", "clear", "--broken", "--yes", *where) == 0
    assert not list(store.entries()) and not os.listdir(store.root / "tmp")


@pytest.mark.parametrize("odd", [name for name in ODD if name != "gone"])
def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "file"
    ODD[odd](path)
    with within(20):
        try:
            assert len(read_file(path, 2**25)) <= 2**25
        except OddFileError as error:
            assert error.strerror
        for reads in (lambda: read_file(path, 2**25), lambda: json_object(read_file(path, 2**25))):
            try:
                reads()
            except (OSError, ValueError):
                continue


def test_reading_stays_below_its_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "root" / "out").symlink_to(tmp_path)
    for path in ("root/../secret", "root/out/secret", "secret"):
        with pytest.raises(OSError):
            read_file(tmp_path / path, 10, tmp_path / "root")
    with pytest.raises(OSError):
        list_folder(tmp_path / "root" / "out", tmp_path / "root")
    with pytest.raises(OddFileError, match=r"10 are read at most|more than 10"):
        (tmp_path / "root" / "large").write_text("x" * 11)
        read_file(tmp_path / "root" / "large", 10)


def test_an_infeasible_result_is_sound(store: Store) -> None:
    adapter = TrainedAdapter(training_digest="c" * 64, infeasible="diverged", reason="loss is NaN")
    store.publish_adapter("c" * 64, store.scratch(), adapter)
    evaluation = Evaluation(
        evaluation_digest="d" * 64, training_digest="c" * 64, split="fitness", infeasible="diverged"
    )
    store.publish_evaluation("d" * 64, evaluation)
    assert store.read_adapter("c" * 64) == adapter and store.read_evaluation("d" * 64) == evaluation
    assert code_of("store", "verify", "--path", str(store.root)) == 0
