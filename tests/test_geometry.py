import json

import numpy as np
import pytest
import SimpleITK as sitk

from detpretrain.geometry import Geometry


def _oblique() -> Geometry:
    angle = 0.3
    c, s = np.cos(angle), np.sin(angle)
    direction = (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, -1.0)
    return Geometry((10, 20, 30), (2.5, 0.7, 0.6), (-12.0, 34.5, 7.25), direction)


def test_points_agree_with_simpleitk():
    geometry = _oblique()
    image = sitk.Image(geometry.shape[::-1], sitk.sitkUInt8)
    geometry.apply_to(image)
    points = np.random.default_rng(0).uniform(-3, 30, (40, 3))
    expected = [image.TransformContinuousIndexToPhysicalPoint(p[::-1].tolist()) for p in points]
    np.testing.assert_allclose(geometry.index_to_world(points), expected, atol=1e-9)
    np.testing.assert_allclose(geometry.world_to_index(expected), points, atol=1e-9)


def test_hand_worked_point():
    flipped = Geometry((4, 5, 6), (3.0, 2.0, 1.0), (10.0, 20.0, 30.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1))
    np.testing.assert_allclose(flipped.index_to_world([[1, 2, 3]]), [[7.0, 16.0, 33.0]])


def test_no_points():
    assert _oblique().index_to_world(np.empty((0, 3))).shape == (0, 3)
    assert _oblique().world_to_index(np.empty((0, 3))).shape == (0, 3)


def test_json_round_trip_through_text():
    geometry = _oblique()
    assert Geometry.from_json(json.loads(json.dumps(geometry.to_json()))) == geometry


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"shape": (10, 20, 31)}, "shape"),
        ({"spacing": (2.5, 0.7, 0.61)}, "spacing"),
        ({"origin": (-12.0, 34.5, 7.3)}, "origin"),
        ({"direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)}, "direction"),
    ],
)
def test_difference_names_the_field(change, field):
    geometry = _oblique()
    other = Geometry.from_json(geometry.to_json() | change)
    assert not geometry.matches(other)
    assert geometry.difference(other).startswith(field)


def test_small_rounding_matches():
    geometry = _oblique()
    other = Geometry.from_json(geometry.to_json() | {"origin": (-12.0004, 34.5, 7.25)})
    assert geometry.matches(other)
    assert not geometry.matches(other, tolerance=1e-4)


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (np.nan, 1.0, 1.0)])
def test_impossible_spacing(spacing):
    with pytest.raises(ValueError, match="spacing"):
        Geometry((2, 2, 2), spacing)
