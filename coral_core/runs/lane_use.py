"""How busy the lanes were: columns over the latest session that did work, from a `RunReading`."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass

from coral_core.config.tree import InfraConfig
from coral_core.runs.run_reader import Kind, RunReading

BINS = 180
"""Columns: what happens in less than one is averaged."""


@dataclass(frozen=True)
class Busy:
    """Mean number of busy lanes in each of `BINS` columns."""

    began: float
    """Unix time of the first column's beginning."""
    width: float
    """Seconds of a column."""
    columns: Mapping[Kind, list[float]]
    at_most: int
    """Lanes of both kinds together; 0 when that is up to the machine."""


def busy_lanes(reading: RunReading) -> Busy | None:
    """None before the first job is done."""
    spans = {kind: span for kind, span in reading.busy.items() if span}
    if not spans:
        return None
    began = min(min(span[::2]) for span in spans.values())
    ended = max(max(span[1::2]) for span in spans.values())
    width = max(1e-9, ended - began) / BINS
    columns = {kind: _columns(span, began, width) for kind, span in reading.busy.items()}
    return Busy(began, width, columns, _most_lanes(reading.config.infra))


def _columns(span: "array[float]", began: float, width: float) -> list[float]:
    columns = [0.0] * BINS
    for start, end in zip(span[::2], span[1::2], strict=True):
        low, high = (start - began) / width, (end - began) / width
        for column in range(max(0, int(low)), min(BINS - 1, int(high)) + 1):
            columns[column] += max(0.0, min(high, column + 1) - max(low, column))
    return columns


def _most_lanes(infra: InfraConfig) -> int:
    if infra.executor == "work-pools":
        return infra.training.lanes + infra.evaluation.lanes
    return infra.local_lanes
