"""Observes the calls of chosen functions without changing anything of the program that makes them.

Functions are recognised by their code objects (file, first line, name). From Python 3.12 on, `sys.monitoring` reports
their starts and ends and is switched off for all other code; before, a profile function does. Neither replaces a function,
so that identities, attributes and tables of functions stay what they are. Arguments are encoded when the call starts.

Standard library only: `run_tests` loads this file by its path, in the project's own interpreter.
"""

import functools
import gc
import hashlib
import heapq
import json
import os
import sys
import threading
import types
from collections.abc import Iterator
from time import perf_counter as clock
from typing import Any, NamedTuple

OUTSIDE = "outside the value language"
ITEMS = 4_000
"""Largest argument list or value, in items and characters: a case has to fit into a verdict."""
KEPT = 128
"""Calls of a function that are kept, beside those with the smallest and largest arguments: a uniform sample of the distinct ones."""
PENDING = 20_000
"""Calls of one test that are kept until it has passed."""
CHARACTERS = 500_000
"""Encoded arguments of the calls of a function that are kept, together."""
EXTREMES = 64
"""Calls kept for new extremes of an argument, per function and position."""
SEARCHES = 100
"""Functions that are looked for in the whole heap because their name does not lead to them; each search takes some 10 ms."""
AFFORDED = ((0.1, 1), (0.2, 8), (0.4, 64), (1e9, 1024))
"""Seconds spent on the calls of a function, and then every how many-th call is looked at: hot functions stay fast."""
OBSERVED = 10.0
"""Seconds of a test, after which it goes on unobserved: before Python 3.12 observing slows every call of the program."""
GENERATOR = 0x20
LOOKS = 400
"""Reports of the profile function after a call raised, during which its exception is looked for."""
MONITORING: Any = getattr(sys, "monitoring", None)
TOOL = 4
RETURNS = ("RETURN_VALUE", "RETURN_CONST", "INSTRUMENTED_RETURN_VALUE")
class_name = type.__dict__["__name__"].__get__
"""Name of a class as the interpreter holds it, whatever its metaclass says."""


class Target(NamedTuple):
    """A function to observe."""

    key: str
    path: str
    """Real path of its file."""
    line: int
    """First line of its code: that of its first decorator where it has one."""
    name: str
    method: str
    """instance, class or static for a method; "" for a function of a module."""


