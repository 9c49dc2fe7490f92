"""Exports one genome of a run as a full model: its adapter merged into the base model, loadable by transformers alone."""

import json
import shutil
import warnings
from pathlib import Path

from pydantic import Field

from coral_core.atomic_write import check_new_folder, new_folder
from coral_core.config.tree import BaseModelConfig
from coral_core.errors import BaseModelError, ConfigError, Infeasible, StoreError
from coral_core.frozen import Frozen
from coral_core.genome import HeavyGenes
from coral_core.jobs.jobs import BaseModelIdentity
from coral_core.lm.base_model import identify, is_on_hub, is_rehearsal, lasting_name
from coral_core.lm.requests import AdapterFolder
from coral_core.report.build_report import contender_of, lineage_of
from coral_core.report.content import Contender, Report
from coral_core.report.export import check_stored, genome_files
from coral_core.report.history_records import History
from coral_core.report.model_card import CardFacts, genes_of, merged_card
from coral_core.report.usage import generation_settings
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import Store

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_BESIDE = 100_000_000
"""Bytes for tokenizer, configuration and an output head that is untied."""


class MergedExport(Frozen):
    """What `coral export --merge --json` prints."""

    schema_version: int = 1
    run_id: str
    genome_id: str
    path: str = Field(description="The folder that was written.")
    base_model: str
    heavy: HeavyGenes
    dtype: str = Field(description="Type of the weights: that in which the genome was scored.")
    files: tuple[str, ...] = Field(description="Files of weights.")
    bytes: int = Field(description="Size of all files.")


def export_merged(folder: RunFolder, store: Store, report: Report, genome: str, target: Path) -> MergedExport:
    """Merge the adapter of a genome into the run's base model, on this machine's CPU, and write the whole model.

    The weights are those with which the engine scored the genome, in the dtype of the run. `target` appears complete or
    not at all.

    Args:
        folder: The run's folder.
        store: Holds the adapter.
        report: The report of the run.
        genome: Its id, or ``champion``.
        target: The folder to write; absent or empty.

    Raises:
        ConfigError: there is no such genome, it is infeasible, the base model is in 4 bits or is no model, or `target`
            is not empty.
        BaseModelError: the base model is not here, is not that of the run, or does not fit into memory.
        StoreError: the adapter is missing or broken, or the disk has too little room.
    """
    check_new_folder(target)
    history, config = History.of(folder), folder.config()
    member = _member(history, report, store, genome)
    heavy, light = genes_of(member)
    _check_mergeable(config.base_model, folder.run_id)
    if reason := check_stored(member, store):
        raise ConfigError(
            f"{member.genome_id}: is infeasible ({reason}), so it has no adapter", remedy="Choose another."
        )
    facts = CardFacts.of(report, config, history)
    base = facts.base(lasting_name(config.base_model))
    # on any machine: the weights of the run, in its dtype
    known: dict[str, object] = {"device": "cpu", "dtype": base.dtype}
    if is_on_hub(config.base_model):
        known["revision"] = facts.content_id
    model = config.base_model.model_copy(update=known)
    identity = identify(model)
    if identity.content_id != facts.content_id:
        raise BaseModelError(
            f"base_model.name: {model.name}: is {identity.content_id[:12]} here, and {folder.run_id} was run on {facts.content_id[:12]}",
            remedy="Put the files of the run there; an adapter fits no other weights.",
        )
    _check_room(target, identity, base.dtype)
    adapter = AdapterFolder(folder=store.adapter_path(str(member.training_digest)), heavy=heavy)
    settings = generation_settings(light) | {"repetition_penalty": light.repetition_penalty}
    lineage = lineage_of(history, member.genome_id)
    with new_folder(target) as scratch:
        _merge(model, adapter, scratch, settings, facts.prompt.end)
        content = genome_files(folder.run_id, member, lineage)["genome.json"]
        (scratch / "genome.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        card = merged_card(facts, member, lineage, base, target.absolute())
        (scratch / "README.md").write_text(card, encoding="utf-8")
        sizes = {path.name: path.stat().st_size for path in scratch.iterdir()}
    return MergedExport(
        run_id=folder.run_id,
        genome_id=str(member.genome_id),
        path=str(target),
        base_model=base.name,
        heavy=heavy,
        dtype=base.dtype,
        files=tuple(sorted(name for name in sizes if name.endswith(".safetensors"))),
        bytes=sum(sizes.values()),
    )


def _member(history: History, report: Report, store: Store, genome: str) -> Contender:
    champion = report.champion
    if champion is not None and genome in ("champion", champion.genome_id):
        return champion
    record = history.genomes.get(genome)
    if record is None:
        known = list(history.genomes)
        there = f"It has {known[0]} to {known[-1]}, and champion." if known else "Its first generation is under way."
        raise ConfigError(f"{genome}: no such genome in {report.run_id} (yet)", remedy=there)
    if record.infeasible:
        raise ConfigError(
            f"{genome}: is infeasible ({record.infeasible}: {record.reason}), so it has no adapter", remedy="Choose another."
        )  # fmt: skip
    return contender_of(record, store)


def _check_mergeable(base: BaseModelConfig, run_id: str) -> None:
    if is_rehearsal(base):
        raise ConfigError(
            f"base_model.name: {base.name}: {run_id} rehearsed, without a model, so there is nothing to merge",
            remedy="Run it with a base model.",
        )
    if base.quantization != "none":
        raise ConfigError(
            f"base_model.quantization: {base.quantization}: an adapter that was trained beside 4-bit weights is not merged: into them "
            "the sum would be rounded to 4 bits, and into the full weights it would be another model than the one scored",
            remedy="Use the adapter with PEFT: its README.md has the code.",
        )


def _check_room(target: Path, identity: BaseModelIdentity, dtype: str) -> None:
    """Raise `StoreError` where the disk has too little room for the model."""
    there = next(path for path in (target, *target.absolute().parents) if path.exists())
    free, needed = shutil.disk_usage(there).free, identity.parameters * _BYTES[dtype] + _BESIDE
    if free < needed:
        raise StoreError(
            f"{target}: the merged model takes {needed / 1e9:.1f} GB ({dtype}), and {free / 1e9:.1f} GB are free on that disk",
            remedy="Free space, or give a folder on another disk.",
        )


def _merge(model: BaseModelConfig, adapter: AdapterFolder, out: Path, settings: dict[str, object], end: str) -> None:
    from transformers.utils.logging import disable_progress_bar

    from coral_core.lm.engine import TorchBackend
    from coral_core.lm.loaded_model import memory_is_evidence
    from coral_core.lm.merged_model import write_merged

    disable_progress_bar()
    try:
        with memory_is_evidence("merging"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's remarks on tied heads, which `private_copies` unties
            write_merged(TorchBackend(model).loaded, adapter, out, settings, end)
    except Infeasible as error:
        raise BaseModelError(
            f"base_model.name: {model.name}: {error}", remedy="Merge it on a machine with more memory."
        ) from None
