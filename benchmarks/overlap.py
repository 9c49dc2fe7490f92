"""Seconds of an evaluation with generation and judging beside each other, and one after the other.

Both ways alternate in one run, in warm lanes with engine processes; without overlap, the engine's client holds all completions
back until the last one is written. The results must be equal. The quickstart's fitness problems are evaluated by two engines:
coral-tiny (greedy, bare base model), which computes on the cores that the judge needs, and the rehearsal, which sleeps
where a model would compute on a GPU and leaves the cores to the judge. Waiting is the share of the lane's seconds in which
the device waits for the judge. Shown are medians of wall-clock seconds; the load of the machine is in the JSON.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import QUICKSTART, write
from coral_core.config import load_config
from coral_core.evolution.job_runner import Planner
from coral_core.jobs.jobs import Evaluation
from coral_core.lanes.lane import Lane
from coral_core.lm.engine_client import EngineProcess
from coral_core.lm.requests import Done, Generated, GenerationRequest
from coral_core.store.store import Store

LIMIT = 3600.0
ENGINES = {"coral_tiny": "coral-tiny", "rehearsal": "rehearsal:evaluate={seconds}"}


class WithoutOverlap(EngineProcess):
    """Hands over completions when all are written."""

    def generate(
        self, request: GenerationRequest, deadline: float, done: Done = lambda entry, index, texts: None
    ) -> Generated:
        written = super().generate(request, deadline)
        for index, texts in enumerate(written.only().completions):
            done(0, index, texts)
        return written


def measure(model: str, repeats: int, folder: Path) -> dict[str, Any]:
    """Medians for one base model; the first evaluation of each lane, which loads the model, is left out."""
    plan = Planner.of_config(load_config(QUICKSTART, [f"base_model.name={model}"]))
    lanes = {}
    for name, engine in (("without", WithoutOverlap()), ("with", EngineProcess())):
        store = Store(folder / name)
        store.prepare()
        lanes[name] = Lane(store, engine)
    found: dict[str, list[Evaluation]] = {name: [] for name in lanes}
    for number in range(repeats + 1):
        job = plan.evaluation(None).model_copy(update={"replicate": number})
        for name, lane in lanes.items():
            found[name].append(lane.evaluate(job, LIMIT))
    for lane in lanes.values():
        lane.close()
    same = [
        one.model_dump(exclude={"cost"}) == other.model_dump(exclude={"cost"})
        for one, other in zip(found["without"], found["with"], strict=True)
    ]
    assert all(same), "overlap changed a result"
    result: dict[str, Any] = {"problems": len(plan.problems("fitness")), "repeats": repeats, "equal_results": True}
    for name, evaluations in found.items():
        costs = [evaluation.cost for evaluation in evaluations[1:]]
        result[name] = {
            "seconds": round(statistics.median(cost.seconds for cost in costs), 2),
            "waiting_for_judge": round(
                statistics.median(cost.device.shares()["judging"] for cost in costs if cost.device), 3
            ),
        }
    return result | {"ratio": round(result["with"]["seconds"] / result["without"]["seconds"], 3)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=5, help="evaluations each way")
    options.add_argument("--seconds", type=float, default=5.0, help="seconds that the rehearsal takes to generate")
    given = options.parse_args()
    found = {}
    for name, model in ENGINES.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(model.format(seconds=given.seconds), given.repeats, Path(folder))
        print(name, found[name])
    write("overlap", found | {"rehearsal_seconds": given.seconds})


if __name__ == "__main__":
    main()
