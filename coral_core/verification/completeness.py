"""Is everything there that the configuration and the search ask for, once, in order and of the right genome?

Checks of lines against digests and store pass over a line that is missing; this one does not. What it finds to be
whose is also what the digests are recomputed from (origins.py).
"""

import json
from collections.abc import Iterator

from coral_core.bounded_read import RECORD, look_at, read_file, sha256_of
from coral_core.json_object import json_object, json_value
from coral_core.report.build_report import build_report
from coral_core.report.export import WEIGHTS, described
from coral_core.runs.records import (
    SCHEMA_VERSION,
    BaselineRecord,
    FinalRecord,
    GenerationRecord,
    GenomeRecord,
    RunRecord,
    SessionTiming,
)
from coral_core.store.store import WEIGHTS_BYTES
from coral_core.untrusted import visible
from coral_core.verification.findings import Verified, first_line

BASELINES = ("base_model", "default_lora")
HELD_OUT = ("champion", *BASELINES, "generation_0_median")
OPENINGS = 1


def check_completeness(run: Verified) -> None:
    """Baselines, generations and the final table. Raises `CoralError`: timings.jsonl cannot be read."""
    differences = list(_missing(run))
    ended = bool(run.of(FinalRecord))
    if not ended and any(isinstance(t, SessionTiming) and t.outcome == "finished" for t in run.folder.timings()):
        differences.append("no final record in history.jsonl, and timings.jsonl says that the run has finished")
    there = "baselines, generations, final table and seed repeats" if ended else "baselines and generations so far"
    run.say("completeness", differences, f"{there} are all there, once")


def check_champion(run: Verified) -> None:
    """Is the exported adapter the one in the store, and do genome and decoding beside it follow from the history?"""
    final = next(iter(run.of(FinalRecord)), None)
    if final is None:
        return
    line = next((record for record in run.of(GenomeRecord) if record.genome.genome_id == final.champion), None)
    folder = run.folder.path / "champion"
    if line is None or look_at(folder) is None:
        run.note("champion", "champion/: no exported adapter here, so none is checked")
        return
    differences = [*_other_weights(run, line.training_digest), *_other_descriptions(run)]
    run.say("champion", differences, f"champion/ holds adapter {line.training_digest[:16]} of {final.champion}, byte for byte; genome.json and generation_config.json are its genes")  # fmt: skip


def _other_weights(run: Verified, digest: str) -> Iterator[str]:
    folder, source = run.folder.path / "champion", run.store.adapter_path(digest)
    for name in WEIGHTS:
        sums: list[str | None] = []
        for path, below in ((folder / name, folder), (source / name, run.store.root)):
            try:
                sums.append(sha256_of(path, WEIGHTS_BYTES, below))
            except FileNotFoundError:
                sums.append(None)
            except OSError as error:
                yield f"{path}: it cannot be read ({error.strerror})"
                break
        else:
            if sums[0] is None and sums[1] is not None:
                yield f"champion/{name} is missing"
            elif sums[0] != sums[1]:
                yield f"champion/{name} is not that of adapter {digest[:16]} in the store"


def _other_descriptions(run: Verified) -> Iterator[str]:
    report = build_report(run.folder, run.store)
    if report.champion is None:
        return
    folder = run.folder.path / "champion"
    for name, content in described(report, report.champion).items():
        try:
            found = json_object(read_file(folder / name, RECORD, folder))
        except (OSError, ValueError) as error:
            yield f"champion/{name} cannot be read: {first_line(error)}"
        else:
            if found != json_value(json.dumps(content)):
                keys = [key for key in {**found, **content} if found.get(key) != content.get(key)]
                yield f"champion/{name} is not what history and store give: {', '.join(map(visible, keys[:3])) or 'other keys'}"


def owners(run: Verified, final: FinalRecord) -> dict[str, str | None]:
    """Line of the final table -> genome that it is of, by the rules of the search; None: of no genome."""
    first = sorted(
        (record.fitness, record.genome.genome_id)
        for record in run.of(GenomeRecord)
        if record.genome.generation == 0 and record.fitness is not None
    )
    median = first[(len(first) - 1) // 2][1] if first else final.champion
    return {"champion": final.champion, "base_model": None, "default_lora": None, "generation_0_median": median}


def _missing(run: Verified) -> Iterator[str]:
    finals = run.of(FinalRecord)
    if (count := len(run.of(RunRecord))) != 1:
        yield f"{count} run records in history.jsonl, a run has one, at the beginning"
    for record in run.records:
        if record.schema_version != SCHEMA_VERSION:
            yield f"a {record.type} record of schema {record.schema_version} in history.jsonl, this is schema {SCHEMA_VERSION}"
    baselines = tuple(record.name for record in run.of(BaselineRecord))
    if baselines != BASELINES[: len(baselines)] or (len(baselines) < len(BASELINES) and run.of(GenomeRecord)):
        yield f"baselines {_list(baselines)} in history.jsonl, a run has {_list(BASELINES)}"
    numbers = [record.generation for record in run.of(GenerationRecord)]
    if numbers != list(range(len(numbers))):
        yield f"generations {_list(numbers)} in history.jsonl, a run counts from 0 without a gap"
    if len(finals) > 1 or (finals and run.records[-1] is not finals[0]):
        yield f"{len(finals)} final records in history.jsonl, a run has one, at the end"
    for final in finals:
        names = tuple(line.name for line in final.held_out)
        if names != HELD_OUT:
            yield f"held-out lines {_list(names)} in history.jsonl, the final table has {_list(HELD_OUT)}"
        for line in final.held_out:
            if line.genome_id != (owner := owners(run, final)[line.name]):
                yield f"{line.name} held-out: of {line.genome_id or 'no genome'} in history.jsonl, it is of {owner or 'no genome'}"
        if final.held_out_openings != OPENINGS:
            yield f"{final.held_out_openings} openings of the held-out split in history.jsonl, a run opens it once"
        replicates, wanted = [line.replicate for line in final.repeats], run.config.search.champion_repeats
        if replicates != list(range(1, wanted + 1)):
            yield f"seed repeats {_list(replicates)} in history.jsonl, config.yaml asks for 1 to {wanted}"


def _list(items: object) -> str:
    found = ", ".join(str(item) for item in items) if isinstance(items, (tuple, list)) else str(items)
    return found or "none"
