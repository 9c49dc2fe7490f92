"""Seed repeats of the champion: trained and evaluated anew with other random numbers, on the fitness split.

The champion is the luckiest of many, so its own score is too high on average. What the same
genes give with other seeds says how much of it was luck. The sealed split is never opened for
this: repeats there would be further looks at it.
"""

import asyncio

from coral_core.genome import Genome
from coral_core.runs.records import Repeat
from coral_core.search.selection import fitness
from flows.session import Session
from flows.tasks import evaluated


async def repeats(session: Session, champion: Genome) -> tuple[Repeat, ...]:
    """`search.champion_repeats` trainings and evaluations of `champion`, replicates 1, 2, ..."""
    numbers = range(1, session.planner.config.search.champion_repeats + 1)
    return tuple(await asyncio.gather(*(_repeat(session, champion, number) for number in numbers)))


async def _repeat(session: Session, champion: Genome, number: int) -> Repeat:
    job = session.planner.evaluation(champion.heavy, champion.light, "fitness", number)
    found = await evaluated(session, job, f"{champion.genome_id} repeat {number}")
    scored = found.infeasible is None
    return Repeat(
        replicate=number,
        training_digest=found.training_digest,
        evaluation_digest=found.evaluation_digest,
        scores=found.scores,
        fitness=fitness(found.scores, session.planner.config.scoring.weights) if scored else None,
        pass_at_1=found.pass_at_1 if scored else None,
        infeasible=found.infeasible,
        reason=found.reason,
    )
