"""What a comparison compares: variants of strategies, seeds, the budget that each gets, and the baseline of the tests."""

import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

from pydantic import Field

from coral_core.config import RunConfig, dump_yaml, parse_config
from coral_core.config.yaml_document import shown
from coral_core.errors import ConfigError
from coral_core.frozen import Frozen
from coral_core.search.strategies import check_strategy

Unit = Literal["trainings", "gpu_seconds", "money"]
UNITS: dict[Unit, str] = {"trainings": "trainings", "gpu_seconds": "GPU seconds", "money": "money"}
"""Units of a budget, and their names in texts. Each is a key of `search`."""
MOST_SEEDS = 1000
BASELINE = "random"
MORE_GENERATIONS = 16
"""Generations allowed, as a multiple of those that a budget of trainings needs: elites and repeated adapters train nothing."""
SECTIONS = ("search", "automaton", "genes")
"""Sections that a variant may change. All others are part of what is compared: problems, judge, training, base model."""
FIXED = (
    "strategy", "trainings", "gpu_seconds", "money", "generations", "baselines", "champion_repeats", "start_from", "early_stopping",
)  # fmt: skip
"""Keys of `search` that are the same for all variants."""
_VARIANT = re.compile(r"(?:(?P<name>[^=:]+)=)?(?P<strategy>[^=:]+)(?::(?P<overrides>.+))?", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,39}")
_NEXT_KEY = re.compile(r",(?=\s*[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+\s*=)")


class Variant(Frozen):
    """A strategy with its settings: one line of a comparison."""

    name: str = Field(description="In tables and curves; the strategy with its overrides where none was given.")
    strategy: str = Field(description="`search.strategy`.")
    overrides: tuple[str, ...] = Field((), description="`section.key=value`, in place of the configuration's.")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``STRATEGY``, ``STRATEGY:key=value,key=value`` or ``NAME=STRATEGY:key=value``.

        Args:
            text: As a user wrote it. A comma separates overrides where a dotted key and = follow it, so that lists and
                mappings may hold commas.

        Raises:
            ConfigError: it is none of the three.

        Example:
            >>> Variant.parse("no elites=evolution:search.elites=0,search.variation.seed_rate=0.1")
            Variant(name='no elites', strategy='evolution', overrides=('search.elites=0', 'search.variation.seed_rate=0.1'))
        """
        found = _VARIANT.fullmatch(text.strip())
        origin = f"--strategies {shown(repr(text), 100)}"
        if found is None:
            raise ConfigError(f"{origin}: is no strategy", remedy="Write evolution, or NAME=evolution:search.elites=0.")
        overrides = tuple(part.strip() for part in _NEXT_KEY.split(found["overrides"] or "") if part.strip())
        strategy, name = found["strategy"].strip(), (found["name"] or text).strip()
        if found["name"] is not None and not _NAME.fullmatch(name):
            raise ConfigError(
                f"{origin}: {shown(repr(name))} is no name",
                remedy="Use at most 40 letters, digits, spaces and . _ + -, and begin with a letter or digit.",
            )
        for override in overrides:
            section, _, rest = override.partition("=")[0].strip().partition(".")
            if section not in SECTIONS:
                raise ConfigError(
                    f"{origin}: {shown(override)} would change {shown(section)}, which all variants share",
                    remedy=f"A variant changes {', '.join(SECTIONS)} only; --set changes the others for all variants.",
                )
            if not rest:
                raise ConfigError(
                    f"{origin}: {shown(override)} would replace the whole section {section}",
                    remedy=f"Write {section}.key=value for each key that is another.",
                )
            if section == "search" and rest.split(".")[0] in FIXED:
                raise ConfigError(
                    f"{origin}: {shown(override)} would give this variant another budget or another end than the others",
                    remedy=f"A variant cannot change {', '.join(FIXED)} of search; use --budget, --set, or another strategy.",
                )
        return cls(name=" ".join(name.split()), strategy=strategy, overrides=overrides)


class Budget(Frozen):
    """What each variant may spend with each seed."""

    unit: Unit
    amount: float = Field(gt=0, le=1e9)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``trainings=32``, ``gpu_seconds=3600`` or ``money=20``.

        Raises:
            ConfigError: another unit, or no positive number.

        Example:
            >>> print(Budget.parse("trainings=32"), Budget.parse("gpu_seconds=90"), sep=", ")
            32 trainings, 90 GPU seconds
        """
        unit, _, amount = text.partition("=")
        origin, remedy = f"--budget {shown(text)}", "Write trainings=32, gpu_seconds=3600 or money=20."
        if unit not in UNITS:
            raise ConfigError(f"{origin}: {shown(repr(unit))} is no unit", remedy=remedy)
        try:
            value = float(amount)
        except ValueError:
            value = math.nan
        if not 0 < value <= 1e9 or (unit == "trainings" and value != int(value)):
            kind = "a whole number above 0" if unit == "trainings" else "a number above 0"
            raise ConfigError(f"{origin}: {shown(repr(amount))} is not {kind}", remedy=remedy)
        return cls(unit=unit, amount=value)

    def __str__(self) -> str:
        return f"{self.amount:,g} {UNITS[self.unit]}"


