"""Target modules: what a candidate of `genes.heavy.target_modules` means for one base model, and the default LoRA.

A candidate is a set (q, q+v, attention, mlp, all, all-linear, default, experts), names of modules, or several of them joined
by "+". Sets follow the model: `attention` is q_proj, k_proj, v_proj, o_proj in Llama and query_key_value, dense in GPT-NeoX.
A name is the last part of a module's name and stands for all modules that end so. Fused expert weights are named
experts.gate_up_proj and the like; `all` leaves them and the output head out. Not covered: single layers and longer paths.
"""

import difflib

from coral_core.config import RunConfig
from coral_core.config.gene_space import MODULE_SETS
from coral_core.errors import ConfigError
from coral_core.genome import HeavyGenes, default_lora
from coral_core.jobs.jobs import BaseModelIdentity
from coral_core.lm.architecture import EXPERTS, HEAD

KEY = ("genes", "heavy", "target_modules")
ALL = ("all", "all-linear")
SETS = ("default", "attention", "mlp", *ALL)


class UnknownTargetError(ValueError):
    """A part of a candidate is neither a set nor a module of the model."""

    def __init__(self, part: str) -> None:
        super().__init__(part)
        self.part = part


def sets_of(base: BaseModelIdentity) -> dict[str, tuple[str, ...]]:
    """Set name -> sorted modules of `base`. A set of which the model lacks a module, or that is empty, is left out."""
    usual = {"default": MODULE_SETS["attention"], "attention": MODULE_SETS["attention"], "mlp": MODULE_SETS["mlp"]}
    by_name = {name: base.sets.get(name, names) for name, names in usual.items()}
    by_name |= dict.fromkeys(ALL, base.modules)
    found = {name: tuple(sorted(names)) for name, names in by_name.items() if names and set(names) <= set(base.modules)}
    return found | {name: names for name, names in base.sets.items() if name == EXPERTS}


def _names_of(base: BaseModelIdentity) -> list[str]:
    """Every name that a candidate may hold: linear modules, output head, fused expert weights."""
    return [*base.modules, *base.sets.get("head", HEAD), *base.sets.get(EXPERTS, ())]


def resolve(candidate: str, base: BaseModelIdentity) -> tuple[str, ...]:
    """The modules that a candidate names in a base model.

    Args:
        candidate: A set, a module name, or several joined by "+", such as q+v.
        base: Identity of the base model.

    Returns:
        Module names, sorted, without repeats.

    Raises:
        UnknownTargetError: a part is neither a set nor a module of this model.
    """
    sets, names = sets_of(base), set(_names_of(base))
    if candidate in names:
        return (candidate,)
    resolved: set[str] = set()
    for part in (part.strip() for part in candidate.split("+")):
        if part in names:
            resolved.add(part)
        elif part in sets:
            resolved |= set(sets[part])
        elif f"{part}_proj" in names:  # q, k, v, o, gate, up, down
            resolved.add(f"{part}_proj")
        elif part:
            raise UnknownTargetError(part)
    if not resolved:
        raise UnknownTargetError(candidate)
    return tuple(sorted(resolved))


def for_model(config: RunConfig, base: BaseModelIdentity) -> RunConfig:
    """`config` with each candidate for target modules replaced by the module names of `base`.

    A candidate that cannot be resolved stays as it is: `check_targets` refuses it in new runs, and runs made before that
    check existed are replayed with the names they had.

    Args:
        config: A configuration.
        base: Identity of its base model.
    """
    spelt = tuple(_spelt(candidate, base) for candidate in config.genes.heavy.target_modules)
    heavy = config.genes.heavy.model_copy(update={"target_modules": spelt})
    return config.model_copy(update={"genes": config.genes.model_copy(update={"heavy": heavy})})


def _spelt(candidate: str, base: BaseModelIdentity) -> str:
    try:
        modules = resolve(candidate, base)
    except UnknownTargetError:
        return candidate
    end = "+" if any(name in MODULE_SETS for name in modules) else ""  # a module called q is no set: `module_names`
    return "+".join(modules) + end


def check_targets(config: RunConfig, base: BaseModelIdentity, why_not: dict[str, str] | None = None) -> None:
    """Check that every candidate names modules of `base`, and that no two candidates are equal.

    Args:
        config: Gives the candidates, `genes.heavy.target_modules`.
        base: Identity of its base model.
        why_not: Name that cannot be a target -> reason; replaces the list of similar names in the error.

    Raises:
        ConfigError: a candidate is unknown or repeated (lists the names and sets of this model), or has expert weights where
            DoRA or dropout may be chosen.
    """
    seen: dict[tuple[str, ...], str] = {}
    for candidate in config.genes.heavy.target_modules:
        try:
            modules = resolve(candidate, base)
        except UnknownTargetError as unknown:
            raise ConfigError(_refusal(candidate, unknown.part, base, why_not or {}), KEY) from None
        if modules in seen:
            raise ConfigError(
                f"genes.heavy.target_modules: {candidate} and {seen[modules]} are the same modules of {base.name}: {', '.join(modules)}. Keep one of them.",
                KEY,
            )
        seen[modules] = candidate
        if set(modules) & set(base.sets.get(EXPERTS, ())):
            _check_experts(config, candidate)


def _check_experts(config: RunConfig, candidate: str) -> None:
    """PEFT adapts fused expert weights as parameters (`target_parameters`), with neither DoRA nor dropout."""
    heavy = config.genes.heavy
    refused: list[tuple[str, object, str]] = [("adapter", "dora", "[lora]")] if "dora" in heavy.adapter else []
    refused += [("dropout", rate, "[0.0]") for rate in heavy.dropout if rate]
    for gene, value, instead in refused[:1]:
        raise ConfigError(
            f"genes.heavy.{gene}: {value}: {candidate} has fused expert weights, on which PEFT supports LoRA without dropout only",
            ("genes", "heavy", gene),
            remedy=f"Set genes.heavy.{gene} to {instead}, or take the experts out of genes.heavy.target_modules.",
        )


def _refusal(candidate: str, part: str, base: BaseModelIdentity, why_not: dict[str, str]) -> str:
    sets, names = sets_of(base), _names_of(base)
    whole = f" (part of {candidate})" if part != candidate else ""
    near = difflib.get_close_matches(part, [*names, *sets], 3, 0.5)
    reason = why_not.get(part) or why_not.get(f"{part}_proj") or f"no module of {base.name}"
    if last := [name for name in names if part.endswith(f".{name}")]:
        reason, near = "a path, where the last part of the name is wanted", last
    hint = f" Near: {', '.join(near)}." if near else ""
    return (
        f"genes.heavy.target_modules: {part}{whole}: {reason}.{hint} "
        f"It has {', '.join(names) or 'no linear modules'}; sets: {', '.join(sets) or 'none'}."
    )


def default_lora_of(base: BaseModelIdentity) -> HeavyGenes:
    """The default LoRA for a base model: rank 8, alpha 16, and the modules that are customary for its architecture.

    These are the q, k, v and o projections where a model has all four; else PEFT's choice for the architecture, else its
    attention projections, else all its linear modules.
    """
    return default_lora(base.name, sets_of(base).get("default") or base.modules)
