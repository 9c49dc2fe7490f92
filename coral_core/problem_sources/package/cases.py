"""From recorded calls to cases: each function is called again, alone, twice.

The second time, order, hash seed, clock, environment and directory are others. A function is refused when it behaves
differently alone than in its package or differently the second time, or uses files, processes or the network. Where tests
give fewer than `CASES` calls, more are made from their arguments, with the results of the function as expected values; of
these only calls that return a value count.
"""

import json
import random
import reprlib
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from coral_core.digest import seed_from
from coral_core.frozen import Frozen
from coral_core.judge.oracle import agrees
from coral_core.problem_sources.package.call_observer import size
from coral_core.problem_sources.package.discovery import Refused, SourceFunction
from coral_core.problem_sources.package.recording import Call
from coral_core.problem_sources.script_process import run_script
from coral_core.problems import values
from coral_core.problems.library_values import StandIn
from coral_core.problems.normal_form import normal_form
from coral_core.problems.problem import BugClass, Case

CASES = 16
"""Most cases per function."""
FEWEST = 6
"""Fewest distinct cases of a usable function, made ones included."""
LINES = 10_000
"""Executed lines of one case at most: a fifth of what the judge allows a patch."""
MOST_LINES = 4 * LINES
"""Lines after which a call is cut off. One that takes more than `LINES` is no case, but may fill a table for those after it."""
MOST_CUT, MOST_ENDED = 64, 8
"""Calls of one replay that may be cut off, and that may end its process, before the rest counts as too long."""
ITEMS = 4_000
CANDIDATES = 64
REPLAY = Path(__file__).with_name("replay_calls.py")
SECONDS = 60
"""CPU time of one process that replays calls of a function. Wall clock would refuse more of them on a busy machine."""
WAITING = 5 * SECONDS
"""Wall clock of such a process: for calls that wait for what never comes."""
RELATIVE, ABSOLUTE = 1e-11, 1e-12
"""Tolerances of each recorded float: sums in another order are right too, and a second more is a difference in seconds since
1970. The second is for floats near zero."""

REPLAYED = 96
"""Recorded calls that are made again, per function."""
CHARACTERS = 200_000
"""Encoded characters of the arguments of a function's cases together. Of larger ones (methods of objects with tables) there are
fewer, down to `FEWEST_LARGE`: every patch is given all of them, and gives them back."""
FEWEST_LARGE = 8
AGAIN = 8
"""Recorded calls that are made a second time in one process: a function that keeps state acts differently then."""
NOT_AT_HAND = ("NameError", "UnboundLocalError", "AttributeError", "ImportError", "ModuleNotFoundError")
"""What a text raises that lacks something of its package: no outcome of a call whose own is not known."""
MOST_DIFFERING = 0.25
"""Share of a function's recorded calls at most that act differently on its own: of more, the function needs what its package sets up."""
Record = dict[str, Any]
Given = tuple[list[Any], dict[str, Any]]
"""Encoded arguments and keyword arguments of a call."""


class World(NamedTuple):
    """What surrounds a call: a result that depends on it is no result of the function."""

    seconds: int = 0
    """How far the clock is moved."""
    environment: dict[str, str] | None = None
    directory: str = "/"


HERE = World()
_ENVIRONMENT = {
    "PATH": "/nowhere", "HOME": "/nowhere", "USER": "somebody", "TZ": "Asia/Kathmandu", "LANG": "tr_TR.UTF-8", "COLUMNS": "43", "NO_COLOR": "1",
}  # fmt: skip
ELSEWHERE = World(400 * 86_400 + 26_117, _ENVIRONMENT, "/usr")
WORLDS = {
    "the order of sets": HERE,
    "the clock": World(ELSEWHERE.seconds),
    "the environment": World(0, _ENVIRONMENT),
    "the directory": World(0, None, ELSEWHERE.directory),
}


