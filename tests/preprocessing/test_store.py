import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from detpretrain.errors import InputError
from detpretrain.preprocessing.store import read_case, write_case


@pytest.fixture
def stored(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(2, 70, 65, 130)).astype(np.float32)
    instances = rng.integers(0, 9, (70, 65, 130)).astype(np.int32)
    write_case(tmp_path, "case", data, instances, {"case": "case", "shape": [70, 65, 130]})
    return tmp_path, data, instances


def test_round_trip(stored):
    folder, data, instances = stored
    case = read_case(folder, "case")
    np.testing.assert_array_equal(np.asarray(case.data), data)
    np.testing.assert_array_equal(case.instances[...], instances)
    assert (case.data.shape, case.data.dtype, case.instances.dtype) == (data.shape, np.float32, np.int16)
    assert case.properties == {"case": "case", "shape": [70, 65, 130]}


@pytest.mark.parametrize(
    "key",
    [
        np.s_[:, 60:70, 63:65, 60:70],  # across chunk borders
        np.s_[:, 0:70, 10:20, 127:],
        np.s_[1],
        np.s_[0, 5, :, 64],
        np.s_[..., 100],
        np.s_[:, 69:90, :2, :2],  # beyond the end, as numpy
    ],
)
def test_slices_are_those_of_the_array(stored, key):
    folder, data, _ = stored
    np.testing.assert_array_equal(read_case(folder, "case").data[key], data[key])


def test_a_slice_can_be_written_to_without_touching_the_file(stored):
    folder, data, _ = stored
    case = read_case(folder, "case")
    case.data[:, :4, :4, :4][...] = 0
    np.testing.assert_array_equal(case.data[:, :4, :4, :4], data[:, :4, :4, :4])


def test_large_ids_need_more_bits(tmp_path):
    instances = np.zeros((4, 4, 4), np.int64)
    instances[0, 0, 0] = 40_000
    write_case(tmp_path, "case", np.zeros((1, 4, 4, 4)), instances, {})
    assert read_case(tmp_path, "case").instances[0, 0, 0] == 40_000


def test_a_case_without_labels_leaves_no_older_instances(stored):
    folder, data, _ = stored
    write_case(folder, "case", data, None, {})
    assert read_case(folder, "case").instances is None


def test_threads_and_pickled_copies_read_the_same(stored):
    folder, data, _ = stored
    case = pickle.loads(pickle.dumps(read_case(folder, "case")))
    corners = np.random.default_rng(1).integers(0, 30, (40, 3))

    def read(corner):
        z, y, x = corner
        return np.array_equal(
            case.data[:, z : z + 32, y : y + 32, x : x + 32], data[:, z : z + 32, y : y + 32, x : x + 32]
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, corners))


def test_damaged_and_missing_files_are_named(stored):
    folder, _, _ = stored
    with pytest.raises(InputError, match=r"other\.json: file not found"):
        read_case(folder, "other")
    (folder / "case.b2nd").write_bytes(b"not an array")
    with pytest.raises(InputError, match=r"case\.b2nd: not a readable blosc2 array"):
        read_case(folder, "case")


def test_no_temporary_files_stay(stored):
    folder, _, _ = stored
    assert sorted(path.name for path in folder.iterdir()) == ["case.b2nd", "case.json", "case_instances.b2nd"]
