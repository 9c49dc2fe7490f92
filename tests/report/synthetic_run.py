"""A small finished run, made up by hand: two generations of three genomes, held-out numbers, a killed session."""

from pathlib import Path
from typing import Literal

from coral_core.config import ProblemsConfig, RunConfig
from coral_core.config.tree import SearchConfig, StoreConfig
from coral_core.digest import digest
from coral_core.genome import GREEDY, Genome, HeavyGenes, Lineage
from coral_core.jobs.jobs import BaseModelIdentity, Cost, DeviceTime, Evaluation, ProblemRecord, Sample, TrainedAdapter
from coral_core.problems.problem import Split
from coral_core.runs.records import (
    BaselineRecord,
    FinalRecord,
    GenerationRecord,
    GenomeRecord,
    HeldOut,
    JobTiming,
    Phase,
    Record,
    RunRecord,
    SessionTiming,
)
from coral_core.runs.run_folder import HistoryWriter, RunFolder, identify_run
from coral_core.store.store import Store

RIGHT = "def f(x):\n    return x\n"
CLASSES = ("comparison", "arithmetic", "index")
PROBLEMS = ProblemsConfig(fitness=4, retention=0, monitor=0, held_out=4, pairs=8)


def evaluation(
    name: str, split: Split, training: str, repaired: int, bugs: int = 30, ids: list[str] | None = None
) -> Evaluation:
    """`repaired` of `bugs` bugs, and two problems that stay right."""
    names = ids or [f"builtin/{split}/x/{number:04d}" for number in range(bugs)]
    records = [
        ProblemRecord(
            problem_id=problem,
            bug_class=CLASSES[number % 3],
            retention=False,
            samples=(
                Sample(
                    completion="def f(x):\n    return x\n",
                    patch="def f(x):\n    return x\n",
                    extraction="whole",
                    verdict={
                        "outcome": "passed" if number < repaired else ("wrong-value" if number % 2 else "syntax"),
                        "cases": ["pass"] * 16 if number < repaired else ["pass"] * 9 + ["wrong"] * 7,
                    },
                ),
            ),
        )
        for number, problem in enumerate(names)
    ]
    records += [
        ProblemRecord(
            problem_id=f"right/{number}",
            bug_class="none",
            retention=True,
            samples=(
                Sample(
                    completion=RIGHT,
                    patch=RIGHT,
                    extraction="whole",
                    verdict={"outcome": "passed", "cases": ["pass"]}
                    if number == 0
                    else {"outcome": "syntax", "cases": []},
                ),
            ),
        )
        for number in range(2)
    ]
    return Evaluation(
        evaluation_digest=digest([name, split]),
        training_digest=training,
        split=split,
        scores=scores(repaired / len(names)),
        pass_at_1=repaired / len(names),
        passed=(*names[:repaired], "right/0"),
        trainable_parameters=4096,
        records=tuple(records),
    )


def scores(bugfix: float) -> dict[str, float]:
    return {
        "bugfix": bugfix,
        "retention": 0.9 - bugfix / 4,
        "cost": 0.8 - bugfix / 2,
        "syntax": 0.9,
        "style": 0.8,
        "security": 1.0,
        "runtime": 0.5,
    }


def genome(generation: int, slot: int, rank: int, parents: tuple[str, ...] = ()) -> Genome:
    heavy = HeavyGenes(
        rank=rank, alpha=16, dropout=0.0, target_modules=("q_proj", "v_proj"), adapter="dora", learning_rate=5e-3
    )
    operator = "crossover" if parents else "seed"
    return Genome(
        genome_id=f"g{generation:03d}-{slot:03d}", generation=generation, slot=slot, heavy=heavy, light=GREEDY,
        lineage=Lineage(parents=parents, operator=operator),
    )  # fmt: skip


