"""Exports the champion as a PEFT adapter folder with a model card: ``runs/<id>/champion/``.

The weights are a checked copy from the store. Beside them lie the genome with its lineage
(genome.json) and its light genes as generation_config.json, which transformers reads.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from coral_core.bounded_read import look_at, open_file
from coral_core.config import RunConfig
from coral_core.errors import StoreError
from coral_core.genome import LightGenes
from coral_core.json_object import json_object
from coral_core.report.content import Contender, Report
from coral_core.report.markdown import table
from coral_core.report.usage import Base, base_of, loading_code
from coral_core.report.wording import gap_lines, heavy_text, light_text, number, repaired_text, splits_text, state_text
from coral_core.runs.records import RunRecord
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import WEIGHTS_BYTES, Store
from coral_core.untrusted import code, inline

WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")


def export_champion(folder: RunFolder, store: Store, report: Report) -> Path | None:
    """Write ``champion/`` of a finished run; None while there is no champion.

    Raises:
        StoreError: the adapter is not (or no longer) sound in the store, or the folder cannot be written.
    """
    champion = report.champion
    if champion is None or champion.training_digest is None:
        return None
    digest = champion.training_digest
    if store.read_adapter(digest) is None:
        raise StoreError(
            f"champion {champion.genome_id}: its adapter {digest[:12]} is missing or broken in {store.root}. Run the evolution again: it trains it anew."
        )
    target = folder.path / "champion"
    scratch = folder.path / f".champion.{os.getpid()}.tmp"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        source = store.adapter_path(digest)
        for name in WEIGHTS:
            if look_at(source / name) is not None:
                with (
                    open_file(source / name, WEIGHTS_BYTES, store.root) as original,
                    (scratch / name).open("wb") as copy,
                ):
                    shutil.copyfileobj(original, copy)
        config = folder.config()
        for name, content in described(report, champion).items():
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            (scratch / name).write_text(text, encoding="utf-8")
        base = _base(folder, config, report, scratch / "adapter_config.json")
        (scratch / "README.md").write_text(model_card(report, champion, config, base), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(scratch, target)
    except OSError as error:
        raise StoreError(
            f"{target}: the champion cannot be exported ({error.strerror}). Its adapter is in {store.adapter_path(digest)}."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def described(report: Report, champion: Contender) -> dict[str, dict[str, Any]]:
    """The JSON files of ``champion/`` that follow from history and store, so that `coral verify` can make them again."""
    files = {"genome.json": _genome(report, champion)}
    if champion.light is not None:
        files["generation_config.json"] = _generation_config(champion.light)
    return files


def model_card(report: Report, champion: Contender, config: RunConfig, base: Base) -> str:
    """README.md of the exported adapter: front matter that the hub reads, then what a user needs."""
    front = {
        "base_model": base.name,
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": [
            "code",
            "program-repair",
            "coral-x",
            "dora" if champion.heavy and champion.heavy.adapter == "dora" else "lora",
            "peft",
        ],
    }
    header = "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---"])
    parts = [
        header,
        f"# Adapter `{champion.genome_id}` of {inline(report.run_id)}",
        f"A {champion.heavy.adapter if champion.heavy else 'LoRA'} adapter of {config.base_model.name} that repairs single-function Python bugs, "
        f"found by CORAL-X ({report.strategy}). It repairs {repaired_text(champion)}."
        if champion.held_out_bugs is not None
        else f"Best adapter so far of a run that {state_text(report.status)}; the held-out split is still sealed.",
        "\n".join(f"- {line}" for line in gap_lines(report)),
        "## How to load it\n\n```python\n" + loading_code(base, config.base_model, champion.heavy, champion.light) + "```\n\n" + _identity(base, champion.light),
        "## Genes\n\n" + table(("", ""), [("heavy genes", heavy_text(champion.heavy)), ("light genes (decoding)", light_text(champion.light)),
                                          ("trainable parameters", f"{champion.trainable_parameters or 0:,}")]),
        "## Scores\n\n" + table(("objective", "fitness split", "held-out split"),
                                [(name, number(value), number(champion.held_out_scores.get(name))) for name, value in sorted(champion.scores.items())]),
        "## Lineage\n\n" + table(("genome", "made by", "parents", "fitness"),
                                 [(a.genome_id, a.operator, ", ".join(a.parents) or "–", number(a.fitness)) for a in report.lineage]),
        _origin(report, config),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _identity(base: Base, light: LightGenes | None) -> str:
    found = f"commit {base.revision}" if base.revision else f"content {base.content_id[:16]}"
    sampled = (
        " With sampling the random numbers are others than the run's." if light is not None and light.sampling else ""
    )
    return (
        f"The base model is {code(base.name)} ({found}): an adapter fits no other weights and no other tokenizer. On the device of the run "
        f"the code writes the tokens that were scored.{sampled}"
    )


def _origin(report: Report, config: RunConfig) -> str:
    spent = report.totals
    splits = splits_text(report)
    return (
        "## Data, seed and cost\n\n"
        f"Trained on {config.problems.pairs} pairs of buggy and fixed functions (problem source {config.problems.source}, data seed "
        f"{config.problems.data_seed}); scored on {splits or 'no'} problems that share no function with them. For the built-in problems "
        "this measures transfer to new functions of known families, not to other code bases.\n\n"
        f"Run seed {report.seed}, edition {report.edition}. The whole run cost {spent.trainings} trainings and {spent.evaluations} evaluations, "
        f"{spent.seconds:.0f} s of wall clock, {spent.cpu_seconds:.0f} s of CPU, {spent.tokens:,} tokens. "
        f"Numerics class: {report.numerics_class}. Versions: {', '.join(f'{name} {value}' for name, value in report.versions.items())}."
    )


def _base(folder: RunFolder, config: RunConfig, report: Report, adapter_config: Path) -> Base:
    """The base model as the card names it."""
    run = next((record for record in folder.history() if isinstance(record, RunRecord)), None)
    try:
        named = json_object(adapter_config.read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError):
        named = None
    content = run.base_model.content_id if run else ""
    return base_of(config.base_model, content, report.numerics_class or "", named if isinstance(named, str) else None)


def _generation_config(light: LightGenes) -> dict[str, Any]:
    """The light genes under their names in transformers."""
    settings: dict[str, Any] = {
        "do_sample": light.sampling,
        "max_new_tokens": light.token_limit,
        "repetition_penalty": light.repetition_penalty,
    }
    if light.sampling:
        settings |= {"temperature": light.temperature, "top_p": light.top_p, "top_k": light.top_k}
    return settings


def _genome(report: Report, champion: Contender) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "run_id": report.run_id,
        **champion.model_dump(mode="json", exclude={"adapter_path"}),
        "lineage": [ancestor.model_dump(mode="json") for ancestor in report.lineage],
    }
