"""The grid of the tuned LoRA, for models of several architectures."""

import pytest

from coral_core.genome import usual_learning_rates
from coral_core.jobs.jobs import BaseModelIdentity
from coral_core.lm.baselines import MOST_TUNED, tuned_loras
from coral_core.lm.targets import default_lora_of

ATTENTION = ("k_proj", "o_proj", "q_proj", "v_proj")
LLAMA = (*ATTENTION, "down_proj", "gate_proj", "up_proj")
NEOX = ("dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value")


def base(name: str, modules: tuple[str, ...], **sets: tuple[str, ...]) -> BaseModelIdentity:
    return BaseModelIdentity(name=name, content_id="c", parameters=9, modules=modules, sets=sets, numerics_class="n")


@pytest.mark.parametrize(
    ("model", "attention", "count"),
    [
        (base("owner/llama", LLAMA), ATTENTION, 16),
        (base("coral-tiny", LLAMA), ATTENTION, 16),
        (base("rehearsal:train=1", LLAMA), ATTENTION, 16),
        (base("/models/neox", NEOX, default=("query_key_value",), attention=("dense", "query_key_value")), ("dense", "query_key_value"), 17),
        (base("gpt2", ("c_attn", "c_fc", "c_proj"), default=("c_attn",)), ("c_attn",), 16),
        (base("attention-only", ATTENTION), ATTENTION, 8),
        (base("unknown", ("w1", "w2")), ("w1", "w2"), 8),
    ],
    ids=lambda value: value.name if isinstance(value, BaseModelIdentity) else "",
)  # fmt: skip
def test_the_grid(model: BaseModelIdentity, attention: tuple[str, ...], count: int) -> None:
    found = tuned_loras(model)
    genes = list(found.values())
    assert len(found) == len({each.digest() for each in genes}) == count <= MOST_TUNED + 1
    assert default_lora_of(model) in genes, "no tuned LoRA is worse on the fitness split than the default"
    assert found["r8 attention lr 0.002"].target_modules == attention
    assert {each.learning_rate for each in genes} == set(usual_learning_rates(model.name))
    assert all(each.adapter == "lora" and each.alpha == 2 * each.rank and each.dropout == 0 for each in genes)
    assert {each.rank for each in genes} == {8, 16}
    if count > 8:
        assert found["r16 all lr 0.002"].target_modules == tuple(sorted(model.modules))
