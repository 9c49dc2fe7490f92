"""Lanes on work pools: makespan of a generation, against the best schedule and against a flow run per job.

24 trainings of 6 s on 2 lanes, each followed by 2 evaluations of 2 s on 3 lanes (rehearsed jobs of
known length), through a real server and real process workers on this machine:

- **lanes**: as the product runs them; makespan, share of evaluations started before the last
  training ends, lane starts, the timeline;
- **killed**: the same with one training lane killed (SIGKILL) half-way: what it cost;
- **per job**: the same jobs, a flow run for each; with a model that takes no time to load, then, both ways, with one
  that takes as long as coral-tiny does on this machine (measured first: the least that any model takes), each with
  workers that ask every second, as here, and this again, both ways, with workers as Prefect starts them (every 10 s);
- **generations**: lane starts of an evolution of 4 generations;
- **overhead**: jobs without length in one lane, wall clock per job.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from benchmarks.record import Bench, write

TRAIN, EVALUATE, TRAINING_LANES, EVALUATION_LANES = 6.0, 2.0, 2, 3


def best_makespan(trainings: int) -> float:
    """Seconds of the best schedule: lanes always busy, then the evaluations of the last trainings."""
    rounds = -(-trainings // TRAINING_LANES)
    last = min(trainings, TRAINING_LANES) * 2
    return rounds * TRAIN + -(-last // EVALUATION_LANES) * EVALUATE


class Installation:
    """`coral up` in a home of its own."""

    def __init__(self, bench: Bench, query_seconds: int = 1) -> None:
        self.bench = bench
        self.environment = {**bench.environment, "PREFECT_WORKER_QUERY_SECONDS": str(query_seconds)}
        self.call("up", "--port", "4399")
        state = json.loads((Path(self.environment["CORAL_HOME"]) / "up.json").read_text())
        os.environ["PREFECT_API_URL"] = state["url"]
        os.environ["PREFECT_HOME"] = str(Path(self.environment["CORAL_HOME"]) / "prefect")

    def call(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "flows.cli", *arguments]
        subprocess.run(command, env=self.environment, cwd=self.bench.folder, check=True, stdout=subprocess.DEVNULL)


class Generation:
    """The jobs of one generation against a fresh store, and what was seen while they ran."""

    def __init__(
        self, folder: Path, trainings: int, train: float = TRAIN, evaluate: float = EVALUATE, load: float = 0.0
    ) -> None:
        from coral_core.config import RunConfig
        from coral_core.evolution.job_runner import Planner
        from coral_core.genome import HeavyGenes

        self.config = RunConfig.model_validate(
            {
                "base_model": {"name": f"rehearsal:train={train},evaluate={evaluate},load={load}"},
                "infra": {"executor": "work-pools"},
                "store": {"path": str(folder)},
                "problems": {"fitness": 4, "retention": 0, "monitor": 0, "held_out": 4, "pairs": 8},
            }
        )
        self.planner = Planner.of_config(self.config)
        self.heavy = [
            HeavyGenes(
                rank=8,
                alpha=16,
                dropout=0,
                target_modules=("q_proj",),
                adapter="lora",
                learning_rate=1e-3 * (n + 1),
            )
            for n in range(trainings)
        ]
        self.timeline: list[dict[str, Any]] = []
        self.started = 0.0

    def run(self, executor: Any, during: Callable[[], None] = lambda: None) -> float:
        """Submit everything as a generation does; returns the makespan in seconds."""
        from coral_core.genome import GREEDY

        self.started = time.monotonic()
        futures: list[Future[Any]] = []
        lock = threading.Lock()
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(executor, over), daemon=True)
        watch.start()

        def then(heavy: Any) -> Callable[[Future[Any]], None]:
            def submit(future: Future[Any]) -> None:
                future.result()
                for limit in (40, 50):
                    light = GREEDY.model_copy(update={"token_limit": limit})
                    with lock:
                        futures.append(executor.submit_evaluation(self.planner.evaluation(heavy, light)))

            return submit

        for heavy in self.heavy:
            training = executor.submit_training(self.planner.training(heavy))
            with lock:
                futures.append(training)
            training.add_done_callback(then(heavy))
        during()
        while True:
            with lock:
                known = list(futures)
            wait(known)
            with lock:
                if len(futures) == 3 * len(self.heavy):
                    break
        wait(futures)
        seconds = time.monotonic() - self.started
        over.set()
        watch.join()
        return seconds

    def _watch(self, executor: Any, over: threading.Event) -> None:
        """Note when a lane takes a job and when it is gone again, ten times a second."""
        open_: dict[str, dict[str, Any]] = {}
        while not over.wait(0.1):
            now = round(time.monotonic() - self.started, 2)
            claims = {c.token: (q.name, c) for q in [p.queue for p in executor._pools.values()] for c in q.claims()}
            for token, (name, claim) in claims.items():
                if token not in open_:
                    open_[token] = {"kind": name, "lane": claim.lane, "digest": claim.digest[:12], "from": now}
            for token in set(open_) - set(claims):
                self.timeline.append({**open_.pop(token), "to": now})
        now = round(time.monotonic() - self.started, 2)
        self.timeline += [{**row, "to": now} for row in open_.values()]


def load_seconds() -> float:
    """Seconds that an engine takes to load coral-tiny, less what one without a model takes."""
    from coral_core.config.tree import BaseModelConfig
    from coral_core.lm.engine_client import EngineProcess

    taken = []
    for name in ("rehearsal", "coral-tiny"):
        engine = EngineProcess()
        started = time.monotonic()
        engine.load(BaseModelConfig(name=name))
        taken.append(time.monotonic() - started)
        engine.close()
    return round(taken[1] - taken[0], 2)


def lane_starts(bench: Bench) -> dict[str, int]:
    """Lanes that an evolution of 4 generations starts, per queue."""
    settings = ["base_model.name=rehearsal:train=2,evaluate=1", "infra.executor=work-pools", "search.generations=4"]
    settings += ["search.early_stopping.enabled=false"]
    bench.evolve("generations", *settings, environment={"PREFECT_API_URL": os.environ["PREFECT_API_URL"]})
    notes = [json.loads(p.read_bytes()) for p in (bench.folder / "generations" / "store").glob("queue/lanes/*.json")]
    return {name: sum(note["queue"] == name for note in notes) for name in ("training", "evaluation")}


def by_lanes(folder: Path, trainings: int, kill: bool = False, load: float = 0.0) -> dict[str, Any]:
    """One generation through lanes; with `kill`, a working training lane is ended half-way."""
    from flows.work_pools import make_executor

    generation = Generation(folder, trainings, load=load)
    with make_executor(generation.config) as executor:
        queue = executor._pools["training"].queue  # type: ignore[attr-defined]
        killed: dict[str, float] = {}

        def strike() -> None:
            time.sleep(best_makespan(trainings) / 2)
            note = next(n for n in queue.lanes.notes() if n.queue == "training" and n.state == "working")
            claim = queue.claim(note.digest)
            killed["in_flight"] = time.time() - claim.since if claim else 0.0
            os.kill(note.pid, signal.SIGKILL)

        thread = threading.Thread(target=strike, daemon=True)
        seconds = generation.run(executor, during=thread.start if kill else lambda: None)
        notes = list(queue.lanes.notes())
        starts = {name: sum(n.queue == name for n in notes) for name in ("training", "evaluation")}
    rows = generation.timeline
    first = min(row["from"] for row in rows)
    end = max(row["to"] for row in rows if row["kind"] == "training")
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    return {
        "seconds": seconds,
        "first_job_after": first,
        "evaluations_before_last_training_ended": sum(row["from"] < end for row in evaluations) / len(evaluations),
        "lane_starts": starts,
        **({"killed_job_had_worked": killed.get("in_flight", 0.0)} if kill else {}),
        "timeline": sorted(rows, key=lambda row: row["from"]),
    }


def per_job(folder: Path, trainings: int, load: float = 0.0) -> float:
    """The same generation with a flow run for each job: lanes that end after one job."""
    from flows.work_pools import make_executor

    generation = Generation(folder, trainings, load=load)
    over = threading.Event()
    with make_executor(generation.config) as executor:
        board = executor._pools["training"].queue.lanes  # type: ignore[attr-defined]

        def end_after_one_job() -> None:
            while not over.wait(0.05):
                for note in board.notes(since=time.time() - 10):
                    if note.state == "working":
                        board.ask_to_end(note.lane)

        threading.Thread(target=end_after_one_job, daemon=True).start()
        try:
            return generation.run(executor)
        finally:
            over.set()


def overhead(folder: Path, jobs: int) -> float:
    """Seconds per job inside one lane, for trainings without length, from the first to the last."""
    from flows.work_pools import make_executor

    generation = Generation(folder, jobs, train=0.0, evaluate=0.0)
    infra = generation.config.infra.model_copy(
        update={"training": generation.config.infra.training.model_copy(update={"lanes": 1})}
    )
    config = generation.config.model_copy(update={"infra": infra})
    with make_executor(config) as executor:
        executor.submit_training(generation.planner.training(generation.heavy[0])).result()
        started = time.monotonic()
        wait([executor.submit_training(generation.planner.training(heavy)) for heavy in generation.heavy[1:]])
        return (time.monotonic() - started) / (jobs - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=24)
    parser.add_argument("--jobs", type=int, default=100, help="for the overhead per job")
    options = parser.parse_args()
    bench = Bench()
    installation = Installation(bench)
    try:
        best = best_makespan(options.trainings)
        lanes = by_lanes(bench.folder / "lanes", options.trainings)
        killed = by_lanes(bench.folder / "killed", options.trainings, kill=True)
        each = per_job(bench.folder / "each", options.trainings)
        gap = overhead(bench.folder / "null", options.jobs)
        load = load_seconds()
        loaded = by_lanes(bench.folder / "loaded", options.trainings, load=load)
        loaded_each = per_job(bench.folder / "loaded-each", options.trainings, load=load)
        starts = lane_starts(bench)
    finally:
        installation.call("down")
    slow = Installation(bench, query_seconds=10)
    try:
        default = by_lanes(bench.folder / "default-lanes", options.trainings, load=load)["seconds"]
        default_each = per_job(bench.folder / "default", options.trainings, load=load)
    finally:
        slow.call("down")
    start = lanes["first_job_after"]
    result = {
        "best_makespan": best,
        "lanes": lanes,
        "makespan_over_best_plus_lane_start": lanes["seconds"] / (best + start),
        "with_model_load": {
            "load_seconds": load,
            "lanes_seconds": loaded["seconds"],
            "makespan_over_best_plus_lane_start": loaded["seconds"] / (best + start + load),
            "flow_run_per_job_seconds": loaded_each,
            "times_slower": loaded_each / loaded["seconds"],
        },
        "lane_starts_of_4_generations": starts,
        "flow_run_per_job": {"seconds": each, "times_slower": each / lanes["seconds"]},
        "with_model_load_and_default_polling": {
            "lanes_seconds": default,
            "flow_run_per_job_seconds": default_each,
            "times_slower": default_each / default,
        },
        "killed": killed,
        "lost_by_the_kill_beyond_job_and_lane_start": killed["seconds"]
        - lanes["seconds"]
        - killed["killed_job_had_worked"]
        - start,
        "overhead_seconds_per_job": gap,
    }
    print(f"makespan {lanes['seconds']:.1f} s; best {best:.0f} s, lane start {start:.1f} s")
    print(f"over best plus lane start: {result['makespan_over_best_plus_lane_start']:.3f}")
    print(f"evaluations before the last training ended: {lanes['evaluations_before_last_training_ended']:.0%}")
    print(f"lane starts: {lanes['lane_starts']}; a flow run per job: {each:.1f} s, {each / lanes['seconds']:.1f} x")
    print(
        f"lane killed: {killed['seconds']:.1f} s, lost beyond job and lane start {result['lost_by_the_kill_beyond_job_and_lane_start']:.1f} s"
    )
    print(
        f"with a model that loads in {load:.1f} s: lanes {loaded['seconds']:.1f} s, a flow run per job {loaded_each:.1f} s, "
        f"{loaded_each / loaded['seconds']:.1f} x"
    )
    print(
        f"and workers as Prefect starts them: lanes {default:.1f} s, a flow run per job {default_each:.1f} s, "
        f"{default_each / default:.1f} x"
    )
    print(f"lane starts of 4 generations: {starts}")
    print(f"overhead per job in a lane: {1000 * gap:.0f} ms")
    write("lanes", result)


if __name__ == "__main__":
    main()
