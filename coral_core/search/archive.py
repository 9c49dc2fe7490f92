"""The archive of a search: all results told to it, in a compact form.

Selection needs the scores, fitness and genome ids of all results, but the genes of a few only. An entry therefore holds
its genome as JSON, about a fifth of the size of the objects, and rebuilds the genome on access.
"""

from dataclasses import dataclass

from coral_core.frozen import Frozen
from coral_core.genome import Genome


class Scored(Frozen):
    """A genome and the result of its evaluation.

    Attributes:
        genome: The genome.
        scores: Objective name -> score in [0, 1]; None when it is infeasible, which is not a score of 0.
        fitness: Weighted sum of the scores, in [0, 1]; None when the genome is infeasible.
        infeasible: Why it could not be trained or evaluated; None when it could.
    """

    genome: Genome
    scores: dict[str, float] | None
    fitness: float | None
    infeasible: str | None = None

    @property
    def genome_id(self) -> str:
        return self.genome.genome_id


@dataclass(frozen=True, slots=True)
class Entry:
    """One result in the archive of a search: a `Scored` in compact form."""

    genome_id: str
    scores: dict[str, float] | None
    fitness: float | None
    infeasible: str | None
    genes: str
    """Digest of the genes; genomes with equal genes are one candidate."""
    packed: bytes
    """The genome as JSON."""

    @classmethod
    def of(cls, scored: Scored) -> "Entry":
        return cls(
            genome_id=scored.genome_id,
            scores=None if scored.scores is None else dict(scored.scores),
            fitness=scored.fitness,
            infeasible=scored.infeasible,
            genes=scored.genome.genes_digest(),
            packed=scored.genome.model_dump_json().encode(),
        )

    @property
    def genome(self) -> Genome:
        return Genome.model_validate_json(self.packed)

    def scored(self) -> Scored:
        return Scored(genome=self.genome, scores=self.scores, fitness=self.fitness, infeasible=self.infeasible)
