"""Exports the champion as a PEFT adapter folder with a model card: ``runs/<id>/champion/``.

The weights are a checked copy from the store. Beside them lie the genome with its lineage
(genome.json) and its light genes as generation_config.json, which transformers reads.
"""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from coral_core.bounded_read import look_at, open_file
from coral_core.config import RunConfig
from coral_core.errors import StoreError
from coral_core.genome import HeavyGenes, LightGenes
from coral_core.json_object import json_object
from coral_core.prompting.choice import resolve_prompt
from coral_core.prompting.templates import PromptTemplate
from coral_core.report.content import Contender, Report
from coral_core.report.history_records import History
from coral_core.report.markdown import table
from coral_core.report.usage import Base, base_of, generation_settings, loading_code
from coral_core.report.wording import gap_rows, heavy_text, light_text, number, splits_text, with_count
from coral_core.runs.run_folder import RunFolder
from coral_core.store.store import WEIGHTS_BYTES, Store
from coral_core.untrusted import code, inline

WEIGHTS = ("adapter_config.json", "adapter_model.safetensors")


def export_champion(folder: RunFolder, store: Store, report: Report) -> Path | None:
    """Write ``champion/`` of a finished run, replacing an earlier export.

    Args:
        folder: The run's folder.
        store: Holds the adapter.
        report: The report of the run.

    Returns:
        The folder ``champion/``; None if there is no champion.

    Raises:
        StoreError: the adapter is not (or no longer) sound in the store, or the folder cannot be written.
    """
    champion = report.champion
    if champion is None or champion.training_digest is None:
        return None
    digest = champion.training_digest
    if store.read_adapter(digest) is None:
        raise StoreError(
            f"champion {champion.genome_id}: its adapter {digest[:12]} is missing or broken in {store.root}",
            remedy="Run the evolution again: it trains it anew.",
        )
    target, source = folder.path / "champion", store.adapter_path(digest)
    scratch = folder.path / f".champion.{os.getpid()}.tmp"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        for name in WEIGHTS:
            if look_at(source / name) is not None:
                with (
                    open_file(source / name, WEIGHTS_BYTES, store.root) as original,
                    (scratch / name).open("wb") as copy,
                ):
                    shutil.copyfileobj(original, copy)
        for name, content in champion_files(report, champion).items():
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            (scratch / name).write_text(text, encoding="utf-8")
        config, run = folder.config(), History.of(folder).run
        prompt = (run and run.prompt) or resolve_prompt(config.base_model, None)
        card = model_card(report, champion, config, prompt, _base(folder, report, scratch / "adapter_config.json"))
        (scratch / "README.md").write_text(card, encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(scratch, target)
    except OSError as error:
        raise StoreError(
            f"{target}: the champion cannot be exported ({error.strerror})", remedy=f"Its adapter is in {source}."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def champion_files(report: Report, champion: Contender) -> dict[str, dict[str, Any]]:
    """The JSON files of ``champion/`` that follow from history and store; `coral verify` computes them again.

    Args:
        report: The report of the run.
        champion: The champion; a genome, with heavy and light genes.

    Returns:
        File name -> content.
    """
    _, light = _genes(champion)
    return {
        "genome.json": {
            "schema_version": 1,
            "run_id": report.run_id,
            **champion.model_dump(mode="json", exclude={"adapter_path"}),
            "lineage": [ancestor.model_dump(mode="json") for ancestor in report.lineage],
        },
        "generation_config.json": generation_settings(light) | {"repetition_penalty": light.repetition_penalty},
    }


def _genes(champion: Contender) -> tuple[HeavyGenes, LightGenes]:
    assert champion.heavy is not None and champion.light is not None, "a champion is a genome"
    return champion.heavy, champion.light


def _base(folder: RunFolder, report: Report, adapter_config: Path) -> Base:
    """The base model as the adapter names it."""
    run, named = History.of(folder).run, None
    with contextlib.suppress(OSError, ValueError):
        named = json_object(adapter_config.read_bytes()).get("base_model_name_or_path")
    name = named if isinstance(named, str) else report.base_model_name
    return base_of(name, run.base_model.content_id if run else "", report.numerics_class or "")


def model_card(report: Report, champion: Contender, config: RunConfig, prompt: PromptTemplate, base: Base) -> str:
    """README.md of the exported adapter: front matter for the hub, then loading code, genes, scores, data and cost.

    Args:
        report: The report of the run.
        champion: The champion; a genome, with heavy and light genes.
        config: Configuration of the run.
        prompt: The prompt template of the run.
        base: The base model.
    """
    heavy, light = _genes(champion)
    front = {
        "base_model": base.name,
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": [
            "code",
            "program-repair",
            "coral-x",
            heavy.adapter,
            *(["rslora"] if heavy.scaling == "rslora" else []),
            "peft",
        ],
    }
    spent = report.totals
    parts = [
        "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---"]),
        f"# Adapter `{champion.genome_id}` of {inline(report.run_id)}",
        f"A {heavy.adapter} adapter of {config.base_model.name} that repairs single-function Python bugs, found by CORAL-X "
        f"({report.strategy}). It repairs {with_count(champion)} of the held-out bugs.",
        "\n".join(f"- {what}: {gap}." for what, gap in gap_rows(report)),
        "## How to load it\n\n```python\n" + loading_code(base, config.base_model, prompt, heavy, light) + "```",
        f"The base model is {code(base.name)} ({f'commit {base.revision}' if base.revision else f'content {base.content_id[:16]}'}): "
        "an adapter fits no other weights and no other tokenizer. On the device of the run the code writes the tokens that "
        "were scored, unless it samples: the random numbers are others than the run's.",
        "## Genes\n\n" + table(("", ""), [
            ("heavy genes", heavy_text(heavy)), ("light genes (decoding)", light_text(light)),
            ("trainable parameters", f"{champion.trainable_parameters or 0:,}"),
        ]),
        "## Scores\n\n" + table(("objective", "fitness split", "held-out split"), [
            (name, number(value), number(champion.held_out_scores.get(name))) for name, value in sorted(champion.scores.items())
        ]),
        "## Lineage\n\n" + table(("genome", "made by", "parents", "fitness"), [
            (step.genome_id, step.operator, ", ".join(step.parents) or "–", number(step.fitness)) for step in report.lineage
        ]),
        "## Data, seed and cost\n\n"
        f"Trained on {config.problems.pairs} pairs of buggy and fixed functions (problem source {config.problems.source}, data seed "
        f"{config.problems.data_seed}); scored on {splits_text(report)} problems that share no function with them. For the "
        "built-in problems this measures transfer to new functions of known families, not to other code bases.",
        f"Run seed {report.seed}, edition {report.edition}. The whole run cost {spent.trainings} trainings and {spent.evaluations} "
        f"evaluations, {spent.seconds:.0f} s of wall clock, {spent.cpu_seconds:.0f} s of CPU, {spent.tokens:,} tokens. Numerics class: "
        f"{report.numerics_class}. Versions: {', '.join(f'{name} {value}' for name, value in report.versions.items())}.",
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"
