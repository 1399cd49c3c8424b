import collections
import os
import random

import pytest
import torch

from detpretrain.errors import InputError
from detpretrain.training import checkpoints

CONTENT = {"weights": {"a": torch.arange(100.0)}, "plan": {"patch": [1, 2, 3], "name": "x", "none": None}}


def test_round_trip(tmp_path):
    checkpoints.save(tmp_path / "new" / "a.pth", CONTENT)
    read = checkpoints.load(tmp_path / "new" / "a.pth")
    assert torch.equal(read["weights"]["a"], CONTENT["weights"]["a"])
    assert read["plan"] == CONTENT["plan"]
    assert os.listdir(tmp_path / "new") == ["a.pth"]


def test_failed_save_leaves_the_old_file(tmp_path):
    checkpoints.save(tmp_path / "a.pth", CONTENT)
    with pytest.raises(AttributeError):  # a local function cannot be pickled
        checkpoints.save(tmp_path / "a.pth", {"bad": lambda: 0})
    assert checkpoints.load(tmp_path / "a.pth")["plan"] == CONTENT["plan"]
    assert os.listdir(tmp_path) == ["a.pth"]


def refusal(path):
    with pytest.raises(InputError) as error:
        checkpoints.load(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


class Code:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("old_format", [False, True])
def test_pickled_code_is_refused_and_not_run(tmp_path, monkeypatch, old_format):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Code()}, "a.pth", _use_new_zipfile_serialization=not old_format)
    message = refusal("a.pth")
    assert "mkdir" in message
    assert "is code" in message
    assert os.listdir() == ["a.pth"]


def test_object_of_a_class_is_named(tmp_path):
    torch.save({"counts": collections.Counter("aab"), "layer": torch.nn.Linear(1, 1)}, tmp_path / "a.pth")
    assert "torch.nn.modules.linear.Linear" in refusal(tmp_path / "a.pth")


def test_missing_file(tmp_path):
    assert "file not found" in refusal(tmp_path / "a.pth")


def test_bare_tensor_is_no_checkpoint(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "a.pth")
    assert "holds a Tensor" in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", b"hello", b"\x80\x04.", b"PK\x03\x04"])
def test_other_files_are_one_line(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    assert "not a readable checkpoint" in refusal(tmp_path / "a.pth")


def test_damaged_files_are_one_line(tmp_path):
    checkpoints.save(tmp_path / "a.pth", CONTENT)
    whole, rng, refused = (tmp_path / "a.pth").read_bytes(), random.Random(0), 0
    for _ in range(150):
        damaged = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(rng.randrange(20)):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / "b.pth").write_bytes(damaged)
        try:
            checkpoints.load(tmp_path / "b.pth")
        except InputError:
            refusal(tmp_path / "b.pth")
            refused += 1
    assert refused > 100
