"""What lanes cost is what they ran; limits hold for the next job; what cannot be read lets nothing through."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from coral_core.atomic_write import write_atomic
from coral_core.config import BudgetConfig
from coral_core.errors import StoreError
from coral_core.ledger import Closure, LaneAccount, Ledger, Meter, Work
from coral_core.ledger.ledger import today
from coral_core.store.store import Store
from tests.waiting import until


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.prepare()
    return made


def book(store: Store, lane: str, **fields: Any) -> None:
    """An account as a lane would have left it."""
    account = LaneAccount(lane=lane, seen=time.time(), **fields)
    write_atomic(store.root / "ledger" / "accounts" / f"{lane}.json", account.model_dump_json().encode())


def budget(**sections: Any) -> BudgetConfig:
    return BudgetConfig.model_validate(sections)


def test_seconds_are_booked_to_who_caused_them(store: Store) -> None:
    with Meter(store, "lane", "training") as meter:
        time.sleep(0.3)  # subject: seconds without a job
        meter.work("a", "training", "1")
        time.sleep(0.2)  # subject: seconds of a job
        meter.rest()
        time.sleep(0.2)  # subject: seconds between jobs
        meter.work("b", "evaluation", "2")
        time.sleep(0.1)  # subject: seconds of another job
        meter.rest()
    (account,) = Ledger(store).accounts()
    (runs,) = account.spent.values()
    assert set(runs) == {"a", "b"}, "seconds before the first job are the first evolution's"
    assert 0.65 < runs["a"]["training"] < 1.2 and 0.1 <= runs["b"]["evaluation"] < 0.5
    assert account.work["a"]["training"].jobs == 1 and 0.2 <= account.work["a"]["training"].seconds < 0.5
    assert account.ended and not account.digest


def test_a_killed_lane_has_been_counted(store: Store) -> None:
    code = """
import sys, time
from coral_core.ledger import Meter
from coral_core.store.store import Store
import coral_core.ledger.ledger as m
m.BOOK_SECONDS = 0.1
with Meter(Store(sys.argv[1]), "lane", "training") as meter:
    meter.work("a", "training", "1")
    print("up", flush=True)
    input()
