"""From the tests of a row to cases: the tests run on the reference in the judge's sandbox, and the calls that they make
are recorded.

They run twice, under two hash seeds, and each case is then replayed by the judge as a patch would be: what differs is
refused with its reason. No code of the file runs outside the sandbox.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from coral_core.config.scoring_config import PatchLimits, SlowLimits
from coral_core.frozen import Frozen
from coral_core.json_object import json_object
from coral_core.judge.judge import Judge
from coral_core.problem_sources.importers.assertions import instrumented
from coral_core.problem_sources.importers.material import (
    LONGEST_CODE,
    Material,
    RefusedRowError,
    StandAlone,
    stand_alone,
    tree_of,
)
from coral_core.problem_sources.package.cases import ABSOLUTE, RELATIVE
from coral_core.problems.problem import Case, Problem
from coral_core.problems.values import decode, encode, has_floats, is_mutable, labels, parse
from coral_core.syntax import UNPARSABLE

RECORDER = Path(__file__).with_name("call_recorder.py")
LIMITS = PatchLimits(
    cpu_seconds=5.0, slow=SlowLimits(work_lines=5_000_000, cpu_seconds=20.0, wall_seconds=20.0), memory_mb=512
)
"""Limits of one run of the tests of a row, which is a slow case."""
PARTS = 8
MOST_CASES = 64
"""Cases of a problem at most, spread evenly over those that the tests make."""
SLOW_LINES = 25_000
"""A case of more executed lines is marked slow; an ordinary one may execute twice as many."""
MOST_LINES = 2_500_000
"""A case of more executed lines is left out; a slow one may execute twice as many."""


class RecordedCall(Frozen):
    """A call as the recorder writes it: untrusted, since the tests share its process."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    value: Any = None
    exception: str | None = None
    mutated: tuple[Any, ...] = ()
    absolute: float | None = Field(ge=0)
    relative: float | None = Field(ge=0)
    refused: str
    needs: str

    def outcome(self) -> str:
        """The result and the arguments after the call, as text."""
        return json.dumps([self.exception, self.value, self.mutated])


@dataclass(frozen=True)
class Recording:
    """The calls that the tests of a row make, and the units that fail, with the reason."""

    calls: list[RecordedCall]
    failures: list[tuple[str, str]]


def record(judge: Judge, material: Material) -> Recording:
    """Run the tests of a row on its reference.

    Args:
        judge: Runs them; of limits `LIMITS`.
        material: The row.

    Raises:
        RefusedRowError: they cannot be run.
        JudgeError: the sandbox failed.
    """
    names = {material.entry_point, "candidate"}
    if sum(len(code) for _, _, code in material.units) > LONGEST_CODE:
        raise RefusedRowError("too long", f"its tests have more than {LONGEST_CODE} characters")
    try:
        for _, name, code in material.units:
            tree_of(code, name)
        units = [[kind, name, instrumented(code, names)] for kind, name, code in material.units]
    except UNPARSABLE as error:
        raise RefusedRowError("not Python 3", f"its tests: {error}"[:200]) from None
    request = {"entry_point": material.entry_point, "units": units}
    problem = Problem(
        problem_id=material.name,
        entry_point="coral_step",
        bug_class="none",
        buggy="",
        reference="",
        setup=material.program,
        cases=(
            Case(arguments=(encode(request),), slow=True),
            *(Case(arguments=(number,), slow=True) for number in range(PARTS)),
        ),
    )
    result, records = judge.observe(problem, RECORDER.read_text("utf-8"), lend_values=True)
    try:
        answers = [decode(each["value"]) for each in records]
        summary = answers[0]
        text = "".join(answers[1 : 1 + summary["parts"]])
        calls = [RecordedCall.model_validate(json_object(line)) for line in text.split("\n")] if text else []
        return Recording(calls, [(str(name)[:100], str(why)[:200]) for name, why in summary["failures"]])
    except (KeyError, IndexError, TypeError, ValueError):  # it ended early, or the code tampers with the recorder
        detail = result.message or (str(records[0].get("exception") or records[0].get("outside")) if records else "")
        kind = "its tests run into a limit" if "limit" in detail else "its tests cannot be run"
        raise RefusedRowError(kind, detail[:200]) from None


def cases_of(judges: Sequence[Judge], material: Material) -> tuple[StandAlone, tuple[Case, ...]]:
    """The cases that the tests of a row give, and the function with the classes that they need.

    Args:
        judges: Two judges of limits `LIMITS`, of different hash seeds; the first replays.
        material: The row.

    Raises:
        RefusedRowError: there are none; the reason of most calls.
        JudgeError: the sandbox failed.
    """
    first, second = (record(judge, material) for judge in judges)
    if first.failures and material.all_must_pass:
        unit, why = first.failures[0]
        raise RefusedRowError("its tests fail on its reference", f"{unit}: {why}")
    again = _by_call(second.calls)
    reasons: Counter[str] = Counter()
    found: list[Case] = []
    for key, calls in _by_call(first.calls).items():
        try:
            found.append(_case(calls, again.get(key, []), material.arguments_after))
        except (RefusedRowError, ValueError) as error:
            reasons[str(error)[:200]] += 1
    found = _spread(found)
    alone = stand_alone(material.program, material.entry_point, "its reference", _classes(found))
    if found:
        found = _replayed(judges[0], material, alone, found, reasons)
    if not found:
        if reasons:
            [(reason, _)] = reasons.most_common(1)
            raise RefusedRowError(*(part.strip() for part in reason.split(":", 1)))
        if first.failures:
            failures = "; ".join(f"{unit}: {why}" for unit, why in first.failures)
            raise RefusedRowError("none of its tests passes", failures[:200])
        raise RefusedRowError("its tests do not call the function", material.entry_point)
    return alone, tuple(sorted(found, key=lambda case: case.slow))


