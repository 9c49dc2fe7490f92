"""A real run and its store, damaged on purpose: every command names what it cannot read, and none calls it sound.

Damage is drawn by seed: other things in the place of a file, other bytes, other JSON. Every command runs in this process,
within a time limit, since a FIFO or a device would hold it up for ever.
"""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coral_core.errors import CoralError
from coral_core.jobs.jobs import Evaluation
from coral_core.report.report_files import write_report
from coral_core.report.series import tracked
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store
from tests.rehearsal_runs import Coral
from tests.store.odd_files import ODD, replace
from tests.store.test_odd_entries import code_of, within

pytestmark = pytest.mark.server

OF_RUN = [
    "config.yaml", "run.json", "base_model.json", "start.json", "history.jsonl", "timings.jsonl", "lock", "beat",
    "report.html", "report.json", "genomes.csv", "pictures", "champion", "champion/genome.json",
    "champion/adapter_model.safetensors",
]  # fmt: skip
OF_STORE = ["manifest.json", "training.json", "adapter_model.safetensors", "adapter_config.json", "", "evaluation"]
CLAIMED = {"run.json", "base_model.json", "history.jsonl", "champion/genome.json", "champion/adapter_model.safetensors"}
"""Files of a run of which `coral verify` says that it looked at their content."""
DRAWS = int(os.environ.get("CORAL_DAMAGE", "60"))
"""Cases of each kind in the slow suite, about two seconds each; CORAL_DAMAGE=10000 draws every odd thing in every place."""
VALUES: list[Any] = [
    None, True, 5, -1, 0.5, 1e308, -1e308, 10**60, "", "x\x1b[31m", "../../etc/passwd", "\ud7ff", "a" * 5000, [], {}, [[]],
    {"a": 1}, [None] * 50,
]  # fmt: skip


