import json
from copy import deepcopy

import numpy as np
import pytest

from detpretrain.errors import InputError
from detpretrain.evaluation import cases

BOX = [0, 0, 0, 2, 2, 2]
GOOD = {
    "num_classes": 2,
    "images": [
        {
            "image_id": "a",
            "gt_boxes": [BOX],
            "gt_labels": [1],
            "pred_boxes": [BOX, BOX],
            "pred_labels": [0, 1],
            "pred_scores": [0.5, 1],
        },
        {"image_id": "b", "gt_boxes": [], "gt_labels": [], "pred_boxes": [], "pred_labels": [], "pred_scores": []},
    ],
}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_reads_what_is_described(tmp_path):
    (first, second), num_classes = cases.read(write(tmp_path / "cases.json", GOOD))
    assert num_classes == 2
    assert first.image_id == "a"
    assert first.gt_boxes.dtype == np.float64
    assert first.gt_ignore.tolist() == [False]
    assert first.truth_ids.tolist() == [1]
    assert first.pred_scores.tolist() == [0.5, 1.0]
    assert second.gt_boxes.shape == second.pred_boxes.shape == (0, 6)


def test_ignore_flags_are_read(tmp_path):
    content = deepcopy(GOOD)
    content["images"][0]["gt_ignore"] = [1]
    (first, _), _ = cases.read(write(tmp_path / "cases.json", content))
    assert first.gt_ignore.tolist() == [True]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("gt_boxes", [[0, 0, 0, 2, 2]], "gt_boxes: shape [1, 5]: give boxes"),
        ("gt_boxes", [BOX, [1]], "gt_boxes: lists of different lengths"),
        ("gt_boxes", "none", "gt_boxes: not a list of numbers"),
        ("gt_boxes", [["0", "0", "0", "2", "2", "2"]], "gt_boxes: not a list of numbers"),
        ("gt_boxes", [[0, 0, 0, 2, 2, float("nan")]], "gt_boxes: entry 0 is not finite"),
        ("pred_boxes", [BOX, [0, 0, 3, 2, 2, 2]], "pred_boxes: entry 1 is inverted"),
        ("gt_labels", [2], "gt_labels: entry 0 (2) is not a class: use 0 .. 1"),
        ("gt_labels", [0.5], "gt_labels: entry 0 (0.5) is not a class"),
        ("gt_labels", [0, 1], "gt_labels: shape [2] for 1 boxes"),
        ("gt_labels", [None], "gt_labels: not a list of numbers"),
        ("gt_ignore", [2], "gt_ignore: entry 0 (2) is no flag"),
        ("pred_labels", [0, -1], "pred_labels: entry 1 (-1) is not a class"),
        ("pred_scores", [0.5, 1.5], "pred_scores: entry 1 (1.5) is not a score"),
        ("pred_scores", [0.5, float("nan")], "pred_scores: entry 1 (nan) is not a score"),
        ("pred_scores", [0.5], "pred_scores: shape [1] for 2 boxes"),
        ("image_id", 3, "image_id is 3: give a name"),
        ("image_id", "b", "image_id 'b' occurs twice"),
    ],
)
def test_wrong_images_are_refused_in_one_line(tmp_path, key, value, message):
    content = deepcopy(GOOD)
    content["images"][0][key] = value
    path = write(tmp_path / "cases.json", content)
    with pytest.raises(InputError) as refused:
        cases.read(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["image_id", "gt_boxes", "gt_labels", "pred_boxes", "pred_labels", "pred_scores"])
def test_missing_keys_are_named(tmp_path, key):
    content = deepcopy(GOOD)
    del content["images"][1][key]
    with pytest.raises(InputError, match=f"image 1: {key} missing"):
        cases.read(write(tmp_path / "cases.json", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "not a file of detections"),
        ({"images": []}, "not a file of detections"),
        ({"num_classes": 0, "images": GOOD["images"]}, "num_classes is 0"),
        ({"num_classes": True, "images": GOOD["images"]}, "num_classes is True"),
        ({"num_classes": 1, "images": []}, "at least one image"),
        ({"num_classes": 1, "images": [3]}, "image 0: not an object"),
    ],
)
def test_wrong_files_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        cases.read(write(tmp_path / "cases.json", content))


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "text.json").write_text("no json")
    for path in (tmp_path / "absent.json", tmp_path / "text.json", tmp_path):
        with pytest.raises(InputError):
            cases.read(path)