def _classes(cases: Sequence[Case]) -> set[str]:
    """Names of the classes at the top of the program that values of the cases are of."""
    values = [value for case in cases for value in (*case.given(), case.value, *(case.mutated or ()))]
    return {label.partition(".")[0] for value in values for label in labels(parse(value))}


def _by_call(calls: Sequence[RecordedCall]) -> dict[str, list[RecordedCall]]:
    """Calls with equal arguments, in order of the first one."""
    found: dict[str, list[RecordedCall]] = {}
    for call in calls:
        found.setdefault(json.dumps([call.arguments, call.keywords], sort_keys=True), []).append(call)
    return found


def _outcomes(calls: Sequence[RecordedCall]) -> set[str]:
    return {call.outcome() for call in calls}


def _case(calls: Sequence[RecordedCall], again: Sequence[RecordedCall], arguments_after: bool) -> Case:
    """The case of calls with equal arguments. An assertion about the value decides over one about a property of it.

    Args:
        calls: The calls, of one run.
        again: Those with these arguments in another run.
        arguments_after: As of `Material`.

    Raises:
        RefusedRowError: they are no case.
        ValueOutside: they hold what the recorder cannot have written.
    """
    usable = [call for call in calls if not call.refused]
    if not usable:
        raise RefusedRowError(calls[0].refused)
    if len(_outcomes(calls)) > 1 or _outcomes(calls) != _outcomes(again):
        raise RefusedRowError("a call gives another result the second time, or under another hash seed")
    call = usable[0]
    unordered = call.exception is not None or parse(call.value)[0] in ("set", "frozenset", "dict")
    if not unordered and all(each.needs == "unordered" for each in usable):
        raise RefusedRowError("the assertion asks for the value without its order")
    if call.exception is not None and not call.exception.isidentifier():
        raise RefusedRowError("an exception without a name")
    given = (*call.arguments, *(call.keywords[name] for name in sorted(call.keywords)))
    mutated: tuple[Any, ...] | None = call.mutated
    if mutated == given and not (arguments_after and any(map(is_mutable, given))):
        mutated = None
    floats = any(map(has_floats, [call.value, *(mutated or ())]))
    absolute = max((each.absolute or 0.0 for each in usable), default=0.0)
    relative = max((each.relative or 0.0 for each in usable), default=0.0)
    case = Case(
        arguments=call.arguments,
        keywords=call.keywords,
        value=call.value,
        exception=call.exception,
        mutated=mutated,
        tolerance=max(ABSOLUTE, absolute) if floats or absolute else None,
        relative_tolerance=min(max(RELATIVE, relative), 0.5) if floats else None,
    )
    case.check()
    return case


def _spread(cases: list[Case]) -> list[Case]:
    """At most `MOST_CASES` of them, evenly; the first and the last among them."""
    if len(cases) <= MOST_CASES:
        return cases
    return [cases[round(place * (len(cases) - 1) / (MOST_CASES - 1))] for place in range(MOST_CASES)]


def _replayed(
    judge: Judge, material: Material, alone: StandAlone, cases: list[Case], reasons: Counter[str]
) -> list[Case]:
    """The cases that the function passes by itself, in both orders, slow ones marked; reasons of the others are counted."""
    slow = [case.model_copy(update={"slow": True}) for case in cases]
    problem = Problem(
        problem_id=material.name,
        entry_point=material.entry_point,
        bug_class="none",
        buggy=alone.function,
        reference=alone.function,
        setup=alone.setup,
        cases=tuple(slow),
    )
    result, records = judge.observe(problem, alone.function)
    backwards, _ = judge.observe(problem.model_copy(update={"cases": tuple(slow[::-1])}), alone.function)
    kept: list[Case] = []
    outcomes = [one if one != "pass" else two for one, two in zip(result.cases, backwards.cases[::-1], strict=True)]
    for number, (case, outcome) in enumerate(zip(cases, outcomes, strict=True)):
        lines = int(records[number]["lines"]) if outcome == "pass" else 0
        if outcome != "pass":
            reasons[f"the function by itself gives another result: {outcome} {result.message}".strip()] += 1
        elif lines > MOST_LINES:
            reasons[f"a call executes more than {MOST_LINES:,} lines"] += 1
        else:
            kept.append(case.model_copy(update={"slow": lines > SLOW_LINES}))
    return kept
