"""No search: the default LoRA with the default decoding, as one genome.

It is what every search is compared with. The base model without an adapter is no genome, since it has no heavy genes: each
run evaluates it as the baseline `base_model`, also a run of this strategy.
"""

from collections.abc import Iterable

from coral_core.genome import Genome
from coral_core.search.strategy import Search, first_genome


class FixedGenome(Search):
    """Proposes the default LoRA with greedy decoding, moved to the nearest candidates, and ends."""

    def propose(self) -> Iterable[Genome]:
        return [first_genome(self.config, self.default)]

    def stop(self) -> str:
        return "the strategy fixed has one genome"
