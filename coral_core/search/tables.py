"""Gene tables: results of real trainings for every combination of heavy genes, on which strategies are played (play.py).

A table holds all combinations of the candidates in `TableFacts.genes` (its cells), each trained `replicates` times with
other random numbers and evaluated at each of a few light settings. Per problem it keeps whether the first sample passed
and what the objectives are computed from, so that noise, races on part of the problems and paired comparisons can be
replayed; per training it keeps the loss curve. Nothing is interpolated.

On disk a table is a folder of parts, ``part-000.npz`` and so on, each with any rows (a cell and a replicate). A part is
a zip of NumPy arrays without pickle; its sizes, types and indices are checked before use. benchmarks/gene_table.py makes
tables.
"""

import itertools
import json
import math
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import Any, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from pydantic import Field

from coral_core.atomic_write import write_atomic
from coral_core.bounded_read import MEBIBYTE, read_file
from coral_core.config import GenesConfig, RunConfig
from coral_core.config.gene_space import LightGeneSpace, module_names
from coral_core.config.ranges import Range
from coral_core.config.scoring_config import ScoringConfig
from coral_core.config.tree import SearchConfig
from coral_core.errors import TableError
from coral_core.frozen import Frozen
from coral_core.genome import Genome, HeavyGenes, LightGenes
from coral_core.scoring.objectives import cost
from coral_core.search.strategy import genome_at

FORMAT = 1
"""Version of the files."""
LARGEST_PART = 16 * MEBIBYTE
"""Largest size in bytes of a part, compressed."""
LARGEST_ARRAY = 64 * MEBIBYTE
"""Largest size in bytes of one of its arrays."""
MOST_CELLS = 100_000
MEASURES = ("bugfix", "style", "security", "syntax", "runtime")
"""What is kept per problem as a number in [0, 1]; the other objectives follow from `passed` and from the adapter's size."""


class TableProblem(Frozen):
    """A problem of the fitness split."""

    problem_id: str
    bug_class: str
    retention: bool = Field(description="A right function that must stay right; not a bug.")
    base_passes: bool = Field(description="The bare base model repairs it.")


class TableFacts(Frozen):
    """What a table varies and on what; equal in all of its parts."""

    format: int = FORMAT
    name: str
    genes: GenesConfig = Field(description="The axes: all combinations of the heavy candidates are cells.")
    lights: tuple[LightGenes, ...] = Field(min_length=1, description="Settings at which each adapter was evaluated.")
    replicates: int = Field(ge=1, le=100, description="Trainings per cell.")
    problems: tuple[TableProblem, ...] = Field(min_length=1)
    scoring: ScoringConfig
    base_model: str = Field(description="Name of the base model, for what a strategy takes as default genes.")
    base_parameters: int = Field(ge=1)
    base_scores: dict[str, float] = Field(description="Scores of the bare base model, decoded greedily.")
    made_with: dict[str, Any] = Field(description="Other sections of the configuration, content ids and versions.")


class LightResult(Frozen):
    """One evaluation: an adapter at one light setting. Tuples have one value per problem, in the order of the facts."""

    passed: tuple[bool, ...] = Field(description="The first sample passes every case.")
    bugfix: tuple[float, ...]
    style: tuple[float, ...]
    security: tuple[float, ...]
    syntax: tuple[float, ...]
    runtime: tuple[float | None, ...] = Field(description="Work of the reference over work of the patch; None: failed.")
    cpu_seconds: float = Field(ge=0)


class Row(Frozen):
    """One training of one cell, and its evaluations at all light settings."""

    cell: int = Field(ge=0)
    replicate: int = Field(ge=0)
    infeasible: str = Field("", description="Why the adapter cannot be evaluated; empty when it can.")
    trainable_parameters: int = Field(0, ge=0)
    losses: tuple[float, ...] = Field((), description="Training loss, averaged over equal stretches of steps.")
    cpu_seconds: float = Field(ge=0, description="Of the training.")
    results: tuple[LightResult, ...] = Field((), description="One per light setting; none when infeasible.")


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


