import pytest
from load_testdata import load_json_testcases

if pytest.use_correct:
    from correct_python_programs.cube_root import cube_root
else:
    from python_programs.cube_root import cube_root


testdata = load_json_testcases(cube_root.__name__)


@pytest.mark.parametrize("input_data,expected", testdata)
def test_cube_root(input_data, expected):
    assert cube_root(*input_data) == pytest.approx(expected, abs=input_data[-1])
