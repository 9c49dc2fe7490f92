"""Linked lists and graphs across the judge's boundary: identity, shape, hostile nodes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from coral_core.judge.judge import Judge, PatchLimits, Verdict
from coral_core.judge.oracle import agrees
from coral_core.judge.sandbox.child_clock import Allowance
from coral_core.problems.problem import Case, Problem
from coral_core.problems.values import FIELDS, Node, ValueOutside, decode_call, encode_arguments, encode_result

LIMITS = PatchLimits(cpu_seconds=0.5, wall_seconds=3.0, work_lines=20_000)


def chain(*values: Any) -> Node:
    """A linked list of `values`."""
    head = None
    for value in reversed(values):
        head = Node(value, head)
    assert head is not None
    return head


def recorded(arguments: list[Any], value: Any, *, mutated: bool = False) -> Case:
    """A case whose reference returned `value` (before any change of the arguments)."""
    encoded, table, nodes = encode_arguments(arguments)
    after, rows = encode_result([value, *arguments] if mutated else [value], nodes, mutated)
    return Case(
        arguments=tuple(encoded),
        nodes=tuple(table),
        value=after[0],
        mutated=tuple(after[1:]) if mutated else None,
        nodes_after=tuple(rows),
    )


def answer(case: Case, make: Any) -> dict[str, Any]:
    """What a child would say of a patch that does `make`."""
    arguments, nodes = decode_call(case.arguments, case.nodes)
    value = make(*arguments)
    wanted = case.mutated is not None
    encoded, table = encode_result([value, *arguments] if wanted else [value], nodes, wanted)
    record = {"value": encoded[0], "nodes": table} | ({"mutated": encoded[1:]} if wanted else {})
    return json.loads(json.dumps(record))


def test_cycles_and_shared_nodes_survive_the_round_trip() -> None:
    a, b = Node("a"), Node("b")
    a.successors, b.successors, b.successor = [b, b], [a], b
    encoded, table, _ = encode_arguments([a, {(a, b): 3}, b])
    values, nodes = decode_call(json.loads(json.dumps(encoded)), json.loads(json.dumps(table)))
    first, lengths, second = values
    assert first.successors == [second, second] and second.successors == [first] and second.successor is second
    assert lengths == {(first, second): 3} and nodes == [first, second]


def test_a_list_of_ten_thousand_nodes_is_no_recursion() -> None:
    case = recorded([chain(*range(10_000))], None)
    assert agrees(case, answer(case, lambda node: None))
    long = recorded([], chain(*range(10_000)))
    assert agrees(long, answer(long, lambda: chain(*range(10_000))))
    assert not agrees(long, answer(long, lambda: chain(*range(9_999), 0)))


def test_given_nodes_are_compared_by_identity_and_new_ones_by_shape() -> None:
    a = Node(1, Node(1))
    same_node = recorded([a], a)
    assert agrees(same_node, answer(same_node, lambda node: node))
    assert not agrees(same_node, answer(same_node, lambda node: node.successor)), "equal value, other node"
    assert not agrees(same_node, answer(same_node, lambda node: Node(1, node.successor))), "a copy is another node"
    ring = Node(0)
    ring.successor = Node(0, ring)
    made = recorded([], ring)

    def longer() -> Node:
        node = Node(0)
        node.successor = Node(0, Node(0, node))
        return node

    def loop() -> Node:
        node = Node(0)
        node.successor = node
        return node

    assert not agrees(made, answer(made, longer)), "a longer ring of equal values looks alike to a walk"
    assert not agrees(made, answer(made, loop))


def test_fields_of_given_nodes_count_where_the_arguments_after_the_call_do() -> None:
    def cut(node: Node) -> None:
        node.successor = None

    loose, strict = recorded([chain(1, 2)], None), recorded([chain(1, 2)], None, mutated=True)
    assert agrees(loose, answer(loose, cut)) and not agrees(strict, answer(strict, cut))
    assert agrees(strict, answer(strict, lambda node: None))


@pytest.mark.parametrize(
    "junk",
    [
        {"value": ["n", 7]},
        {"value": ["n", -1]},
        {"value": ["n", True]},
        {"value": ["n", [1]]},
        {"value": ["n", 1], "nodes": [None, None]},
        {"value": ["n", 1], "nodes": [None, [1]]},
        {"value": ["n", 1], "nodes": {"1": 2}},
        {"value": ["n", 1], "nodes": [None, [["n", 99]] * 6]},
    ],
)
def test_junk_about_nodes_is_never_equal_and_never_raises(junk: dict[str, Any]) -> None:
    given = Node(1)
    assert agrees(recorded([given], Node(2)), junk) is False
    assert agrees(recorded([given], given), junk) is False


def test_what_has_no_order_to_compare_by_is_outside() -> None:
    with pytest.raises(ValueOutside, match="new node in a set"):
        encode_result([{Node(1)}], [], False)
    given = Node(1)
    assert encode_result([{given: 1}], [given], False)[0] == [["d", [[["n", 0], 1]]]]
    broken = Node(1)
    del broken.value
    with pytest.raises(ValueOutside, match="without 'value'"):
        encode_arguments([broken])
    with pytest.raises(ValueOutside, match="Odd"):
        encode_arguments([type("Odd", (Node,), {})(1)])
    for table in ([[1]], [None], [[["n", 5]] * len(FIELDS)]):
        with pytest.raises(ValueOutside):
            decode_call([], table)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge(LIMITS, workers=1) as made:
        yield made


REVERSE = "def turn(node):\n    last = None\n    while node:\n        node.successor, last, node = last, node, node.successor\n    return last"


def problem() -> Problem:
    """Turn a linked list round, in place."""
    arguments = [chain("x", "y", "z")]
    encoded, table, nodes = encode_arguments(arguments)
    space: dict[str, Any] = {}
    exec(REVERSE, space)
    after, rows = encode_result([space["turn"](arguments[0]), *arguments], nodes, True)
    case = Case(
        arguments=tuple(encoded), nodes=tuple(table), value=after[0], mutated=tuple(after[1:]), nodes_after=tuple(rows)
    )
    return Problem(
        problem_id="test/turn",
        source="test",
        family="turn",
        variant="0",
        entry_point="turn",
        bug_class="missing-step",
        buggy="def turn(node):\n    return node",
        reference=REVERSE,
        cases=(case, case.model_copy(update={"arguments": (None,), "nodes": (), "value": None, "mutated": None})),
    )


def verdict(judge: Judge, patch: str) -> Verdict:
    return judge.judge_batch([(problem(), patch)])[0]


def test_the_child_gets_nodes_and_gives_them_back(judge: Judge) -> None:
    assert verdict(judge, REVERSE).passed
    recursive = "def turn(node, last=None):\n    if node is None:\n        return last\n    rest = node.successor\n    node.successor = last\n    return turn(rest, node)"
    assert verdict(judge, recursive).passed


HOSTILE = {
    "copies": "def turn(node):\n    copy = None\n    while node:\n        new = type(node)(node.value, copy)\n        copy, node = new, node.successor\n    return copy",
    "own class": "class Node:\n    successor = None\n    value = 1\ndef turn(node):\n    return Node()",
    "subclass": "def turn(node):\n    return node and type('N', (type(node),), {})(1)",
    "lying equality": "def turn(node):\n    if node:\n        type(node).__eq__ = lambda a, b: True\n    return node",
    "endless list": "def turn(node):\n    T = type(node)\n    while True:\n        node = T(1, node)\n    return node",
    "long list": "def turn(node):\n    T = type(node)\n    for _ in range(6000):\n        node = T(1, node)\n    return node",
    "shared blow-up": "def turn(node):\n    big = [0] * 5000\n    T = type(node)\n    return [T(0, None, big) for _ in range(5000)]",
    "fields removed": "def turn(node):\n    if node:\n        del node.value\n    return node",
    "dictionary replaced": "def turn(node):\n    if node:\n        node.__dict__ = {'value': 1}\n    return node",
    "strange fields": "def turn(node):\n    if node:\n        node.successors = (i for i in range(3))\n    return node",
    "attribute hook": "def turn(node):\n    if node:\n        type(node).__getattribute__ = lambda s, n: 1\n    return node",
    "node in set": "def turn(node):\n    return {type(node)(1)}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_nodes_harm_nobody(judge: Judge, name: str) -> None:
    found = verdict(judge, HOSTILE[name])
    assert found.cases[0] != "pass", found
    assert verdict(judge, REVERSE).passed


def test_sets_of_nodes_iterate_alike_in_every_child() -> None:
    """Their hash is the order of creation, not an address."""
    patch = "def turn(node):\n    seen = set()\n    while node:\n        seen.add(node)\n        node = node.successor\n    return [n.value for n in seen]"
    request = {"source": patch, "entry_point": "turn"}
    request["cases"] = [
        {"arguments": list(c.arguments), "nodes": list(c.nodes), "mutated": False} for c in problem().cases
    ]
    request["limits"] = {**LIMITS.model_dump(), "items": 1000, "recursion": 1000, "total_cpu_seconds": 3}
    seen = set()
    for _ in range(3):
        with Judge(LIMITS, workers=1) as fresh:
            seen.add(fresh._pool.run(request, Allowance(3.0), 10_000).lines[1].decode())
    assert len(seen) == 1


def test_slow_cases_have_limits_of_their_own() -> None:
    """Work, CPU and wall clock each: what ends an ordinary case lets a slow one pass, and the other way round."""
    loop = "def turn(n):\n    for _ in range(n):\n        pass\n    return n"
    cases = (Case(arguments=(10,), value=10), Case(arguments=(60_000,), value=60_000, slow=True))
    made = problem().model_copy(
        update={"reference": loop, "buggy": loop.replace("return n", "return -n"), "cases": cases}
    )
    ordinary = made.model_copy(update={"cases": tuple(case.model_copy(update={"slow": False}) for case in cases)})
    with Judge(LIMITS, workers=1) as judge:
        assert judge.judge_batch([(made, loop)])[0].cases == ("pass", "pass")
        assert judge.judge_batch([(ordinary, loop)])[0].cases == ("pass", "time-out")
    for limit, value, patch in (
        ("work_lines", 50_000, loop),
        ("cpu_seconds", 0.05, loop.replace("pass", "sum(range(3000))")),
        (
            "wall_seconds",
            0.5,
            "import time\n" + loop.replace("return n", "time.sleep(0 if n < 99 else 60)\n    return n"),
        ),
    ):
        slow = LIMITS.slow.model_copy(update={limit: value})
        with Judge(LIMITS.model_copy(update={"slow": slow, "wall_seconds": 1.0}), workers=1) as judge:
            found = judge.judge_batch([(made, patch)])[0]
            assert found.cases == ("pass", "time-out") and found.outcome == "time-out", (limit, found)


def test_nodes_in_sets_are_known_by_what_they_stand_for() -> None:
    """The patch makes its nodes in another order, so their numbers differ from the reference's."""

    def turned() -> Any:
        two, one = Node("b"), Node("a")
        two.predecessors = one.predecessors = [two, one]
        return {"x": two, "y": one}

    case = recorded([], dict(reversed(turned().items())))
    assert agrees(case, answer(case, turned))
    a, b = Node("a"), Node("b")
    chosen = recorded([a, b], {a: {b}, b: {a}, "set": {a, b}})
    assert agrees(chosen, answer(chosen, lambda a, b: {"set": {b, a}, b: {a}, a: {b}}))
    assert not agrees(chosen, answer(chosen, lambda a, b: {"set": {b, a}, b: {b}, a: {b}}))
    assert not agrees(chosen, answer(chosen, lambda a, b: {"set": {b}, b: {a}, a: {b}}))