@dataclass(frozen=True, eq=False)
class Columns:
    """Results of a part or of a whole table as arrays, which take a tenth of the memory of rows.

    Attributes:
        cell: Number of the cell of each row, shape (rows,); `replicate`, `infeasible`, `parameters` and
            `training_seconds` likewise.
        losses: Loss curve of each row, shape (rows, points); NaN behind its end.
        first: Number of each row's first evaluation, shape (rows,); the others follow in the order of the light settings.
            Without meaning for an infeasible row.
        evaluation_seconds: CPU seconds per evaluation, shape (evaluations,).
        passed: Whether the first sample passed, shape (evaluations, problems).
        measures: Name of a measure -> its values, shape (evaluations, problems); NaN where there is none.
        made_on: Numerics classes of the machines that made the rows.
    """

    cell: NDArray[np.int64]
    replicate: NDArray[np.int64]
    infeasible: tuple[str, ...]
    parameters: NDArray[np.int64]
    training_seconds: NDArray[np.float64]
    losses: NDArray[np.float64]
    first: NDArray[np.int64]
    evaluation_seconds: NDArray[np.float64]
    passed: NDArray[np.bool_]
    measures: dict[str, NDArray[np.float64]]
    made_on: tuple[str, ...]

    @classmethod
    def joined(cls, parts: Sequence["Columns"]) -> "Columns":
        """The rows of several parts one after the other."""
        points = max(part.losses.shape[1] for part in parts)
        starts = np.cumsum([0, *(len(part.passed) for part in parts)])
        padded = [
            np.pad(part.losses, ((0, 0), (0, points - part.losses.shape[1])), constant_values=np.nan) for part in parts
        ]
        return cls(
            cell=np.concatenate([part.cell for part in parts]),
            replicate=np.concatenate([part.replicate for part in parts]),
            infeasible=tuple(reason for part in parts for reason in part.infeasible),
            parameters=np.concatenate([part.parameters for part in parts]),
            training_seconds=np.concatenate([part.training_seconds for part in parts]),
            losses=np.concatenate(padded),
            first=np.concatenate([part.first + start for part, start in zip(parts, starts[:-1], strict=True)]),
            evaluation_seconds=np.concatenate([part.evaluation_seconds for part in parts]),
            passed=np.concatenate([part.passed for part in parts]),
            measures={name: np.concatenate([part.measures[name] for part in parts]) for name in MEASURES},
            made_on=tuple(sorted({machine for part in parts for machine in part.made_on})),
        )


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
        number = self._numbers.get(genome.heavy)
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

    def expected(self, genome: Genome, unseen: int | None = None) -> dict[str, float] | None:
        """Mean scores of all feasible replicates of a genome: its value without noise, as far as the table knows it.

        Args:
            genome: As for `observed`.
            unseen: A replicate to leave out, because it was what the genome was chosen by: the mean of all is biased by half
                of the luck of a choice by one of two. Where it is the only one, it counts.

        Returns:
            Objective name -> score; None when every replicate is infeasible.

        Raises:
            TableError: as `observed`.
        """
        numbers = range(self.facts.replicates)
        each = [self.observed(genome, number) for number in numbers if number != unseen or len(numbers) == 1]
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


# -- the format ----------------------------------------------------------------------------
# rows: cell, replicate, reason (number of a text in `reasons`), parameters, training_seconds (rows,); losses (rows, points)
# evaluations of rows that are feasible, in their order: evaluation_seconds (evaluations,), passed (evaluations, bytes) as
# bits, and for each measure codes (evaluations, problems) and the values that they stand for; NaN stands for None.

_FIXED = {"facts", "made_on", "reasons", "cell", "replicate", "reason", "parameters", "training_seconds", "losses"}
_EVALUATED = {"evaluation_seconds", "passed"}
_NAMES = _FIXED | _EVALUATED | {f"{name}{end}" for name in MEASURES for end in ("", "_values")}


def write_part(path: Path, facts: TableFacts, rows: Iterable[Row], made_on: str = "") -> None:
    """Write a part of a table; equal arguments give equal bytes.

    Args:
        path: The file; replaced in one step.
        facts: What the table varies.
        rows: At least one.
        made_on: Numerics class of the machine that made them.
    """
    packed = BytesIO()
    np.savez_compressed(packed, **_packed(facts, rows, made_on))  # type: ignore[arg-type]  # its own `allow_pickle` is no array
    write_atomic(path, packed.getvalue())


def columns_of(facts: TableFacts, rows: Iterable[Row]) -> Columns:
    """The columns that a part with these rows holds.

    Args:
        facts: What the table varies.
        rows: At least one, in any order.
    """
    return _columns(_packed(facts, rows), facts)


def _packed(facts: TableFacts, rows: Iterable[Row], made_on: str = "") -> dict[str, NDArray[Any]]:
    """The arrays of a part."""
    rows = sorted(rows, key=lambda row: (row.cell, row.replicate))
    reasons = sorted({row.infeasible for row in rows})
    points = max(len(row.losses) for row in rows)
    results = [result for row in rows for result in row.results]
    problems = len(facts.problems)
    arrays: dict[str, NDArray[Any]] = {
        "facts": _text(facts.model_dump_json()),
        "made_on": _text(made_on),
        "reasons": _text(json.dumps(reasons)),
        "cell": np.array([row.cell for row in rows], dtype=np.uint32),
        "replicate": np.array([row.replicate for row in rows], dtype=np.uint8),
        "reason": np.array([reasons.index(row.infeasible) for row in rows], dtype=np.uint16),
        "parameters": np.array([row.trainable_parameters for row in rows], dtype=np.uint64),
        "training_seconds": np.array([row.cpu_seconds for row in rows], dtype=np.float32),
        "losses": np.array([[*row.losses, *[math.nan] * (points - len(row.losses))] for row in rows], dtype=np.float16),
        "evaluation_seconds": np.array([result.cpu_seconds for result in results], dtype=np.float32),
        "passed": np.packbits(
            np.array([r.passed for r in results], dtype=bool).reshape(len(results), problems), axis=1
        ),
    }
    for name in MEASURES:
        table = np.array([getattr(result, name) for result in results], dtype=float).reshape(len(results), problems)
        values, codes = np.unique(table, return_inverse=True)
        arrays[f"{name}_values"] = values
        arrays[name] = codes.reshape(table.shape).astype(np.uint8 if len(values) <= 256 else np.uint16)
    return arrays