class Entrant(NamedTuple):
    """One run of a comparison."""

    variant: Variant
    seed: int
    config: RunConfig


class Plan(Frozen):
    """A comparison before it has begun; every configuration in it is checked."""

    config: RunConfig = Field(description="What all variants share; its strategy and seed are those of no run.")
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...] = Field(description="Values of `seed`.")
    budget: Budget
    baseline: str = Field(description="Name of the variant that all others are tested against.")

    @classmethod
    def make(
        cls,
        config: RunConfig,
        strategies: Sequence[str],
        seeds: int,
        budget: str | None = None,
        baseline: str | None = None,
    ) -> Self:
        """Check what was asked for.

        Args:
            config: What all variants share. Seeds count from its `seed`.
            strategies: At least two variants (`Variant.parse`), with different names.
            seeds: Number of seeds, from 1 to `MOST_SEEDS`.
            budget: As `Budget.parse` reads it; None: the trainings that the generations of `config` need at most.
            baseline: Name of a variant; None: `random` if it takes part, else the last variant.

        Raises:
            ConfigError: nothing could be compared so, and why.
        """
        variants = tuple(map(Variant.parse, strategies))
        names = [variant.name for variant in variants]
        if len(variants) < 2:
            raise ConfigError(f"--strategies {' '.join(names) or '(none)'}: at least two are compared")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"--strategies {shown(repeated[0])}: is given twice",
                remedy="Give each variant a name: NAME=evolution:…",
            )
        if not 1 <= seeds <= MOST_SEEDS:
            raise ConfigError(f"--seeds {seeds}: is not from 1 to {MOST_SEEDS}", remedy="Give the number of seeds.")
        if config.store.reuse != "shared":
            raise ConfigError(
                f"store.reuse: {config.store.reuse}: strategies are compared on one shared store",
                remedy="Leave it out, or set store.reuse=shared.",
            )
        if config.search.start_from != "nothing":
            raise ConfigError(
                f"search.start_from: {config.search.start_from}: the runs of a comparison would begin with each other's champions",
                remedy="Set search.start_from=nothing.",
            )
        if baseline is None:
            baseline = BASELINE if BASELINE in names else names[-1]
        if baseline not in names:
            raise ConfigError(
                f"--baseline {shown(repr(baseline))}: is none of the strategies",
                remedy=f"Give one of: {', '.join(names)}.",
            )
        search = config.search
        allowed = (
            Budget.parse(budget) if budget else Budget(unit="trainings", amount=search.generations * search.population)
        )
        plan = cls(
            config=config,
            variants=variants,
            seeds=tuple(range(config.seed, config.seed + seeds)),
            budget=allowed,
            baseline=baseline,
        )
        for variant in variants:
            plan.configured(variant, config.seed)
        return plan

    def configured(self, variant: Variant, seed: int) -> RunConfig:
        """The configuration of one run.

        Args:
            variant: Strategy and settings.
            seed: One of `seeds`.

        Raises:
            ConfigError: the strategy is unknown or not installed, or its settings do not fit.
        """
        budget, search = self.budget, self.config.search
        amount = int(budget.amount) if budget.unit == "trainings" else budget.amount
        generations = search.generations
        if budget.unit == "trainings":
            generations = max(generations, min(10_000, MORE_GENERATIONS * math.ceil(budget.amount / search.population)))
        settings = (
            f"seed={seed}",
            f"search.strategy={variant.strategy}",
            f"search.{budget.unit}={amount}",
            f"search.generations={generations}",
            "search.early_stopping.enabled=false",
            *variant.overrides,
        )
        try:
            config = parse_config(dump_yaml(self.config), "CONFIG", settings)
            check_strategy(config.search)
            return config
        except ConfigError as error:
            raise ConfigError(f"--strategies {shown(variant.name)}, --budget {budget}: {error.problem}", remedy=error.remedy) from None  # fmt: skip

    def entrants(self) -> list[Entrant]:
        """All runs, seed by seed, so that what is finished when a comparison is stopped can be compared."""
        return [
            Entrant(variant, seed, self.configured(variant, seed)) for seed in self.seeds for variant in self.variants
        ]

    def parent(self, variant: Variant) -> Variant | None:
        """The plain strategy that `variant` changes, if it takes part: the two are an ablation."""
        if not variant.overrides:
            return None
        return next(
            (other for other in self.variants if other.strategy == variant.strategy and not other.overrides), None
        )
