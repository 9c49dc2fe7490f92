"""benchmarks/finalists.py: fresh bugs are fresh, the order of finalists is the search's own, and the gain of a race."""

import pytest

from benchmarks.finalists import finalists, fresh_bugs, gain, result
from benchmarks.record import QUICKSTART
from benchmarks.write_readme import ROWS
from coral_core.config import load_config
from coral_core.jobs.job_content import problem_set
from coral_core.problems.normal_form import normal_form
from coral_core.search.archive import Scored
from coral_core.search.strategy import make_search

SMALL = (
    "problems.fitness=12",
    "problems.retention=4",
    "problems.monitor=4",
    "problems.held_out=20",
    "problems.pairs=32",
)


def test_fresh_bugs_go_on_with_the_split_and_are_in_no_other() -> None:
    config = load_config(QUICKSTART, SMALL)
    longer, fresh = fresh_bugs(config, 24)
    own, split = problem_set(config.problems), problem_set(longer.problems).fitness
    known = {normal_form(problem.buggy) for problem in (*own.fitness, *own.held_out)}
    known |= {normal_form(text) for pair in own.pairs for text in (pair.buggy, pair.fixed)}
    assert 12 <= len(fresh) <= 24
    assert not {normal_form(split[place].buggy) for place in fresh} & known
    assert not any(split[place].retention for place in fresh)
    assert [problem.buggy for problem in split[:12]] == [problem.buggy for problem in own.fitness[:12]]


def test_finalists_are_in_the_order_in_which_the_search_would_name_them() -> None:
    config = load_config(QUICKSTART, ("search.surrogate.enabled=false",))
    genomes = make_search(config).ask()
    told = [Scored(genome=genome, scores={"bugfix": n / 10}, fitness=n / 10) for n, genome in enumerate(genomes)]
    assert [each.fitness for each in finalists(config, told, 3)] == [0.7, 0.6, 0.5]
    assert len(finalists(config, told[:2], 4)) == 2


def test_a_race_gains_what_its_choice_is_worth_on_held_out_bugs() -> None:
    rows = [
        {"own": 40, "fresh": "1000", "held_out": 0.4},
        {"own": 39, "fresh": "1110", "held_out": 0.5},
        {"own": 30, "fresh": "1111", "held_out": 0.6},
    ]
    run = {"rows": rows}
    assert gain(run, 2) == 0.0, "a tie stays with the champion"
    assert gain(run, 4) == pytest.approx(0.1)
    found = result([run, {"rows": rows[:1]}])
    assert found["most"]["mean"] == pytest.approx(0.1)
    assert found["gain"]["240"]["mean"] == pytest.approx(0.05)
    shown = dict(ROWS["finalists"](found))
    assert [text for text in shown.values() if text.startswith("+10.0 points")]
