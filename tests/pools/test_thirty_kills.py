"""Thirty kills of whatever there is to kill, at random instants; by itself, because it takes as long as five other tests."""

import random
import time
from pathlib import Path

import pytest

from flows.prefect_api.api_errors import ApiError
from tests.pools.conftest import SLOW, Pools, alive, engine_of, kill, server_pid, up_again, worker_pid
from tests.rehearsal_runs import Coral

pytestmark = [pytest.mark.server, pytest.mark.slow(reason="thirty kills"), pytest.mark.five_lanes]
KILLS = 30


def test_thirty_kills_at_random_instants(pools: Pools, undisturbed: Coral) -> None:
    """Lane, engine, worker, server and evolution, wherever they happen to be; the run ends with the same history."""
    dice = random.Random(20261124)
    counts = dict.fromkeys(("lane", "engine", "worker", "server", "evolution"), 0)
    settings = {"base_model__name": SLOW, "infra__attempts": "20", "infra__lease": "8", "infra__start": "25"}
    repeats = 0
    killed: set[int] = set()
    while sum(counts.values()) < KILLS:
        folder = pools.folder / f"round-{repeats}"
        folder.mkdir()
        round_ = Pools(Path(pools.environment["CORAL_HOME"]), folder, pools.url)
        repeats += 1
        run = round_.start(**settings)
        while run.poll() is None:
            time.sleep(dice.uniform(0.3, 2.0))  # subject: a random instant
            target = dice.choices(list(counts), weights=(8, 8, 2, 1, 4))[0]
            lanes = round_.lanes()
            lane = dice.choice(lanes) if lanes else None
            if target == "lane" and lane and alive(lane.pid):
                kill(lane.pid)
                killed.add(lane.pid)
            elif target == "engine" and lane and (pid := engine_of(lane)):
                kill(pid)
                killed.add(pid)
            elif target == "worker":
                kill(worker_pid(pools, dice.choice(["coral-a100", "coral-a10g"])))
                up_again(pools)
            elif target == "server":
                kill(server_pid(pools))
                up_again(pools)
            elif target == "evolution":
                run.kill()
                run.communicate()
                run = round_.start(**settings)
            else:
                continue
            counts[target] += 1
            if sum(counts.values()) >= KILLS:
                break
        out, _ = run.communicate(timeout=900)
        if run.returncode == ApiError.exit_code:  # it was started just while the server was away, and said so
            run = round_.start(**settings)
            out, _ = run.communicate(timeout=900)
        assert run.returncode == 0, (counts, out)
        assert round_.history() == undisturbed.history(), counts
        done = round_.done()
        assert len(done) == len(set(done)), "a job was booked twice"
        trained_once(round_, killed)
        for note in round_.lanes():
            round_.queue().lanes.ask_to_end(note.lane)
    print(f"{sum(counts.values())} kills in {repeats} rounds: {counts}")
    assert all(counts.values()), counts


def trained_once(pools: Pools, killed: set[int]) -> None:
    """Each adapter was trained once, by the engines' own count; again only where who had done it was killed just then."""
    trained = pools.trained()
    done = [digest for digest, _ in trained]
    assert set(done) == {path.name for path in (pools.store.root / "adapters").iterdir()}
    assert set(pools.booked("training")) <= set(done), "a training was booked that nobody did"
    for digest in {digest for digest in done if done.count(digest) > 1}:
        *before, _ = [who for other, who in trained if other == digest]
        assert all(who & killed for who in before), f"{digest[:12]} was trained {len(before) + 1} times"
