import json
import math

import pytest

from detpretrain.errors import InputError
from detpretrain.files import read_json
from detpretrain.parallel import map_cases

# Jobs run functions of importable modules: the spawned processes cannot import a test file.
WORKERS = pytest.mark.parametrize("workers", [1, 2])


@WORKERS
def test_results_come_in_order(workers):
    assert map_cases(math.sqrt, [25, 16, 9, 4, 1], workers, name=str, what="rooted") == [5, 4, 3, 2, 1]


@WORKERS
def test_all_bad_cases_are_named_in_one_line(tmp_path, workers):
    (tmp_path / "b.json").write_text(json.dumps([1]))
    jobs = [tmp_path / f"{case}.json" for case in "abc"]
    with pytest.raises(InputError) as error:
        map_cases(read_json, jobs, workers, name=lambda path: path.stem, what="read")
    assert str(error.value) == (
        f"2 of 3 cases cannot be read: a: {jobs[0]}: file not found; c: {jobs[2]}: file not found"
    )


@WORKERS
def test_a_defect_keeps_its_type_and_names_the_case(workers):
    with pytest.raises(ValueError, match=r"math domain error|nonnegative") as error:
        map_cases(math.sqrt, [4, -1, 9], workers, name=lambda job: f"c{job}", what="rooted")
    assert error.value.__notes__ == ["case c-1"]
