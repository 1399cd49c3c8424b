import collections
import os
import pickle
import subprocess

import numpy as np
import pytest

from detpretrain.engines import plain_pickle
from detpretrain.errors import InputError

PLAIN = {
    "boxes": np.arange(12, dtype=np.float32).reshape(2, 6),
    "labels": np.array([0.0, 1.0]),
    "none": np.zeros((0, 6), np.float32),
    "score": np.float64(0.25),
    "flag": np.bool_(True),
    "count": np.int64(3),
    "mixed": np.array([1, "a", None], dtype=object),
    "names": np.array(["ab", "c"]),
    "spacing": (0.8, 0.8, 2.5),
    "nested": [{1, 2}, frozenset({3}), {"a": None}, b"x", bytearray(b"y"), 1j, True, 10**30],
}


def written(folder, content):
    path = folder / "case_boxes.pkl"
    path.write_bytes(content)
    return path


def same(found, expected):
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, np.ndarray):
        return found.dtype == expected.dtype and found.shape == expected.shape and found.tolist() == expected.tolist()
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_numbers_and_containers_come_back(tmp_path, protocol):
    assert same(plain_pickle.load(written(tmp_path, pickle.dumps(PLAIN, protocol))), PLAIN)


def test_names_of_numpy_1_are_those_of_numpy_2(tmp_path):
    content = pickle.dumps(PLAIN, 3)
    ours, other = sorted((b"numpy._core", b"numpy.core"), key=content.count, reverse=True)
    assert content.count(ours) > 0 == content.count(other)
    assert same(plain_pickle.load(written(tmp_path, content.replace(ours, other))), PLAIN)


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("thing", "told"),
    [
        (Calls(os.system, "touch SENTINEL"), "posix.system"),
        (Calls(eval, "open('SENTINEL', 'w')"), "builtins.eval"),
        (Calls(subprocess.run, ["touch", "SENTINEL"]), "subprocess.run"),
        (Calls(np.load, "x.npy"), "numpy.load"),
        (Calls(np.ndarray.tofile, np.zeros(1), "SENTINEL"), "getattr"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (np.ma.masked_array([1.0], [True]), "numpy.ma"),
        (PLAIN | {"boxes": [Calls(os.system, "touch SENTINEL")]}, "posix.system"),
    ],
    ids=["system", "eval", "process", "loader", "method", "class", "array of another class", "deep inside"],
)
def test_code_is_refused_in_one_line_and_not_run(tmp_path, monkeypatch, thing, told):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, pickle.dumps(thing))
    with pytest.raises(InputError) as error:
        plain_pickle.load(path)
    assert str(error.value).startswith(f"{path}: holds ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == [path]


def test_attributes_of_what_is_admitted_are_refused(tmp_path):
    path = written(tmp_path, b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.")
    with pytest.raises(InputError, match=r"holds numpy\.ndarray\.dumps"):
        plain_pickle.load(path)


def test_references_to_outside_are_refused(tmp_path):
    with pytest.raises(InputError, match="a reference to str outside the file"):
        plain_pickle.load(written(tmp_path, b"\x80\x04\x8c\x01aQ."))


@pytest.mark.parametrize("content", [b"", b"\x80", pickle.dumps(PLAIN)[:-20], b"a text"])
def test_damaged_files_are_one_line(tmp_path, content):
    path = written(tmp_path, content)
    with pytest.raises(InputError, match="not a readable pickle") as error:
        plain_pickle.load(path)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.pkl: file not found"):
        plain_pickle.load(tmp_path / "nowhere.pkl")
