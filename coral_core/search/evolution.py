"""The evolutionary strategy: fresh seeds, selection from everything evaluated so far, variation, elites.

Parents are drawn from the whole archive rather than from the last generation. An evaluated genome costs nothing to keep,
and a small population would lose good genomes otherwise.
"""

import math
from collections.abc import Mapping, Sequence, Set
from itertools import zip_longest
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from coral_core.config import RunConfig
from coral_core.genome import MOST_REPEATS, MOST_WARM_STARTS, REPEAT, Genome, HeavyGenes, genes_digest
from coral_core.search.archive import Entry, Scored
from coral_core.search.diversity import strength
from coral_core.search.expression import GENES, coordinates
from coral_core.search.randomness import generator
from coral_core.search.screening import Measured, Screen, point
from coral_core.search.selection import R, fitness_order, nsga2_order, violation
from coral_core.search.sobol_search import sobol_positions
from coral_core.search.strategy import Search, genome_at
from coral_core.search.surrogate import MOST_POINTS
from coral_core.search.variation import Material, Variation, split

TRIES = 40
"""Draws of a genome with new genes, before one that repeats earlier genes is accepted."""

MOST_DRAWS = 1024
"""Seeds drawn or children bred per generation, to choose from; a larger population has one per genome."""

Standing = tuple[bool, float]
"""State of the champion after a generation: whether it meets the final thresholds, and its fitness."""


