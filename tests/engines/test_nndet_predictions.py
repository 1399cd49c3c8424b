import pickle

import numpy as np
import pytest
from nifti_files import world, write_nifti
from nndet_detections import in_order, preprocessed, properties_of, restored
from nndet_tasks import SPACES, volume

from detpretrain import boxes as box_ops
from detpretrain import volumes
from detpretrain.engines import nndet_predictions
from detpretrain.errors import InputError


@pytest.fixture
def image(tmp_path):
    """``image(space)``: a case's image and its label map, at an affine of ``SPACES``."""

    def make(space):
        voxels, instances = volume(0)
        write_nifti(tmp_path / "a_0000.nii.gz", voxels, SPACES[space])
        return tmp_path / "a_0000.nii.gz", instances

    return make


def content_of(path, boxes, **changes):
    """As nnDetection writes it; boxes [N, 6] by its columns."""
    about = properties_of(path)
    count = len(boxes)
    return {
        "pred_boxes": np.asarray(boxes, np.float32),
        "pred_scores": np.linspace(0.9, 0.1, count).astype(np.float32),
        "pred_labels": (np.arange(count) % 2).astype(np.float32),
        "restore": True,
        **{key: about[key] for key in ("original_size_of_raw_data", "itk_origin", "itk_spacing", "itk_direction")},
        **changes,
    }


def read(path, content, classes=2):
    target = path.parent / "a_boxes.pkl"
    target.write_bytes(pickle.dumps(content))
    return nndet_predictions.read_case(target, volumes.read_geometry(path), classes)


@pytest.mark.parametrize("space", SPACES)
def test_boxes_come_back_to_where_the_objects_are(image, space):
    """Object -> nnDetection's preprocessed coordinates -> its file -> here: the same voxels and the same millimetres."""
    path, instances = image(space)
    _, boxes = box_ops.from_instances(instances)
    about = properties_of(path)
    moved = preprocessed(boxes.reshape(-1, 2, 3).transpose(0, 2, 1).astype(float), about)
    assert all(low > 0 for low, _ in about["crop_bbox"])  # a crop that matters
    assert (about["transpose_forward"].tolist() != [0, 1, 2]) == (space == "sagittal")
    assert not np.isclose(moved[..., 0], boxes[:, :3]).all(axis=0).any()  # on no axis the coordinates they were
    found = read(path, content_of(path, in_order(restored(moved, about))))
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-4)
    corners = boxes.reshape(-1, 3)
    there = volumes.read_geometry(path).index_to_world(found.boxes.reshape(-1, 3))
    np.testing.assert_allclose(there, world(SPACES[space], corners), atol=1e-3)


def test_columns_by_hand(image):
    """z 1 to 11, y 2 to 12, x 3 to 13."""
    path, _ = image("oblique")
    found = read(path, content_of(path, [[1, 2, 11, 12, 3, 13]]))
    assert found.boxes.tolist() == [[1, 2, 3, 11, 12, 13]]
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int64)
    assert found.weights.tolist() == [1.0]


def test_no_box_at_all(image):
    path, _ = image("lps")
    for empty in (np.zeros((0, 6), np.float32), np.zeros(0, np.float32)):
        found = read(path, content_of(path, np.zeros((0, 6)), pred_boxes=empty))
        assert found.boxes.shape == (0, 6)
        assert found.scores.shape == found.labels.shape == (0,)


BOX = [[1, 2, 11, 12, 3, 13]]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pred_boxes": np.zeros((2, 6), np.float32)}, r"shapes \(2, 6\), \(1,\), \(1,\), not"),
        ({"pred_boxes": np.zeros((1, 5), np.float32)}, "not \\(N, 6\\)"),
        ({"pred_boxes": [[1, 2, 3, 4, 5, 6]]}, "pred_boxes is a list, not an array of numbers"),
        ({"pred_scores": np.array(["a"])}, "pred_scores is a <U1, not an array of numbers"),
        ({"pred_boxes": np.array([[np.nan] * 6])}, "a prediction is not finite"),
        ({"pred_scores": np.array([1.5])}, "a score of 1.5, outside of 0 to 1"),
        ({"pred_labels": np.array([2.0])}, "class 2.0, the task has classes 0 to 1"),
        ({"pred_labels": np.array([0.5])}, "class 0.5, the task has classes 0 to 1"),
        ({"pred_boxes": np.array([[11.0, 2, 1, 12, 3, 13]])}, "a box ends before it begins"),
        ({"restore": False}, "its boxes are not restored to the original image"),
        ({"original_size_of_raw_data": np.array([1, 2, 3])}, r"predicted in another image \(shape"),
        ({"itk_origin": (0.0, 0.0, 1.0)}, r"predicted in another image \(origin"),
        ({"itk_spacing": (1.0, 1.0)}, "predicted in another image|does not tell the image"),
        ({"itk_direction": None}, "predicted in another image|does not tell the image"),
    ],
)
def test_what_no_prediction_is_is_one_line(image, changes, told):
    path, _ = image("ras")
    with pytest.raises(InputError, match=told) as error:
        read(path, content_of(path, BOX, **changes))
    assert "a_boxes.pkl: " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["pred_boxes", "pred_scores", "pred_labels", "restore", "itk_origin"])
def test_missing_keys_are_one_line(image, key):
    path, _ = image("ras")
    content = content_of(path, BOX)
    del content[key]
    with pytest.raises(InputError, match=r"a_boxes\.pkl: "):
        read(path, content)


def test_other_content_and_code_are_refused(image, tmp_path):
    path, _ = image("ras")
    with pytest.raises(InputError, match="holds a list, not a dictionary of predictions"):
        read(path, [1])
    with pytest.raises(InputError, match=r"holds builtins\.eval, which is code"):
        read(path, {"pred_boxes": eval})
