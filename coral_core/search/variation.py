"""Variation operators: mutation of the automaton, mutation of genes, crossover.

A genome is evaluated by its genes; the automaton only expresses them. When an automaton changes (by mutation, or by
crossover with another), only the genes whose expression changes are replaced, so a gene that was mutated directly keeps
its value. `automaton_rate` is the share of mutations and crossovers that work on automata; the others work on genes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coral_core.config.ranges import IntRange, Range
from coral_core.config.tree import AutomatonConfig, GenesConfig, VariationConfig, module_names
from coral_core.genome import Automaton, Features, Genome, HeavyGenes, LightGenes
from coral_core.search.automaton import RULE_BITS, draw
from coral_core.search.expression import heavy_genes, light_genes, positions

MUTATED_CROSSOVER = 0.3
"""Share of crossovers (at strength 1) whose child is mutated as well: recombination alone invents no value."""

Genes = dict[str, object]
"""Gene name -> value, heavy and light together."""


@dataclass(frozen=True)
class Material:
    """Genes and origin of a child, before it has a slot in a generation."""

    genes: Genes
    automaton: Automaton | None
    features: Features | None
    operator: str
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variation:
    """The operators with their settings; `strength` (from `diversity`) scales the mutation rates."""

    genes: GenesConfig
    automaton: AutomatonConfig
    settings: VariationConfig

    def seed(self, rng: np.random.Generator) -> Material:
        """A genome from a fresh automaton."""
        fresh = draw(self.automaton, rng)
        found, expressed = self._express(fresh)
        return Material(expressed, fresh, found, "seed")

    def child(self, parents: Sequence[Genome], rng: np.random.Generator, strength: float) -> Material:
        """A child of one parent (mutation), or of two (crossover and, sometimes, mutation)."""
        if len(parents) == 2:
            crossed = self._cross(parents[0], parents[1], rng)
            return crossed if rng.random() >= MUTATED_CROSSOVER * strength else self._mutate(crossed, rng, strength)
        parent = parents[0]
        material = Material(genes_of(parent), parent.automaton, parent.features, "", (parent.genome_id,))
        return self._mutate(material, rng, strength)

    def _mutate(self, material: Material, rng: np.random.Generator, strength: float) -> Material:
        if material.automaton is not None and rng.random() < self.settings.automaton_rate:
            return self.mutate_automaton(material, rng, strength)
        return self.mutate_genes(material, rng, strength)

    def mutate_automaton(self, material: Material, rng: np.random.Generator, strength: float) -> Material:
        """Flip cells and rule bits, change the steps; always ends in another automaton."""
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
        # inside the configured range, since the quantiles of `expression` are those of that range
        steps = int(np.clip(old.steps + change, self.automaton.steps.low, self.automaton.steps.high))
        if not flips.any() and rule == old.rule and steps == old.steps:
            flips[rng.integers(grid.shape[0]), rng.integers(grid.shape[1])] = True
        grid = np.where(flips, 1 - grid, grid)
        new = Automaton(grid=tuple(tuple(map(int, row)) for row in grid), rule=rule, steps=steps)
        return self._re_expressed(material, old, new, _joined(material.operator, "mutate-automaton"))

    def mutate_genes(self, material: Material, rng: np.random.Generator, strength: float) -> Material:
        """Move genes to near candidates or values; at least one gene changes when any can."""
        rate = min(1.0, self.settings.gene_rate * strength)
        names = [name for name in material.genes if rng.random() < rate]
        order = list(material.genes)
        rng.shuffle(order)
        changed = dict(material.genes)
        for name in names:
            changed[name] = self._step(name, changed[name], rng)
        for name in order:
            if changed != material.genes:
                break
            changed[name] = self._step(name, changed[name], rng)
        return Material(
            changed, material.automaton, material.features, _joined(material.operator, "mutate-genes"), material.parents
        )

    def _cross(self, first: Genome, second: Genome, rng: np.random.Generator) -> Material:
        if first.automaton is not None and second.automaton is not None and rng.random() < self.settings.automaton_rate:
            return self.cross_automata(first, second)
        return self.cross_genes(first, second, rng)

    def cross_genes(self, first: Genome, second: Genome, rng: np.random.Generator) -> Material:
        """Each gene from either parent alike (uniform crossover); the automaton stays that of the first."""
        ours, theirs = genes_of(first), genes_of(second)
        genes: Genes = {name: ours[name] if rng.random() < 0.5 else theirs[name] for name in ours}
        return Material(genes, first.automaton, first.features, "crossover-genes", (first.genome_id, second.genome_id))

    def cross_automata(self, first: Genome, second: Genome) -> Material:
        """The grid of the first with rule and steps of the second, re-expressed on the genes of the first."""
        old, other = first.automaton, second.automaton
        if old is None or other is None:
            raise ValueError(f"{first.genome_id} or {second.genome_id} has no automaton to cross: use cross_genes")
        material = Material(genes_of(first), old, first.features, "", (first.genome_id, second.genome_id))
        new = Automaton(grid=old.grid, rule=other.rule, steps=other.steps)
        return self._re_expressed(material, old, new, "crossover-automaton")

    def _re_expressed(self, material: Material, old: Automaton, new: Automaton, operator: str) -> Material:
        _, before = self._express(old)
        found, after = self._express(new)
        genes = {name: after[name] if after[name] != before[name] else value for name, value in material.genes.items()}
        return Material(genes, new, found, operator, material.parents)

    def _express(self, automaton: Automaton) -> tuple[Features, Genes]:
        found, place = positions(automaton, self.automaton)
        heavy, light = heavy_genes(place, self.genes), light_genes(place, self.genes)
        return found, {**dict(heavy), **dict(light)}

    def _step(self, name: str, value: object, rng: np.random.Generator) -> object:
        """A near value of one gene; the same value when the gene has no other."""
        space = getattr(self.genes.heavy, name, None) or getattr(self.genes.light, name)
        if isinstance(space, Range):
            return self._step_in_range(space, float(value), rng)  # type: ignore[arg-type]
        candidates: list[object] = [module_names(item) for item in space] if name == "target_modules" else list(space)
        if len(candidates) < 2:
            return value
        here = candidates.index(value) if value in candidates else int(rng.integers(len(candidates)))
        size = max(1.0, abs(rng.normal(0, self.settings.gene_step)) * (len(candidates) - 1))
        there = here + round(float(size)) * (1 if rng.random() < 0.5 else -1)
        if not 0 <= there < len(candidates):
            there = 2 * here - there
        return candidates[int(np.clip(there, 0, len(candidates) - 1))]

    def _step_in_range(self, space: Range, value: float, rng: np.random.Generator) -> object:
        moved = value + rng.normal(0, self.settings.gene_step) * (space.high - space.low)
        moved = float(np.clip(moved, space.low, space.high))
        return round(moved) if isinstance(space, IntRange) else round(moved, 3)


def _scaled(rate: float, strength: float) -> float:
    """`rate` times `strength`; the strength raises it to 0.5 at most, since more would invert a parent."""
    return min(max(rate, 0.5), rate * strength)


def genes_of(genome: Genome) -> Genes:
    """All genes of `genome` by name."""
    return {**dict(genome.heavy), **dict(genome.light)}


def split(genes: Genes) -> tuple[HeavyGenes, LightGenes]:
    """Heavy and light genes from one mapping."""
    heavy = {name: genes[name] for name in HeavyGenes.model_fields}
    light = {name: genes[name] for name in LightGenes.model_fields}
    return HeavyGenes.model_validate(heavy), LightGenes.model_validate(light)


def _joined(first: str, second: str) -> str:
    return f"{first}+{second}" if first else second