class Bug(Frozen):
    """A mutation of a function that some case detects."""

    bug_class: BugClass
    source: str = Field(description="The standalone module with the mutation.")
    failing: float = Field(gt=0, le=1, description="Share of the cases that do not pass.")


class UsableFunction(Frozen):
    """A function that can become problems."""

    definition: SourceFunction
    recorded: int = Field(ge=1, description="Cases that a test called; the others were made from these.")
    cases: tuple[Case, ...] = Field(min_length=FEWEST)
    differing: int = Field(
        0,
        ge=0,
        description="Calls of tests that are no cases: in the package they acted differently, by what a test had set (a locale).",
    )
    difference: str = Field("", description="The first of them.")
    bugs: tuple[Bug, ...] = ()


def cases_of(function: SourceFunction, calls: Sequence[Call]) -> UsableFunction:
    """Make the cases of a function from its recorded calls.

    Args:
        function: The function.
        calls: Its recorded calls.

    Raises:
        Refused: it cannot become a problem; the text says why.
    """
    length = sum(len(_call_text(list(call.arguments), call.keywords)) for call in calls) // len(calls)
    most = max(FEWEST_LARGE, min(CASES, CHARACTERS // max(1, length)))
    calls = _chosen(calls, REPLAYED * most // CASES)
    rng = random.Random(seed_from("package-cases", normal_form(function.source)))
    similar_calls = islice(_similar_calls(calls, rng), CANDIDATES * most // CASES)
    made = [] if len(calls) >= 2 * most else list(similar_calls)  # in one process with the recorded ones
    given = [(list(call.arguments), call.keywords) for call in calls] + made
    first, second = _twice(function, given)
    kept: list[Case] = []
    differing: list[str] = []
    cannot: list[str] = []
    for place, call in enumerate(calls):
        case = _repeated(given[place], first[place], second[place])
        if isinstance(case, Difference):
            raise Refused(_why_different(function, given[place], case))
        if case is None:
            if outside := first[place].get("outside") or second[place].get("outside"):
                cannot.append(f"({_shown_arguments(given[place])}) cannot be called on its own: {outside}")
            continue
        if not _is_recorded(case, call.outcome):
            differing.append(_shown(given[place], case, call.outcome or {}))
        else:
            kept.append(case)
    if len(differing) > MOST_DIFFERING * (len(kept) + len(differing)):
        raise Refused(f"acts differently on its own than in its package: {differing[0]}")
    kept = [kept[place] for place in _spread([case.given() for case in kept], most)]
    recorded = len(kept)
    if not recorded:
        outside = next((record["outside"] for record in (*first[: len(calls)], *second) if "outside" in record), "")
        raise Refused(
            f"called on its own: {outside}" if outside else f"every recorded call executes more than {LINES} lines"
        )
    outcomes = list(zip(made, first[len(calls) :], second[len(calls) :], strict=True))
    if recorded < most and not made:
        made = list(similar_calls)
        outcomes = list(zip(made, *_twice(function, made), strict=True))
    # a text that differs from the package for some arguments may do so for others, of which no test tells the outcome
    extra = [_repeated(*outcome, needed=False) for outcome in ([] if differing else outcomes)]
    returned = [case for case in extra if isinstance(case, Case) and case.exception is None]
    kept += _new_outcomes_first(kept, returned, most - recorded)
    if len(kept) < FEWEST:
        raise Refused(
            f"{len(kept)} distinct cases (with those made from its {recorded} recorded calls), fewer than {FEWEST}"
        )
    if len({_outcome(case) for case in kept}) < 2:
        raise Refused("every case has the same outcome: too little to tell a bug")
    return UsableFunction(
        definition=function,
        recorded=recorded,
        cases=tuple(kept),
        differing=len(differing) + len(cannot),
        difference=next(iter((*differing, *cannot)), ""),
    )


def _twice(function: SourceFunction, given: Sequence[Given]) -> tuple[list[Record], list[Record]]:
    """Outcomes of calls here, and of the same calls in another order and elsewhere.

    Raises:
        Refused: as `replay`; or one of the first calls acts differently when it is made again in the same process.
    """
    arguments, keywords = [item[0] for item in given], [item[1] for item in given]
    again = replay(function, arguments[::-1], 2, keywords[::-1], ELSEWHERE)
    records = replay(function, [*arguments, *arguments[:AGAIN]], 1, [*keywords, *keywords[:AGAIN]])
    repeated = records[len(given) :]
    if any(record.get("cut") for record in records):  # so not all in one process
        repeated = replay(function, arguments[:AGAIN] * 2, 1, keywords[:AGAIN] * 2)[len(repeated) :]
    for place, record in enumerate(repeated):
        if "mutated" in record and "mutated" in records[place]:
            case = _case(given[place], records[place])
            if not agrees(case, record):
                raise Refused(_why_different(function, given[place], Difference(records[place], record)))
    return records[: len(given)], again[::-1]


def _is_recorded(case: Case, outcome: dict[str, Any] | None) -> bool:
    """Did the test see the outcome of the case, as far as it is known?"""
    if outcome is None:  # an iterator that is no generator
        return case.exception not in NOT_AT_HAND
    if "items" in outcome:
        return _has_yielded(case, outcome)
    if outcome.get("exception") == "":
        outcome = outcome | {"exception": "" if case.exception in NOT_AT_HAND else case.exception}
    return agrees(case, outcome)


def _has_yielded(case: Case, outcome: dict[str, Any]) -> bool:
    """Does the case go on from the items that a test read of a generator, and end as it did, if that is known?"""
    items, ended = outcome["items"], outcome.get("ended")
    if case.exception is not None:
        return bool(case.exception == ended or (ended == "" and case.exception not in NOT_AT_HAND))
    whole = case.value[1] if isinstance(case.value, (list, tuple)) and case.value[0] == "l" else None
    if not isinstance(items, list) or whole is None or ended not in ("return", ""):
        return False
    if len(items) > len(whole) or (ended and len(items) < len(whole)):
        return False
    first = case.model_copy(update={"value": ["l", list(whole[: len(items)])], "mutated": None})
    return agrees(first, {"value": ["l", items]})


class Difference(NamedTuple):
    """The outcomes of a call that was made twice and acted differently."""

    one: Record
    two: Record


def _repeated(given: Given, record: Record, again: Record, needed: bool = True) -> Case | Difference | None:
    """The case of a call that was made twice; None when one of them ran too long or gave what cannot be compared.

    Args:
        given: Its arguments and keyword arguments.
        record: The first outcome.
        again: The second.
        needed: False for a call that no test made.

    Raises:
        Refused: a needed call touches the world outside.
    """
    touched = record.get("touched") or again.get("touched")
    outside = record.get("outside") or again.get("outside")
    if needed and touched:
        raise Refused(f"touches the world outside ({touched})")
    if touched or "budget" in record or "budget" in again:
        return None
    if outside:
        return None
    try:
        case = _case(given, record)
        return case if agrees(case, again) else Difference(record, again) if needed else None
    except values.ValueOutside as error:
        record["outside"] = str(error)
        return None


def _why_different(function: SourceFunction, given: Given, difference: Difference) -> str:
    """What a function depends on, by calling it again with one thing changed at a time."""
    try:
        usual = _one_outcome(function, given, 1, HERE)
        case = _case(given, usual)
        for name, world in (("chance or state", World()), *WORLDS.items()):
            seed = 2 if name == "the order of sets" else 1
            other = _one_outcome(function, given, seed, world)
            if not agrees(case, other):
                return f"gives another result when called again: it depends on {name}: {_shown(given, case, other)}"
    except (Refused, KeyError):
        pass
    case = _case(given, difference.one)
    return (
        f"gives another result when called again: it depends on state or chance: {_shown(given, case, difference.two)}"
    )


def _one_outcome(function: SourceFunction, given: Given, hash_seed: int, world: World) -> Record:
    """The outcome of a call alone; that of a second one where the first takes too long, since it fills a table."""
    first, second = replay(function, [given[0]] * 2, hash_seed, [given[1]] * 2, world)
    return second if "budget" in first else first


def _shown(given: Given, case: Case, other: Record) -> str:
    """A call with the outcome of the function alone and another one, for a person to read."""

    def outcome(exception: str | None, value: Any, mutated: Any) -> str:
        text = f"raises {exception}" if exception is not None else f"gives {_plain_text(value)}"
        return text + (f", leaves {', '.join(map(_plain_text, mutated))}" if mutated is not None else "")

    compared = case.mutated is not None
    mine = outcome(case.exception, case.value, case.mutated)
    if not other:
        theirs = "gave the test an iterator"
    elif "items" in other:
        ended = {"return": "", "": ", …"}.get(str(other.get("ended")), f", raises {other.get('ended')}")
        theirs = f"gave {_plain_text(['l', other['items']])}{ended}"
    else:
        theirs = outcome(other.get("exception"), other.get("value"), other.get("mutated") if compared else None)
    return f"({_shown_arguments(given)}) {mine}; before or elsewhere it {theirs}"


def _shown_arguments(given: Given) -> str:
    named = (f"{name}={_plain_text(given[1][name])}" for name in sorted(given[1]))
    return ", ".join([*map(_plain_text, given[0]), *named])


def shown_case(case: Case) -> str:
    """A case for a person to read: arguments, outcome, and arguments after the call where they are compared."""
    arguments = [
        *map(_plain_text, case.arguments),
        *(f"{name}={_plain_text(case.keywords[name])}" for name in sorted(case.keywords)),
    ]
    outcome = f"raises {case.exception}" if case.exception is not None else f"gives {_plain_text(case.value)}"
    after = f", leaves {', '.join(map(_plain_text, case.mutated))}" if case.mutated is not None else ""
    return f"({', '.join(arguments)}) {outcome}{after}"


def _plain_text(encoded: Any) -> str:
    try:
        return reprlib.repr(values.decode(encoded))
    except (values.ValueOutside, RecursionError):
        return reprlib.repr(encoded)


def replay(
    function: SourceFunction,
    arguments: Sequence[list[Any]],
    hash_seed: int,
    keywords: Sequence[dict[str, Any]] = (),
    world: World = HERE,
) -> list[Record]:
    """Outcomes of calls of the function alone, in order.

    Args:
        function: The function.
        arguments: Encoded arguments of each call.
        hash_seed: PYTHONHASHSEED of the process.
        keywords: Encoded keyword arguments of each call; empty: there are none.
        world: Clock, environment and directory of the process.

    Raises:
        Refused: the function cannot be defined on its own, or takes too long.
    """
    records: list[Record] = []
    ended = 0
    named = keywords or [{}] * len(arguments)
    every = [{"arguments": one, "keywords": two} for one, two in zip(arguments, named, strict=True)]
    slow = 20 * LINES  # the moved clock is counted too
    request = {
        "source": function.source,
        "entry_point": function.entry_point or function.name,
        "lines": slow if world.seconds else LINES,
        "most_lines": slow if world.seconds else MOST_LINES,
        "items": ITEMS,
        "clock": world.seconds,
        "seconds": SECONDS,
    }
    while len(records) < len(every):
        calls = every[len(records) :]
        answers = run_script(
            REPLAY, {**request, "calls": calls}, WAITING, hash_seed, world.environment, world.directory
        )
        if answers.timed_out:
            raise Refused(f"its calls waited for something: they did not end within {WAITING} s together")
        if answers.lines and "over" in answers.lines[-1]:
            raise Refused(f"its calls took more than {SECONDS} s of CPU time together")
        setup, *lines = answers.lines or [{"setup": "it ran too long"}]
        if setup["setup"]:
            raise Refused(f"cannot be defined on its own ({setup['setup']})")
        records += lines
        if len(records) < len(every) and not (lines and lines[-1].get("cut")):  # it ended in the middle of a call
            records.append({"budget": True})
            ended += 1
        if ended > MOST_ENDED or sum(bool(record.get("cut")) for record in records) > MOST_CUT:
            records += [{"budget": True}] * (len(every) - len(records))
    return records


def _case(given: Given, record: Record) -> Case:
    """A case of a replayed call. Arguments after the call are compared when any of them could have been changed."""
    value, after = record.get("value"), record["mutated"]
    compared = any(map(values.is_mutable, [*given[0], *given[1].values()]))
    floats = any(map(values.has_floats, [value, *(after if compared else ())]))
    return Case(
        arguments=tuple(given[0]),
        keywords=given[1],
        value=value,
        exception=record.get("exception"),
        mutated=tuple(after) if compared else None,
        tolerance=ABSOLUTE if floats else None,
        relative_tolerance=RELATIVE if floats else None,
    )


def _outcome(case: Case) -> str:
    return json.dumps([case.exception, case.value, case.mutated])


def _chosen(calls: Sequence[Call], most: int) -> list[Call]:
    given = [(*call.arguments, *(call.keywords[name] for name in sorted(call.keywords))) for call in calls]
    return [calls[place] for place in _spread(given, most)]


def _spread(given: Sequence[Sequence[Any]], most: int) -> list[int]:
    """Places of `most` of some calls: those with the smallest and largest arguments, and others evenly over their order."""
    if len(given) <= most:
        return list(range(len(given)))
    chosen: list[int] = []
    for position in range(max(map(len, given))):
        sizes = [
            (size(arguments[position]), place) for place, arguments in enumerate(given) if position < len(arguments)
        ]
        measured = [(measure, place) for measure, place in sizes if measure is not None]
        if measured:
            chosen += [min(measured)[1], max(measured)[1]]
    chosen = list(dict.fromkeys(chosen))[: most // 2]
    rest = [place for place in range(len(given)) if place not in chosen]
    free = most - len(chosen)
    return sorted([*chosen, *(rest[number * len(rest) // free] for number in range(free))])


def _new_outcomes_first(kept: Sequence[Case], extra: Sequence[Case], count: int) -> list[Case]:
    """`count` of `extra`, those with outcomes not seen so far first."""
    seen = {_outcome(case) for case in kept}
    repeats: list[bool] = []
    for case in extra:
        repeats.append(_outcome(case) in seen)
        seen.add(_outcome(case))
    return [extra[place] for place in sorted(range(len(extra)), key=repeats.__getitem__)][:count]


def _similar_calls(calls: Sequence[Call], rng: random.Random) -> Iterator[Given]:
    """Up to `CANDIDATES` new calls near `calls`."""
    decoded = [([*call.arguments, *(call.keywords[name] for name in sorted(call.keywords))], call) for call in calls]
    plain = [([values.decode(item) for item in encoded], call) for encoded, call in decoded]
    seen = {_call_text(list(call.arguments), call.keywords) for call in calls}
    if not any(arguments for arguments, _ in plain):
        return
    count = 0
    for _ in range(CANDIDATES * 4):
        recorded, call = rng.choice(plain)
        arguments = list(recorded)
        shape = (len(call.arguments), sorted(call.keywords))
        other, _ = rng.choice([item for item in plain if (len(item[1].arguments), sorted(item[1].keywords)) == shape])
        for place in range(len(arguments)):
            if rng.random() < 0.3:
                arguments[place] = other[place]
        if arguments:
            place = rng.randrange(len(arguments))
            arguments[place] = similar(arguments[place], rng)
        try:
            encoded = [values.encode(item, ITEMS) for item in arguments]
        except values.ValueOutside:
            continue
        named = dict(zip(shape[1], encoded[shape[0] :], strict=True))
        text = _call_text(encoded[: shape[0]], named)
        if text not in seen:
            seen.add(text)
            count += 1
            yield encoded[: shape[0]], named
            if count == CANDIDATES:
                return


def _call_text(arguments: list[Any], keywords: dict[str, Any]) -> str:
    return json.dumps([arguments, keywords], sort_keys=True)


def similar(value: Any, rng: random.Random) -> Any:
    """A random value of the same type that differs a little from `value`.

    Args:
        value: Of the value language. It is not changed.
        rng: Draws the change.

    Returns:
        The new value; `value` itself where there is no such change (None, empty containers).
    """
    kind = type(value)
    if kind is bool:
        return not value
    if kind is int:
        return rng.choice([value + 1, value - 1, -value, 0, 2 * value, value // 2, value + rng.randrange(2, 10)])
    if kind is float:
        return rng.choice([value + 1, value - 1, -value, 0.0, value / 2, value * 2])
    if kind in (Decimal, Fraction, date, datetime, timedelta):
        return _similar_amount(value, rng)
    if kind in (str, bytes, list, tuple):
        return _similar_sequence(value, rng)
    if kind in (set, frozenset) and value:
        items = sorted(value, key=_text)
        drop = rng.randrange(len(items))
        changed = [*items[:drop], *items[drop + 1 :]]
        return kind(changed if rng.random() < 0.5 else [*changed, similar(items[drop], rng)])
    if isinstance(value, dict) and kind is not dict:
        mapping = value.copy()  # a Counter, OrderedDict or defaultdict
        mapping.clear()
        for key, item in similar(dict(value), rng).items():
            mapping[key] = item
        return mapping
    if kind is StandIn and type(value.body) is dict and value.body:
        name = rng.choice(sorted(value.body))
        return StandIn(value.kind, value.label, value.body | {name: similar(value.body[name], rng)})
    if kind is StandIn and value.kind == "named tuple" and value.body:
        place = rng.randrange(len(value.body))
        parts = (*value.body[:place], similar(value.body[place], rng), *value.body[place + 1 :])
        return StandIn(value.kind, value.label, parts)
    if kind is dict and value:
        key = rng.choice(sorted(value, key=_text))
        if rng.random() < 0.4:
            return {other: item for other, item in value.items() if other != key}
        return value | {key: similar(value[key], rng)}
    return value


def _text(value: Any) -> str:
    """The encoding of a value as a sort key: unlike repr, it is the same for equal sets in every process."""
    return json.dumps(values.encode(value))


def _similar_amount(value: Any, rng: random.Random) -> Any:
    """A decimal number, fraction, date or duration a step away; itself where the step leads out of its range."""
    number = rng.choice([1, -1, rng.randrange(2, 40)])
    try:
        if isinstance(value, (Decimal, Fraction)):
            return rng.choice([value + number, -value, value * 0, value / 2])
        if isinstance(value, timedelta):
            return rng.choice([value + timedelta(days=number), value + timedelta(seconds=number), -value, value * 0])
        return value + timedelta(number, 0 if type(value) is date else 3_601 * number)
    except (ArithmeticError, ValueError):
        return value


def _similar_sequence(value: Any, rng: random.Random) -> Any:
    if not value:
        return value
    one, two = rng.randrange(len(value)), rng.randrange(len(value))
    variants = [
        value[:one] + value[one + 1 :],
        value[:one] + value[one : one + 1] + value[one:],
        value[:one] + value[two : two + 1] + value[one + 1 :],
        value[::-1],
        value[:one],
        value[one:],
    ]
    if isinstance(value, (list, tuple)):
        changed = [*value[:one], similar(value[one], rng), *value[one + 1 :]]
        variants += [type(value)(changed)] * 4
    return rng.choice(variants)
