"""The records of a history.jsonl, sorted by kind; all parts of a report are made from them."""

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
        """The history of the run in `folder`. Raises `StoreError`: a line of it is broken."""
        history = cls()
        population: list[GenomeRecord] = []
        for record in folder.history():
            match record:
                case RunRecord():
                    history.run = history.run or record
                case BaselineRecord():
                    history.baselines[record.name] = record
                case GenomeRecord():
                    population.append(record)
                    history.genomes.setdefault(record.genome.genome_id, record)
                case GenerationRecord():
                    history.generations.append(record)
                    history.populations.append(population)
                    population = []
                case FinalRecord():
                    history.final = record
        return history

    def held_out(self, name: str) -> HeldOut | None:
        """A line of the final table; None before the end."""
        return next((line for line in self.final.held_out if line.name == name), None) if self.final else None

    @property
    def front(self) -> tuple[str, ...]:
        """Genomes of the Pareto front after the latest generation."""
        front = self.generations[-1].front if self.generations else ()
        return tuple(name for name in front if name in self.genomes)

    @property
    def champion(self) -> str | None:
        """The champion, or the best so far."""
        if self.final:
            return self.final.champion
        return self.generations[-1].best if self.generations else None

    def median(self) -> str | None:
        """Genome of median fitness in the first generation: the final record's, or the same rule before the end."""
        if (line := self.held_out("generation_0_median")) is not None:
            return line.genome_id
        first = self.populations[0] if self.populations else []
        rated = sorted((g.fitness, g.genome.genome_id) for g in first if g.fitness is not None)
        return rated[(len(rated) - 1) // 2][1] if rated else None
