import pytest

from detpretrain.build import locate
from detpretrain.datasets.prepare import prepare
from detpretrain.datasets.sources import SOURCES, with_class
from detpretrain.errors import InputError
from detpretrain.tasks import Task


def test_from_becomes_the_class():
    assert with_class("d", {"from": "semantic_masks", "masks": "m"}) == {
        "class": SOURCES["semantic_masks"],
        "masks": "m",
    }
    assert with_class("d", {"class": "a.B", "x": 1}) == {"class": "a.B", "x": 1}


@pytest.mark.parametrize("name", SOURCES)
def test_every_form_exists(name):
    assert callable(locate(SOURCES[name]))


def test_the_nearest_form_is_named():
    with pytest.raises(
        InputError, match=r"d: from: 'box_tabel' is not a known form of data: did you mean 'box_table'\?"
    ):
        with_class("d", {"from": "box_tabel"})
    with pytest.raises(InputError, match="known are nndetection_task, semantic_masks, box_table"):
        with_class("d", {"from": "zzzz"})


def test_both_keys():
    with pytest.raises(InputError, match="d: both from: and class:"):
        with_class("d", {"from": "nnunet", "class": "a.B"})


def test_an_nndetection_task_without_python(mini_raw, tmp_path):
    entry = {"class": "detpretrain.datasets.brats.Brats", "raw": str(mini_raw / "brats"), "splits": {"folds": 3}}
    prepare("brats", entry, tmp_path / "first")
    again = {"from": "nndetection_task", "raw": str(tmp_path / "first"), "splits": {"folds": 3}}
    prepare("again", again, tmp_path / "second")
    assert Task.read(tmp_path / "second").cases() == Task.read(tmp_path / "first").cases()


def test_a_wrong_key_is_named(mini_raw, tmp_path):
    with pytest.raises(InputError, match="unexpected keyword argument 'mask'"):
        prepare("d", {"from": "volumes", "raw": str(mini_raw), "patterns": ["*"], "mask": "x"}, tmp_path / "task")
