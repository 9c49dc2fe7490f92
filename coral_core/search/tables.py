"""Gene tables: results of real trainings for every combination of heavy genes, on which strategies are played (play.py).

A table holds all combinations of the candidates in `TableFacts.genes` (its cells), each trained `replicates` times with
other random numbers and evaluated at each of a few light settings. Per problem it keeps whether the first sample passed
and what the objectives are computed from, so that noise, races on part of the problems and paired comparisons can be
replayed; per training it keeps the loss curve. Nothing is interpolated. Its files: table_files.py.
"""

import itertools
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from coral_core.config import GenesConfig, RunConfig
from coral_core.config.gene_space import LightGeneSpace, module_names
from coral_core.config.ranges import Range
from coral_core.config.tree import SearchConfig
from coral_core.errors import TableError
from coral_core.genome import Genome, HeavyGenes, LightGenes
from coral_core.scoring.objectives import cost
from coral_core.search.strategy import genome_at
from coral_core.search.table_files import Columns, TableFacts, read_part

MOST_CELLS = 100_000


@dataclass(frozen=True)
class CellCost:
    """CPU seconds of a training and of one evaluation of it, means over the replicates."""

    training: float
    evaluation: float


@dataclass(frozen=True)
class Outcomes:
    """What an evaluation found per problem; arrays of shape (problems,).

    Attributes:
        passed: Whether the first sample passes.
        bugfix: Score per problem, as style, security and syntax.
        runtime: Score per problem; NaN where the patch fails.
    """

    passed: NDArray[np.bool_]
    bugfix: NDArray[np.float64]
    style: NDArray[np.float64]
    security: NDArray[np.float64]
    syntax: NDArray[np.float64]
    runtime: NDArray[np.float64]