class Effort:
    """What the recording of a function's calls has cost."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0

    def affords(self) -> bool:
        """Is the next call to be looked at?"""
        self.count += 1
        return self.count % next(period for seconds, period in AFFORDED if self.seconds < seconds) == 0


class _Started:
    """A call that has started."""

    __slots__ = ("arguments", "classes", "frame", "given", "items", "key", "keywords", "names")

    def __init__(self, frame: Any, key: str, given: list[Any], names: list[str]) -> None:
        self.frame, self.key, self.given, self.names = frame, key, given, names
        self.classes: dict[str, str] = {}
        self.arguments: list[Any] = []
        self.items: list[Any] | None = None
        """What its generator has yielded so far, encoded when it was; None when an item is outside the value language."""


class _Raised:
    """A call that raised, whose exception the profile function was not told: the class is to stand in `outcome` under `name`."""

    __slots__ = ("frame", "looks", "name", "outcome")

    def __init__(self, frame: Any, outcome: dict[str, Any], name: str) -> None:
        self.frame, self.outcome, self.name, self.looks = frame, outcome, name, LOOKS


class Observer:
    """Records the calls of the targets while `active`.

    Args:
        targets: The functions.
        values: The module `problems.values`, loaded from its file.
        root: Real path of the directory whose classes may be recorded.
        seconds: How long a test is observed.
    """

    def __init__(self, targets: list[Target], values: Any, root: str, seconds: float = OBSERVED) -> None:
        self.seconds = seconds
        self.values = values
        self.root = root
        self.active = False
        self.pending: list[tuple[str, str, dict[str, Any]]] = []
        self.refused: dict[tuple[str, str], int] = {}
        self.sample = Sample()
        self._by_place = {(target.path, target.line, target.name): target for target in targets}
        self._paths = {target.path for target in targets}
        self._files: dict[str, str | None] = {}
        self._codes: dict[int, tuple[types.CodeType, Target | None]] = {}
        self._defaults: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._labels: dict[int, tuple[Any, tuple[str, str] | None]] = {}
        self._efforts: dict[str, Effort] = {}
        self._thread = threading.local()
        self._searches = 0
        self._until = 0.0
        self._events = 0
        self._generators: dict[int, list[_Started]] = {}
        """By the id of a generator's frame: the calls that gave it. They hold the frame, so that its id stays its own."""

    # -- the interpreter's reports ----------------------------------------------------------

    def install(self) -> None:
        """Ask the interpreter for reports; once per process."""
        if MONITORING is None:
            return
        events = MONITORING.events
        MONITORING.use_tool_id(TOOL, "coral")
        MONITORING.register_callback(TOOL, events.PY_START, self._py_start)
        MONITORING.register_callback(TOOL, events.PY_RETURN, self._py_return)
        MONITORING.register_callback(TOOL, events.PY_YIELD, self._py_yield)
        MONITORING.register_callback(TOOL, events.PY_UNWIND, self._py_unwind)
        MONITORING.set_events(TOOL, events.PY_START | events.PY_UNWIND)

    def start(self) -> None:
        """Observe from here on: a test begins."""
        self._thread.__dict__["started"] = []
        self._thread.__dict__["raised"] = []
        self._until = clock() + self.seconds
        self.active = True
        if MONITORING is None:
            threading.setprofile(self._profile)
            sys.setprofile(self._profile)

    def stop(self) -> None:
        """Observe no longer."""
        if MONITORING is None:
            sys.setprofile(None)
            threading.setprofile(None)
        self.active = False
        for call in self._thread.__dict__.get("started") or []:
            self._keep(call, None)  # its end was not reported: an overflow of the stack ends a profile function
        for calls in list(self._generators.values()):
            self._end_generators(calls, "")  # not read to their ends
        self._generators.clear()

    def _give_up(self) -> None:
        """Let a long test go on unobserved. The outcome of a call that has not ended is not known, so it is not kept."""
        if MONITORING is None:
            sys.setprofile(None)  # of this thread; others go on at the next call that they begin
            threading.setprofile(None)
        self.active = False
        self._thread.__dict__["started"] = []
        self._generators.clear()

    def _py_start(self, code: types.CodeType, offset: int) -> Any:
        target = self._target(code)
        if target is None:
            return MONITORING.DISABLE
        if self.active:
            self._enter(target, code, sys._getframe(1))
        return None

    def _py_return(self, code: types.CodeType, offset: int, value: Any) -> Any:
        self._leave(sys._getframe(1), "value", value)

    def _py_yield(self, code: types.CodeType, offset: int, value: Any) -> Any:
        self._yielded(sys._getframe(1), value)

    def _py_unwind(self, code: types.CodeType, offset: int, error: BaseException) -> Any:
        if id(code) in self._codes or self._generators:
            self._leave(sys._getframe(1), "exception", class_name(type(error)))

    def _profile(self, frame: types.FrameType, event: str, value: Any) -> None:
        self._events += 1
        if not self._events % 1_024 and clock() > self._until:
            self._give_up()
            return
        code = frame.f_code
        name = code.co_filename
        if self._thread.__dict__.get("raised"):
            self._look_for_exceptions()
        if event != "call" and event != "return":
            return
        if id(frame) in self._generators:
            if event == "return" and value is not None and not _returns(code, frame.f_lasti):
                self._yielded(frame, value)
            elif event == "return":
                # to close a generator, and to throw into it, is reported as if it yielded None: no more of it is known then
                self._leave(frame, "value" if _returns(code, frame.f_lasti) else "exception", "")
        elif self._files.get(name, name) is not None:
            target = self._target(code)
            if target is None or not self.active:
                return
            if event == "call":
                self._enter(target, code, frame)
            elif value is not None or _returns(code, frame.f_lasti):
                self._leave(frame, "value", value)
            else:  # the profile function is not told which exception
                self._leave(frame, "exception", "")

    def _look_for_exceptions(self) -> None:
        """Give calls that raised the class of their exception, if the program is handling one that came through them."""
        error = sys.exc_info()[1]
        raised: list[_Raised] = self._thread.__dict__["raised"]
        place = None if error is None else error.__traceback__
        frames = set()
        for _ in range(200):
            if place is None:
                break
            frames.add(id(place.tb_frame))
            place = place.tb_next
        for item in raised:
            item.looks -= 1
            if id(item.frame) in frames:
                item.outcome[item.name] = class_name(type(error))
                item.looks = 0
        raised[:] = [item for item in raised if item.looks > 0]

    def _target(self, code: types.CodeType) -> Target | None:
        known = self._codes.get(id(code))
        if known is not None:
            return known[1]
        name = code.co_filename
        if name not in self._files:
            path = os.path.realpath(name)
            self._files[name] = path if path in self._paths else None
        path = self._files[name]  # type: ignore[assignment]
        if path is None:
            return None
        target = self._by_place.get((path, code.co_firstlineno, code.co_name))
        if target is not None or MONITORING is None:
            self._codes[id(code)] = (code, target)  # holds the code, so that its id stays its own
        if target is not None and MONITORING is not None:
            MONITORING.set_local_events(TOOL, code, MONITORING.events.PY_RETURN | MONITORING.events.PY_YIELD)
        return target

    # -- calls ------------------------------------------------------------------------------

    def _enter(self, target: Target, code: types.CodeType, frame: types.FrameType) -> None:
        """Note a call that starts. Never raises: what cannot be recorded is counted."""
        started: list[_Started] = self._thread.__dict__.setdefault("started", [])
        if clock() > self._until:
            self._give_up()
            return
        if len(self.pending) >= PENDING or any(item.key == target.key for item in started):
            return  # a recursive call is part of the first
        if code.co_flags & GENERATOR and frame.f_lasti >= _first_yield(code):
            return  # it goes on, and has been noted when it began
        effort = self._efforts.setdefault(target.key, Effort())
        if not effort.affords():
            return
        began = clock()
        try:
            given, names = self._given(target, code, frame)
        except Exception as error:
            self.refuse(target.key, f"{OUTSIDE}: arguments: {error}")
            return
        call = _Started(frame, target.key, given, names)
        encoded = self._encoded(call, "arguments", given)
        effort.seconds += clock() - began
        if encoded is None:
            return
        call.arguments = encoded
        if code.co_flags & GENERATOR:
            self._follow(call, frame)
            return
        started.append(call)

    def _follow(self, call: _Started, frame: types.FrameType) -> None:
        """Note what a generator yields from its beginning on."""
        call.frame, call.items = frame, []
        self._generators.setdefault(id(frame), []).append(call)

    def _yielded(self, frame: types.FrameType, value: Any) -> None:
        for call in self._generators.get(id(frame), ()):
            if call.items is not None and len(call.items) < ITEMS:
                began = clock()
                encoded = self._encoded(call, "items", [value])
                call.items = None if encoded is None else call.items + encoded
                self._efforts[call.key].seconds += clock() - began

    def _end_generators(self, calls: list[_Started], how: str, unknown: bool = False) -> None:
        """Keep the calls of a generator that ended (`how`: return, or the class of an exception) or was left ("").

        Args:
            calls: Those that gave it.
            how: How it ended.
            unknown: It raised, and the class is not known yet.
        """
        for call in calls:
            if call.items is not None:
                outcome = {"items": call.items, "ended": how if len(call.items) < ITEMS else ""}
                self._keep(call, outcome)
                if unknown:
                    self._note_raised(call.frame, outcome, "ended")

    def _note_raised(self, frame: Any, outcome: dict[str, Any], name: str) -> None:
        self._thread.__dict__.setdefault("raised", []).append(_Raised(frame, outcome, name))

    def _given(self, target: Target, code: types.CodeType, frame: types.FrameType) -> tuple[list[Any], list[str]]:
        """The arguments of a call: positional ones, then keyword ones in the order of their names, and these names.

        Trailing arguments that are their parameter's default are left out.

        Raises:
            ValueError: they cannot be given by a call from outside.
        """
        local = frame.f_locals
        names = code.co_varnames
        count, only = code.co_argcount, code.co_kwonlyargcount
        given = [local[name] for name in names[:count]]
        keywords = {name: local[name] for name in names[count : count + only]}
        end = count + only
        defaults, keyword_defaults = self._defaults_of(target, code, frame)
        if code.co_flags & 4 and local[names[end]]:
            given += local[names[end]]
        else:
            for default in reversed(defaults):
                if not given or given[-1] is not default:
                    break
                given.pop()
        end += bool(code.co_flags & 4)
        keywords = {
            name: value
            for name, value in keywords.items()
            if name not in keyword_defaults or keyword_defaults[name] is not value
        }
        if code.co_flags & 8:
            keywords.update(local[names[end]])
        if target.method == "class" and given and self._label_of(given[0]) is None:
            raise ValueError("its class is not one of the package's own")
        ordered = sorted(keywords)
        return given + [keywords[name] for name in ordered], ordered

    def _defaults_of(
        self, target: Target, code: types.CodeType, frame: types.FrameType
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        found = self._defaults.get(id(code))
        if found is None:
            function = _by_name(frame.f_globals, getattr(code, "co_qualname", code.co_name), code)
            if function is None and self._searches < SEARCHES:
                self._searches += 1
                held = gc.get_referrers(code)
                function = next((item for item in held if type(item) is types.FunctionType), None)
            found = ((), {}) if function is None else (function.__defaults__ or (), function.__kwdefaults__ or {})
            self._defaults[id(code)] = found
        return found

    def _leave(self, frame: types.FrameType, how: str, value: Any) -> None:
        """Note the end of a call."""
        ended = self._generators.pop(id(frame), None)
        if ended is not None:
            # GeneratorExit: whoever read the generator stopped; an empty name: the profile function was not told
            known = "return" if how == "value" else "" if value in ("GeneratorExit", "") else value
            self._end_generators(ended, known, value == "" and how == "exception")
            return
        started: list[_Started] = self._thread.__dict__.get("started") or []
        place = next((place for place in range(len(started) - 1, -1, -1) if started[place].frame is frame), None)
        if place is None:
            return
        call = started[place]
        del started[place:]
        if how == "value" and is_iterator(value):
            self._keep_iterator(call, value)
            return
        began = clock()
        outcome: dict[str, Any] = {how: value}
        if how == "value":
            encoded = self._encoded(call, "result", [value])
            outcome["value"] = encoded[0] if encoded is not None else None
        else:
            encoded = [None]
        mutated = None if encoded is None else self._encoded(call, "arguments after the call", call.given)
        if mutated is not None:
            found = {"mutated": mutated, **outcome}
            self._keep(call, found)
            if outcome.get("exception") == "":
                self._note_raised(frame, found, "exception")
        self._efforts[call.key].seconds += clock() - began

    def _keep_iterator(self, call: _Started, value: Any) -> None:
        """Keep a call that returned an iterator. Of a generator that has not begun its items are noted, of others they cannot be."""
        inner = value.gi_frame if type(value) is types.GeneratorType else None
        first = None if inner is None else _first_yield(inner.f_code)
        if inner is None or first is None or inner.f_lasti >= first:
            self._keep(call, None)
            return
        if MONITORING is not None:
            events = MONITORING.events
            known = MONITORING.get_local_events(TOOL, inner.f_code)
            MONITORING.set_local_events(TOOL, inner.f_code, known | events.PY_RETURN | events.PY_YIELD)
        self._follow(call, inner)

    def _keep(self, call: _Started, outcome: dict[str, Any] | None) -> None:
        count = len(call.arguments) - len(call.names)
        record = {
            "arguments": call.arguments[:count],
            "keywords": dict(zip(call.names, call.arguments[count:])),  # noqa: B905 (Python 3.9)
            "outcome": outcome,
            "classes": call.classes,
        }
        self.pending.append((call.key, json.dumps([call.arguments, call.names]), record))

    def _encoded(self, call: _Started, which: str, items: list[Any]) -> list[Any] | None:
        """`items` in the value language; None (and noted as refused) when they are not in it, whatever the reason."""

        def label(kind: Any) -> str | None:
            found = self._label_of(kind)
            if found is None:
                return None
            if call.classes.setdefault(found[0], found[1]) != found[1]:
                raise self.values.ValueOutside(f"instances of two classes called {found[0]}")
            return found[0]

        try:
            encoded: list[Any] = self.values.encode(items, ITEMS, label=label)[1]
        except self.values.ValueOutside as error:
            self.refuse(call.key, f"{OUTSIDE}: {which}: {error}")
        except Exception as error:  # stack or memory is exhausted, or a class misreports itself
            self.refuse(call.key, f"{OUTSIDE}: {which}: {class_name(type(error))} while it was recorded")
        else:
            return encoded
        return None

    def _label_of(self, kind: Any) -> tuple[str, str] | None:
        """Qualified name and file of a class that is imported from the directory; None for any other class."""
        known = self._labels.get(id(kind))
        if known is None:
            known = self._labels[id(kind)] = (
                kind,
                self._found_label(kind),
            )  # holds the class, so that its id stays its own
        return known[1]

    def _found_label(self, kind: Any) -> tuple[str, str] | None:
        library = self.values.library
        try:
            module = sys.modules.get(library.module_of(kind))
            name = type.__dict__["__qualname__"].__get__(kind)
            path = os.path.realpath(module.__dict__.get("__file__") or "") if module is not None else ""
            own = path.startswith(self.root + os.sep)
            if module is None or not own or library.Classes(module.__dict__).find(name) is not kind:
                return None
        except Exception:  # the class or its module misreports itself
            return None
        return name, os.path.relpath(path, self.root)

    def refuse(self, key: str, reason: str) -> None:
        """Count a call that could not be recorded."""
        text = reason.encode("utf-8", "backslashreplace").decode()[:300]
        self.refused[key, text] = self.refused.get((key, text), 0) + 1

    def finish_test(self, passed: bool) -> Iterator[dict[str, Any]]:
        """The new calls of a test, if it passed, and what could not be recorded in it."""
        pending, self.pending = self.pending, []
        for key, arguments, record in pending if passed else ():
            if self.sample.takes(key, arguments, record["arguments"]):
                yield {"call": key, **record}
        refused, self.refused = self.refused, {}
        for (key, reason), count in refused.items() if passed else ():
            yield {"refused": key, "reason": reason, "count": count}


class Sample:
    """Chooses calls per function: those whose digests are smallest, and new extremes of each argument.

    The choice does not depend on the order of the calls but for how many extremes are met on the way.
    """

    def __init__(self) -> None:
        self._digests: dict[str, list[int]] = {}
        self._seen: dict[str, set[int]] = {}
        self._characters: dict[str, int] = {}
        self._extremes: dict[tuple[str, int], list[Any]] = {}

    def takes(self, key: str, arguments: str, encoded: list[Any]) -> bool:
        """Is the call a new one to keep?"""
        digest = int.from_bytes(hashlib.sha256(arguments.encode()).digest()[:7], "big")
        seen = self._seen.setdefault(key, set())
        if digest in seen or self._characters.get(key, 0) > CHARACTERS:
            return False
        extreme = [self._is_extreme(key, place, item) for place, item in enumerate(encoded[:8])]
        heap = self._digests.setdefault(key, [])
        if len(heap) < KEPT:
            heapq.heappush(heap, -digest)
        elif digest < -heap[0]:
            heapq.heapreplace(heap, -digest)
        elif not any(extreme):
            return False
        seen.add(digest)
        self._characters[key] = self._characters.get(key, 0) + len(arguments)
        return True

    def _is_extreme(self, key: str, place: int, encoded: Any) -> bool:
        measure = size(encoded)
        if measure is None:
            return False
        found = self._extremes.setdefault((key, place), [measure, measure, 0])
        if found[0] <= measure <= found[1] or found[2] >= EXTREMES:
            return False
        found[0], found[1], found[2] = min(found[0], measure), max(found[1], measure), found[2] + 1
        return True


def size(encoded: Any) -> float | None:
    """The size of an encoded argument: a number's value, a container's or text's length; None for other values.

    >>> size(3), size("abc"), size(["l", [1, 2]]), size(["f", "0.5"]), size(None)
    (3, 3, 2, 0.5, None)
    """
    kind = type(encoded)
    if kind is int:
        return float(encoded) if abs(encoded) > 2**53 else encoded
    if kind is str:
        return len(encoded)
    if kind is list and len(encoded) in (2, 3):
        if encoded[0] == "f":
            return float(encoded[1]) if encoded[1] != "nan" else None
        return len(encoded[1]) if encoded[0] in ("l", "t", "s", "z", "d", "b") else None
    return None


def is_iterator(value: Any) -> bool:
    """True for a generator or another iterator; False also for a class that raises when it is inspected."""
    try:
        return hasattr(type(value), "__next__")
    except Exception:
        return False


@functools.cache
def _ends(code: types.CodeType) -> frozenset[int]:
    """Offsets of the instructions that return."""
    import dis

    return frozenset(item.offset for item in dis.get_instructions(code) if item.opname in RETURNS)


def _returns(code: types.CodeType, place: int) -> bool:
    """Does the frame of `code` return normally at this offset (and not by an exception)?"""
    return place in _ends(code)


@functools.cache
def _first_yield(code: types.CodeType) -> int:
    """Offset of the first instruction at which a generator stops to yield."""
    import dis

    return next((item.offset for item in dis.get_instructions(code) if item.opname == "YIELD_VALUE"), 0)


def _by_name(space: dict[str, Any], qualified: str, code: types.CodeType) -> Any:
    """The function with this code that a qualified name of its module leads to, also below decorators; None if it does not."""
    found: Any = None
    for number, name in enumerate(qualified.split(".")):
        if number and not isinstance(found, type):
            return None
        found = type.__dict__["__dict__"].__get__(found).get(name) if number else space.get(name)
    for _ in range(10):
        if type(found) is types.FunctionType and found.__code__ is code:
            return found
        if isinstance(found, (staticmethod, classmethod)):
            found = found.__func__
        elif isinstance(found, property):
            found = found.fget
        else:
            held = getattr(found, "__dict__", None)
            found = held.get("__wrapped__") if type(held) is dict else getattr(found, "__wrapped__", None)
    return None