def test_a_field_may_hold_a_set_of_nodes_met_before() -> None:
    def make(turned: bool) -> Node:
        one, two, hub = Node("one"), Node("two"), Node("hub")
        hub.successors = [one, two]
        hub.predecessors = {two, one} if turned else {one, two}
        hub.value = {(0.1 + 0.2 if turned else 0.3): "x"}
        one.successor, two.successor = (two, hub)
        return hub

    encoded, rows = encode_result([make(False)], [], False)
    case = Case(arguments=(), value=encoded[0], nodes_after=tuple(rows), tolerance=1e-12)
    assert agrees(case, answer(case, lambda: make(True)))
    exact = case.model_copy(update={"tolerance": None})
    assert agrees(exact, answer(exact, lambda: make(False))) and not agrees(exact, answer(exact, lambda: make(True)))

    def other() -> Node:
        hub = make(False)
        hub.predecessors = {hub.successors[0]}
        return hub

    assert not agrees(case, answer(case, other))


def test_nodes_beside_floats_in_a_dictionary() -> None:
    """Keys that fit each other within the tolerance, with new nodes as values: paired for good only when all fit."""

    def make(order: list[int]) -> dict[float, Node]:
        made = {1.0: Node("a"), 1.05: Node("b"), 1.1: Node("c")}
        keys = list(made)
        return {keys[place] + 0.01: made[keys[place]] for place in order}

    reference = {1.0: Node("a"), 1.05: Node("b"), 1.1: Node("c")}
    encoded, rows = encode_result([reference], [], False)
    case = Case(arguments=(), value=encoded[0], nodes_after=tuple(rows), tolerance=0.02)
    assert agrees(case, answer(case, lambda: make([2, 0, 1])))


def test_arguments_after_an_exception_are_a_graph_too() -> None:
    head = chain(1, 2)
    encoded, table, nodes = encode_arguments([head])
    head.successor = None
    after, rows = encode_result([head], nodes, True)
    case = Case(
        arguments=tuple(encoded),
        nodes=tuple(table),
        exception="ValueError",
        mutated=tuple(after),
        nodes_after=tuple(rows),
    )

    def says(cut: bool) -> dict[str, Any]:
        (node,), given = decode_call(case.arguments, case.nodes)
        if cut:
            node.successor = None
        found, found_rows = encode_result([node], given, True)
        return {"exception": "ValueError", "mutated": found, "nodes": found_rows}

    assert agrees(case, says(True)) and not agrees(case, says(False))
