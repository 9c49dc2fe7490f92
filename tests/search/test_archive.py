"""What a search keeps of its results is what it was told, and equal genes count once."""

from coral_core.config import RunConfig
from coral_core.search.strategy import Scored, make_search


def test_genomes_come_back_as_they_were_and_equal_genes_once() -> None:
    search = make_search(RunConfig())
    genomes = search.ask()
    told = [Scored(genome=g, scores={"bugfix": n / 10}, fitness=n / 10) for n, g in enumerate(genomes)]
    search.tell(list(reversed(told)))
    assert [entry.scored() for entry in search._entries] == told
    repeats = [Scored(genome=g, scores=None, fitness=None, infeasible="diverged") for g in search.ask()]
    search.tell(repeats)
    assert search._entries[-1].scored() == repeats[-1]
    first = {
        g.genes_digest(): g.genome_id for g in (*genomes, *(s.genome for s in repeats)) if g.lineage.operator != "elite"
    }
    assert {genes: entry.genome_id for genes, entry in search._distinct.items()} == first
