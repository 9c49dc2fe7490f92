"""`coral export`: the Pareto front as adapters, a merged model; what is skipped, and what is refused before anything is written."""

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from coral_core.atomic_write import check_new_folder, new_folder
from coral_core.config.tree import BaseModelConfig
from coral_core.errors import BaseModelError, ConfigError, StoreError
from coral_core.genome import DEFAULT_LORA, GREEDY, HeavyGenes
from coral_core.jobs.jobs import TrainedAdapter
from coral_core.prompting.templates import INSTRUCT, TINY
from coral_core.report.build_report import build_report
from coral_core.report.export import WEIGHTS, export_front
from coral_core.report.history_records import History
from coral_core.report.merged_export import export_merged
from coral_core.report.serving import VLLM_RANKS, request_code, serving_text, vllm_command, why_unserved
from coral_core.report.usage import Base
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store

Run = tuple[RunFolder, Store]
LLAMA = Base("owner/model", "0123abc", "0123abc", "sdpa", "bfloat16")


def front_of(run: Run, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """A run whose front has the genomes `names`, as a plug-in or an earlier version may leave it."""
    monkeypatch.setattr(History, "front", property(lambda history: names))


def test_every_member_of_the_front_is_a_peft_folder_with_its_card(finished_run: Run, tmp_path: Path) -> None:
    folder, store = finished_run
    report = build_report(folder, store)
    done = export_front(folder, store, report, tmp_path / "out" / "front")
    assert [member.genome_id for member in done.exported] == ["g000-000", "g001-001"] and done.skipped == ()
    assert [member.champion for member in done.exported] == [False, True]
    assert json.loads((tmp_path / "out" / "front" / "front.json").read_text()) == done.model_dump(mode="json")
    for member in done.exported:
        path = Path(member.path)
        assert {file.name for file in path.iterdir()} == {
            *WEIGHTS,
            "genome.json",
            "generation_config.json",
            "README.md",
        }
        record = History.of(folder).genomes[member.genome_id]
        stored = store.adapter_path(record.training_digest)
        assert (path / WEIGHTS[1]).read_bytes() == (stored / WEIGHTS[1]).read_bytes()
        genome = json.loads((path / "genome.json").read_text())
        assert genome["genome_id"] == genome["lineage"][-1]["genome_id"] == member.genome_id
        card = (path / "README.md").read_text()
        assert yaml.safe_load(card.split("---")[1])["library_name"] == "peft"
        assert f"{member.genome_id!r}" in card.split("```python\n")[1]
        assert ("of the held-out bugs" in card) == member.champion, "nothing held-out is known of the others"
        assert f"--genome {member.genome_id} --merge {member.genome_id}-merged" in card, "a DoRA is served merged"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["front"]


def test_infeasible_members_are_skipped_and_said(finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    folder, store = finished_run
    front_of(finished_run, monkeypatch, "g000-000", "g000-002", "g001-000")
    digest = History.of(folder).genomes["g001-000"].training_digest
    store.remove("adapter", digest)
    record = TrainedAdapter(training_digest=digest, infeasible="out-of-memory", reason="training ran out of memory")
    store.publish_adapter(digest, store.scratch(), record)
    done = export_front(folder, store, build_report(folder, store), tmp_path / "front")
    assert [member.genome_id for member in done.exported] == ["g000-000"]
    assert {each.genome_id: each.reason for each in done.skipped} == {
        "g000-002": "diverged: loss is NaN at step 12",
        "g001-000": "out-of-memory: training ran out of memory",
    }
    front_of(finished_run, monkeypatch, "g000-002")
    with pytest.raises(ConfigError, match="all 1 genomes of its Pareto front are infeasible"):
        export_front(folder, store, build_report(folder, store), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_broken_adapter_or_a_full_folder_leaves_nothing_behind(finished_run: Run, tmp_path: Path) -> None:
    folder, store = finished_run
    report, target = build_report(folder, store), tmp_path / "front"
    target.mkdir()
    (target / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"is not empty \(mine.txt is in it\)"):
        export_front(folder, store, report, target)
    with pytest.raises(ConfigError, match="cannot be used as a folder"):
        export_front(folder, store, report, target / "mine.txt")
    (target / "mine.txt").unlink()
    broken = store.adapter_path(History.of(folder).genomes["g001-001"].training_digest)
    (broken / WEIGHTS[1]).write_bytes(b"edited")
    with pytest.raises(StoreError, match=r"g001-001: its adapter .* is missing or broken"):
        export_front(folder, store, report, target)
    assert list(target.iterdir()) == [] and [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_an_open_run_exports_the_front_so_far_and_one_without_a_generation_none(open_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    folder, store = open_run
    done = export_front(folder, store, build_report(folder, store), tmp_path / "front")
    assert done.generation == 0 and len(done.exported) == 2
    front_of(open_run, monkeypatch)
    with pytest.raises(ConfigError, match="has no Pareto front yet"):
        export_front(folder, store, build_report(folder, store), tmp_path / "none")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No space"), new_folder(tmp_path / "out") as scratch:
        (scratch / "half").write_text("x")
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError), new_folder(tmp_path / "out") as scratch:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("x")  # another program was faster
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]


def test_what_a_killed_export_left_is_taken_away_and_what_another_writes_is_not(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from coral_core.atomic_write import new_folder\nwith new_folder(Path(sys.argv[1])) as f:\n    (f / 'weights').write_text('x' * 99); print('up', flush=True); time.sleep(600)"
    others = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / name)], stdout=subprocess.PIPE) for name in ("out[1]", "out[1]", "out")]  # fmt: skip
    assert all(each.stdout and each.stdout.readline() for each in others)
    others[0].kill()
    others[0].wait()
    assert not (tmp_path / "out[1]").exists() and len(list(tmp_path.iterdir())) == 3
    with new_folder(tmp_path / "out[1]") as scratch:
        (scratch / "weights").write_text("y")
        left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([f".out[1].{others[1].pid}.tmp", f".out.{others[2].pid}.tmp", scratch.name])
    for each in others[1:]:
        each.kill()
        each.wait()
    assert (tmp_path / "out[1]" / "weights").read_text() == "y"


