"""The files of gene tables (tables.py): what a table varies, its rows, and the parts that hold them.

On disk a table is a folder of parts, ``part-000.npz`` and so on, each with any rows (a cell and a replicate). A part is
a zip of NumPy arrays without pickle; its sizes, types and indices are checked before use. benchmarks/gene_table.py makes
tables.
"""

import json
import math
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from pydantic import Field

from coral_core.atomic_write import write_atomic
from coral_core.bounded_read import MEBIBYTE, read_file
from coral_core.config import GenesConfig
from coral_core.config.scoring_config import ScoringConfig
from coral_core.errors import TableError
from coral_core.frozen import Frozen
from coral_core.genome import LightGenes

FORMAT = 1
"""Version of the files."""
LARGEST_PART = 16 * MEBIBYTE
"""Largest size in bytes of a part, compressed."""
LARGEST_ARRAY = 64 * MEBIBYTE
"""Largest size in bytes of one of its arrays."""
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
