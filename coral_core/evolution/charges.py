"""What a search is charged: each adapter and each evaluation once, at what it first cost, wherever it was made.

A result that another run left in the store costs a search nothing, but would make a comparison of strategies depend on
their order. So a cache hit is charged as if it had been computed now; the store has the cost with each result.
"""

from collections.abc import Callable

from coral_core.config import RunConfig
from coral_core.config.budget_config import LanePrices
from coral_core.frozen import Frozen
from coral_core.genome import HeavyGenes
from coral_core.runs.records import GenomeRecord
from coral_core.store.store import Store

HOUR = 3600.0


class Charged(Frozen):
    """Charges of a search so far. Seconds and money are null once the cost of a result is not known."""

    trainings: int = 0
    evaluations: int = 0
    gpu_seconds: float | None = 0.0
    money: float | None = 0.0


class Charges:
    """Adds up what the genomes of one search cost.

    Args:
        store: Holds the results and what each first cost.
        price: Money per lane and hour.
        training_digest: Gives the digest of the training of heavy genes in this run. It is asked for trainings that a genome
            goes on with and that no genome before it has paid: those of a carried genome, or of a plug-in's.
    """

    def __init__(self, store: Store, price: LanePrices, training_digest: Callable[[HeavyGenes], str]) -> None:
        self._store = store
        self._price = price
        self._training_digest = training_digest
        self._trained = set[str]()
        """Digests of the heavy genes of paid trainings."""
        self._paid = {"none"}
        """Digests that are paid; the bare base model needs no training."""
        self.total = Charged()

    def add(self, record: GenomeRecord) -> Charged:
        """Charge a genome for what no genome before it has paid, and return all charges so far.

        Args:
            record: The genome. If it is infeasible, a result that is not in the store counts as free.
        """
        free = 0.0 if record.infeasible else None
        for earlier in record.genome.heavy.chain()[:-1]:
            if earlier.digest() not in self._trained:
                self._train(earlier, self._training_digest(earlier), free)
        self._train(record.genome.heavy, record.training_digest, free)
        if record.evaluation_digest not in self._paid:
            evaluation = self._store.read_evaluation(record.evaluation_digest)
            self._pay("evaluations", evaluation.cost.seconds if evaluation else free, self._price.evaluation)
        self._paid.add(record.evaluation_digest)
        return self.total

    def _train(self, heavy: HeavyGenes, digest: str, free: float | None) -> None:
        if digest not in self._paid:
            adapter = self._store.read_adapter(digest)
            self._pay("trainings", adapter.cost.seconds if adapter else free, self._price.training)
        self._paid.add(digest)
        self._trained.add(heavy.digest())

    def _pay(self, kind: str, seconds: float | None, price: float) -> None:
        total = self.total
        known = seconds is not None and total.gpu_seconds is not None and total.money is not None
        self.total = total.model_copy(
            update={
                kind: getattr(total, kind) + 1,
                "gpu_seconds": (total.gpu_seconds or 0) + (seconds or 0) if known else None,
                "money": (total.money or 0) + (seconds or 0) / HOUR * price if known else None,
            }
        )


def reached(config: RunConfig, charged: Charged) -> str:
    """Which limit of `search.gpu_seconds` and `search.money` the charges have reached, in words; empty if none.

    An unknown cost counts as one that reaches any limit: a search must not go on spending what nobody counts.
    """
    search, currency = config.search, config.budget.currency
    if search.gpu_seconds is not None and (charged.gpu_seconds is None or charged.gpu_seconds >= search.gpu_seconds):
        return f"all {search.gpu_seconds:g} GPU seconds are spent"
    if search.money is not None and (charged.money is None or charged.money >= search.money):
        return f"all {search.money:g} {currency} are spent"
    return ""
