"""Results that a search was told, kept small enough for runs of any length.

Selection looks at scores, fitness and genome ids of all results, and at the genes of a few. A genome is therefore kept
as its JSON (about a fifth of the size of its objects) and rebuilt when it is asked for.
"""

from dataclasses import dataclass

from coral_core.frozen import Frozen
from coral_core.genome import Genome


class Scored(Frozen):
    """A genome and the result of its evaluation.

    Attributes:
        genome: The genome.
        scores: Objective name -> score in [0, 1]; None when it is infeasible, which is not a score of 0.
        fitness: Weighted sum of the scores, in [0, 1].
        infeasible: Why it could not be trained or evaluated.
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
    """One result as a search keeps it."""

    genome_id: str
    scores: dict[str, float] | None
    fitness: float | None
    infeasible: str | None
    genes: str
    """Digest of the genes: equal genes are one candidate."""
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
