"""What the search may choose from: candidates and ranges per gene, and the automata that seed genomes."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from coral_core.config.ranges import IntRange, Range
from coral_core.config.text_fields import ModuleSet
from coral_core.frozen import Frozen
from coral_core.genome import AdapterType

MODULE_SETS: dict[str, tuple[str, ...]] = {
    "q": ("q_proj",),
    "q+v": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
"""What the usual choices of target modules are in Llama-like models; others have their own (coral_core/lm/targets.py)."""


MOST_CANDIDATES = 256
"""Of one gene."""


class HeavyGeneSpace(Frozen):
    """Candidates of the genes that need a training."""

    rank: tuple[int, ...] = Field(
        (1, 2, 4, 8, 16, 32), min_length=1, max_length=MOST_CANDIDATES, description="Ranks, ascending."
    )
    alpha: tuple[float, ...] = Field(
        (4, 8, 16, 32, 64), min_length=1, max_length=MOST_CANDIDATES, description="Alphas, ascending."
    )
    dropout: tuple[float, ...] = Field(
        (0.0, 0.05, 0.1), min_length=1, max_length=MOST_CANDIDATES, description="Dropouts, ascending."
    )
    target_modules: tuple[ModuleSet, ...] = Field(
        ("q", "q+v", "attention", "mlp", "all"),
        min_length=1,
        max_length=MOST_CANDIDATES,
        description="Sets of modules from small to large: attention, mlp, all (or all-linear), default, names of modules of the base model (q, k, v, o, gate, up, down for q_proj ...), or several joined by '+'.",
    )
    adapter: tuple[AdapterType, ...] = Field(
        ("lora", "dora"), min_length=1, max_length=MOST_CANDIDATES, description="Adapter types."
    )
    learning_rate: tuple[float, ...] = Field(
        (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2),
        min_length=1,
        max_length=MOST_CANDIDATES,
        description="Peak learning rates, ascending.",
    )

    @field_validator("rank", "alpha", "dropout", "learning_rate")
    @classmethod
    def _ascending(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if list(values) != sorted(set(values)):
            raise ValueError(
                f"candidates {list(values)} must ascend without repeats: neighbours in the list are neighbours in the search"
            )
        return values

    @field_validator("target_modules", "adapter")
    @classmethod
    def _distinct(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(values)) != len(values):
            raise ValueError(f"candidates {list(values)} repeat: list each once")
        return values

    @model_validator(mode="after")
    def _in_bounds(self) -> Self:
        for name, values, low, high in (
            ("rank", self.rank, 1, 1024),
            ("alpha", self.alpha, 1e-6, 1e6),
            ("dropout", self.dropout, 0, 0.95),
            ("learning_rate", self.learning_rate, 1e-8, 1),
        ):
            for value in values:
                if not low <= value <= high:
                    raise ValueError(f"{name} candidate {value} is outside [{low:g}, {high:g}]")
        return self


def module_names(choice: str) -> tuple[str, ...]:
    """The linear-module names of one `target_modules` candidate that is spelt out or of a Llama-like model, sorted.

    >>> module_names("attention+lm_head")
    ('k_proj', 'lm_head', 'o_proj', 'q_proj', 'v_proj')
    """
    if choice in MODULE_SETS:
        return tuple(sorted(MODULE_SETS[choice]))
    parts = [part.strip() for part in choice.split("+")]
    if "" in parts:  # spelt out: each part is a module, also one that is called like a set
        return tuple(sorted({part for part in parts if part}))
    return tuple(sorted({name for part in parts for name in MODULE_SETS.get(part, (part,))}))


def module_text(names: tuple[str, ...]) -> str:
    """Modules for a reader: the name of the usual choice that they are, else the modules themselves.

    >>> module_text(("k_proj", "o_proj", "q_proj", "v_proj"))
    'attention'
    """
    usual = (choice for choice, modules in MODULE_SETS.items() if set(modules) == set(names))
    return next(usual, "+".join(name.removesuffix("_proj") for name in names))


class LightGeneSpace(Frozen):
    """Ranges of the genes that need only an evaluation."""

    temperature: Range = Field(Range(low=0.1, high=1.0), description="Softmax temperature.")
    top_p: Range = Field(Range(low=0.7, high=1.0), description="Nucleus mass.")
    top_k: IntRange = Field(IntRange(low=5, high=50), description="Most likely tokens kept.")
    repetition_penalty: Range = Field(Range(low=1.0, high=1.1), description="Penalty on repeated tokens.")
    token_limit: IntRange = Field(IntRange(low=64, high=96), description="Most new tokens per patch.")
    sampling: tuple[bool, ...] = Field((False, True), min_length=1, description="Greedy (false), sampling (true).")

    @model_validator(mode="after")
    def _in_bounds(self) -> Self:
        bounds = {
            "temperature": (0.01, 5),
            "top_p": (0.01, 1),
            "repetition_penalty": (0.1, 5),
            "top_k": (0, 10_000),
            "token_limit": (1, 8192),
        }
        for name, (low, high) in bounds.items():
            span: Range | IntRange = getattr(self, name)
            if span.low < low or span.high > high:
                raise ValueError(f"{name} range {span.low}..{span.high} is outside [{low}, {high}]")
        if len(set(self.sampling)) != len(self.sampling):
            raise ValueError("sampling lists a value twice: list each once")
        return self


class GenesConfig(Frozen):
    """What the search may choose from."""

    heavy: HeavyGeneSpace = Field(default_factory=HeavyGeneSpace, description="Genes that need a training.")
    light: LightGeneSpace = Field(default_factory=LightGeneSpace, description="Genes that need only an evaluation.")


class AutomatonConfig(Frozen):
    """The cellular automata that seed genomes."""

    size: int = Field(12, ge=4, le=64, description="Cells per side of the torus.")
    density: Range = Field(
        Range(low=0.1, high=0.9), description="Share of living cells at the start, drawn per genome."
    )
    steps: IntRange = Field(IntRange(low=8, high=24), description="Steps, drawn per genome.")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if not 0 <= self.density.low <= self.density.high <= 1:
            raise ValueError(f"density {self.density.low}..{self.density.high} is outside [0, 1]")
        if self.steps.low < 4 or self.steps.high > 1000:
            raise ValueError(f"steps {self.steps.low}..{self.steps.high} are outside [4, 1000]")
        return self
