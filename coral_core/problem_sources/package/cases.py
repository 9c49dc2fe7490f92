"""From recorded calls to cases: each function is called again, alone, twice, in both orders.

A function is refused when it behaves differently alone than in its package, differently from run to run (each has its own
hash seed), or uses files, processes or the network. Where tests give fewer than `CASES` calls, more are made from their
arguments, with the results of the function as expected values; of these only calls that return a value count.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from coral_core.digest import seed_from
from coral_core.frozen import Frozen
from coral_core.judge.oracle import agrees
from coral_core.problem_sources.package.discovery import Refused, SourceFunction
from coral_core.problem_sources.package.recording import Call
from coral_core.problem_sources.script_process import run_script
from coral_core.problems import values
from coral_core.problems.normal_form import normal_form
from coral_core.problems.problem import BugClass, Case

CASES = 16
"""Most cases per function."""
FEWEST = 6
"""Fewest distinct cases of a usable function, made ones included."""
LINES = 10_000
"""Executed lines of one case at most: a fifth of what the judge allows a patch."""
ITEMS = 4_000
CANDIDATES = 64
REPLAY = Path(__file__).with_name("replay_calls.py")
SECONDS = 60
"""Wall clock of one replay, of all calls of a function together."""
RELATIVE, ABSOLUTE = 1e-9, 1e-12
"""Tolerances of each recorded float: sums in another order are right too. The second is for floats near zero."""

Record = dict[str, Any]


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
    bugs: tuple[Bug, ...] = ()


def cases_of(function: SourceFunction, calls: Sequence[Call]) -> UsableFunction:
    """Make the cases of a function from its recorded calls.

    Args:
        function: The function.
        calls: Its recorded calls.

    Raises:
        Refused: it cannot become a problem; the text says why.
    """
    generated = list(_similar_calls(calls, random.Random(seed_from("package-cases", normal_form(function.source)))))
    arguments = [list(call.arguments) for call in calls] + generated
    first = replay(function, arguments, 1)
    second = replay(function, arguments[::-1], 2)[::-1]
    kept: list[Case] = []
    for call, record, again in zip(calls, first, second, strict=False):
        case = _repeated(list(call.arguments), record, again)
        if case is None:
            continue
        if call.outcome is not None and not _is_recorded(case, call.outcome):
            raise Refused("acts differently on its own than in its package: it depends on chance, the clock or state")
        kept.append(case)
    kept = _spread(kept, CASES)
    recorded = len(kept)
    if not recorded:
        raise Refused(f"every recorded call executes more than {LINES} lines")
    extra: list[Case] = []
    for given, record, again in zip(generated, first[len(calls) :], second[len(calls) :], strict=True):
        case = _repeated(given, record, again, needed=False)
        if case is not None and case.exception is None:
            extra.append(case)
    kept += _new_outcomes_first(kept, extra, CASES - recorded)
    if len(kept) < FEWEST:
        raise Refused(
            f"{len(kept)} distinct cases (with those made from its {recorded} recorded calls), fewer than {FEWEST}"
        )
    if len({_outcome(case) for case in kept}) < 2:
        raise Refused("every case has the same outcome: too little to tell a bug")
    return UsableFunction(definition=function, recorded=recorded, cases=tuple(kept))


def _is_recorded(case: Case, outcome: dict[str, Any]) -> bool:
    """Did the test see the outcome of the case? The class of an exception is not known where it is empty."""
    if outcome.get("exception") == "":
        outcome = outcome | {"exception": case.exception}
    return agrees(case, outcome)


def _repeated(arguments: list[Any], record: Record, again: Record, needed: bool = True) -> Case | None:
    """The case of a call that was made twice; None when one of them ran too long.

    Args:
        needed: False for a call that no test made: outside the value language it is left out.

    Raises:
        Refused: the function touches the world outside, gives what cannot be compared, or acts differently the second time.
    """
    if touched := record.get("touched") or again.get("touched"):
        raise Refused(f"touches the world outside ({touched})")
    if "budget" in record or "budget" in again:
        return None
    outside = record.get("outside") or again.get("outside")
    if outside and needed:
        raise Refused(f"result: {outside}")
    if outside:
        return None
    case = _case(arguments, record)
    if not agrees(case, again):
        raise Refused(
            "gives another result when called again: it depends on chance, the clock, the order of sets or state"
        )
    return case


def replay(function: SourceFunction, arguments: Sequence[list[Any]], hash_seed: int) -> list[Record]:
    """Outcomes of calls of the function alone, in order.

    Args:
        function: The function.
        arguments: Encoded arguments of each call.
        hash_seed: PYTHONHASHSEED of the process.

    Raises:
        Refused: the function cannot be defined on its own, or takes too long.
    """
    records: list[Record] = []
    request = {"source": function.source, "entry_point": function.name, "lines": LINES, "items": ITEMS}
    while len(records) < len(arguments):
        calls = arguments[len(records) :]
        answers = run_script(REPLAY, {**request, "calls": calls}, SECONDS, hash_seed)
        if answers.timed_out:
            raise Refused(f"its calls took longer than {SECONDS} s together")
        setup, *lines = answers.lines or [{"setup": "it ran too long"}]
        if setup["setup"]:
            raise Refused(f"cannot be defined on its own ({setup['setup']})")
        records += lines
        if len(records) < len(arguments):  # the process ended in the middle of a call
            records.append({"budget": True})
            if sum("budget" in record for record in records) > 8:
                records += [{"budget": True}] * (len(arguments) - len(records))
    return records


def _case(arguments: list[Any], record: Record) -> Case:
    """A case of a replayed call. Arguments after the call are compared when any of them could have been changed."""
    value, after = record.get("value"), record["mutated"]
    compared = any(map(values.is_mutable, arguments))
    floats = any(map(values.has_floats, [value, *(after if compared else ())]))
    return Case(
        arguments=tuple(arguments),
        value=value,
        exception=record.get("exception"),
        mutated=tuple(after) if compared else None,
        tolerance=ABSOLUTE if floats else None,
        relative_tolerance=RELATIVE if floats else None,
    )


def _outcome(case: Case) -> str:
    return json.dumps([case.exception, case.value, case.mutated])


def _spread(cases: list[Case], most: int) -> list[Case]:
    """`most` of `cases`, evenly over their order."""
    return cases if len(cases) <= most else [cases[place * len(cases) // most] for place in range(most)]


def _new_outcomes_first(kept: Sequence[Case], extra: Sequence[Case], count: int) -> list[Case]:
    """`count` of `extra`, those with outcomes not seen so far first."""
    seen = {_outcome(case) for case in kept}
    repeats: list[bool] = []
    for case in extra:
        repeats.append(_outcome(case) in seen)
        seen.add(_outcome(case))
    return [extra[place] for place in sorted(range(len(extra)), key=repeats.__getitem__)][:count]


def _similar_calls(calls: Sequence[Call], rng: random.Random) -> Iterator[list[Any]]:
    """Up to `CANDIDATES` new argument lists near those of `calls`."""
    decoded = [[values.decode(item) for item in call.arguments] for call in calls]
    seen = {json.dumps(list(call.arguments)) for call in calls}
    if not any(decoded):
        return
    count = 0
    for _ in range(CANDIDATES * 4):
        arguments = list(rng.choice(decoded))
        other = rng.choice([item for item in decoded if len(item) == len(arguments)])
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
        key = json.dumps(encoded)
        if key not in seen:
            seen.add(key)
            count += 1
            yield encoded
            if count == CANDIDATES:
                return


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
    if kind in (str, bytes, list, tuple):
        return _similar_sequence(value, rng)
    if kind in (set, frozenset) and value:
        items = sorted(value, key=_text)
        drop = rng.randrange(len(items))
        changed = [*items[:drop], *items[drop + 1 :]]
        return kind(changed if rng.random() < 0.5 else [*changed, similar(items[drop], rng)])
    if kind is dict and value:
        key = rng.choice(sorted(value, key=_text))
        if rng.random() < 0.4:
            return {other: item for other, item in value.items() if other != key}
        return value | {key: similar(value[key], rng)}
    return value


def _text(value: Any) -> str:
    """The encoding of a value as a sort key: unlike repr, it is the same for equal sets in every process."""
    return json.dumps(values.encode(value))


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
