"""A base model is identified by every file that changes what it does, and by nothing else."""

import errno
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coral_core.config.tree import BaseModelConfig
from coral_core.errors import BaseModelError, CoralError, EngineError
from coral_core.lm.base_model import TINY, identify, lasting_name
from coral_core.lm.model_files import changes_nothing, content_id, header, is_passing, read_folder

EXTRA = {
    "merges.txt": "#version: 0.2\na b\n",
    "vocab.txt": "a\nb\n",
    "tokenizer.model": "spm",
    "chat_template.jinja": "{{ messages }}",
    "chat_templates/tool.jinja": "{{ tools }}",
    "special_tokens_map.json": '{"eos_token": "<eos>"}',
    "added_tokens.json": "{}",
    "modeling_own.py": "x = 1\n",
    "pytorch_model.bin": "pickle",
    "model.gguf": "GGUF",
    "onnx/model.onnx": "onnx",
    "preprocessor_config.json": "{}",
}
HARMLESS = {
    "README.md": "# A model",
    "LICENSE": "Apache",
    "LICENSE.txt": "Apache",
    "USE_POLICY.md": "be good",
    ".gitattributes": "*.bin filter=lfs",
    ".git/config": "[core]",
    ".cache/huggingface/x.lock": "",
    "banner.png": "png",
    "pretraining.json": "{}",
}
EMBEDDED = "46e0b8af27e530fc163952059960437ae3405cf5720fb7cac375040c051fcc40"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of coral-tiny with one file of every kind beside it."""
    made = tmp_path / "model"
    shutil.copytree(TINY, made)
    for name, text in (EXTRA | HARMLESS).items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


def test_the_embedded_model_keeps_its_identity() -> None:
    assert identify(BaseModelConfig()).content_id == EMBEDDED


def names_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_each_file_in_turn_changed_removed_renamed_and_put_back(folder: Path) -> None:
    before = content_id(folder)
    assert content_id(folder) == before
    for name in names_of(folder):
        path, data = folder / name, (folder / name).read_bytes()
        counts = name not in HARMLESS
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:] if data else b"x")
        assert (content_id(folder) != before) == counts, f"{name} changed"
        path.unlink()
        assert (content_id(folder) != before) == counts, f"{name} removed"
        renamed = path.with_name(f"other-{path.name.lstrip('.')}.json")
        renamed.write_bytes(data)
        if not name.startswith("."):  # what lies in a hidden folder stays unseen
            assert content_id(folder) != before, f"{name} renamed"
        renamed.unlink()
        path.write_bytes(data)
        assert content_id(folder) == before, f"{name} put back"


def test_a_file_rewritten_with_the_same_size_and_times_is_noticed(folder: Path) -> None:
    """Neither the folder's time nor the file's size nor, where somebody sets it back, its own time tells."""
    path = folder / "merges.txt"
    before, state, of_folder = content_id(folder), path.stat(), folder.stat()
    path.write_text(path.read_text().replace("a b", "b a"))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    os.utime(folder, ns=(of_folder.st_atime_ns, of_folder.st_mtime_ns))
    assert path.stat().st_size == state.st_size and content_id(folder) != before


@pytest.mark.parametrize("name", ["new.json", "chat_templates/b.jinja", "tokenizer2.model", "CODE.py", "readme.py"])
def test_an_added_file_changes_the_identity(folder: Path, name: str) -> None:
    before = content_id(folder)
    (folder / name).write_text("something")
    assert content_id(folder) != before and not changes_nothing(Path(name).name)


def test_links_into_a_cache_are_followed_and_loops_end(folder: Path, tmp_path: Path) -> None:
    """A snapshot of the hub's cache is a folder of links to files that are named for their content."""
    plain = content_id(folder)
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    for number, name in enumerate(names_of(folder)):
        shutil.copy(folder / name, blobs / str(number))
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blobs / str(number))
    assert content_id(snapshot) == plain
    (snapshot / "merges.txt").resolve().write_text("other")
    assert content_id(snapshot) != plain
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "nowhere.json").symlink_to(tmp_path / "missing")
    assert content_id(folder) == plain


def test_what_is_no_file_is_refused_and_not_read(folder: Path) -> None:
    os.mkfifo(folder / "pipe.json")
    with pytest.raises(BaseModelError, match=r"pipe\.json: no regular file"):
        content_id(folder)


def test_a_relative_name_lasts_as_a_whole_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    for name in ("./model", "model", "../" + folder.parent.name + "/model"):
        lasting = lasting_name(BaseModelConfig(name=name))
        assert Path(lasting).is_absolute() and Path(lasting).samefile(folder)
    for name in ("coral-tiny", "rehearsal:train=1", "owner/model"):
        assert lasting_name(BaseModelConfig(name=name)) == name


