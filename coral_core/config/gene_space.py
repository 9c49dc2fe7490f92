"""The search space: candidates and ranges per gene, and the automata that seed genomes."""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, field_validator

from coral_core.config.ranges import IntRange, Range
from coral_core.config.section import ConfigSection
from coral_core.config.text_fields import ModuleSet
from coral_core.genome import AdapterType, Scaling

MODULE_SETS: dict[str, tuple[str, ...]] = {
    "q": ("q_proj",),
    "q+v": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
"""Set name -> modules in Llama-like models; coral_core/lm/targets.py resolves sets for other models."""


MOST_CANDIDATES = 256
"""Of one gene."""
Value = TypeVar("Value", str, bool)


def _listed_once(values: tuple[Value, ...]) -> tuple[Value, ...]:
    if len(set(values)) != len(values):
        raise ValueError(f"candidates {list(values)} repeat: list each once")
    return values


def _candidates(default: Any, description: str) -> Any:
    return Field(default, min_length=1, max_length=MOST_CANDIDATES, description=description)


class HeavyGeneSpace(ConfigSection):
    """Candidates of the genes that need a training."""

    rank: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = _candidates((1, 2, 4, 8, 16, 32), "Ranks, ascending.")
    alpha: tuple[Annotated[float, Field(ge=1e-6, le=1e6)], ...] = _candidates((4, 8, 16, 32, 64), "Alphas, ascending.")
    dropout: tuple[Annotated[float, Field(ge=0, le=0.95)], ...] = _candidates((0.0, 0.05, 0.1), "Dropouts, ascending.")
    target_modules: tuple[ModuleSet, ...] = _candidates(
        ("q", "q+v", "attention", "mlp", "all"),
        "Sets of modules from small to large: attention, mlp, all (or all-linear), default, experts (fused expert weights), names of modules of the base model (q, k, v, o, gate, up, down for q_proj ...), or several joined by '+'.",
    )
    adapter: tuple[AdapterType, ...] = _candidates(("lora", "dora"), "Adapter types.")
    learning_rate: tuple[Annotated[float, Field(ge=1e-8, le=1)], ...] = _candidates(
        (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2), "Peak learning rates, ascending."
    )
    scaling: tuple[Scaling, ...] = _candidates(
        ("lora",), "Scalings of the update: lora (alpha / rank), rslora (alpha / sqrt(rank))."
    )

    @field_validator("rank", "alpha", "dropout", "learning_rate")
    @classmethod
    def _ascending(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if list(values) != sorted(set(values)):
            raise ValueError(
                f"candidates {list(values)} must ascend without repeats: neighbours in the list are neighbours in the search"
            )
        return values

    @field_validator("target_modules", "adapter", "scaling")
    @classmethod
    def _distinct(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return _listed_once(values)


def module_names(choice: str) -> tuple[str, ...]:
    """The linear modules of one candidate for `target_modules`, sorted: one that is spelt out, or one for a Llama-like model.

    >>> module_names("attention+lm_head")
    ('k_proj', 'lm_head', 'o_proj', 'q_proj', 'v_proj')
    """
    if choice in MODULE_SETS:
        return tuple(sorted(MODULE_SETS[choice]))
    parts = [part.strip() for part in choice.split("+")]
    if "" in parts:  # spelt out: each part is a module name, even if a set has the same name
        return tuple(sorted({part for part in parts if part}))
    return tuple(sorted({name for part in parts for name in MODULE_SETS.get(part, (part,))}))


def module_text(names: tuple[str, ...]) -> str:
    """Modules as shown to people: the name of the usual set that they form, else the modules themselves.

    >>> module_text(("k_proj", "o_proj", "q_proj", "v_proj"))
    'attention'
    """
    usual = (choice for choice, modules in MODULE_SETS.items() if set(modules) == set(names))
    return next(usual, "+".join(name.removesuffix("_proj") for name in names))


def _within(low: float, high: float) -> AfterValidator:
    """Refuses a range that leaves [`low`, `high`]."""

    def check(span: Range) -> Range:
        if span.low < low or span.high > high:
            raise ValueError(f"range {span.low}..{span.high} is outside [{low}, {high}]")
        return span

    return AfterValidator(check)


class LightGeneSpace(ConfigSection):
    """Ranges of the genes that need only an evaluation."""

    temperature: Annotated[Range, _within(0.01, 5)] = Field(
        Range(low=0.1, high=1.0), description="Softmax temperature."
    )
    top_p: Annotated[Range, _within(0.01, 1)] = Field(Range(low=0.7, high=1.0), description="Nucleus mass.")
    top_k: Annotated[IntRange, _within(0, 10_000)] = Field(
        IntRange(low=5, high=50), description="Most likely tokens kept."
    )
    repetition_penalty: Annotated[Range, _within(0.1, 5)] = Field(
        Range(low=1.0, high=1.1), description="Penalty on repeated tokens."
    )
    token_limit: Annotated[IntRange, _within(1, 8192)] = Field(
        IntRange(low=64, high=96), description="Most new tokens per patch."
    )
    sampling: tuple[bool, ...] = Field((False, True), min_length=1, description="Greedy (false), sampling (true).")

    @field_validator("sampling")
    @classmethod
    def _distinct(cls, values: tuple[bool, ...]) -> tuple[bool, ...]:
        return _listed_once(values)


class GenesConfig(ConfigSection):
    """The search space: candidates and ranges of the genes."""

    heavy: HeavyGeneSpace = Field(default_factory=HeavyGeneSpace, description="Genes that need a training.")
    light: LightGeneSpace = Field(default_factory=LightGeneSpace, description="Genes that need only an evaluation.")


class AutomatonConfig(ConfigSection):
    """The cellular automata that seed genomes."""

    size: int = Field(12, ge=4, le=64, description="Cells per side of the torus.")
    density: Annotated[Range, _within(0, 1)] = Field(
        Range(low=0.1, high=0.9), description="Share of living cells at the start, drawn per genome."
    )
    steps: Annotated[IntRange, _within(4, 1000)] = Field(
        IntRange(low=8, high=24), description="Steps, drawn per genome."
    )