def test_files_get_the_permissions_of_new_files_and_a_mount_point_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o027)
    try:
        with new_folder(tmp_path / "out") as scratch:
            (scratch / "below").mkdir()
            (scratch / "below" / "weights").touch(0o600)  # as safetensors writes it
    finally:
        os.umask(before)
    assert (tmp_path / "out" / "below" / "weights").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "out" / "below").stat().st_mode & 0o777 == 0o750
    monkeypatch.setattr(Path, "is_mount", lambda path: True)
    (tmp_path / "volume").mkdir()
    with pytest.raises(ConfigError, match=r"is a mount point.* Give a new folder in it"):
        check_new_folder(tmp_path / "volume")


# -- merging, as far as it needs no torch ------------------------------------------------------


def with_base(run: Run, monkeypatch: pytest.MonkeyPatch, **base: Any) -> None:
    config = run[0].config()
    changed = config.model_copy(update={"base_model": BaseModelConfig(**base)})
    monkeypatch.setattr(RunFolder, "config", lambda folder: changed)


@pytest.mark.parametrize(
    ("base", "genome", "error", "text"),
    [
        ({}, "g000-002", ConfigError, "g000-002: is infeasible .diverged: loss is NaN"),
        ({}, "g009-000", ConfigError, "g009-000: no such genome"),
        ({"quantization": "nf4"}, "champion", ConfigError, "nf4: an adapter that was trained beside 4-bit weights is not merged"),
        ({"name": "rehearsal"}, "champion", ConfigError, "rehearsed, without a model"),
        ({}, "champion", BaseModelError, "coral-tiny: is .* here, and synthetic.* was run on c"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_refused_with_the_reason(
    finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Any, genome: str, error: Any, text: str
) -> None:
    folder, store = finished_run
    report = build_report(folder, store)
    with_base(finished_run, monkeypatch, **base)
    with pytest.raises(error, match=text):
        export_merged(folder, store, report, genome, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_disk_without_room_is_seen_before_the_model_is_loaded(
    finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, store = finished_run
    report = build_report(folder, store)
    identity = SimpleNamespace(content_id="c", parameters=7_000_000_000)
    monkeypatch.setattr("coral_core.report.merged_export.identify", lambda config: identity)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=27_000_000_000))
    with pytest.raises(StoreError, match=r"takes 28.1 GB \(float32\), and 27.0 GB are free"):
        export_merged(folder, store, report, "champion", tmp_path / "deep" / "merged")
    assert not (tmp_path / "deep").exists()


# -- serving -----------------------------------------------------------------------------------


def lora(**genes: Any) -> HeavyGenes:
    return DEFAULT_LORA.model_copy(update=genes)


DOCUMENTED = {"--revision", "--dtype", "--enable-lora", "--max-lora-rank", "--lora-modules"}
"""Options of `vllm serve` (https://docs.vllm.ai, "LoRA Adapters" and "vllm serve"), version 0.32."""


@pytest.mark.parametrize(("rank", "served"), [(1, "1"), (2, "8"), (8, "8"), (12, "16"), (64, "64"), (512, "512")])
def test_the_command_for_vllm_has_documented_options_and_ranks(rank: int, served: str) -> None:
    words = shlex.split(vllm_command(LLAMA, lora(rank=rank), "g001-002"))
    assert words[:3] == ["vllm", "serve", "owner/model"]
    options = dict(zip(words[3:], [*words[4:], ""], strict=True))
    assert {word for word in words if word.startswith("--")} == DOCUMENTED
    assert options["--max-lora-rank"] == served and int(served) in VLLM_RANKS
    assert options["--lora-modules"] == "g001-002=./g001-002" and options["--dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("config", "heavy", "reason"),
    [
        ({}, lora(adapter="dora"), "does not load DoRA"),
        ({}, lora(rank=513), "ranks up to 512, and this adapter has 513"),
        ({}, lora(target_modules=("lm_head", "q_proj")), "on lm_head too"),
        ({}, lora(target_modules=("experts.gate_up_proj",)), "on experts.gate_up_proj too"),
        ({"quantization": "nf4"}, lora(), "in 4 bits"),
    ],
)
def test_what_vllm_cannot_serve_beside_its_base_is_merged_or_said(config: Any, heavy: HeavyGenes, reason: str) -> None:
    base = BaseModelConfig(name="owner/model", **config)
    assert reason in why_unserved(base, heavy)
    text = serving_text(LLAMA, base, INSTRUCT, heavy, GREEDY, "champion", "night-1a-e1", "g001-002")
    assert "--enable-lora" not in text and reason in text
    assert ("coral export night-1a-e1 --genome g001-002 --merge champion-merged" in text) == (not config)


def test_the_request_on_the_card_asks_for_the_runs_decoding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    sent: list[Any] = []

    def answer(request: urllib.request.Request) -> io.BytesIO:
        assert request.full_url == "http://localhost:8000/v1/completions" and isinstance(request.data, bytes)
        sent.append(json.loads(request.data))
        return io.BytesIO(b'{"choices": [{"text": "def f(): ..."}]}')

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    light = GREEDY.model_copy(update={"sampling": True, "temperature": 0.5, "repetition_penalty": 1.1})
    for prompt, decoding in ((INSTRUCT, light), (TINY, GREEDY)):
        exec(compile(request_code(prompt, decoding, "champion"), "card", "exec"), {"ids": [1, 5], "ends": {2, 0}})
    assert sent[0] == {
        "model": "champion", "prompt": [1, 5], "stop_token_ids": [0, 2], "max_tokens": 128, "temperature": 0.5, "top_p": 1.0,
        "top_k": -1, "repetition_penalty": 1.1, "stop": ["\n```"],
    }  # fmt: skip
    assert sent[1] == {"model": "champion", "prompt": [1, 5], "stop_token_ids": [0, 2], "max_tokens": 128, "temperature": 0.0}  # fmt: skip
    assert capsys.readouterr().out == "def f(): ...\n" * 2
