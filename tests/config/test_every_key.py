"""Every key of the configuration has an effect: a digest, the genomes, a score, a ranking or an observable limit changes.

One row per leaf of the tree. A leaf without a row fails the last test, so that no key can
be added that nothing proves.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from coral_core.config import RunConfig
from coral_core.devices import Gpu
from coral_core.digest import digest
from coral_core.errors import ConfigError, EngineError, StoreError
from coral_core.evolution.job_runner import Planner
from coral_core.genome import GREEDY
from coral_core.jobs.job_content import problem_set
from coral_core.jobs.jobs import BaseModelIdentity
from coral_core.judge.judge import Judge
from coral_core.lm.base_model import numerics_class
from coral_core.lm.memory_plan import check_memory
from coral_core.prompting.choice import resolve_prompt
from coral_core.runs.job_count import plan_jobs
from coral_core.runs.run_folder import RunFolder, identify_run
from coral_core.search.selection import champion, nsga2_order
from coral_core.search.strategy import Scored, make_search
from coral_core.store.store import Store
from tests.search.test_evolution import BUSY, config, played
from tests.waiting import still, until

SMALL = {
    "problems__fitness": 8,
    "problems__retention": 2,
    "problems__monitor": 2,
    "problems__held_out": 6,
    "problems__pairs": 10,
}
BASE = BaseModelIdentity(name="b", content_id="c", parameters=9, modules=("q_proj",), numerics_class="n")


AUTOMATA = {"search__variation__seeds": "automaton"}


def small(**changes: Any) -> RunConfig:
    return config(**(SMALL | changes))


def jobs(settings: RunConfig) -> str:
    """Digests of a training, and of a sampling evaluation of every split."""

    planner = Planner.of_config(settings)
    heavy = make_search(settings).ask()[0].heavy
    light = GREEDY.model_copy(update={"sampling": True})
    splits = ("fitness", "monitor", "held_out")
    return digest(
        [planner.training(heavy).digest(), *[planner.evaluation(heavy, light, split).digest() for split in splits]]
    )  # type: ignore[arg-type]


def numerics(settings: RunConfig) -> str:
    """Part of every job's digest; that of a real model in 4 bits can be asked for without bitsandbytes."""
    return numerics_class(settings.base_model, "sdpa")


def genomes(settings: RunConfig) -> str:
    """What a whole search asks for."""
    return digest([[genome.model_dump(mode="json") for genome in asked] for asked in played(settings)[1]])


def ranking(settings: RunConfig) -> str:
    """Order and champion of a fixed set of scores, in the middle of a run."""
    rows = [
        {"bugfix": 0.9, "retention": 0.2, "cost": 0.1, "syntax": 0.3, "security": 0.7, "style": 0.3, "runtime": 0.9},
        {"bugfix": 0.3, "retention": 0.9, "cost": 0.6, "syntax": 0.9, "security": 0.95, "style": 0.8, "runtime": 0.2},
        {"bugfix": 0.4, "retention": 0.8, "cost": 0.5, "syntax": 0.6, "security": 0.8, "style": 0.45, "runtime": 0.5},
        {"bugfix": 0.35, "retention": 0.5, "cost": 0.7, "syntax": 0.5, "security": 1.0, "style": 0.9, "runtime": 1.0},
    ]
    from coral_core.search.selection import fitness, violation

    asked = make_search(RunConfig()).ask()
    scored = [
        Scored(genome=genome, scores=row, fitness=fitness(row, settings.scoring.weights))
        for genome, row in zip(asked, rows, strict=False)
    ]
    best = champion(scored, settings.scoring)
    order = [item.genome.slot for item in nsga2_order(scored, settings.scoring, 0.4)]
    amounts = [violation(row, settings.scoring, progress) for row in rows for progress in (0.0, 0.4, 1.0)]
    return digest([best.genome.slot if best else None, order, amounts, [item.fitness for item in scored]])