"""
    lane = subprocess.Popen(
        [sys.executable, "-c", code, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert lane.stdout is not None and lane.stdout.readline()
    spent = lambda: sum(a.spent.get(today(), {}).get("a", {}).get("training", 0) for a in Ledger(store).accounts())  # noqa: E731
    until(lambda: spent() >= 0.8)
    lane.kill()
    lane.wait()
    (account,) = Ledger(store).accounts()
    assert account.spent[today()]["a"]["training"] >= 0.8 and not account.ended and account.digest == "1"


def closure(ledger: Ledger) -> Closure:
    """Why no training of evolution a may start."""
    found = ledger.closed("a", "training")
    assert found is not None
    return found


def test_sums_are_over_lanes_days_and_evolutions(store: Store) -> None:
    book(store, "one", spent={"2026-01-01": {"a": {"training": 3600}}, today(): {"a": {"training": 1800}}})
    book(store, "two", spent={today(): {"b": {"evaluation": 7200}, "": {"evaluation": 360}}})
    ledger = Ledger(store)
    price = budget(price={"training": 2, "evaluation": 0.5}).price
    assert ledger.spent(price, "a").money == pytest.approx(3.0)
    assert ledger.spent(price, day=today()).gpu_hours == pytest.approx(2.6)
    assert ledger.spent(price).money == pytest.approx(3.0 + 1.05)
    assert ledger.days(price)["2026-01-01"].training_hours == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"evolution": {"gpu_hours": 1}}, "the limit of the evolution, 1 GPU hours"),
        ({"evolution": {"money": 2}, "currency": "EUR"}, "the limit of the evolution, 2 EUR"),
        ({"day": {"gpu_hours": 1}}, f"the limit of the day ({today()} UTC), 1 GPU hours"),
        ({"day": {"money": 2}}, "the limit of the day"),
        ({"evolution": {"gpu_hours": 0}}, "0 GPU hours"),
    ],
)
def test_at_a_limit_no_job_starts(store: Store, limits: Any, words: str) -> None:
    ledger = Ledger(store)
    ledger.set_budget("a", budget(price={"training": 2, "evaluation": 2}, **limits))
    closed_at_once = limits == {"evolution": {"gpu_hours": 0}}
    assert bool(ledger.closed("a", "training")) == closed_at_once
    book(store, "one", spent={today(): {"a": {"training": 3600}}})
    assert words in str(ledger.closed("a", "training")) and words in str(ledger.closed("a", "evaluation"))
    assert ledger.standing("a").used >= 1


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"day": {"gpu_hours": 1}}, ("by itself when the day turns", "coral resume a --set budget.day.gpu_hours=...")),
        ({"evolution": {"money": 2}}, ("with a raised limit", "coral resume a --set budget.evolution.money=...")),
        ({"day": {"gpu_hours": 1}, "evolution": {"gpu_hours": 1}}, ("--set budget.evolution.gpu_hours=...",)),
        ({}, ("as soon as that can be read again", "coral health")),
    ],
)
def test_how_it_goes_on_is_said_by_what_closed(store: Store, limits: Any, words: tuple[str, ...]) -> None:
    ledger = Ledger(store)
    if limits:
        ledger.set_budget("a", budget(price={"training": 2, "evaluation": 2}, **limits))
    book(store, "one", spent={today(): {"a": {"training": 3600}}})
    text = str(closure(ledger).remedy("a"))
    for word in words:
        assert word in text
    assert ("day turns" in text) == (list(limits) == ["day"])


def test_price_of_a_queue_counts(store: Store) -> None:
    book(store, "one", spent={today(): {"a": {"evaluation": 3600}}})
    ledger = Ledger(store)
    for price, closed in (({"training": 0.1, "evaluation": 1}, True), ({"training": 1, "evaluation": 0.1}, False)):
        ledger.set_budget("a", budget(price=price, evolution={"money": 1}))
        assert bool(ledger.closed("a", "training")) == closed


def test_the_next_job_is_forecast(store: Store) -> None:
    """Trainings of an hour no longer fit, evaluations of a minute still do."""
    done = {"a": {"training": Work(jobs=2, seconds=7200), "evaluation": Work(jobs=2, seconds=120)}}
    book(store, "one", spent={today(): {"a": {"training": 7200, "evaluation": 120}}}, work=done, ended=True)
    ledger = Ledger(store)
    ledger.set_budget("a", budget(evolution={"gpu_hours": 2.5}))
    assert ledger.closed("a", "training") and not ledger.closed("a", "evaluation")
    assert ledger.standing("a").closed == ledger.closed("a", "training")
    ledger.set_budget("a", budget(evolution={"gpu_hours": 3.5}))
    assert not ledger.closed("a", "training"), "a raised limit opens at once"


def test_jobs_in_flight_are_forecast(store: Store) -> None:
    done = {"a": {"training": Work(jobs=1, seconds=3600)}}
    book(store, "one", spent={today(): {"a": {"training": 3600}}}, work=done, ended=True)
    ledger = Ledger(store)
    ledger.set_budget("a", budget(evolution={"gpu_hours": 2.5}))
    assert not ledger.closed("a", "training")
    flying = {"run_id": "a", "queue": "training", "digest": "2", "flying": 600.0}
    book(store, "two", spent={today(): {"a": {"training": 600}}}, **flying)
    assert ledger.standing("a").forecast.training_hours == pytest.approx(50 / 60)
    assert ledger.closed("a", "training") and not ledger.closed("a", "training", but="two")


def test_jobs_of_others_are_forecast_by_what_theirs_take(store: Store) -> None:
    """Of a limit of the day: long jobs beside short ones, whoever asks."""
    done = {"long": {"training": Work(jobs=1, seconds=18_000)}, "short": {"training": Work(jobs=1, seconds=360)}}
    book(store, "old", spent={today(): {"long": {"training": 18_000}}}, work=done, ended=True)
    ledger = Ledger(store)
    for run_id in done:
        ledger.set_budget(run_id, budget(day={"gpu_hours": 10}))
    for lane in ("one", "two"):
        book(store, lane, run_id="long", queue="training", digest="2", flying=9000.0)
    for run_id in done:
        assert ledger.standing(run_id).forecast.training_hours == pytest.approx(5)
        assert ledger.closed(run_id, "training"), "5 spent and 5 expected"
    for lane in ("one", "two"):
        book(store, lane, run_id="short", queue="training", digest="2", flying=36.0)
    assert ledger.standing("long").forecast.training_hours == pytest.approx(0.18)
    assert ledger.closed("long", "training") and not ledger.closed("short", "training")


def test_before_the_first_job_has_ended_there_is_room_for_what_jobs_may_take(store: Store) -> None:
    """Nothing says yet how long one takes: not all lanes may start one, and each may take its whole time."""
    ledger = Ledger(store)
    ledger.set_budget("a", budget(evolution={"gpu_hours": 1.01}))
    with contextlib.ExitStack() as lanes:
        meters = [lanes.enter_context(Meter(store, f"lane-{n}", "training")) for n in range(8)]
        begun = [not ledger.begin(meter, "a", "training", str(n), 1800) for n, meter in enumerate(meters)]
        assert begun == [True, True] + [False] * 6
        why = closure(ledger)
        assert why.is_passing and why.reason == "duration-unknown"
        assert "how long" in str(why) and "the limit of the evolution, 1.01 GPU hours" in str(why)
        assert str(why.remedy("a")) == "It goes on by itself then; look with: coral progress a"
        assert not ledger.standing("a").closed, "that is no pause"
        ledger.set_budget("b", budget(day={"gpu_hours": 1.01}))
        held = ledger.standing("b").closed
        assert held and held.is_passing, "others' jobs hold it, and nothing of it runs"
        meters[0].rest()
        assert not ledger.begin(meters[0], "a", "training", "9", 1800), "one has ended: they are short"


def test_of_jobs_longer_than_the_limit_one_starts(store: Store) -> None:
    ledger = Ledger(store)
    ledger.set_budget("a", budget(evolution={"gpu_hours": 0.1}))
    with Meter(store, "one", "training") as one, Meter(store, "two", "training") as two:
        assert not ledger.begin(one, "a", "training", "1", 1800)
        assert ledger.begin(two, "a", "training", "2", 1800)


@pytest.mark.parametrize("hours", [1, 0])
def test_a_day_that_has_no_room_for_a_single_job_does_not_open_by_itself(store: Store, hours: float) -> None:
    book(store, "old", work={"a": {"training": Work(jobs=1, seconds=7200)}}, ended=True)
    ledger = Ledger(store)
    ledger.set_budget("a", budget(day={"gpu_hours": hours}))
    why = closure(ledger)
    assert why.scope == "day" and why.reason == "limit-too-small" and "no room for any job" in str(why)
    assert str(why.remedy("a")) == "It goes on with a raised limit: coral resume a --set budget.day.gpu_hours=..."


def test_an_evolution_is_held_when_nothing_of_it_may_start_or_runs(store: Store) -> None:
    done = {"a": {"training": Work(jobs=2, seconds=36_000), "evaluation": Work(jobs=2, seconds=60)}}
    book(store, "one", spent={today(): {"a": {"training": 25_000}}}, work=done, ended=True)
    ledger = Ledger(store)
    ledger.set_budget("a", budget(evolution={"gpu_hours": 10}))
    assert ledger.standing("a").closed, "evaluations might, and there are none"
    book(store, "two", run_id="a", queue="evaluation", digest="2", flying=1.0)
    standing = ledger.standing("a")
    assert not standing.closed and set(standing.closed_queues) == {"training"}
    ledger.set_budget("a", budget(evolution={"gpu_hours": 5}))
    assert ledger.standing("a").closed


def test_a_job_that_could_not_be_booked_costs_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coral_core.ledger.ledger.BOOK_SECONDS", 0.05)
    folder = store.root / "ledger" / "accounts"
    with Meter(store, "lane", "training", rented=False) as meter:
        meter.work("a", "training", "1")
        meter.rest()
        folder.rename(folder.with_name("away"))
        with pytest.raises(StoreError):
            meter.work("b", "evaluation", "2")
        folder.with_name("away").rename(folder)
        time.sleep(0.3)  # subject: several times of booking
    (account,) = Ledger(store).accounts()
    assert set(account.spent[today()]) == {"a"} and not account.digest and account.run_id == "a"


def test_a_dead_lane_reserves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    done = {"a": {"training": Work(jobs=1, seconds=3600)}}
    book(store, "one", work=done, spent={today(): {"a": {"training": 10}}}, run_id="a", digest="2")
    ledger = Ledger(store)
    ledger.set_budget("a", budget(evolution={"gpu_hours": 1.5}))
    assert ledger.closed("a", "training")
    started = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: started + 60)
    assert not ledger.closed("a", "training")


@pytest.mark.parametrize("what", ["budget", "account", "absent budget", "folder", "absent folder"])
def test_what_cannot_be_read_stops_work(store: Store, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    ledger = Ledger(store)
    ledger.set_budget("a", budget(evolution={"gpu_hours": 9}))
    book(store, "one", ended=what == "folder")
    assert not ledger.closed("a", "training")
    names = {"account": "accounts/one.json", "folder": "accounts", "absent folder": "accounts"}
    path = store.root / "ledger" / names.get(what, "budgets/a.json")
    if what == "folder":  # tests may run as root, whom no permission stops
        monkeypatch.setattr(os, "scandir", failing(path))
    elif what == "absent folder":
        shutil.rmtree(path)
    elif what == "absent budget":
        path.unlink()
    else:
        path.write_text(path.read_text()[:-20])
    why = closure(ledger)
    assert why.reason == "unreadable" and str(path) in why.problem and "no job starts" in str(why)
    with pytest.raises(StoreError):
        ledger.standing("a")


def failing(folder: Path) -> Any:
    """`os.scandir` of a file system that does not let `folder` be listed."""
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    return scandir


def test_a_lost_folder_of_accounts_does_not_come_back_by_itself(store: Store) -> None:
    """What was spent would be forgotten; who wants that makes the folder."""
    ledger = Ledger(store)
    assert ledger.accounts() == [], "a store on which nothing was ever paid"
    ledger.set_budget("a", budget(evolution={"gpu_hours": 9}))
    folder = store.root / "ledger" / "accounts"
    folder.rmdir()
    ledger.set_budget("b", budget())
    with Meter(store, "lane", "training"):
        assert f"mkdir {folder}" in closure(ledger).advice
    folder.mkdir()
    assert not ledger.closed("a", "training")


def test_a_budget_without_a_needed_price_is_said(store: Store) -> None:
    """Put on record by hand, or before prices were needed."""
    ledger = Ledger(store)
    ledger.set_budget("a", budget())
    path = store.root / "ledger" / "budgets" / "a.json"
    write_atomic(path, b'{"run_id": "a", "budget": {"day": {"money": 1}}}')
    why = closure(ledger)
    assert "budget.price.training is 0" in str(why) and "coral resume a" in str(why)


def test_ended_lanes_are_read_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        book(store, f"old-{number}", ended=True, spent={today(): {"a": {"training": 0.1}}})
    book(store, "killed", spent={today(): {"a": {"training": 1}}})
    book(store, "living", spent={today(): {"a": {"training": 1}}})
    ledger, price = Ledger(store), budget().price
    assert ledger.spent(price, "a").training_hours * 3600 == pytest.approx(4)
    looked: list[str] = []
    real = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **more: looked.append(path.name) or real(path, **more))  # type: ignore[func-returns-value]
    for seconds in (2, 3):
        book(store, "living", spent={today(): {"a": {"training": seconds}}}, ended=seconds == 3)
        looked.clear()
        assert ledger.spent(price, "a").training_hours * 3600 == pytest.approx(3 + seconds)
        assert sorted(name for name in looked if name.endswith(".json")) == ["killed.json", "living.json"]
    (store.root / "ledger" / "accounts" / "old-7.json").unlink()
    looked.clear()
    assert ledger.spent(price, "a").training_hours * 3600 == pytest.approx(5.9), "removed to be forgotten"
    assert sorted(name for name in looked if name.endswith(".json")) == ["killed.json", "old-7.json"]
    assert len(ledger.accounts()) == 21


def test_a_file_that_a_listing_left_out_is_not_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    book(store, "one", spent={today(): {"a": {"training": 3600}}})
    ledger, price = Ledger(store), budget().price
    assert ledger.spent(price, "a").gpu_hours == 1
    monkeypatch.setattr(os, "scandir", lambda path: contextlib.nullcontext(iter(())))
    assert ledger.spent(price, "a").gpu_hours == 1


def test_a_lane_that_is_started_again_has_another_account(store: Store) -> None:
    for _ in range(2):
        with Meter(store, "lane", "training") as meter:
            meter.work("a", "training", "1")
            time.sleep(0.1)  # subject: seconds of a job
            meter.rest()
    assert {account.lane for account in Ledger(store).accounts()} == {"lane", "lane.2"}
    assert Ledger(store).spent(budget().price, "a").training_hours * 3600 >= 0.2


def test_without_limits_nothing_is_closed_and_everything_counted(store: Store) -> None:
    ledger = Ledger(store)
    ledger.set_budget("a", budget())
    book(store, "one", spent={today(): {"a": {"training": 1e9}}})
    assert ledger.closed("a", "training") is None and ledger.standing("a").spent.gpu_hours > 1e5


def test_readers_meet_whole_files_while_lanes_write(store: Store) -> None:
    over = threading.Event()

    def lane(number: int) -> None:
        with Meter(store, f"lane-{number}", "training") as meter:
            while not over.is_set():
                meter.work("a", "training", "1")
                meter.rest()

    threads = [threading.Thread(target=lane, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    try:
        ledger, seen = Ledger(store), [0.0]
        while len(seen) < 100 or sum("a" in account.work for account in ledger.accounts()) < 3:
            seen.append(ledger.spent(budget().price, "a").gpu_hours)
        assert seen == sorted(seen), "what was spent never shrinks"
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_currency_is_said(store: Store) -> None:
    Ledger(store).set_budget(
        "a", budget(currency="CHF", price={"training": 1, "evaluation": 1}, evolution={"money": 0})
    )
    assert "CHF" in str(closure(Ledger(store)))
    assert json.loads((store.root / "ledger" / "budgets" / "a.json").read_text())["budget"]["currency"] == "CHF"


def test_a_budget_that_cannot_be_written_is_said(store: Store) -> None:
    if os.getuid() == 0:
        (store.root / "ledger").write_text("in the way")
    else:
        store.root.chmod(0o500)
    with pytest.raises(StoreError):
        Ledger(store).set_budget("a", budget())


@pytest.mark.parametrize("figure", ["NaN", "Infinity", "-1e9"])
def test_a_figure_that_is_none_closes_the_ledger(store: Store, figure: str) -> None:
    """It would make every comparison with a limit come out in favour of spending."""
    ledger = Ledger(store)
    ledger.set_budget("a", budget(evolution={"gpu_hours": 1}))
    text = f'{{"lane": "x", "spent": {{"{today()}": {{"a": {{"training": {figure}}}}}}}}}'
    write_atomic(store.root / "ledger" / "accounts" / "x.json", text.encode())
    assert "cannot be read" in str(closure(ledger))
