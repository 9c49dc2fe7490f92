"""The LoRAs that a champion must beat: the customary default, and the best of a small grid around it.

The grid does not follow the candidates of `genes.heavy`: runs with other candidates have the same opponent, and share
its trainings through the store.
"""

import itertools

from coral_core.genome import USUAL_RANKS, HeavyGenes, usual_learning_rates
from coral_core.jobs.jobs import BaseModelIdentity
from coral_core.lm.targets import default_lora_of, sets_of

MOST_TUNED = 16
"""Candidates at most beside the default LoRA: ranks × attention and all modules × learning rates."""


def tuned_loras(base: BaseModelIdentity) -> dict[str, HeavyGenes]:
    """The candidates for the tuned LoRA of a base model (`search.baselines: tuned`).

    These are LoRAs without dropout of rank 8 and 16, with alpha of twice the rank, on the attention projections and on all
    linear modules, with each of four learning rates, and the default LoRA, which is one of them for most models.

    Args:
        base: Identity of the base model.

    Returns:
        Name -> genes, without repeats. The customary modules take the place of the attention projections in a model
        whose attention projections are not known.

    Example:
        >>> modules = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
        >>> base = BaseModelIdentity(name="owner/llama", content_id="c", parameters=9, modules=modules, numerics_class="n")
        >>> tuned = tuned_loras(base)
        >>> len(tuned), next(iter(tuned))
        (16, 'r8 attention lr 0.0002')
        >>> default_lora_of(base) in tuned.values()
        True
    """
    default, sets = default_lora_of(base), sets_of(base)
    attention = sets.get("attention", default.target_modules)
    targets = {"attention": attention, "all": sets.get("all", attention)}
    found: dict[str, HeavyGenes] = {}
    for rank, (name, modules), rate in itertools.product(USUAL_RANKS, targets.items(), usual_learning_rates(base.name)):
        update = {"rank": rank, "alpha": 2.0 * rank, "target_modules": modules, "learning_rate": rate}
        genes = default.model_copy(update=update)
        if genes not in found.values():
            found[f"r{rank} {name} lr {rate:g}"] = genes
    return found if default in found.values() else {**found, "default": default}