def folder(settings: RunConfig) -> str:
    """Where a run's folder and store are."""
    return digest([str(Path(settings.runs).absolute()), str(Store(settings.store.path).root)])


def run_id(settings: RunConfig) -> str:
    return identify_run(settings).run_id


def planned(settings: RunConfig) -> str:
    """The jobs that a run needs; tests/evolution/test_baselines.py runs them."""
    return repr(plan_jobs(settings))


def data(settings: RunConfig) -> str:
    """The problems themselves."""
    found = problem_set(settings.problems)
    return digest(
        [problem.digest() for split in (found.fitness, found.monitor, found.held_out) for problem in split]
        + [len(found.pairs)]
    )


def prompt(settings: RunConfig) -> str:
    return resolve_prompt(settings.base_model, None).prompt("def f(): pass")


Row = tuple[Callable[[RunConfig], str], Any, dict[str, Any]]
LIGHT = {"low": 0.3, "high": 0.35}
CONSTRAINTS = {"syntax": {"base": 0.2, "limit": 0.7}, "security": {"base": 0.5, "limit": 0.9}}

EFFECTS: dict[str, Row] = {
    "name": (run_id, "other", {}),
    "seed": (jobs, 7, {}),
    "runs": (folder, "elsewhere", {}),
    "store.path": (folder, "elsewhere/store", {}),
    "store.reuse": (jobs, "run", {}),
    "search.strategy": (genomes, "random", {}),
    "search.generations": (genomes, 6, BUSY),
    "search.trainings": (genomes, 11, {}),
    "search.start_with_default": (genomes, False, {}),
    "search.usual_loras": (genomes, 3, {}),
    "search.baselines": (planned, "tuned", {}),
    "search.surrogate.enabled": (genomes, False, {}),
    "search.surrogate.children": (genomes, 5, {}),
    "search.surrogate.front_share": (genomes, 0.0, {}),
    "search.diversity.spread": (genomes, 9, {}),
    "search.variation.seed_rate": (genomes, 0.5, {}),
    "search.variation.seeds": (genomes, "automaton", {}),
    "search.variation.warm_start_rate": (genomes, 0.8, {}),
    "search.variation.warm_start_best": (genomes, 2, {"search__variation__warm_start_rate": 0.5}),
    "search.population": (genomes, 10, {}),
    "search.selection": (genomes, "truncation", {}),
    "search.tournament_size": (genomes, 5, {}),
    "search.survival_rate": (genomes, 1.0, {}),
    "search.elites": (genomes, 1, {}),
    "search.finalist_share": (genomes, 0.2, {}),
    "search.variation.crossover_rate": (genomes, 0.0, {}),
    "search.variation.automaton_rate": (genomes, 1.0, AUTOMATA),
    "search.variation.cell_flip_rate": (genomes, 0.4, BUSY),
    "search.variation.rule_flip_rate": (genomes, 0.45, BUSY),
    "search.variation.steps_change": (genomes, 20, BUSY),
    "search.variation.gene_rate": (genomes, 0.9, {}),
    "search.variation.gene_step": (genomes, 0.9, {}),
    "search.diversity.minimum_unique": (
        genomes,
        1.0,
        {
            "genes__heavy__rank": [4],
            "genes__heavy__alpha": [8],
            "genes__heavy__dropout": [0.0],
            "genes__heavy__target_modules": ["q", "all"],
            "genes__heavy__learning_rate": [1e-3, 5e-3],
        },
    ),
    "search.diversity.mode": (genomes, "fixed", {}),
    "search.diversity.strength": (genomes, 2.4, {}),
    "search.early_stopping.enabled": (
        genomes,
        False,
        {"search__generations": 12, "search__early_stopping__minimum_improvement": 0.5},
    ),
    "search.early_stopping.patience": (
        genomes,
        6,
        {"search__generations": 12, "search__early_stopping__minimum_improvement": 0.5},
    ),
    "search.early_stopping.minimum_improvement": (
        genomes,
        0.9,
        {"search__generations": 12, "search__start_with_default": False},
    ),
    "search.early_stopping.minimum_generations": (
        genomes,
        8,
        {"search__generations": 12, "search__early_stopping__minimum_improvement": 0.5},
    ),
    "genes.heavy.rank": (genomes, [3, 5], {}),
    "genes.heavy.alpha": (genomes, [3, 5], {}),
    "genes.heavy.dropout": (genomes, [0.2], {}),
    "genes.heavy.target_modules": (genomes, ["mlp"], {}),
    "genes.heavy.adapter": (genomes, ["dora"], {}),
    "genes.heavy.scaling": (genomes, ["rslora"], {}),
    "genes.heavy.learning_rate": (genomes, [3e-3], {}),
    "genes.light.temperature.low": (genomes, 0.5, {}),
    "genes.light.temperature.high": (genomes, 0.9, {}),
    "genes.light.top_p.low": (genomes, 0.8, {}),
    "genes.light.top_p.high": (genomes, 0.9, {}),
    "genes.light.top_k.low": (genomes, 20, {}),
    "genes.light.top_k.high": (genomes, 40, {}),
    "genes.light.repetition_penalty.low": (genomes, 1.05, {}),
    "genes.light.repetition_penalty.high": (genomes, 1.2, {}),
    "genes.light.token_limit.low": (genomes, 90, {}),
    "genes.light.token_limit.high": (genomes, 100, {}),
    "genes.light.sampling": (genomes, [True], {}),
    "automaton.size": (genomes, 9, AUTOMATA),
    "automaton.density.low": (genomes, 0.4, AUTOMATA),
    "automaton.density.high": (genomes, 0.5, AUTOMATA),
    "automaton.steps.low": (genomes, 15, AUTOMATA),
    "automaton.steps.high": (genomes, 15, AUTOMATA),
    "base_model.name": (jobs, "rehearsal", {}),
    "base_model.dtype": (jobs, "bfloat16", {}),
    "base_model.attention": (jobs, "eager", {}),
    "base_model.quantization": (numerics, "nf4", {}),
    "base_model.prompt": (prompt, "instruct", {}),
    "problems.fitness": (data, 9, {}),
    "problems.retention": (data, 4, {}),
    "problems.monitor": (data, 3, {}),
    "problems.held_out": (data, 7, {}),
    "problems.pairs": (data, 12, {}),
    "problems.bug_classes": (data, ["constant"], {}),
    "problems.data_seed": (data, 2, {}),
    "problems.include": (data, ["builtin/*/0000", "0003"], {}),
    "problems.exclude": (data, ["*/0003"], {}),
    "problems.longest": (data, 200, {}),
    "training.steps": (jobs, 61, {}),
    "training.batch_size": (jobs, 9, {}),
    "training.warmup": (jobs, 11, {}),
    "training.weight_decay": (jobs, 0.1, {}),
    "training.gradient_clip": (jobs, 2.0, {}),
    "training.sequence_length": (jobs, 150, {}),
    "training.micro_batch": (jobs, 2, {}),
    "training.checkpointing": (jobs, True, {}),
    "generation.batch_size": (jobs, 16, {}),
    "generation.samples": (jobs, 2, {}),
    "generation.prompt_length": (jobs, 150, {}),
    "generation.merge": (jobs, False, {}),
    "generation.engine": (run_id, "vllm", {}),
    "scoring.weights": (ranking, {"bugfix": 0.1, "cost": 0.9}, {}),
    "scoring.roles": (
        ranking,
        {"runtime": "objective", "retention": "report", "cost": "report"},
        {},
    ),
    "scoring.thresholds": (ranking, CONSTRAINTS | {"style": {"base": 0.9, "limit": 0.95}}, {}),
    "scoring.schedule": (ranking, "sqrt", {}),
    "scoring.judge.work_lines": (jobs, 60_000, {}),
    "scoring.judge.cpu_seconds": (jobs, 3.0, {}),
    "scoring.judge.wall_seconds": (jobs, 12.0, {}),
    "scoring.judge.memory_mb": (jobs, 300, {}),
    "scoring.judge.after_time_out": (jobs, "go-on", {}),
    "scoring.judge.slow.work_lines": (jobs, 6_000_000, {}),
    "scoring.judge.slow.cpu_seconds": (jobs, 20.0, {}),
    "scoring.judge.slow.wall_seconds": (jobs, 90.0, {}),
}
ELSEWHERE = {
    "budget.currency": "tests/ledger",
    "budget.price.training": "tests/ledger",
    "budget.price.evaluation": "tests/ledger",
    "budget.day.gpu_hours": "tests/ledger",
    "budget.day.money": "tests/ledger",
    "budget.evolution.gpu_hours": "tests/ledger",
    "budget.evolution.money": "tests/ledger",
    "search.early_stopping": "its own keys",
    "search.gpu_seconds": "tests/evolution/test_charges.py",
    "search.money": "tests/evolution/test_charges.py",
    "search.start_from": "tests/flows/test_start.py",
    "search.champion_repeats": "tests/verification/test_verify.py: a finished run has its repeats",
    "base_model.revision": "test_revision_is_asked_of_the_hub",
    "base_model.device": "test_device_is_looked_for",
    "infra.executor": "test_executor_is_chosen",
    "problems.source": "test_source_is_looked_up",
    "problems.path": "tests of the sources that read it",
    "problems.training.source": "test_training_pairs_come_from_the_source_named",
    "problems.training.path": "test_training_pairs_come_from_the_source_named",
    "problems.python": "tests/problem_sources/test_recording.py",
    "problems.history.revision": "tests/problem_sources/test_git_repository.py",
    "problems.history.since": "tests/problem_sources/test_git_history.py",
    "problems.history.max_commits": "tests/problem_sources/test_git_history.py",
    "problems.history.seconds": "tests/problem_sources/test_git_history.py",
    "problems.history.workers": "tests/problem_sources/test_git_history.py: commits at a time",
    "problems.accept_leaks": "tests/problem_sources/test_leak_guard.py",
    "infra.local_lanes": "test_lanes_are_bounded",
    "infra.training.lanes": "test_lanes_are_bounded",
    "infra.evaluation.lanes": "test_lanes_are_bounded",
    "infra.training.minutes": "test_minutes_end_a_job",
    "infra.training.memory_gb": "test_memory_of_lanes_refuses_jobs",
    "infra.training.device_memory_gb": "test_memory_of_lanes_refuses_jobs",
    "infra.evaluation.minutes": "test_minutes_end_a_job",
    "infra.evaluation.memory_gb": "test_memory_of_lanes_refuses_jobs",
    "infra.evaluation.device_memory_gb": "test_memory_of_lanes_refuses_jobs",
    "infra.evaluation.pack": "test_lanes_are_bounded",
    "infra.linger": "test_linger_ends_an_idle_lane",
    "infra.attempts": "test_attempts_are_counted",
    "infra.training.deployment": "test_a_missing_deployment_is_named",
    "infra.evaluation.python": "tests/lm/test_vllm_configuration.py: an interpreter is asked what it has",
    "infra.evaluation.deployment": "test_a_missing_deployment_is_named",
    "infra.lease": "tests/pools: a lane that stands still",
    "infra.start": "tests/pools: a lane that never comes",
    "scoring.judge.workers": "test_workers_run_at_a_time",
    "scoring.judge.allow_missing_layers": "tests/judge: refuses unless accepted by name",
}


