"""The records of a history.jsonl, sorted by kind: what all parts of a report are made of."""

from dataclasses import dataclass, field

from coral_core.runs.records import BaselineRecord, FinalRecord, GenerationRecord, GenomeRecord, HeldOut, RunRecord
from coral_core.runs.run_folder import RunFolder


@dataclass
class History:
    """The records of a history, sorted by kind."""

    run: RunRecord | None = None
    baselines: dict[str, BaselineRecord] = field(default_factory=dict)
    genomes: dict[str, GenomeRecord] = field(default_factory=dict)
    populations: list[list[GenomeRecord]] = field(default_factory=list)
    generations: list[GenerationRecord] = field(default_factory=list)
    final: FinalRecord | None = None

    @classmethod
    def of(cls, folder: RunFolder) -> "History":
        history = cls()
        population: list[GenomeRecord] = []
        for record in folder.history():
            if isinstance(record, RunRecord):
                history.run = history.run or record
            elif isinstance(record, BaselineRecord):
                history.baselines[record.name] = record
            elif isinstance(record, GenomeRecord):
                population.append(record)
                history.genomes.setdefault(record.genome.genome_id, record)
            elif isinstance(record, GenerationRecord):
                history.generations.append(record)
                history.populations.append(population)
                population = []
            elif isinstance(record, FinalRecord):
                history.final = record
        return history

    def held_out(self, name: str) -> HeldOut | None:
        return next((line for line in self.final.held_out if line.name == name), None) if self.final else None

    @property
    def champion(self) -> str | None:
        """The champion, or the best so far."""
        if self.final:
            return self.final.champion
        return self.generations[-1].best if self.generations else None

    def median(self) -> str | None:
        """Genome of median fitness in the first generation: the final record's, or the same rule before the end."""
        line = self.held_out("generation_0_median")
        if line is not None:
            return line.genome_id
        first = (
            [(g.fitness, g.genome.genome_id) for g in self.populations[0] if g.fitness is not None]
            if self.populations
            else []
        )
        return sorted(first)[(len(first) - 1) // 2][1] if first else None
