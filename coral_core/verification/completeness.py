"""Is everything there that the configuration and the search ask for, once, in order and of the right genome?

Checks of lines against digests and store pass over a line that is missing; this one does not. What it finds to be
whose is also what the digests are recomputed from (origins.py).
"""

from collections.abc import Iterator

from coral_core.records import (
    SCHEMA_VERSION,
    BaselineRecord,
    FinalRecord,
    GenerationRecord,
    GenomeRecord,
    RunRecord,
    SessionTiming,
)
from coral_core.verification.findings import Verified

BASELINES = ("base_model", "default_lora")
HELD_OUT = ("champion", *BASELINES, "generation_0_median")
OPENINGS = 1
WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")


def check_completeness(run: Verified) -> None:
    """Baselines, generations and the final table."""
    differences = list(_missing(run))
    ended = bool(run.of(FinalRecord))
    if not ended and any(isinstance(t, SessionTiming) and t.outcome == "finished" for t in run.folder.timings()):
        differences.append("no final record in history.jsonl, and timings.jsonl says that the run has finished")
    there = "baselines, generations, final table and seed repeats" if ended else "baselines and generations so far"
    run.say("completeness", differences, f"{there} are all there, once")


def check_champion(run: Verified) -> None:
    """Is the exported adapter the one in the store?"""
    final = next(iter(run.of(FinalRecord)), None)
    if final is None:
        return
    line = next((record for record in run.of(GenomeRecord) if record.genome.genome_id == final.champion), None)
    folder = run.folder.path / "champion"
    if line is None or not folder.exists():
        run.note("champion", f"{folder}: no exported adapter here, so none is checked")
        return
    source = run.store.adapter_path(line.training_digest)
    differences = []
    for name in WEIGHTS:
        try:
            ours, theirs = (folder / name).read_bytes(), (source / name).read_bytes()
        except FileNotFoundError as error:
            if (source / name).exists() or (folder / name).exists():
                differences.append(f"{error.filename}: it is missing")
        except OSError as error:
            differences.append(f"{error.filename}: it cannot be read ({error.strerror})")
        else:
            if ours != theirs:
                differences.append(f"champion/{name} is not that of adapter {line.training_digest[:16]} in the store")
    run.say("champion", differences, f"champion/ holds adapter {line.training_digest[:16]} of {final.champion}, byte for byte")  # fmt: skip


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