def leaves(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += leaves(kind, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def test_every_key_has_an_effect() -> None:
    seen: dict[tuple[Any, str], str] = {}  # most rows begin from the same configuration

    def found(probe: Callable[[RunConfig], str], settings: RunConfig) -> str:
        key = (probe, settings.model_dump_json())
        if key not in seen:
            seen[key] = probe(settings)
        return seen[key]

    without = [
        key
        for key, (probe, value, given) in EFFECTS.items()
        if found(probe, small(**given, **{key.replace(".", "__"): value})) == found(probe, small(**given))
    ]
    assert without == []


def test_every_key_is_proved_somewhere() -> None:
    assert set(leaves(RunConfig)) <= set(EFFECTS) | set(ELSEWHERE)
    assert set(EFFECTS) <= set(leaves(RunConfig))


def test_revision_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from coral_core.errors import BaseModelError
    from coral_core.lm.base_model import identify

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    settings = small(base_model__name="nobody/no-such-model", base_model__revision="v9")
    with pytest.raises(BaseModelError, match="revision v9"):
        identify(settings.base_model)


def test_source_is_looked_up() -> None:
    with pytest.raises(ConfigError, match=r"quixbugz: no such source\. Known: builtin"):
        problem_set(small(problems__source="quixbugz").problems)


def test_training_pairs_come_from_the_source_named(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"type": "pair", "buggy": "def f(a):\\n    return a", "fixed": "def f(a):\\n    return a + 1"}\n')
    training = {"source": "jsonl", "path": str(pairs)}
    given, other = small(), small(problems__training=training)
    assert [pair.family for pair in problem_set(other.problems).pairs] == ["jsonl"]
    assert problem_set(other.problems).fitness == problem_set(given.problems).fitness
    assert jobs(other) != jobs(given)


def test_device_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from coral_core.errors import BaseModelError
    from coral_core.lm import base_model as base

    monkeypatch.setattr(base, "visible_gpus", lambda: (Gpu("GPU-0", "Card A"),))
    assert "Card A" in base.identify(small(base_model__device="cuda").base_model).numerics_class
    with pytest.raises(BaseModelError, match="cuda:3"):
        base.identify(small(base_model__device="cuda:3").base_model)


def rehearsed(tmp_path: Path, **infra: Any) -> tuple[Any, Planner]:
    """A local executor over the rehearsal model, and a planner for its jobs."""
    from flows.work_pools import make_executor

    settings = small(**({"base_model__name": "rehearsal:train=0.6,evaluate=0.6"} | infra))
    store = Store(tmp_path / "store")
    store.prepare()
    return make_executor(settings, store), Planner.of_config(settings)


def test_executor_is_chosen(tmp_path: Path) -> None:
    from flows.work_pools import InlineExecutor, LocalExecutor

    kinds = {name: type(rehearsed(tmp_path, infra__executor=name)[0]) for name in ("inline", "local")}
    assert kinds == {"inline": InlineExecutor, "local": LocalExecutor}


@pytest.mark.parametrize(
    ("infra", "most"),
    [
        ({"infra__local_lanes": 1}, 1),
        ({"infra__local_lanes": 3, "infra__training__lanes": 3}, 3),
        ({"infra__local_lanes": 3, "infra__training__lanes": 2}, 2),
        (
            {
                "infra__local_lanes": 3,
                "infra__evaluation__lanes": 2,
                "infra__evaluation__pack": 1,
                "kind": "evaluation",
            },
            2,
        ),
        ({"infra__local_lanes": 1, "infra__evaluation__pack": 3, "kind": "evaluation"}, 3),
    ],
)
def test_lanes_are_bounded(tmp_path: Path, infra: dict[str, Any], most: int) -> None:
    kind = infra.get("kind", "training")
    executor, planner = rehearsed(tmp_path, **{key: value for key, value in infra.items() if key != "kind"})
    heavy = {genome.heavy.digest(): genome.heavy for genome in make_search(planner.config).ask()}
    with executor:
        if kind == "training":
            futures = [executor.submit_training(planner.training(genes)) for genes in heavy.values()]
        else:
            lights = [GREEDY.model_copy(update={"token_limit": 50 + n}) for n in range(6)]
            futures = [executor.submit_evaluation(planner.evaluation(None, light)) for light in lights]
        seen: list[int] = []
        until(lambda: seen.append(len(executor.running())) or all(future.done() for future in futures), look=0.02)
        assert max(seen) == most
        assert all(future.result() for future in futures)


@pytest.mark.parametrize("queue", ["training", "evaluation"])
@pytest.mark.parametrize(("key", "device", "least"), [("memory_gb", "cpu", 0.3), ("device_memory_gb", "cuda", 0.7)])
def test_memory_of_lanes_refuses_jobs(queue: str, key: str, device: str, least: float) -> None:
    def check(gigabytes: float) -> None:
        infra = {"executor": "work-pools", queue: {key: gigabytes}}
        check_memory(RunConfig.model_validate({"infra": infra, "base_model": {"device": device}}))

    check(8)
    with pytest.raises(ConfigError, match=rf"infra\.{queue}: .* has {least}"):
        check(least)


@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_minutes_end_a_job(tmp_path: Path, kind: str) -> None:
    limits = {
        f"infra__{kind}__minutes": 0.02,
        "infra__attempts": 1,
        "base_model__name": "rehearsal:train=30,evaluate=30",
    }
    executor, planner = rehearsed(tmp_path, **limits)
    heavy = make_search(planner.config).ask()[0].heavy
    with executor:
        if kind == "training":
            future = executor.submit_training(planner.training(heavy))
        else:
            future = executor.submit_evaluation(planner.evaluation(None))
        with pytest.raises(EngineError, match="took longer than"):
            future.result(timeout=60)


def test_linger_ends_an_idle_lane(tmp_path: Path) -> None:
    executor, planner = rehearsed(tmp_path, infra__linger=0.3)
    with executor:
        executor.submit_evaluation(planner.evaluation(None)).result(timeout=60)
        until(lambda: not executor._lanes, 20, "the idle lane did not end")
    lingering, planner = rehearsed(tmp_path, infra__linger=60)
    with lingering:
        lingering.submit_evaluation(planner.evaluation(None, split="monitor")).result(timeout=60)
        still(lambda: lingering._lanes, 1)


@pytest.mark.parametrize("attempts", [1, 3])
def test_attempts_are_counted(tmp_path: Path, attempts: int, caplog: pytest.LogCaptureFixture) -> None:
    executor, planner = rehearsed(
        tmp_path, infra__attempts=attempts, infra__evaluation__minutes=0.01, base_model__name="rehearsal:evaluate=9"
    )
    with executor:
        future = executor.submit_evaluation(planner.evaluation(None))
        if attempts == 1:
            with pytest.raises(EngineError):
                future.result(timeout=100)
        else:  # the last try ran alone: that is evidence
            assert future.result(timeout=100).infeasible == "time-out"
    assert sum("failed (try" in record.message for record in caplog.records) == attempts - 1


def test_a_finding_that_cannot_be_published_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor, planner = rehearsed(
        tmp_path, infra__attempts=2, infra__evaluation__minutes=0.01, base_model__name="rehearsal:evaluate=9"
    )

    def full(*_: Any) -> None:
        raise StoreError("store: the disk is full")

    monkeypatch.setattr(Store, "publish_evaluation", full)
    with executor, pytest.raises(StoreError, match="the disk is full"):
        executor.submit_evaluation(planner.evaluation(None)).result(timeout=60)


def test_workers_run_at_a_time() -> None:
    with Judge(workers=3) as judge:
        problems = problem_set(small().problems).fitness
        judge.judge_batch([(problem, problem.buggy) for problem in problems])
        assert judge._pool._workers == 3 and 1 <= len(judge._pool._zygotes) <= 3


def test_a_run_folder_is_where_runs_says(tmp_path: Path) -> None:
    settings = small(runs=str(tmp_path / "somewhere"))
    created = RunFolder.create(settings, identify_run(settings), [])
    assert created.path.parent == tmp_path / "somewhere" and created.config() == settings
