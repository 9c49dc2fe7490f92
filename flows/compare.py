"""A comparison of strategies as a Prefect flow, whose runs are `evolve` flows: for executors that need Prefect.

Not covered: what is compared and how (`coral_core.comparison`).
"""

from pathlib import Path

from prefect import flow

from coral_core.comparison.plan import Plan
from coral_core.comparison.run_plan import Ended, run_plan
from coral_core.comparison.summary import StrategyComparison
from coral_core.config import RunConfig
from flows.evolve import evolve


async def compare(plan: Plan, folder: Path, ended: Ended) -> StrategyComparison | None:
    """Run a comparison in a flow of its own; each run is an `evolve` flow below it.

    Args:
        plan: What to compare.
        folder: Receives the page, the data and the folders of the runs.
        ended: Is notified before and after each run.

    Returns:
        The comparison; None when a run was cancelled.

    Raises:
        CoralError: as `coral_core.comparison.run_plan.run_plan`.
    """
    found: list[StrategyComparison | None] = []

    @flow(name="compare", flow_run_name=f"compare {plan.config.name}", persist_result=False)
    async def compared(strategies: list[str], seeds: list[int], budget: str, baseline: str) -> None:
        found.append(await run_plan(plan, folder, _evolved, ended))

    names = [variant.name for variant in plan.variants]
    await compared(names, list(plan.seeds), str(plan.budget), plan.baseline)
    return found[0]


async def _evolved(config: RunConfig) -> bool:
    """Run one configuration in an `evolve` flow. False when its flow run was cancelled."""
    state = await evolve(config, edition=1, return_state=True)
    if state.is_cancelled():
        return False
    if not state.is_completed():
        await state.aresult()  # raises the error of the run
    return True
