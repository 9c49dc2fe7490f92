"""Every attack gets through a judge with a wall missing, and not through the real one; nobody else is harmed."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coral_core.judge.judge import Judge
from tests.judge.adversarial.attack import Attack
from tests.judge.adversarial.attacks import ATTACKS
from tests.judge.adversarial.scene import Scene, add_problem, escape_problem
from tests.judge.adversarial.weakened import JUDGES, LIMITS

REFERENCE = add_problem().reference


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(LIMITS, workers=1) as made:
        yield made


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = Scene(tmp_path_factory.mktemp("scene"))
    yield made
    made.close()


QUICK = 2
"""Attacks of each kind in `make test`."""


def sampled() -> list[Any]:
    """All attacks; the first of each kind are quick."""
    kinds: Counter[str] = Counter()
    found = []
    for attack in ATTACKS:
        kinds[attack.kind] += 1
        more = pytest.mark.slow(reason="all attacks; make test has two of each kind")
        found.append(pytest.param(attack, id=name_of(attack), marks=more if kinds[attack.kind] > QUICK else ()))
    return found


def name_of(attack: Attack) -> str:
    return f"{attack.kind}: {attack.name}"


def test_there_are_ten_classes_of_six_or_more() -> None:
    kinds = [attack.kind for attack in ATTACKS]
    assert len(set(kinds)) == 10 and min(kinds.count(kind) for kind in kinds) >= 6
    assert len({name_of(attack) for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize("attack", sampled())
def test_it_gets_through_the_weakened_judge(attack: Attack, scene: Scene) -> None:
    if attack.privileged and os.getuid() != 0:
        pytest.skip(
            "RLIMIT_NPROC stops this one for an ordinary user, even in the weakened judge: run as the superuser"
        )
    problem = escape_problem(scene.facts()) if attack.escape else add_problem()
    try:
        assert JUDGES[attack.weak].fooled(problem, attack.patch)
    finally:
        scene.reset()


@pytest.mark.parametrize("attack", sampled())
def test_it_fails_against_the_real_one(attack: Attack, judge: Judge, scene: Scene) -> None:
    scene.reset()
    problem = escape_problem(scene.facts()) if attack.escape else add_problem()
    judge.judge_batch([(add_problem(), REFERENCE)])
    before = {zygote._process.pid for zygote in judge._pool._zygotes}
    found = judge.judge_batch([(problem, attack.patch)])[0]
    assert not found.passed and found.now_passing == 0, found
    if attack.kind == "stall":
        assert found.outcome in ("time-out", "crash", "regressed"), found
    assert scene.untouched()
    after = judge.judge_batch([(add_problem(), REFERENCE)])[0]
    assert after.outcome == "fixed" and after.cases == ("pass",) * 4, "the next verdict is unharmed"
    assert {zygote._process.pid for zygote in judge._pool._zygotes} == before, "the zygote is unharmed"


def test_attacks_in_one_batch_with_honest_patches_harm_none_of_them(scene: Scene) -> None:
    """Side by side in two zygotes, in one order and the other."""
    honest = [f"def add(a, b):\n    return a + b + {n} - {n}" for n in range(30)]
    hostile = [attack.patch for attack in ATTACKS if not attack.escape and attack.kind != "stall"]
    mixed = [(add_problem(), text) for pair in zip(honest, hostile, strict=False) for text in pair]
    with Judge(LIMITS, workers=2) as judge:
        for batch in (mixed, mixed[::-1]):
            for (_, text), found in zip(batch, judge.judge_batch(batch), strict=True):
                assert found.passed == (text in honest), text
    assert scene.untouched()


@pytest.mark.torch
def test_lane_and_engine_are_unharmed(tmp_path: Path) -> None:
    """Attacks as test jobs through a lane; then the same lane evaluates a base model."""
    from coral_core.config import RunConfig
    from coral_core.evolution.job_runner import Planner
    from coral_core.jobs.job_content import job_for_patch, problem_set
    from coral_core.jobs.jobs import TestJob
    from coral_core.store.store import Store
    from flows.work_pools import LocalExecutor

    config = RunConfig.model_validate(
        {
            "base_model": {"name": "rehearsal"},
            "problems": {"fitness": 4, "retention": 2, "monitor": 2, "held_out": 4, "pairs": 8},
            "infra": {"local_lanes": 1},
        }
    )
    target = problem_set(config.problems).fitness[0]
    store = Store(tmp_path / "store")
    store.prepare()
    kinds = {attack.kind: attack for attack in ATTACKS if attack.kind != "stall"}
    jobs: list[TestJob] = []
    for attack in kinds.values():
        name = "attack" if attack.escape else "add"
        patch = attack.patch + f"\ndef {target.entry_point}(*arguments):\n    return {name}(*arguments[:2])\n"
        jobs.append(job_for_patch(config, target.problem_id, patch))
    right = job_for_patch(config, target.problem_id, target.reference)
    with LocalExecutor(config.infra, store) as executor:
        for job in jobs:
            assert not executor.submit_test(job).result(timeout=120).passed
        assert executor.submit_test(right).result(timeout=120).passed
        assert not executor._lanes[0].engine.pid, "test jobs start no engine"
        planner = Planner.of_config(config)
        evaluation = executor.submit_evaluation(planner.evaluation(None)).result(timeout=120)
    assert not evaluation.infeasible and len(evaluation.records) == 6
