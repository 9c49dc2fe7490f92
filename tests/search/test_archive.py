"""What an archive gives back is what it was told."""

from coral_core.config import RunConfig
from coral_core.search.archive import Archive
from coral_core.search.strategy import Scored, make_search


def test_genomes_come_back_as_they_were_and_equal_genes_once() -> None:
    genomes = make_search(RunConfig()).ask()
    told = [Scored(genome=g, scores={"bugfix": n / 10}, fitness=n / 10) for n, g in enumerate(genomes)]
    repeat = genomes[0].model_copy(update={"genome_id": "g001-000", "generation": 1})
    archive = Archive()
    archive.add(reversed(told))
    archive.add([Scored(genome=repeat, scores=None, fitness=None, infeasible="diverged")])
    assert [entry.scored() for entry in archive.entries()][:-1] == told
    assert archive.entries()[-1].scored().infeasible == "diverged"
    assert [entry.genome_id for entry in archive.distinct()] == [g.genome_id for g in genomes]
    assert archive.genes == {g.genes_digest() for g in genomes}
