import pytest
from load_testdata import load_json_testcases

if pytest.use_correct:
    from correct_python_programs.count_routes import count_routes
else:
    from python_programs.count_routes import count_routes


testdata = load_json_testcases(count_routes.__name__)


@pytest.mark.parametrize("input_data,expected", testdata)
def test_count_routes(input_data, expected):
    if input_data == [60, 60]:
        pytest.skip("Does not end")
    if not pytest.run_slow and input_data == [8, 9]:
        pytest.skip("Takes long")
    assert count_routes(*input_data) == expected