def read_part(path: Path) -> tuple[TableFacts, Columns]:
    """Read a part of a table.

    Args:
        path: A file that `write_part` wrote; anything else is refused.

    Raises:
        TableError: it is missing, damaged, too large, or no part of a table.
    """
    try:
        arrays = _arrays(read_file(path, LARGEST_PART))
        facts = TableFacts.model_validate_json(arrays["facts"].tobytes())
        if facts.format != FORMAT:
            raise ValueError(f"format {facts.format}, this version reads {FORMAT}")
        return facts, _columns(arrays, facts)
    except (OSError, ValueError, LookupError, zipfile.BadZipFile, NotImplementedError) as error:
        reason = (str(error).splitlines() or [""])[0][:300]
        raise TableError(f"{path}: no part of a gene table: {reason}", remedy="Fetch or make it again.") from error


def _arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays in a zip; raises `ValueError` for anything else than numbers of the announced size."""
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(BytesIO(data)) as archive:
        if sorted(archive.namelist()) != sorted(f"{name}.npy" for name in _NAMES):
            raise ValueError(f"it holds {', '.join(archive.namelist()[:20])}")
        for entry in archive.infolist():
            if entry.file_size > LARGEST_ARRAY:
                raise ValueError(f"{entry.filename} has {entry.file_size} bytes, {LARGEST_ARRAY} are read at most")
            with archive.open(entry) as file:
                npy.read_magic(file)
                shape, in_columns, kind = npy.read_array_header_1_0(file)
                content = file.read(entry.file_size)
            if kind.kind not in "uif" or in_columns or math.prod(shape) * kind.itemsize != len(content):
                raise ValueError(f"{entry.filename}: type {kind} and shape {shape} with {len(content)} bytes")
            arrays[entry.filename.removesuffix(".npy")] = np.frombuffer(content, dtype=kind).reshape(shape)
    return arrays


def _columns(arrays: dict[str, NDArray[Any]], facts: TableFacts) -> Columns:
    """The columns of a part; an index outside its array raises `LookupError`, a length that does not fit `ValueError`."""
    reasons = [str(reason) for reason in json.loads(arrays["reasons"].tobytes())]
    infeasible = tuple(reasons[number] for number in arrays["reason"].tolist())
    rows, lights, problems = len(infeasible), len(facts.lights), len(facts.problems)
    evaluated = np.array([lights if not reason else 0 for reason in infeasible], dtype=np.int64)
    evaluations = int(evaluated.sum())
    if arrays["passed"].shape != (evaluations, -(-problems // 8)):
        raise ValueError(f"bits of shape {arrays['passed'].shape} for {evaluations} evaluations of {problems} problems")
    passed = np.unpackbits(arrays["passed"], axis=1, count=problems).astype(bool)
    measures = {name: arrays[f"{name}_values"].astype(float)[arrays[name]] for name in MEASURES}
    if {values.shape for values in measures.values()} != {(evaluations, problems)}:
        raise ValueError(f"results of another number than {evaluations} evaluations of {problems} problems")
    if any(not (np.isnan(values) | ((values >= 0) & (values <= 1))).all() for values in measures.values()):
        raise ValueError("scores outside [0, 1]")
    if any(np.isnan(values).any() for name, values in measures.items() if name != "runtime"):
        raise ValueError("scores that are no numbers")
    shapes = {name: arrays[name].shape for name in ("cell", "replicate", "parameters", "training_seconds")}
    if {(rows,), arrays["losses"].shape[:1], *shapes.values()} != {(rows,)} or arrays["losses"].ndim != 2:
        raise ValueError(f"columns of shapes {shapes} for {rows} rows")
    if arrays["evaluation_seconds"].shape != (evaluations,):
        raise ValueError(f"seconds of another number than {evaluations} evaluations")
    return Columns(
        cell=arrays["cell"].astype(np.int64),
        replicate=arrays["replicate"].astype(np.int64),
        infeasible=infeasible,
        parameters=arrays["parameters"].astype(np.int64),
        training_seconds=arrays["training_seconds"].astype(float),
        losses=arrays["losses"].astype(float),
        first=np.cumsum(evaluated) - evaluated,
        evaluation_seconds=arrays["evaluation_seconds"].astype(float),
        passed=passed,
        measures=measures,
        made_on=(arrays["made_on"].tobytes().decode(),),
    )


def _text(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8)