@pytest.fixture(scope="module")
def original(finished: Coral, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run and its store, in folders that lie beside each other wherever they are copied."""
    place = tmp_path_factory.mktemp("original")
    shutil.copytree(finished.runs, place / "runs")
    config = next((place / "runs").glob("*/config.yaml"))
    config.write_text(config.read_text().replace(str(finished.runs), "runs"))
    return place


@pytest.fixture
def run(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy to be damaged; commands are called from the folder that it was started in."""
    shutil.copytree(original, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    for name in ("PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CORAL_HOME", str(tmp_path / "home"))
    return RunFolder(next((tmp_path / "place" / "runs").glob("*/run.json")).parent)


def used(run: RunFolder) -> tuple[str, str]:
    """Digests of the champion's adapter and of its held-out evaluation."""
    line = run.history()[-1].held_out[0]
    return line.training_digest, line.evaluation_digest


def place_of(run: RunFolder, store: Store, place: str) -> Path:
    if place in OF_RUN:
        return run.path / place
    adapter, evaluation = used(run)
    return store.evaluation_path(evaluation) if place == "evaluation" else store.adapter_path(adapter) / place


def all_commands(run: RunFolder, quick: bool = False) -> dict[str, int]:
    """Exit code of everything that reads a run or a store and needs no server; 70 and no end are failures of the test."""
    name = str(run.path)
    commands = {
        "ls": ("store", "ls", "--path", "runs/store"),
        "store verify": ("store", "verify", "--path", "runs/store", "--json"),
        "verify": ("verify", name, "--sample", "0"),
        "verify --json": ("verify", name, "--sample", "0", "--json"),
        "show": ("show", name, "champion", "--limit", "1"),
        "held-out": ("show", name, "champion", "--split", "held-out", "--json"),
        "progress": ("progress", name),
        "runs": ("runs",),
        "status": ("status", "--json"),
        "budget": ("budget", name),
        "report": ("report", name, "--json"),
    }
    if quick:
        for left in ("report", "verify --json", "status", "budget"):
            del commands[left]
    codes = {command: code_of(*arguments) for command, arguments in commands.items()}
    if not quick:
        with within(60):
            try:
                tracked(run, write_report(run, Store("runs/store"), run.path / "exported"), run.path / "exported")
            except Exception as error:
                assert type(error).__name__ in ("StoreError", "ConfigError"), error
    return codes


def drawn(seed: int, count: int) -> list[tuple[str, str]]:
    """(place, odd thing) pairs."""
    pairs = [(place, odd) for place in OF_RUN + OF_STORE for odd in ODD]
    return random.Random(seed).sample(pairs, min(count, len(pairs)))


def check_odd(run: RunFolder, place: str, odd: str) -> None:
    store = Store("runs/store")
    path = place_of(run, store, place)
    if odd == "gone" and not path.exists():
        return
    replace(path, odd)
    codes = all_commands(run)
    if place in OF_STORE:
        assert codes["verify"] == 1, (place, odd)
        assert codes["store verify"] == (0 if odd == "gone" and place in ("", "evaluation") else 1), (place, odd)
    if place in CLAIMED | {"config.yaml", "start.json"} and odd != "gone":
        assert codes["verify"] in (1, 2, 3), (place, odd)
    assert codes["runs"] == codes["status"] == codes["ls"] == 0


@pytest.mark.parametrize(("place", "odd"), drawn(1, 2))
def test_odd_things_in_the_place_of_a_file(run: RunFolder, place: str, odd: str) -> None:
    check_odd(run, place, odd)


@pytest.mark.slow(reason="a hundred more places")
@pytest.mark.parametrize(("place", "odd"), drawn(0, DRAWS))
def test_more_odd_things_in_the_place_of_a_file(run: RunFolder, place: str, odd: str) -> None:
    check_odd(run, place, odd)


def test_what_nobody_damaged_is_sound(run: RunFolder) -> None:
    assert set(all_commands(run).values()) == {0}


def check_bytes(run: RunFolder, seed: int) -> None:
    """Other bytes in a file of the store, or of the run, whose content `coral verify` says that it checks."""
    rng = random.Random(seed)
    store = Store("runs/store")
    place = rng.choice([name for name in OF_STORE if name] + sorted(CLAIMED))
    path = place_of(run, store, place)
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    how = rng.choice(("flip", "cut", "insert", "swap"))
    if how == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[at:]
    elif how == "insert":
        data[at:at] = rng.randbytes(3)
    else:
        data[:at], data[at:] = data[at:], data[:at]
    before = meaning(path)
    path.write_bytes(bytes(data))
    codes = all_commands(run, quick=True)
    if meaning(path) != before:
        assert codes["verify"] in (1, 2, 3), (place, how, at)


def meaning(path: Path) -> object:
    """What a file says: JSON without its layout."""
    data = path.read_bytes()
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in data.split(b"\n")[:-1]]
        return json.loads(data)
    except (ValueError, RecursionError):
        return data


@pytest.mark.parametrize("seed", range(2))
def test_other_bytes(run: RunFolder, seed: int) -> None:
    check_bytes(run, seed)


@pytest.mark.slow(reason="a hundred more places")
@pytest.mark.parametrize("seed", range(2, 2 + DRAWS))
def test_other_bytes_in_many_places(run: RunFolder, seed: int) -> None:
    check_bytes(run, seed)


def leaves(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in a JSON value."""
    yield where
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*where, key))
    elif isinstance(value, list):
        for number in range(min(len(value), 3)):
            yield from leaves(value[number], (*where, number))


def changed(value: Any, rng: random.Random) -> Any:
    """`value` with one thing in it exchanged, taken out, doubled or added."""
    copy = json.loads(json.dumps(value))
    *way, last = rng.choice([where for where in leaves(copy) if where] or [(0,)])
    inner = copy
    for step in way:
        inner = inner[step]
    how = rng.choice(("exchange", "exchange", "exchange", "take out", "double", "add"))
    if how == "exchange":
        inner[last] = rng.choice(VALUES)
    elif how == "take out":
        del inner[last]
    elif how == "double" and isinstance(inner, list):
        inner.append(inner[last])
    else:
        inner[last] = {"more": inner[last]}
    return copy


def mutate_history(run: RunFolder, store: Store, rng: random.Random) -> bool:
    lines = (run.path / "history.jsonl").read_text().splitlines()
    number = rng.randrange(len(lines))
    before = run.history()
    lines[number] = json.dumps(changed(json.loads(lines[number]), rng))
    (run.path / "history.jsonl").write_text("\n".join([*lines, ""]))
    try:
        return run.history() != before  # a key taken out that has its default changes nothing
    except CoralError:
        return True


def mutate_timings(run: RunFolder, store: Store, rng: random.Random) -> bool:
    lines = (run.path / "timings.jsonl").read_text().splitlines()
    number = rng.randrange(len(lines))
    lines[number] = json.dumps(changed(json.loads(lines[number]), rng))
    (run.path / "timings.jsonl").write_text("\n".join([*lines, ""]))
    return False


def mutate_file(name: str, claimed: bool) -> Callable[[RunFolder, Store, random.Random], bool]:
    def mutate(run: RunFolder, store: Store, rng: random.Random) -> bool:
        path = run.path / name
        path.write_text(json.dumps(changed(json.loads(path.read_text()), rng)))
        return claimed

    return mutate


def mutate_evaluation(run: RunFolder, store: Store, rng: random.Random) -> bool:
    """With a right checksum: the content alone gives it away."""
    path = store.evaluation_path(used(run)[1])
    envelope = json.loads(path.read_text())
    before = json.loads(envelope["evaluation"])
    after = changed(before, rng)
    envelope["evaluation"] = json.dumps(after)
    envelope["sha256"] = hashlib.sha256(envelope["evaluation"].encode()).hexdigest()
    path.write_text(json.dumps(envelope))
    for unchecked in (before, after):
        unchecked.pop("cost", None)
        # style, security, runtime, syntax and plug-ins, patches and completions need the sample or --regenerate
        for name in ("style", "security", "runtime", "syntax"):
            unchecked.get("scores", {}).pop(name, None) if isinstance(unchecked.get("scores"), dict) else None
        unchecked.pop("records", None)
    try:
        return Evaluation.model_validate(before) != Evaluation.model_validate(after)
    except ValueError:
        return True


def mutate_envelope(run: RunFolder, store: Store, rng: random.Random) -> bool:
    path = store.evaluation_path(used(run)[1])
    envelope = json.loads(path.read_text())
    key = rng.choice(["sha256", "evaluation"])
    envelope[key] = rng.choice(VALUES)
    path.write_text(json.dumps(envelope))
    return True


def mutate_manifest(run: RunFolder, store: Store, rng: random.Random) -> bool:
    path = store.adapter_path(used(run)[0]) / "manifest.json"
    before = json.loads(path.read_text())
    after = changed(before, rng)
    path.write_text(json.dumps(after))
    return any(before.get(key) != after.get(key) for key in ("digest", "files"))


def mutate_record(run: RunFolder, store: Store, rng: random.Random) -> bool:
    """training.json, with a right checksum."""
    folder = store.adapter_path(used(run)[0])
    data = json.dumps(changed(json.loads((folder / "training.json").read_text()), rng)).encode()
    (folder / "training.json").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["training.json"] = hashlib.sha256(data).hexdigest()
    manifest["bytes"]["training.json"] = len(data)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return False


MUTATIONS: dict[str, Callable[[RunFolder, Store, random.Random], bool]] = {
    "history": mutate_history,
    "timings": mutate_timings,
    "run.json": mutate_file("run.json", claimed=False),
    "base_model.json": mutate_file("base_model.json", claimed=False),
    "start.json": mutate_file("start.json", claimed=False),
    "genome.json": mutate_file("champion/genome.json", claimed=True),
    "evaluation": mutate_evaluation,
    "envelope": mutate_envelope,
    "manifest": mutate_manifest,
    "record": mutate_record,
}


def check_values(run: RunFolder, what: str, seed: int, quick: bool = True) -> None:
    rng = random.Random(f"{what} {seed}")
    store = Store("runs/store")
    wrong = MUTATIONS[what](run, store, rng)
    codes = all_commands(run, quick=quick)
    if wrong:
        assert codes["verify"] in (1, 2, 3), (what, seed)


@pytest.mark.parametrize("what", MUTATIONS)
def test_other_values(run: RunFolder, what: str) -> None:
    check_values(run, what, 0)


@pytest.mark.slow(reason="more values, each with a whole verification")
@pytest.mark.parametrize("seed", range(1, 1 + max(1, DRAWS // 10)))
@pytest.mark.parametrize("what", MUTATIONS)
def test_many_other_values(run: RunFolder, what: str, seed: int) -> None:
    check_values(run, what, seed, quick=False)


def test_an_evolution_does_what_is_broken_again(finished: Coral, tmp_path: Path, home: Path) -> None:
    coral = Coral(home, tmp_path)
    shutil.copytree(finished.runs, coral.runs)
    first = next(coral.runs.glob("*/run.json")).parent
    adapter, evaluation = used(RunFolder(first))
    shutil.rmtree(first)
    store = Store(coral.runs / "store")
    replace(store.adapter_path(adapter), "fifo")
    replace(store.evaluation_path(evaluation), "folder")
    os.symlink("/dev/zero", store.root / "adapters" / ".DS_Store")
    done = coral.evolve()
    assert done.returncode == 0 and "is broken" in done.stderr, done.stderr
    assert coral.history() == finished.history()
    assert sorted(coral.done()) == sorted([adapter, evaluation])
    assert store.read_adapter(adapter) is not None and store.read_evaluation(evaluation) is not None
