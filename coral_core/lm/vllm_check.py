"""Checks a configuration that evaluates with vLLM, before anything is started. Imports no torch."""

from typing import NoReturn

from coral_core.config import RunConfig
from coral_core.errors import BaseModelError, ConfigError
from coral_core.lm.architecture import EXPERTS, HEAD, describe
from coral_core.lm.base_model import is_rehearsal
from coral_core.lm.memory_plan import TRANSPOSED
from coral_core.lm.model_check import model_folder, seen
from coral_core.lm.model_files import read_folder
from coral_core.lm.targets import UnknownTargetError, resolve
from coral_core.lm.vllm_interpreter import check_device, look, lora_rank, vllm_settings

ENGINE = ("generation", "engine")
MERGE = ("generation", "merge")


def check_vllm(config: RunConfig) -> tuple[str, ...]:
    """Refuse what vLLM cannot evaluate, so that all genomes of a run are compared on one engine.

    Args:
        config: The configuration; with ``generation.engine: torch`` nothing is checked.

    Returns:
        Notes on what could not be checked on this machine.

    Raises:
        ConfigError: a key does not fit vLLM, or the interpreter cannot be used.
        BaseModelError: the base model cannot be used.
    """
    settings = vllm_settings(config)
    if settings is None:
        return ()
    base = config.base_model
    if is_rehearsal(base):
        raise ConfigError(
            f"generation.engine: vllm: {base.name} has no weights that vLLM could load",
            ENGINE,
            remedy="Leave it out.",
        )
    if base.quantization != "none":
        raise ConfigError(
            f"generation.engine: vllm: base_model.quantization is {base.quantization}, into which no adapter is merged",
            ENGINE,
            remedy="Set base_model.quantization to none, or generation.engine to torch.",
        )
    if not config.generation.merge and "dora" in config.genes.heavy.adapter:
        raise ConfigError(
            "generation.merge: false: vLLM computes LoRA beside the weights, not DoRA, and genes.heavy.adapter has dora",
            MERGE,
            remedy="Set generation.merge to true: then LoRA and DoRA are both merged, and compared on the same ground.",
        )
    lora_rank(settings.rank)
    _check_modules(config)
    if config.infra.executor == "work-pools":
        return (f"vLLM: {settings.python} is an interpreter on the lanes' machines, which the first of them checks",)
    check_device(base, look(settings.python))
    return ()


def _check_modules(config: RunConfig) -> None:
    """Check that adapters are on weights that stand in the files as vLLM merges them, where the files are here."""
    folder, identity = model_folder(config), seen(config)
    if folder is None or identity is None:
        return
    files = read_folder(folder)
    kind = describe(files).model_type
    if kind in TRANSPOSED:
        _refuse(f"{config.base_model.name} is a {kind}, whose weights (Conv1D) stand transposed in the files")
    for candidate in config.genes.heavy.target_modules:
        try:
            names = resolve(candidate, identity)
        except (UnknownTargetError, BaseModelError):  # told by the check of the targets
            continue
        if experts := next((name for name in names if name.startswith(f"{EXPERTS}.")), None):
            _refuse(f"genes.heavy.target_modules {candidate}: {experts} are fused weights of experts")
        heads = set(identity.sets.get("head", HEAD)) & set(names)
        if heads and not any(name.rpartition(".")[0].rpartition(".")[2] in heads for name in files.tensors):
            _refuse(f"genes.heavy.target_modules {candidate}: the output head is tied to the embedding")


def _refuse(problem: str) -> NoReturn:
    raise ConfigError(
        f"generation.engine: vllm: {problem}, so no adapter is merged into them",
        ENGINE,
        remedy="Set generation.engine to torch, or choose other modules.",
    )
