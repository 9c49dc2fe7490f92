"""Variation operators: mutation of the automaton, mutation of genes, crossover.

Evaluation sees the genes of a genome only; the automaton expresses their initial values. When an automaton changes by
mutation or crossover, only the genes whose expression changes are replaced, so a gene that was mutated directly keeps its
value. `automaton_rate` is the share of mutations and crossovers that work on automata; the others work on genes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coral_core.config.ranges import IntRange, Range
from coral_core.config.tree import AutomatonConfig, GenesConfig, VariationConfig, module_names
from coral_core.genome import MOST_WARM_STARTS, SHAPE, Automaton, Features, Genome, HeavyGenes, LightGenes
from coral_core.search.automaton import RULE_BITS, draw
from coral_core.search.expression import Positions, calibration, heavy_genes, light_genes, positions
from coral_core.search.features import features

MUTATED_CROSSOVER = 0.3
"""Share of crossovers, at strength 1, whose child is also mutated, since recombination alone creates no new values."""

Genes = dict[str, object]
"""Gene name -> value, heavy and light together."""


@dataclass(frozen=True)
class Material:
    """Genes and origin of a genome that has no slot in a generation yet.

    Attributes:
        genes: Gene name -> value, heavy and light together.
        automaton: The automaton behind the genes; None when there is none.
        features: Features of that automaton.
        operator: Name of the operators that were applied, joined by ``+``; empty before the first.
        parents: Genome ids of the parents.
    """

    genes: Genes
    automaton: Automaton | None
    features: Features | None
    operator: str
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variation:
    """The variation operators with their settings.

    Attributes:
        genes: Candidates and ranges of the genes.
        automaton: Distribution of automata.
        settings: Rates and step sizes of the operators.
    """

    genes: GenesConfig
    automaton: AutomatonConfig
    settings: VariationConfig

    def seed(self, rng: np.random.Generator) -> Material:
        """Genes expressed by a fresh random automaton."""
        fresh = draw(self.automaton, rng)
        measured, expressed = self._express(fresh)
        return Material(expressed, fresh, measured, "seed")

    def placed_seed(self, place: Positions) -> Material:
        """Genes at given positions in [0, 1], without an automaton.

        Args:
            place: Gene name -> position, for every gene.
        """
        return Material(self._genes(place), None, None, "seed")

    def child(
        self, parents: Sequence[Genome], rng: np.random.Generator, strength: float, has_adapter: bool = True
    ) -> Material:
        """A child of one parent (mutation or warm start) or of two (crossover, and mutation in some cases).

        Args:
            parents: One or two genomes.
            rng: The stream to draw from.
            strength: Factor on the mutation rates (`coral_core.search.diversity.strength`).
            has_adapter: Whether the first parent has an adapter to go on with; False for an infeasible one.
        """
        if len(parents) == 2:
            crossed = self._cross(parents[0], parents[1], rng)
            return crossed if rng.random() >= MUTATED_CROSSOVER * strength else self._mutate(crossed, rng, strength)
        parent, rate = parents[0], self.settings.warm_start_rate
        if rate and has_adapter and parent.heavy.trainings() <= MOST_WARM_STARTS and rng.random() < rate:
            return self.warm_start(parent, rng, strength)
        material = Material(genes_of(parent), parent.automaton, parent.features, "", (parent.genome_id,))
        return self._mutate(material, rng, strength)

    def warm_start(self, parent: Genome, rng: np.random.Generator, strength: float) -> Material:
        """The parent's adapter, trained once more: the genes in `SHAPE` stay, others move as in `mutate_genes`.

        Args:
            parent: Its training is gone on with.
            rng: The stream to draw from.
            strength: Factor on `gene_rate`.
        """
        genes, rate = genes_of(parent), min(1.0, self.settings.gene_rate * strength)
        names = [name for name in self._drawn(genes) if name not in SHAPE and rng.random() < rate]
        return self._further(parent, genes | {name: self._step(name, genes[name], rng) for name in names})

    def continued(self, parent: Genome, lower: bool) -> Material:
        """The parent's adapter, trained once more with equal genes.

        Args:
            parent: Its training is gone on with.
            lower: Take the next lower learning rate among the candidates; the lowest one stays.
        """
        genes = genes_of(parent)
        if lower:
            rate = parent.heavy.learning_rate
            genes["learning_rate"] = max((each for each in self.genes.heavy.learning_rate if each < rate), default=rate)
        return self._further(parent, genes)

    def _further(self, parent: Genome, genes: Genes) -> Material:
        genes = genes | {"warm_start": parent.heavy}
        return Material(genes, parent.automaton, parent.features, "warm-start", (parent.genome_id,))

    def _mutate(self, material: Material, rng: np.random.Generator, strength: float) -> Material:
        if material.automaton is not None and rng.random() < self.settings.automaton_rate:
            return self.mutate_automaton(material, rng, strength)
        return self.mutate_genes(material, rng, strength)

    def mutate_automaton(self, material: Material, rng: np.random.Generator, strength: float) -> Material:
        """Flip cells and rule bits and change the number of steps.

        Args:
            material: What to mutate; returned unchanged when it has no automaton.
            rng: The stream to draw from.
            strength: Factor on the flip rates.

        Returns:
            Material of a different automaton: at least one cell, rule bit or the number of steps differs.
        """
        old = material.automaton
        if old is None:
            return material
        settings = self.settings
        grid = np.array(old.grid)
        flips = rng.random(grid.shape) < _scaled(settings.cell_flip_rate, strength)
        rule = old.rule
        for bit in range(RULE_BITS):
            if rng.random() < _scaled(settings.rule_flip_rate, strength):
                rule ^= 1 << bit
        change = int(rng.integers(-settings.steps_change, settings.steps_change + 1))
        # clipped to the configured range, for which `expression` is calibrated
        steps = int(np.clip(old.steps + change, self.automaton.steps.low, self.automaton.steps.high))
        if not flips.any() and rule == old.rule and steps == old.steps:
            flips[rng.integers(grid.shape[0]), rng.integers(grid.shape[1])] = True
        grid = np.where(flips, 1 - grid, grid)
        new = Automaton(grid=tuple(tuple(map(int, row)) for row in grid), rule=rule, steps=steps)
        return self._re_expressed(material, old, new, _joined(material.operator, "mutate-automaton"))

    def mutate_genes(self, material: Material, rng: np.random.Generator, strength: float) -> Material:
        """Move genes to near candidates or values.

        Args:
            material: What to mutate.
            rng: The stream to draw from.
            strength: Factor on the rate `gene_rate` at which genes are chosen; the product is at most 1.

        Returns:
            Changed genes with the same automaton. At least one gene differs if any gene has more than one candidate.
        """
        rate = min(1.0, self.settings.gene_rate * strength)
        order = self._drawn(material.genes)
        names = [name for name in order if rng.random() < rate]
        rng.shuffle(order)
        changed = dict(material.genes)
        for name in names:
            changed[name] = self._step(name, changed[name], rng)
        for name in order:
            if changed != material.genes:
                break
            changed[name] = self._step(name, changed[name], rng)
        operator = _joined(material.operator, "mutate-genes")
        return Material(_fitting(changed), material.automaton, material.features, operator, material.parents)

    def _cross(self, first: Genome, second: Genome, rng: np.random.Generator) -> Material:
        if first.automaton is not None and second.automaton is not None and rng.random() < self.settings.automaton_rate:
            return self.cross_automata(first, second)
        return self.cross_genes(first, second, rng)

    def cross_genes(self, first: Genome, second: Genome, rng: np.random.Generator) -> Material:
        """Uniform crossover: each gene comes from either parent with probability 0.5.

        Args:
            first: Its automaton and features go to the child.
            second: The other parent.
            rng: The stream to draw from.
        """
        ours, theirs = genes_of(first), genes_of(second)
        genes = ours | {name: ours[name] if rng.random() < 0.5 else theirs[name] for name in self._drawn(ours)}
        parents = (first.genome_id, second.genome_id)
        return Material(_fitting(genes), first.automaton, first.features, "crossover-genes", parents)

    def cross_automata(self, first: Genome, second: Genome) -> Material:
        """Cross two automata, and replace the genes of `first` whose expression changes.

        Args:
            first: Gives the grid and the genes.
            second: Gives the rule and the number of steps.

        Raises:
            ValueError: a parent has no automaton.
        """
        old, other = first.automaton, second.automaton
        if old is None or other is None:
            raise ValueError(f"{first.genome_id} or {second.genome_id} has no automaton to cross: use cross_genes")
        material = Material(genes_of(first), old, first.features, "", (first.genome_id, second.genome_id))
        new = Automaton(grid=old.grid, rule=other.rule, steps=other.steps)
        return self._re_expressed(material, old, new, "crossover-automaton")

    def _drawn(self, genes: Genes) -> list[str]:
        """Names of the genes that random numbers are drawn for: all, but not the warm start, the repeat, nor a fixed `scaling`.

        They were added later, and searches without them must repeat.
        """
        fixed = {"warm_start", "repeat", *(() if len(self.genes.heavy.scaling) > 1 else ("scaling",))}
        return [name for name in genes if name not in fixed]

    def _re_expressed(self, material: Material, old: Automaton, new: Automaton, operator: str) -> Material:
        """`material` with automaton `new`, and with the genes that `old` and `new` express differently."""
        measured = material.features if material.features is not None else features(old)
        before = self._genes(calibration(self.automaton).positions(measured))
        changed, after = self._express(new)
        genes = {name: after[name] if after[name] != before[name] else value for name, value in material.genes.items()}
        return Material(_fitting(genes), new, changed, operator, material.parents)

    def _express(self, automaton: Automaton) -> tuple[Features, Genes]:
        measured, place = positions(automaton, self.automaton)
        return measured, self._genes(place)

    def _genes(self, place: Positions) -> Genes:
        return {**dict(heavy_genes(place, self.genes)), **dict(light_genes(place, self.genes))}

    def _step(self, name: str, value: object, rng: np.random.Generator) -> object:
        """A near value of one gene; `value` itself when the gene has a single candidate."""
        space = getattr(self.genes.heavy, name, None) or getattr(self.genes.light, name)
        if isinstance(space, Range):
            return self._step_in_range(space, float(value), rng)  # type: ignore[arg-type]
        candidates: list[object] = [module_names(item) for item in space] if name == "target_modules" else list(space)
        if len(candidates) < 2:
            return value
        index = candidates.index(value) if value in candidates else int(rng.integers(len(candidates)))
        size = max(1.0, abs(rng.normal(0, self.settings.gene_step)) * (len(candidates) - 1))
        target = index + round(float(size)) * (1 if rng.random() < 0.5 else -1)
        if not 0 <= target < len(candidates):
            target = 2 * index - target  # in the other direction
        return candidates[int(np.clip(target, 0, len(candidates) - 1))]

    def _step_in_range(self, space: Range, value: float, rng: np.random.Generator) -> object:
        moved = value + rng.normal(0, self.settings.gene_step) * (space.high - space.low)
        moved = float(np.clip(moved, space.low, space.high))
        return round(moved) if isinstance(space, IntRange) else round(moved, 3)


def _scaled(rate: float, strength: float) -> float:
    """`rate` times `strength`, at most 0.5 (or `rate`, if that is larger): a higher flip rate would invert the parent."""
    return min(max(rate, 0.5), rate * strength)


def _fitting(genes: Genes) -> Genes:
    """`genes` without the warm start if it is of an adapter of another shape."""
    earlier = genes["warm_start"]
    if not isinstance(earlier, HeavyGenes) or all(genes[gene] == getattr(earlier, gene) for gene in SHAPE):
        return genes
    return genes | {"warm_start": None}


def genes_of(genome: Genome) -> Genes:
    """Heavy and light genes of `genome` in one mapping by name, for a child of it, which is no repeat; the inverse of `split`."""
    return {**dict(genome.heavy.first()), **dict(genome.light)}


def split(genes: Genes) -> tuple[HeavyGenes, LightGenes]:
    """Heavy and light genes from one mapping by name, validated; the inverse of `genes_of`."""
    heavy = {name: genes[name] for name in HeavyGenes.model_fields}
    light = {name: genes[name] for name in LightGenes.model_fields}
    return HeavyGenes.model_validate(heavy), LightGenes.model_validate(light)


def _joined(first: str, second: str) -> str:
    return f"{first}+{second}" if first else second