class EvolutionSearch(Search):
    """Evolves genomes by selection and variation.

    Args:
        config: ``config.search`` holds the settings, ``config.genes`` the candidates, ``config.seed`` the seed of all draws.
        carried: Genomes of an earlier run, best first, whose genes the first population begins with.
        default: The default LoRA of the base model; None stands for that of Llama-like models.
    """

    def __init__(self, config: RunConfig, carried: Sequence[Genome] = (), default: HeavyGenes | None = None) -> None:
        super().__init__(config, carried, default)
        self._variation = Variation(config.genes, config.automaton, config.search.variation)
        self._points = sobol_positions(config.genes, config.seed)
        self._best: list[Standing] = []
        self._unique = 1.0
        self._ending = ""
        """Why the generation of finalists is the next one, or was the last; empty before."""

    def learn(self, results: Sequence[Scored]) -> None:
        heavy = {scored.genome.heavy.digest() for scored in results}
        self._unique = len(heavy) / max(1, len(results))
        self._best.append(self._standing())

    def stop(self) -> str:
        if self._ending:
            return self._ending
        reason = self._stalled()
        if reason and self.config.search.finalists and self._repeated():
            self._ending, reason = f"{reason}, and the finalists were trained again", ""
        return reason

    def _stalled(self) -> str:
        """Why the search ends early; empty to go on."""
        stop = self.config.search.early_stopping
        if stop.enabled and self.generation >= stop.minimum_generations and len(self._best) > stop.patience:
            (met_then, then), (meets, now) = self._best[-1 - stop.patience], self._best[-1]
            # a champion that meets the final thresholds for the first time is progress, even at a lower fitness
            if meets == met_then and (now - then < stop.minimum_improvement or now == then):
                return (
                    f"the best fitness rose by {now - then:.4f} in {stop.patience} generations, "
                    f"less than {stop.minimum_improvement}"
                )
        return ""

    def propose(self) -> tuple[Genome, ...]:
        if self.generation == 0:
            return self._first()
        if finalists := self._repeated() if self._is_last() else ():
            self._ending = self._ending or "the finalists were trained again"
            return finalists
        genomes, trainings = self._next(), self.config.search.trainings
        affordable = genomes if trainings is None else self._within(genomes, trainings - self.config.search.finalists)
        return affordable or genomes

    def champion_of(self, results: Sequence[R]) -> R | None:
        """The champion among results: the best of the genes that were trained again, else of all.

        Of genes that were trained again those with the best mean count, and of their adapters the fitter one; without repeats the
        genome of most merit (`Measured.merit`), and without the surrogate the fittest as measured. Only genomes that meet the
        final thresholds count, unless none does. The fittest as measured would be the luckiest of many (the "winner's curse");
        what similar genomes reached tells luck from merit, and a second training does so better.
        """
        best = super().champion_of(results)
        if best is None or (best := self._proven(results)) is not None:
            return best
        repeated = {item.genome.heavy.first() for item in results if item.genome.lineage.operator == REPEAT}
        others = [
            item for item in results if item.genome.heavy.first() not in repeated
        ]  # a repeat that failed is no merit
        return next(iter(self._by_merit(others)), None) or self._by_merit(results)[0]

    def _proven(self, results: Sequence[R]) -> R | None:
        """The fittest adapter of the genes with the best mean fitness among those trained again; None when there are none."""
        scoring = self.config.scoring
        repeated = {item.genome.heavy.first() for item in results if item.genome.lineage.operator == REPEAT}
        trained: dict[str, dict[HeavyGenes, R]] = {}
        for item in results:
            if item.genome.heavy.first() in repeated:
                genes = genes_digest(item.genome.heavy.first(), item.genome.light)
                trained.setdefault(genes, {}).setdefault(item.genome.heavy, item)
        met = [item.scores is not None and violation(item.scores, scoring, 1.0) == 0 for item in results]
        counting = {id(item) for item, meets in zip(results, met, strict=True) if item.scores is not None and (meets or not any(met))}  # fmt: skip
        rated = [
            list(each.values())
            for each in trained.values()
            if len(each) > 1 and all(id(item) in counting for item in each.values())
        ]
        if not rated:
            return None
        best = max(rated, key=lambda each: fmean(item.fitness or 0.0 for item in each))  # of equal ones the first
        return max(best, key=lambda item: item.fitness or 0.0)

    def _by_merit(self, results: Sequence[R]) -> list[R]:
        """The feasible results, those of most merit first; without the surrogate the fittest as measured.

        Only genomes that meet the final thresholds count, unless none does. Elites are measured once, however often they came.
        """
        scoring = self.config.scoring
        distinct: dict[str, R] = {}
        for item in results:
            distinct.setdefault(item.genome.genes_digest(), item)
        known = fitness_order(list(distinct.values()), scoring, 1.0)[:MOST_POINTS]
        rated = [n for n, item in enumerate(known) if item.scores is not None]
        meets = [n for n in rated if violation(known[n].scores or {}, scoring, 1.0) == 0] or rated
        if self.config.search.surrogate.enabled and meets:
            merit = Measured.of(known, self.config).merit
            meets.sort(key=lambda n: (-merit[n], n))
        return [known[n] for n in meets]

    # -- finalists -------------------------------------------------------------------------

    def _is_last(self) -> bool:
        """Whether the coming generation is that of the finalists."""
        search = self.config.search
        left = math.inf if search.trainings is None else search.trainings - len(self._adapters)
        at_the_end = bool(self._ending) or self.generation == search.generations - 1 or left <= search.finalists
        return search.finalists > 0 and at_the_end

    def _breeds_last(self) -> bool:
        """Whether the coming generation is the last one that breeds, as far as trainings and generations tell."""
        search = self.config.search
        left = math.inf if search.trainings is None else search.trainings - len(self._adapters)
        last = search.generations - (2 if search.finalists else 1)
        return self.generation >= last or left - search.finalists <= search.population - search.elites

    def _repeated(self) -> tuple[Genome, ...]:
        """The genomes of most merit, each trained once more with other random numbers; none where that is fewer than two."""
        search = self.config.search
        room = (
            search.finalists
            if search.trainings is None
            else min(search.finalists, search.trainings - len(self._adapters))
        )
        known = list(self._distinct.values())
        times: dict[HeavyGenes, int] = {}
        for entry in known:
            heavy = entry.genome.heavy
            times[heavy.first()] = max(heavy.repeat, times.get(heavy.first(), 0))
        found: dict[HeavyGenes, Genome] = {}
        for entry in self._by_merit(known):
            heavy = entry.genome.heavy.first()
            if len(found) < room and times[heavy] < MOST_REPEATS:
                found.setdefault(heavy, entry.genome)
        if len(found) < 2:  # a single one would be champion whatever came out
            return ()
        return tuple(
            genome_at(
                self.generation, slot, heavy.model_copy(update={"repeat": times[heavy] + 1}), genome.light,
                REPEAT, (genome.genome_id,), genome.automaton, genome.features,
            )
            for slot, (heavy, genome) in enumerate(found.items())
        )  # fmt: skip

    # -- generations -----------------------------------------------------------------------

    def _first(self) -> tuple[Genome, ...]:
        """The first generation: the default LoRA, genomes of an earlier run, then fresh seeds.

        Each seed is the one of `spread` draws that lies farthest from the genomes before it. Draws are repeated until a
        share of `minimum_unique` of the population has distinct heavy genes, and until all genomes differ.
        """
        search = self.config.search
        wanted = int(search.diversity.minimum_unique * search.population)
        draws = max(1, min(search.diversity.spread, MOST_DRAWS // search.population))
        genomes = self.first_genomes()
        heavy = {genome.heavy.digest() for genome in genomes}
        genes = {genome.genes_digest() for genome in genomes}
        points = [coordinates(genome.heavy, self.config.genes) for genome in genomes]
        for slot in range(len(genomes), search.population):
            rng = generator(self.config.seed, 0, slot, "seed")
            drawn = [self._seed(rng, slot, heavy, genes, len(heavy) < wanted) for _ in range(draws)]
            genome = self._farthest(drawn, points)
            genomes.append(genome)
            heavy.add(genome.heavy.digest())
            genes.add(genome.genes_digest())
            points.append(coordinates(genome.heavy, self.config.genes))
        return tuple(genomes)

    def _fresh(self, rng: np.random.Generator) -> Material:
        """Genes that no earlier genome has influenced (`search.variation.seeds`)."""
        seeds = self.config.search.variation.seeds
        if seeds == "automaton":
            return self._variation.seed(rng)
        place = next(self._points) if seeds == "sobol" else {gene: float(rng.random()) for gene in GENES}
        return self._variation.placed_seed(place)

    def _seed(self, rng: np.random.Generator, slot: int, heavy: set[str], genes: set[str], need_new: bool) -> Genome:
        """A fresh genome; its heavy genes are new if `need_new`, otherwise any of its genes is."""
        most = max(1, min(TRIES, MOST_DRAWS // self.config.search.population))
        material = self._fresh(rng)
        for attempt in range(1, 5 * TRIES + 1):
            genome = self._placed(material, slot)
            if genome.heavy.digest() not in heavy if need_new else genome.genes_digest() not in genes:
                break
            # automata repeat themselves: after a while genes change directly
            material = self._fresh(rng) if attempt < most else self._variation.mutate_genes(material, rng, 1.0)
        return genome

    def _farthest(self, drawn: Sequence[Genome], kept: Sequence[NDArray[np.float64]]) -> Genome:
        """The genome of `drawn` that is farthest from its nearest point in `kept`; the first one of a tie."""
        if not kept:
            return drawn[0]
        points = np.array([coordinates(genome.heavy, self.config.genes) for genome in drawn])
        nearest = np.linalg.norm(points[:, None] - np.array(kept)[None], axis=2).min(axis=1)
        return drawn[int(np.argmax(np.round(nearest, 9)))]

    def _next(self) -> tuple[Genome, ...]:
        """A later generation: elites, the fittest trained further, children of selected parents and, at `seed_rate`, fresh seeds.

        With the surrogate more children are bred than there is room for, and the most promising ones are kept.
        """
        search = self.config.search
        ordered = self._ordered()
        kept = [entry for entry in ordered if entry.scores is not None][: search.elites]
        genomes = [self._elite(entry.genome, slot) for slot, entry in enumerate(kept)]
        further = self._further(min(search.variation.warm_start_best, search.population - len(genomes)))
        genomes += [self._placed(material, slot) for slot, material in enumerate(further, len(genomes))]
        bred = self._bred(ordered, range(len(genomes), search.population), {each.genes_digest() for each in genomes})
        if len(bred) > search.population - len(genomes):
            bred = self._screened(bred, search.population - len(genomes))
        return (*genomes, *(self._placed(material, slot) for slot, material in enumerate(bred, len(genomes))))

    def _further(self, count: int) -> list[Material]:
        """The adapters of most merit, each trained once more: with equal genes, in the last generation that breeds at the next
        lower learning rate.

        A model of what was measured cannot know that training further pays before it was tried, and random parents try it
        too seldom with the best one. A lower rate gains more at once and less over several trainings (short-horizon bias, Wu et
        al. 2018), so it comes last. An adapter that went on so before is passed over.

        Args:
            count: At most so many.
        """
        if not count or not self.config.search.variation.warm_start_rate:
            return []
        found: dict[str, Material] = {}
        for entry in self._by_merit(list(self._distinct.values())):
            if len(found) < count and entry.genome.heavy.trainings() <= MOST_WARM_STARTS:
                material = self._variation.continued(entry.genome, lower=self._breeds_last())
                adapter = split(material.genes)[0].digest()
                if adapter not in self._adapters:
                    found.setdefault(adapter, material)
        return list(found.values())

    def _bred(self, ordered: Sequence[Entry], slots: range, asked: Set[str] = frozenset()) -> list[Material]:
        """Children for each of `slots`: one, or with the surrogate up to `surrogate.children`.

        Args:
            ordered: The survivors of selection, best first.
            slots: The slots to fill.
            asked: Digests of the genes that this generation has already.
        """
        search = self.config.search
        size = max(2, int(search.survival_rate * search.population))
        parents = [entry.genome for entry in ordered[:size]]
        places = {genome.genome_id: place for place, genome in enumerate(parents)}
        feasible = {entry.genome.genome_id for entry in ordered if entry.scores is not None}
        fittest = [entry.genome for entry in fitness_order(ordered, self.config.scoring, self._progress())[:size]]
        power = strength(search.diversity, self._unique, self._best)
        most = min(search.surrogate.children, MOST_DRAWS // max(1, len(slots))) if search.surrogate.enabled else 1
        children = max(1, most)
        taken = self._distinct.keys() | asked
        bred = []
        for slot in slots:
            rng = generator(self.config.seed, self.generation, slot, "child")
            for number in range(children):
                for _ in range(TRIES):
                    if rng.random() < search.variation.seed_rate:
                        material = self._fresh(rng)
                    else:
                        chosen = self._parents(fittest, parents, places, rng)
                        material = self._variation.child(chosen, rng, power, chosen[0].genome_id in feasible)
                    genes = genes_digest(*split(material.genes))
                    if genes not in taken:
                        break
                if number > 0 and genes in taken:
                    break  # there is hardly anything new to breed
                taken.add(genes)
                bred.append(material)
        return bred

    def _screened(self, bred: Sequence[Material], room: int) -> list[Material]:
        """The `room` children of `bred` that the models of everything measured prefer, in the order of choice."""
        measured = Measured.of(self._informative(), self.config)
        children = np.array([point(*split(material.genes), self.config) for material in bred])
        for_front = round(self.config.search.surrogate.front_share * room)
        return [bred[index] for index in Screen(measured, children).choose(room, for_front)]

    def _informative(self) -> list[Entry]:
        """The candidates that models are fitted to: all of them, or of many the fittest, the front and the newest."""
        entries = list(self._distinct.values())
        if len(entries) <= MOST_POINTS:
            return entries
        orders = (fitness_order(entries, self.config.scoring, 1.0), self._ordered(), entries[::-1])
        chosen = {entry.genes: entry for ranked in zip_longest(*orders) for entry in ranked if entry is not None}
        return list(chosen.values())[:MOST_POINTS]

    def _ordered(self) -> list[Entry]:
        """All candidates evaluated so far, best first; infeasible ones are included when fewer than two others exist.

        Of genomes with equal genes (elites) the first one stands for all, since copies would lower each other's crowding
        distance. With nsga2 the champion comes first, so that it always survives.
        """
        pareto = self.config.search.selection == "nsga2"
        order = nsga2_order if pareto else fitness_order
        ordered = order(list(self._distinct.values()), self.config.scoring, self._progress())
        rated = [item for item in ordered if item.scores is not None]
        if pareto and (best := self.champion_of(rated)) is not None:
            rated.sort(key=lambda item: item.genes != best.genes)
        return rated if len(rated) >= 2 else rated + [item for item in ordered if item.scores is None]

    def _standing(self) -> Standing:
        best = super().champion_of(list(self._distinct.values()))  # as measured, whatever the model expects
        if best is None or best.scores is None:
            return (False, 0.0)
        return (violation(best.scores, self.config.scoring, 1.0) == 0, best.fitness or 0.0)

    def _progress(self) -> float:
        """Progress of the search in [0, 1] at the last generation told: 0 for the first generation, 1 for the last.

        With `search.trainings` the share of trainings spent after the first generation, if that is more.
        """
        search = self.config.search
        share = max(0, self.generation - 1) / max(1, search.generations - 1)
        if search.trainings is None:
            return share
        spent = (len(self._adapters) - search.population) / max(1, search.trainings - search.population)
        return min(1.0, max(share, spent))

    def _parents(
        self, fittest: list[Genome], spread: list[Genome], places: Mapping[str, int], rng: np.random.Generator
    ) -> list[Genome]:
        """One or two distinct parents: the first from `fittest`, the second from `spread`, the survivors of selection.

        In a small population nearly every genome is non-dominated, and crowding prefers the ends of the front. If both
        parents came from the survivors, mostly the cheapest and the most expensive genomes would breed.

        Args:
            fittest: Best first.
            spread: Best first.
            places: Genome id -> index in `spread`.
            rng: The stream to draw from.
        """
        first = fittest[self._pick(len(fittest), rng)]
        if rng.random() >= self.config.search.variation.crossover_rate:
            return [first]
        place = places.get(first.genome_id, len(spread))  # which is left out
        others = len(spread) - (place < len(spread))
        if not others:
            return [first]
        second = self._pick(others, rng)
        return [first, spread[second + (second >= place)]]

    def _pick(self, size: int, rng: np.random.Generator) -> int:
        """Index of a parent in a pool of `size`, which is sorted best first.

        Truncation selection draws uniformly; tournament and nsga2 take the best of `tournament_size` draws.
        """
        if self.config.search.selection == "truncation":
            return int(rng.integers(size))
        return int(min(rng.integers(size) for _ in range(self.config.search.tournament_size)))

    def _elite(self, old: Genome, slot: int) -> Genome:
        parents, slots = (old.genome_id,), (self.generation, slot)
        return genome_at(*slots, old.heavy, old.light, "elite", parents, old.automaton, old.features)

    def _placed(self, material: Material, slot: int) -> Genome:
        heavy, light = split(material.genes)
        origin = (material.operator, material.parents, material.automaton, material.features)
        return genome_at(self.generation, slot, heavy, light, *origin)