def damaged(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return do


def replaced(name: str, text: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_text(text)

    return do


def entry(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut off": (damaged(lambda data: data[:-1]), "cut off or damaged"),
    "too long": (damaged(lambda data: data + b"x"), "cut off or damaged"),
    "empty": (damaged(lambda data: b""), "not a safetensors file"),
    "header length": (damaged(lambda data: b"\xff" * 8 + data[8:]), "a header of"),
    "header no JSON": (damaged(lambda data: data[:8] + b"[" + data[9:]), "not a safetensors file"),
    "nested": (damaged(lambda data: entry('{"a":' * 20_000)), "not a safetensors file"),
    "negative shape": (damaged(lambda data: entry('{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}')), "is described by"),
    "wrong bytes": (damaged(lambda data: entry('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 0]}}')), "has 0 bytes for shape"),
    "no offsets": (damaged(lambda data: entry('{"a": {"dtype": "F32", "shape": [2]}}')), "not a safetensors file"),
    "pickled": (replaced("pytorch_model.bin", "x"), r"pickled.*save_pretrained"),
    "gguf": (lambda folder: [replaced("m.gguf", "x")(folder), (folder / "pytorch_model.bin").unlink()], "GGUF"),
    "other name": (lambda folder: (folder / "model.safetensors").rename(folder / "weights.safetensors"), "no weights: model.safetensors is not there"),
    "shards missing": (replaced("model.safetensors.index.json", '{"weight_map": {"a": "b.safetensors", "c": "d.safetensors"}}'), "b.safetensors, d.safetensors are not there"),
    "shards outside": (replaced("model.safetensors.index.json", '{"weight_map": {"a": "../b.safetensors"}}'), "no weight_map of file names of this folder"),
    "index no map": (replaced("model.safetensors.index.json", '{"weight_map": [1]}'), "no weight_map"),
    "config no object": (lambda folder: (folder / "config.json").write_text("[1]"), r"config\.json: no JSON object"),
    "config broken": (lambda folder: (folder / "config.json").write_text('{"a": '), r"config\.json: no JSON object"),
    "config nested": (lambda folder: (folder / "config.json").write_text('{"a":' * 100_000), r"config\.json: no JSON object"),
    "config not text": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"), r"config\.json: no JSON object"),
    "config missing": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "config a pipe": (lambda folder: [(folder / "config.json").unlink(), os.mkfifo(folder / "config.json")], "a FIFO, not a file"),
    "generation broken": (lambda folder: (folder / "generation_config.json").write_text("1"), r"generation_config\.json: no JSON object"),
    "adapter beside": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "Merge the adapter"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_refused_with_their_name(folder: Path, case: str) -> None:
    change, words = WRONG[case]
    change(folder)
    with pytest.raises(BaseModelError, match=words) as caught:
        read_folder(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_sharded_model_reads_as_a_whole_one(folder: Path) -> None:
    whole = read_folder(folder).tensors
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    (folder / "model.safetensors").unlink()
    places = ", ".join(f'"{name}": "{file}"' for file, part in halves.items() for name in part)
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{places}}}}}')
    assert read_folder(folder).tensors == whole
    assert torch.__version__


def test_a_header_is_read_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(entry('{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'))
    assert set(header(path)) == {"a"}
    path.write_bytes(entry('{"b": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'))
    assert set(header(path)) == {"b"}


def raised(error: Exception, *causes: Exception) -> Exception:
    """`error`, raised from the others in turn."""
    last = error
    for cause in causes:
        last.__cause__ = cause
        last = cause
    return error


class TransportError(Exception):
    """As HTTP clients call theirs."""


PASSING = {
    "disk": OSError(errno.EIO, "Input/output error"),
    "mount": OSError(errno.ESTALE, "Stale file handle"),
    "files": OSError(errno.EMFILE, "Too many open files"),
    "time": TimeoutError("timed out"),
    "connection": ConnectionResetError("reset"),
    "in words": RuntimeError("I/O error: Input/output error (os error 5)"),
    "wrapped": raised(OSError("We couldn't connect to the hub"), OSError("no entry"), TransportError("no route")),
}
LASTING = {
    "absent": FileNotFoundError(errno.ENOENT, "No such file"),
    "forbidden": PermissionError(errno.EACCES, "Permission denied"),
    "a folder": IsADirectoryError(errno.EISDIR, "Is a directory"),
    "no number": OSError("folder does not appear to have a file named config.json"),
    "in words": RuntimeError("I/O error: No such file or directory (os error 2)"),
    "no error of the system": ValueError("nonsense"),
}


@pytest.mark.parametrize("name", PASSING)
def test_an_error_of_the_system_is_not_the_files(name: str) -> None:
    assert is_passing(PASSING[name])


@pytest.mark.parametrize("name", LASTING)
def test_an_error_of_the_file_is_not_the_systems(name: str) -> None:
    assert not is_passing(LASTING[name])


@pytest.mark.parametrize(("code", "kind"), [(errno.EIO, EngineError), (errno.EACCES, BaseModelError)])
@pytest.mark.parametrize("step", ["content", "header", "list"])
def test_a_disk_that_fails_does_not_condemn_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[CoralError], step: str
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr({"list": "os.scandir", "header": "os.open", "content": "builtins.open"}[step], broken)
        with pytest.raises(kind, match="base model file"):
            header(folder / "model.safetensors") if step == "header" else content_id(folder)
    assert content_id(folder) and header(folder / "model.safetensors"), "what failed is not remembered"