class Table:
    """A gene table in memory.

    Args:
        facts: What it varies.
        columns: Its results.

    Raises:
        TableError: a row names a cell or replicate that the table does not have, or stands twice.

    Attributes:
        facts: What it varies.
        columns: Its results.
        cells: Heavy genes of each cell, in the order of their numbers.
    """

    def __init__(self, facts: TableFacts, columns: Columns) -> None:
        self.facts, self.columns = facts, columns
        self.cells = cells_of(facts.genes)
        self._numbers = {heavy: number for number, heavy in enumerate(self.cells)}
        self._rows: dict[tuple[int, int], int] = {}
        for row, key in enumerate(zip(columns.cell.tolist(), columns.replicate.tolist(), strict=True)):
            if key in self._rows or key[0] >= len(self.cells) or key[1] >= facts.replicates:
                raise TableError(
                    f"cell {key[0]}, replicate {key[1]} (table {self.name}): stands twice, or is none of "
                    f"{len(self.cells)} cells and {facts.replicates} replicates",
                    remedy="Delete its parts and make the table again.",
                )
            self._rows[key] = row
        self._scores: dict[int, dict[str, float]] = {}
        """Number of an evaluation -> scores on all problems."""

    # -- what it varies --------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def genes(self) -> GenesConfig:
        """The search space of the table: its heavy candidates, and ranges that span its light settings."""
        return self.facts.genes

    @property
    def lights(self) -> tuple[LightGenes, ...]:
        """The light settings at which each adapter was evaluated."""
        return self.facts.lights

    @property
    def missing(self) -> tuple[tuple[int, int], ...]:
        """(cell, replicate) of the rows that are not made yet."""
        every = itertools.product(range(len(self.cells)), range(self.facts.replicates))
        return tuple(key for key in every if key not in self._rows)

    @property
    def made(self) -> tuple[tuple[int, int], ...]:
        """(cell, replicate) of the rows that are made."""
        return tuple(sorted(self._rows))

    def genome(self, cell: int, light: int = 0) -> Genome:
        """The genome of a cell at one light setting.

        Args:
            cell: Number of the cell.
            light: Number of the light setting.
        """
        return genome_at(0, 0, self.cells[cell], self.lights[light], "given")

    def config(self, seed: int, search: SearchConfig | None = None) -> RunConfig:
        """The configuration of a search on this table.

        Args:
            seed: Seed of the search.
            search: Its settings; None: the defaults.
        """
        return RunConfig.model_validate(
            {
                "seed": seed,
                "search": search or SearchConfig(),
                "genes": self.genes,
                "scoring": self.facts.scoring,
                "base_model": {"name": self.facts.base_model},
            }
        )

    def placed(self, genome: Genome) -> Genome:
        """`genome` with the light setting of the table that is nearest to its own: what an evaluation of it was done with.

        Args:
            genome: Its heavy genes must be a cell.

        Raises:
            TableError: its heavy genes are no cell.
        """
        _, light = self._place(genome)
        return genome.model_copy(update={"light": self.lights[light]})

    def _place(self, genome: Genome) -> tuple[int, int]:
        """Numbers of the cell and of the nearest light setting.

        Settings with the same choice of sampling come first; then the distance counts, each gene as a share of its range.
        """
        number = self._numbers.get(genome.heavy.first())
        if number is None and genome.heavy.warm_start is not None:
            raise TableError(
                f"genome {genome.genome_id} goes on with an adapter, and table {self.name} holds single trainings",
                remedy="Set search.variation.warm_start_rate to 0.",
            )
        if number is None:
            raise TableError(
                f"heavy genes {genome.heavy.model_dump(mode='json')} (genome {genome.genome_id}): no cell of table {self.name}",
                remedy="Give the search the genes of the table (`Table.config`).",
            )
        distances = [self._distance(genome.light, light) for light in self.lights]
        return number, distances.index(min(distances))

    def _distance(self, wanted: LightGenes, light: LightGenes) -> tuple[bool, float]:
        ignored = () if wanted.sampling else ("temperature", "top_p", "top_k")
        total = 0.0
        for name, span in self.genes.light:
            if isinstance(span, Range) and span.high > span.low and name not in ignored:
                total += ((getattr(wanted, name) - getattr(light, name)) / (span.high - span.low)) ** 2
        return wanted.sampling != light.sampling, round(total, 12)

    # -- results ---------------------------------------------------------------------------

    def observed(
        self, genome: Genome, replicate: int, problems: Sequence[int] | None = None
    ) -> dict[str, float] | None:
        """Scores of one training of a genome: one noisy observation.

        Args:
            genome: Its heavy genes are a cell; its light genes count as the nearest setting.
            replicate: Number of the training, from 0.
            problems: Numbers of the problems to count, as for a race on part of them; None: all.

        Returns:
            Objective name -> score, as an evaluation gives them; None when the genome is infeasible.

        Raises:
            TableError: no such cell, or it is not made yet.
        """
        row, number = self._find(genome, replicate)
        if self.columns.infeasible[row]:
            return None
        if problems is not None:
            return self._scores_of(row, number, problems)
        if number not in self._scores:
            self._scores[number] = self._scores_of(row, number, range(len(self.facts.problems)))
        return dict(self._scores[number])

    def expected(self, genome: Genome, seen: Set[int] = frozenset()) -> dict[str, float] | None:
        """Mean scores of all feasible replicates of a genome: its value without noise, as far as the table knows it.

        Args:
            genome: As for `observed`.
            seen: Replicates to leave out, because the genome was chosen by them: the mean of all is biased by half of the
                luck of a choice by one of two.

        Returns:
            Objective name -> score; None when every replicate is infeasible, or left out.

        Raises:
            TableError: as `observed`.
        """
        each = [self.observed(genome, number) for number in range(self.facts.replicates) if number not in seen]
        feasible = [scores for scores in each if scores is not None]
        return {name: fmean(scores[name] for scores in feasible) for name in feasible[0]} if feasible else None

    def infeasible(self, genome: Genome, replicate: int) -> str:
        """Why one training of a genome cannot be evaluated; empty when it can. Arguments and errors as `observed`."""
        return self.columns.infeasible[self._find(genome, replicate)[0]]

    def outcomes(self, genome: Genome, replicate: int) -> Outcomes | None:
        """What one evaluation found per problem; None when the genome is infeasible. Arguments and errors as `observed`."""
        row, number = self._find(genome, replicate)
        if self.columns.infeasible[row]:
            return None
        return Outcomes(
            self.columns.passed[number], **{name: values[number] for name, values in self.columns.measures.items()}
        )

    def losses(self, genome: Genome, replicate: int) -> NDArray[np.float64]:
        """The loss curve of one training, averaged over equal stretches of steps. Arguments and errors as `observed`."""
        losses = self.columns.losses[self._find(genome, replicate)[0]]
        kept: NDArray[np.float64] = losses[~np.isnan(losses)]
        return kept

    def cost(self, genome: Genome) -> CellCost:
        """CPU seconds of a genome's training and evaluation. Argument and errors as `expected`."""
        found = [self._find(genome, replicate) for replicate in range(self.facts.replicates)]
        evaluations = [
            self.columns.evaluation_seconds[number] for row, number in found if not self.columns.infeasible[row]
        ]
        training = self.columns.training_seconds[[row for row, _ in found]]
        return CellCost(float(np.mean(training)), float(np.mean(evaluations or [0.0])))

    def _find(self, genome: Genome, replicate: int) -> tuple[int, int]:
        """Numbers of a genome's row and evaluation; the latter is without meaning for an infeasible row."""
        cell, light = self._place(genome)
        row = self._rows.get((cell, replicate))
        if row is None:
            raise TableError(
                f"cell {cell}, replicate {replicate} (table {self.name}): not made yet",
                remedy=f"Make the {len(self.missing)} missing rows: make gene-table TABLE={self.name}.",
            )
        return row, int(self.columns.first[row]) + light

    def _scores_of(self, row: int, number: int, problems: Sequence[int]) -> dict[str, float]:
        """The objectives from what is kept per problem, by the formulas of `coral_core.scoring.objectives`."""
        facts = self.facts.problems
        passed = self.columns.passed[number].tolist()
        values = {name: measured[number].tolist() for name, measured in self.columns.measures.items()}
        kept = [float(passed[n]) for n in problems if facts[n].retention or facts[n].base_passes]
        ratios = {n: ratio for n in problems if not math.isnan(ratio := values["runtime"][n])}
        both = [ratio for n, ratio in ratios.items() if facts[n].base_passes]
        return {
            "bugfix": _mean([values["bugfix"][n] for n in problems if not facts[n].retention]),
            "style": _mean([values["style"][n] for n in problems]),
            "security": _mean([values["security"][n] for n in problems]),
            "runtime": _mean(both or list(ratios.values())),
            "syntax": _mean([values["syntax"][n] for n in problems]),
            "retention": _mean(kept) if kept else 1.0,
            "cost": cost(int(self.columns.parameters[row]), self.facts.base_parameters),
        }

    # -- files -----------------------------------------------------------------------------

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the parts of a table.

        Args:
            folder: Holds ``part-000.npz`` and so on. It may hold a part of the rows (`missing`).

        Raises:
            TableError: there is no part, or one is damaged, of another table or of another format.
        """
        paths = sorted(folder.glob("part-*.npz"))
        if not paths:
            raise TableError(f"{folder}: holds no part of a gene table", remedy="Make one: make gene-table.")
        parts = [read_part(path) for path in paths]
        for path, (facts, _) in zip(paths, parts, strict=True):
            if facts != parts[0][0]:
                raise TableError(f"{path}: another table than {paths[0].name}", remedy="Keep one table per folder.")
        return cls(parts[0][0], Columns.joined([columns for _, columns in parts]))


def cells_of(genes: GenesConfig) -> tuple[HeavyGenes, ...]:
    """All combinations of the heavy candidates; the last gene varies fastest.

    Raises:
        TableError: there are more than `MOST_CELLS`.

    Example:
        >>> from coral_core.config.gene_space import HeavyGeneSpace
        >>> len(cells_of(GenesConfig(heavy=HeavyGeneSpace(rank=(1, 2), alpha=(8,), dropout=(0.0,)))))
        120
    """
    axes = dict(genes.heavy)
    if (count := math.prod(len(candidates) for candidates in axes.values())) > MOST_CELLS:
        raise TableError(
            f"{count} combinations of heavy genes: more than {MOST_CELLS}", remedy="Give fewer candidates."
        )
    found = []
    for values in itertools.product(*axes.values()):
        genes_of_cell = dict(zip(axes, values, strict=True))
        modules = module_names(genes_of_cell["target_modules"])
        found.append(HeavyGenes.model_validate(genes_of_cell | {"target_modules": modules}))
    return tuple(found)


def spanned(lights: Sequence[LightGenes]) -> LightGeneSpace:
    """The ranges that span some light settings.

    >>> from coral_core.genome import GREEDY
    >>> spanned([GREEDY, GREEDY.model_copy(update={"sampling": True})]).sampling
    (False, True)
    """
    ranges: dict[str, Any] = {
        name: {
            "low": min(getattr(light, name) for light in lights),
            "high": max(getattr(light, name) for light in lights),
        }
        for name in LightGenes.model_fields
        if name != "sampling"
    }
    return LightGeneSpace.model_validate(ranges | {"sampling": sorted({light.sampling for light in lights})})


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0
