import pytest
from node import Node

if pytest.use_correct:
    from correct_python_programs.drop_value import drop_value
else:
    from python_programs.drop_value import drop_value


def chain(*values):
    head = None
    for value in reversed(values):
        head = Node(value, head)
    return head


def listed(head):
    found = []
    while head:
        found.append(head.value)
        head = head.successor
    return found


def test_inside():
    assert listed(drop_value(chain(1, 2, 3), 2)) == [1, 3]


def test_two_in_a_row():
    assert listed(drop_value(chain(1, 2, 2, 3), 2)) == [1, 3]


def test_at_the_head():
    assert listed(drop_value(chain(2, 2, 1), 2)) == [1]


def test_empty():
    assert drop_value(None, 1) is None
