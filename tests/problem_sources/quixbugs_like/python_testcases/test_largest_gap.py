import pytest
from load_testdata import load_json_testcases

if pytest.use_correct:
    from correct_python_programs.largest_gap import largest_gap
else:
    from python_programs.largest_gap import largest_gap


testdata = load_json_testcases(largest_gap.__name__)


@pytest.mark.parametrize("input_data,expected", testdata)
def test_largest_gap(input_data, expected):
    assert largest_gap(*input_data) == expected
