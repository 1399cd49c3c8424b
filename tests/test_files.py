import os

import pytest

from detpretrain.errors import InputError
from detpretrain.files import atomic_path, read_json, read_yaml, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_under_its_name(tmp_path):
    path = tmp_path / "new" / "folder" / "a.nii.gz"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent  # the same file system: renaming is atomic
        assert temporary.name.endswith("a.nii.gz")  # writers look at suffixes
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.nii.gz"]


@pytest.mark.parametrize("existed", [True, False])
def test_an_error_leaves_what_was_there(tmp_path, existed):
    path = tmp_path / "a.json"
    if existed:
        path.write_text("old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == (["a.json"] if existed else [])
    assert not existed or path.read_text() == "old"


def test_a_writer_that_writes_nothing_is_noticed(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        pass
    assert names(tmp_path) == []


def test_the_bytes_are_on_disk_before_the_name_changes(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    write_text(tmp_path / "a", "ä")
    assert calls == ["fsync", "replace"]
    assert (tmp_path / "a").read_bytes() == "ä".encode()


def test_json_goes_there_and_back(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"c": "ä"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert list(read_json(tmp_path / "a.json")) == ["b", "a"]


def test_json_without_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"ap": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_a_missing_file_is_an_input_error(tmp_path, read):
    with pytest.raises(InputError, match=r"missing: file not found"):
        read(tmp_path / "missing")


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_json, b'{"a": 1', "not valid JSON"),
        (read_json, b"\xff\xfe{", "not valid JSON"),
        (read_yaml, b"a: [1, 2", "not valid YAML"),
        (read_yaml, b"- 1\n- 2\n", "not a mapping"),
        (read_yaml, b"", "not a mapping"),
        (read_yaml, b"\xff", "not valid YAML"),
    ],
)
def test_a_broken_file_is_an_input_error_of_one_line(tmp_path, read, content, message):
    path = tmp_path / "broken"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_yaml(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("base: &base {x: 1}\nother: {<<: *base, y: [1.0e-3]}\n")
    assert read_yaml(path) == {"base": {"x": 1}, "other": {"x": 1, "y": [0.001]}}
