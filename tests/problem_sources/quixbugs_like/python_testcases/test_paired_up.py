import pytest
from load_testdata import load_json_testcases

if pytest.use_correct:
    from correct_python_programs.paired_up import paired_up
else:
    from python_programs.paired_up import paired_up


testdata = load_json_testcases(paired_up.__name__)


@pytest.mark.parametrize("input_data,expected", testdata)
def test_paired_up(input_data, expected):
    assert paired_up(*input_data) == expected
