"""Samplers of Optuna as strategies: the baselines that most users would try first. Needs the extra ``optuna``.

Candidates of a numeric heavy gene become an ordered integer (the index), names become categories, ranges stay ranges. Each
sampler has Optuna's defaults. Constraints are those of `scoring.thresholds`, at their final thresholds; a genome that is
infeasible violates more than any other, and its values play no part.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from coral_core.config import RunConfig
from coral_core.config.ranges import IntRange, Range
from coral_core.digest import seed_from
from coral_core.genome import Genome, HeavyGenes, LightGenes
from coral_core.search.archive import Scored
from coral_core.search.expression import NAMED, ROUNDED
from coral_core.search.selection import objectives, violation
from coral_core.search.strategy import Search, genome_at

if TYPE_CHECKING:  # takes half a second to import
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial


class OptunaSearch(Search):
    """Asks a sampler of Optuna for all genomes of a generation, then tells it all results in the order of slots.

    The study is in memory. The sampler is made anew for each generation, seeded by run seed and generation, so that its
    draws follow from the results alone.
    """

    operator = ""
    """Name of the strategy in lineages."""

    def __init__(self, config: RunConfig, carried: Sequence[Genome] = (), default: HeavyGenes | None = None) -> None:
        import optuna

        super().__init__(config, carried, default)
        self.version = f"optuna {optuna.__version__}"
        self._distributions = self._make_distributions()
        self._trials: list[Trial] = []
        """Those of the current generation, by slot."""
        shown = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self._study = optuna.create_study(directions=["maximize"] * len(self._values({}, 0.0)))
        finally:
            optuna.logging.set_verbosity(shown)

    @abstractmethod
    def _sampler(self, seed: int) -> "BaseSampler":
        """The sampler of one generation, seeded."""

    def _values(self, scores: dict[str, float], fitness: float) -> list[float]:
        """What is maximised."""
        return [scores.get(name, 0.0) for name in objectives(self.config.scoring)]

    def propose(self) -> Iterable[Genome]:
        self._study.sampler = self._sampler(seed_from(self.operator, self.config.seed, self.generation) % 2**32)
        genomes = self.first_genomes() if self.generation == 0 else []
        for genome in genomes:
            self._study.enqueue_trial(self._parameters(genome))
        self._trials = [self._study.ask(self._distributions) for _ in range(self.config.search.population)]
        for slot in range(len(genomes), self.config.search.population):
            heavy, light = self._genes(self._trials[slot].params)
            genomes.append(genome_at(self.generation, slot, heavy, light, self.operator))
        return genomes

    def learn(self, results: Sequence[Scored]) -> None:
        worst = 1.0 + len(self.config.scoring.thresholds)
        for trial, scored in zip(self._trials, results, strict=False):  # the last generation may be cut
            feasible = scored.scores is not None
            amount = violation(scored.scores or {}, self.config.scoring, 1.0) if feasible else worst
            trial.set_constraint("thresholds", amount)
            self._study.tell(trial, self._values(scored.scores or {}, scored.fitness or 0.0))

    # -- genes and parameters ------------------------------------------------------------------

    def _make_distributions(self) -> dict[str, "BaseDistribution"]:
        """Gene name -> distribution of Optuna; genes with a single value are left out."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        found: dict[str, BaseDistribution] = {}
        for gene, values in self._space.heavy.items():
            places = range(len(values))
            if len(values) > 1:
                found[gene] = CategoricalDistribution(places) if gene in NAMED else IntDistribution(0, places[-1])
        for gene, space in self.config.genes.light:
            if not isinstance(space, Range):
                if len(space) > 1:
                    found[gene] = CategoricalDistribution(space)
            elif space.low < space.high:
                kind = IntDistribution if isinstance(space, IntRange) else FloatDistribution
                found[gene] = kind(space.low, space.high)
        return found

    def _genes(self, parameters: dict[str, Any]) -> tuple[HeavyGenes, LightGenes]:
        heavy = {gene: values[parameters.get(gene, 0)] for gene, values in self._space.heavy.items()}
        light: dict[str, Any] = {}
        for gene, space in self.config.genes.light:
            if isinstance(space, Range):
                value = parameters.get(gene, space.low)
                light[gene] = min(max(round(value, ROUNDED), space.low), space.high)
            else:
                light[gene] = parameters.get(gene, space[0])
        return HeavyGenes.model_validate(heavy), LightGenes.model_validate(light)

    def _parameters(self, genome: Genome) -> dict[str, Any]:
        heavy = {gene: values.index(getattr(genome.heavy, gene)) for gene, values in self._space.heavy.items()}
        both = {**heavy, **dict(genome.light)}
        return {gene: both[gene] for gene in self._distributions}


class TpeSearch(OptunaSearch):
    """Multi-objective tree-structured Parzen estimator (Bergstra et al. 2011, Ozaki et al. 2020)."""

    operator = "tpe"

    def _sampler(self, seed: int) -> "BaseSampler":
        from optuna.samplers import TPESampler

        return TPESampler(seed=seed)


class TpeFitnessSearch(TpeSearch):
    """The same on the scalar fitness, by which the champion is chosen."""

    operator = "tpe-fitness"

    def _values(self, scores: dict[str, float], fitness: float) -> list[float]:
        return [fitness]


class Nsga2Search(OptunaSearch):
    """NSGA-II of Optuna (Deb et al. 2002), with `search.population` as its population."""

    operator = "nsga2"
    smallest_population = 2

    def _sampler(self, seed: int) -> "BaseSampler":
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(population_size=self.config.search.population, seed=seed)
