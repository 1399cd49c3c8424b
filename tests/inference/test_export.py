import json

import jsonschema
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from detpretrain.geometry import Geometry
from detpretrain.inference.export import in_world, write
from detpretrain.inference.unseen import CaseDetections

OBLIQUE = (0.8, -0.6, 0.0, 0.48, 0.64, -0.6, 0.36, 0.48, 0.8)
GEOMETRY = Geometry((30, 27, 37), (2.5, 0.8, 0.7), (-31.0, 12.5, 80.0), OBLIQUE)
BOXES = np.array([[2.0, 4, 19, 7, 9, 24.5], [-1, 10, 1, 5, 15, 6]])

# the part of Slicer's markups schema 1.0.3 that concerns a region of interest
NUMBERS = {3: {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}}
NUMBERS[9] = NUMBERS[3] | {"minItems": 9, "maxItems": 9}
MARKUPS = {
    "type": "object",
    "required": ["@schema", "markups"],
    "properties": {
        "@schema": {"type": "string", "pattern": r"markups-schema-v1\.[0-9]+\.[0-9]+\.json#*$"},
        "markups": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "coordinateSystem", "center", "size", "orientation", "roiType", "controlPoints"],
                "properties": {
                    "type": {"const": "ROI"},
                    "name": {"type": "string"},
                    "coordinateSystem": {"const": "LPS"},
                    "coordinateUnits": {"const": "mm"},
                    "roiType": {"enum": ["Box", "BoundingBox"]},
                    "locked": {"type": "boolean"},
                    "center": NUMBERS[3],
                    "size": NUMBERS[3],
                    "orientation": NUMBERS[9],
                    "controlPoints": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 1,
                        "items": {
                            "required": ["id", "label", "position"],
                            "properties": {"id": {"type": "string"}, "position": NUMBERS[3]},
                        },
                    },
                    "display": {"type": "object", "additionalProperties": {"type": "boolean"}},
                },
            },
        },
    },
}


def detections(boxes=BOXES, geometry=GEOMETRY) -> CaseDetections:
    count = len(boxes)
    scores, labels = np.array([0.87654321, 0.5])[:count], np.arange(count)
    return CaseDetections("case", ("a.nii.gz",), geometry, boxes, scores, labels, ["nodule", "cyst"])


def physical(*index_zyx, geometry=GEOMETRY):
    """By SimpleITK itself."""
    image = sitk.Image([int(n) for n in reversed(geometry.shape)], sitk.sitkUInt8)
    geometry.apply_to(image)
    return np.array(image.TransformContinuousIndexToPhysicalPoint([float(i) for i in reversed(index_zyx)]))


def test_centre_and_size_in_the_patient():
    centres, sizes = in_world(BOXES, GEOMETRY)
    np.testing.assert_allclose(centres[0], physical(4.5, 6.5, 21.75), atol=1e-9)
    np.testing.assert_allclose(centres[1], physical(2, 12.5, 3.5), atol=1e-9)
    # x, y, z: (24.5 - 19) * 0.7, (9 - 4) * 0.8, (7 - 2) * 2.5
    np.testing.assert_allclose(sizes[0], [3.85, 4.0, 12.5], rtol=1e-12)


def test_json(tmp_path):
    path = write(detections(), tmp_path / "new", "json")
    assert path == tmp_path / "new" / "case.json"
    content = json.loads(path.read_text())
    assert content["case"] == "case"
    assert set(content["coordinates"]) == {"box", "centre", "size"}
    assert Geometry.from_json(content["geometry"]) == GEOMETRY
    first, second = content["detections"]
    assert first["box"] == BOXES[0].tolist()
    np.testing.assert_allclose(first["box_world"]["centre"], physical(4.5, 6.5, 21.75), atol=1e-4)
    assert first["box_world"]["size"] == [3.85, 4.0, 12.5]
    assert (first["score"], first["label"], second["label"]) == (0.876543, 0, 1)
    assert (first["class"], second["class"]) == ("nodule", "cyst")


def test_csv(tmp_path):
    table = pd.read_csv(write(detections(), tmp_path, "csv"))
    assert list(table.columns) == [
        "case", "label", "class", "score", "z1", "y1", "x1", "z2", "y2", "x2",
        "centre_x", "centre_y", "centre_z", "size_x", "size_y", "size_z",
    ]  # fmt: skip
    assert table["case"].tolist() == ["case", "case"]
    np.testing.assert_allclose(table.loc[:, "z1":"x2"], BOXES)
    np.testing.assert_allclose(table.loc[1, "centre_x":"centre_z"].astype(float), physical(2, 12.5, 3.5), atol=1e-4)
    assert table.loc[0, "size_x":"size_z"].tolist() == [3.85, 4.0, 12.5]


def corners_of(markup):
    """As Slicer draws a box: the columns of the row-major orientation are its axes."""
    axes = np.array(markup["orientation"]).reshape(3, 3)
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
    return np.array(markup["center"]) + signs * np.array(markup["size"]) / 2 @ axes.T


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_slicer_draws_the_box_that_was_found(tmp_path, flip):
    """With a left-handed direction too, for which the markup needs a rotation all the same."""
    direction = tuple((np.array(OBLIQUE).reshape(3, 3) * [flip, 1, 1]).ravel())
    geometry = Geometry(GEOMETRY.shape, GEOMETRY.spacing, GEOMETRY.origin, direction)
    content = json.loads(write(detections(geometry=geometry), tmp_path, "slicer").read_text())
    jsonschema.validate(content, MARKUPS)
    assert len(content["markups"]) == 2
    for markup, box in zip(content["markups"], BOXES, strict=True):
        assert np.linalg.det(np.array(markup["orientation"]).reshape(3, 3)) == pytest.approx(1)
        low, high = box[:3], box[3:]
        expected = [
            geometry.index_to_world(np.where([a, b, c], high, low))[0] for a in (0, 1) for b in (0, 1) for c in (0, 1)
        ]
        distance = np.linalg.norm(corners_of(markup)[:, None] - np.array(expected), axis=2)
        assert distance.min(axis=1).max() < 1e-3
        assert distance.min(axis=0).max() < 1e-3
        assert markup["controlPoints"][0]["position"] == markup["center"]
    assert content["markups"][0]["controlPoints"][0]["label"] == "case 1: nodule, 0.88"


def test_no_detections_are_a_file_too(tmp_path):
    nothing = detections(np.zeros((0, 6)))
    assert json.loads(write(nothing, tmp_path, "json").read_text())["detections"] == []
    assert json.loads(write(nothing, tmp_path, "slicer").read_text())["markups"] == []
    table = pd.read_csv(write(nothing, tmp_path, "csv"))
    assert len(table) == 0
    assert len(table.columns) == 16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["case.csv", "case.json", "case.mrk.json"]