def publish(store: Store, training: str) -> None:
    scratch = store.scratch()
    (scratch / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (scratch / "adapter_model.safetensors").write_bytes(b"weights of " + training.encode())
    store.publish_adapter(training, scratch, TrainedAdapter(training_digest=training, trainable_parameters=4096))


def make_run(root: Path, finished: bool = True, ids: list[str] | None = None) -> tuple[RunFolder, Store]:
    """A run under `root`/runs with its store under `root`/store; `ids` name the fitness problems."""
    config = RunConfig(
        name="synthetic",
        runs=str(root / "runs"),
        problems=PROBLEMS,
        search=SearchConfig(generations=2, population=4),
        store=StoreConfig(path=str(root / "store")),
    )
    store = Store(config.store.path)
    store.prepare()
    identity = identify_run(config)
    folder = RunFolder.create(config, identity, ["seed=0"])
    records: list[Record] = [
        RunRecord(
            identity=identity,
            name=config.name,
            strategy="evolution",
            base_model=BaseModelIdentity(
                name="coral-tiny",
                content_id="c",
                parameters=900_000,
                modules=("q_proj",),
                numerics_class="cpu; float32",
            ),
            training_numerics_class="cpu; float32",
            problems={"source": "builtin", "counts": {"fitness": 30, "held_out": 32}, "digests": {}},
        ),
        _baseline(store, "base_model", "none", 2, ids),
        _baseline(store, "default_lora", digest("default"), 10, ids),
    ]
    for generation in range(2 if finished else 1):
        for slot in range(3):
            records.append(_genome_record(store, generation, slot, ids))
        best = f"g{generation:03d}-001"
        records.append(
            GenerationRecord(
                generation=generation, best=best, best_fitness=0.5 + generation / 5, mean_fitness=0.4 + generation / 5,
                front=("g000-000", best), hypervolume=0.2 + generation / 10, unique_adapters=3, monitor_pass_at_1=0.5,
            )
        )  # fmt: skip
    if finished:
        records.append(_final(store))
    HistoryWriter(folder).add(*records)
    _timings(folder, finished)
    return folder, store


def _baseline(
    store: Store, name: Literal["base_model", "default_lora"], training: str, repaired: int, ids: list[str] | None
) -> BaselineRecord:
    if training != "none":
        publish(store, training)
    found = evaluation(name, "fitness", training, min(repaired, len(ids) if ids else repaired), ids=ids)
    store.publish_evaluation(found.evaluation_digest, found)
    return BaselineRecord(
        name=name,
        training_digest=training,
        evaluation_digest=found.evaluation_digest,
        scores=found.scores,
        fitness=0.3,
        pass_at_1=repaired / 30,
    )


def _genome_record(store: Store, generation: int, slot: int, ids: list[str] | None) -> GenomeRecord:
    made = genome(generation, slot, 2 ** (slot + 1), ("g000-000", "g000-001") if generation else ())
    training = digest(["training", generation, slot])
    if slot == 2:
        return GenomeRecord(
            genome=made, training_digest=training, evaluation_digest=digest([made.genome_id, "fitness"]), scores={}, fitness=None,
            pass_at_1=None, infeasible="diverged", reason="loss is NaN at step 12",
        )  # fmt: skip
    publish(store, training)
    found = evaluation(made.genome_id, "fitness", training, 1 if ids else 12 + 3 * slot + 4 * generation, ids=ids)
    store.publish_evaluation(found.evaluation_digest, found)
    return GenomeRecord(
        genome=made, training_digest=training, evaluation_digest=found.evaluation_digest, scores=found.scores,
        fitness=0.4 + slot / 10 + generation / 5, pass_at_1=found.pass_at_1, trainable_parameters=2048 * (slot + 1),
    )  # fmt: skip


def _final(store: Store) -> FinalRecord:
    wanted: list[
        tuple[Literal["champion", "base_model", "default_lora", "generation_0_median"], str | None, str, int]
    ] = [
        ("champion", "g001-001", digest(["training", 1, 1]), 20),
        ("base_model", None, "none", 2),
        ("default_lora", None, digest("default"), 18),
        ("generation_0_median", "g000-000", digest(["training", 0, 0]), 12),
    ]
    lines = []
    for name, genome_id, training, repaired in wanted:
        found = evaluation(name, "held_out", training, repaired)
        store.publish_evaluation(found.evaluation_digest, found)
        lines.append(
            HeldOut(
                name=name, genome_id=genome_id, training_digest=training, evaluation_digest=found.evaluation_digest,
                pass_at_1=found.pass_at_1, scores=found.scores, passed=repaired, bugs=30,
            )
        )  # fmt: skip
    return FinalRecord(reason="all generations done", champion="g001-001", held_out_openings=1, held_out=tuple(lines))


DEVICE = DeviceTime(computing=1.5, loading=0.1, judging=0.3, idle=0.1)


def job(kind: Literal["training", "evaluation"], name: str, finished: float, cached: bool = False) -> JobTiming:
    cost = Cost() if cached else Cost(seconds=2, cpu_seconds=3, tokens=100, device=DEVICE)
    at_the_end = name.endswith("held-out") or " repeat " in name
    generation = int(name[1:4]) if name.startswith("g0") and not at_the_end else None
    searching = Phase.SEARCHING if generation is not None else Phase.BASELINES
    return JobTiming(
        session=98.0 if finished < 200 else 200.0,
        phase=Phase.HELD_OUT if at_the_end else searching,
        generation=generation,
        kind=kind,
        split="fitness" if kind == "evaluation" else None,
        digest=digest(name),
        label=name,
        cached=cached,
        finished=finished,
        waited=0,
        cost=cost,
    )


def _timings(folder: RunFolder, finished: bool) -> None:
    """A first session that was killed after two jobs; a second that found them and did two more."""
    folder.append_timing(job("evaluation", "base", 102))
    folder.append_timing(job("training", "a", 104))
    folder.append_timing(job("evaluation", "base", 201, cached=True))
    folder.append_timing(job("training", "a", 201, cached=True))
    folder.append_timing(job("evaluation", "b", 203))
    folder.append_timing(job("training", "c", 205))
    if finished:
        folder.append_timing(SessionTiming(started=200, seconds=6.5, trainings=1, evaluations=1, outcome="finished"))
