"""Compares operators: the fitness of children against that of their best parent."""

import statistics
from collections.abc import Mapping

from coral_core.genome import REPEAT
from coral_core.report.content import OperatorLine
from coral_core.report.history_records import History
from coral_core.runs.records import GenomeRecord

NO_CHILDREN = ("elite", REPEAT)


def operator_lines(history: History) -> tuple[OperatorLine, ...]:
    """A line per operator, most children first, without elites and repeats, whose genes are those of genomes counted before."""
    made: dict[str, list[GenomeRecord]] = {}
    for record in history.genomes.values():
        if record.genome.lineage.operator not in NO_CHILDREN:
            made.setdefault(record.genome.lineage.operator, []).append(record)
    record_makers = _record_makers(history)
    lines = [_line(name, children, history.genomes, record_makers) for name, children in made.items()]
    return tuple(sorted(lines, key=lambda line: (-line.children, line.operator)))


def _line(
    operator: str, children: list[GenomeRecord], genomes: Mapping[str, GenomeRecord], record_makers: set[str]
) -> OperatorLine:
    changes = []
    for child in children:
        parents = [genomes[name].fitness for name in child.genome.lineage.parents if name in genomes]
        known = [value for value in parents if value is not None]
        if child.fitness is not None and known:
            changes.append(child.fitness - max(known))
    scores = [child.fitness for child in children if child.fitness is not None]
    return OperatorLine(
        operator=operator,
        children=len(children),
        infeasible=sum(child.infeasible is not None for child in children),
        compared=len(changes),
        improved=sum(change > 0 for change in changes),
        mean_change=statistics.fmean(changes) if changes else None,
        error=statistics.stdev(changes) / len(changes) ** 0.5 if len(changes) > 1 else None,
        best=max(scores, default=None),
        new_champions=sum(child.genome.genome_id in record_makers for child in children),
    )


def _record_makers(history: History) -> set[str]:
    """Genomes that were the fittest of all generations up to their own."""
    makers: set[str] = set()
    best = float("-inf")
    for population in history.populations:
        scored = [(record.fitness, record.genome.genome_id) for record in population if record.fitness is not None]
        if scored and max(scored)[0] > best:
            best = max(scored)[0]
            makers.add(min(name for fitness, name in scored if fitness == best))
    return makers
