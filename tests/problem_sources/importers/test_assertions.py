"""What assertions ask of a value: read from their text."""

import pytest

from coral_core.problem_sources.importers.assertions import instrumented

PROPERTY = "the assertion asks for a property of the value, not for the value"
PART = "the assertion asks for a part or a property of the value, not for the value"


def modes(code: str) -> list[str]:
    """The arguments of what the recorder is told, one for each statement that calls f."""
    lines = instrumented(code, ["f"]).split("\n")
    return [line.strip().removeprefix("coral_recorder.mode")[1:-1] for line in lines if "coral_recorder.mode" in line]


VALUE = "None, None, '', ''"
REFUSED = f"None, None, {PROPERTY!r}, ''"
REFUSED_PART = f"None, None, {PART!r}, ''"


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("assert f(1) == 2", [VALUE]),
        ("assert f(1) == 2, 'message'", [VALUE]),
        ("assert 2 == m.f(1) == 2", [VALUE]),
        ("assert f(1) is None", [VALUE]),
        ("assert not f(1)", [VALUE]),
        ("assert f(1) and not f(2)", [VALUE]),
        ("assert list(f(1)) == [2]", [VALUE]),
        ("assert (f(1), f(2)) == (2, 3)", [VALUE]),
        ("assert all(f(x) == y for x, y in rows)", [VALUE]),
        ("assert all([f(1) == 2, f(2) == 3])", [VALUE]),
        ("assert abs(f(1) - 2) < 1e-6", ["1e-06, None, '', ''"]),
        ("assert 0.1 >= math.fabs(2 - f(1))", ["0.1, None, '', ''"]),
        ("assert abs(f(1) - 2) <= LIMIT", ["LIMIT, None, '', ''"]),
        ("assert math.isclose(f(1), 2)", ["None, 1e-09, '', ''"]),
        ("assert isclose(2, f(1), rel_tol=1e-3, abs_tol=0.5)", ["0.5, 0.001, '', ''"]),
        ("assert f(1) == pytest.approx(2)", ["None, 1e-06, '', ''"]),
        ("assert f(1) == approx([2], abs=0.1)", ["0.1, None, '', ''"]),
        ("assert set(f(1)) == {2}", ["None, None, '', 'unordered'"]),
        ("assert sorted(f(1)) == [2]", ["None, None, '', 'unordered'"]),
        ("assert len(f(1)) == 2", [REFUSED_PART]),
        ("assert f(1)[0] == 2", [REFUSED_PART]),
        ("assert f(1) > 2", [REFUSED]),
        ("assert f(1) != 2", [REFUSED]),
        ("assert f(1) in (1, 2)", [REFUSED]),
        ("assert isinstance(f(1), int)", [REFUSED]),
        ("assert f(1) == 2 or f(1) == 3", [REFUSED]),
        ("assert abs(poly(f(1))) < 1e-4", [REFUSED]),
        ("assert abs(len(f(1)) - 2) < 1", [REFUSED_PART]),
        ("assert all(abs(f(x) - y) < t for x, y, t in rows)", ["None, None, 'the tolerance is known inside a loop only', ''"]),
        ("r = f(1)\nassert r == 2", [VALUE]),
        ("r = f(1)\nassert r > 2", [REFUSED]),
        ("r = f(1)\nassert r > 2\nassert r == 3", [VALUE]),
        ("r: float = f(1)\nassert abs(r - 2) < 1e-3", ["0.001, None, '', ''"]),
        ("n = len(f(1))\nassert n == 2", ["None, None, 'only len(…) of the value is used', ''"]),
        ("def test():\n    r = f(1)\n    assert r > 2\nr = f(2)\nassert r == 2", [REFUSED, VALUE]),
        ("for x in f(3):\n    f(x)", [VALUE, VALUE]),
        ("with raises(ValueError):\n    f(0)", [VALUE]),
        ("class T:\n    def test(self):\n        self.assertEqual(f(1), 2)\n        self.assertIn(1, f(2))", [VALUE, "None, None, 'assertIn asks for a property of the value', ''"]),
        ("self.assertAlmostEqual(f(1), 2, places=3)", ["0.5 * 10 ** (-3), None, '', ''"]),
        ("self.assertAlmostEqual(f(1), 2, delta=0.2)", ["0.2, None, '', ''"]),
        ("g(1)\nassert g(2) == 3", []),
    ],
)  # fmt: skip
def test_what_is_asked(code: str, wanted: list[str]) -> None:
    assert modes(code) == wanted
