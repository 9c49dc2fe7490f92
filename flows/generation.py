"""One generation: a flow whose tasks train and evaluate its genomes, each as soon as it can."""

import asyncio

from prefect import flow
from prefect.runtime import flow_run

from coral_core.genome import Genome
from coral_core.search.selection import fitness
from coral_core.search.strategy import Scored
from flows.session import current
from flows.tasks import evaluated


@flow(name="generation", flow_run_name="generation {number}", persist_result=False, validate_parameters=False)
async def generation(number: int, genomes: list[Genome]) -> list[Scored]:
    """Evaluate `genomes`; the order of what comes back is theirs, whatever order the lanes finish in."""
    session = current.get()
    weights = session.planner.config.scoring.weights

    async def one(genome: Genome) -> Scored:
        evaluation = await evaluated(session, session.planner.of(genome), genome.genome_id)
        if evaluation.infeasible:
            return Scored(genome=genome, infeasible=evaluation.infeasible, scores=None, fitness=None)
        scored = Scored(
            genome=genome, scores=evaluation.scores, fitness=fitness(evaluation.scores, weights), infeasible=None
        )
        session.consider(scored, evaluation.pass_at_1)
        return scored

    tasks = [asyncio.create_task(one(genome)) for genome in genomes]
    try:
        results = list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
    session.on_generation(number, str(flow_run.id or ""))
    return results
