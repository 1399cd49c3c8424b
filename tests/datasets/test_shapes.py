import numpy as np
import pytest

from detpretrain import boxes as box_ops
from detpretrain.datasets import shapes
from detpretrain.geometry import Geometry

SHAPE = (14, 16, 18)


def _rotated(flip: bool = False) -> Geometry:
    """Oblique about two axes, anisotropic; with ``flip`` two of its axes run the other way, as in some LUNA16 scans."""
    a, b = 0.4, -0.7
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    direction = about_z @ about_x @ np.diag([-1, -1, 1] if flip else [1, 1, 1])
    return Geometry((24, 40, 44), (2.0, 0.8, 0.7), (-31.0, 12.0, -150.0), tuple(direction.ravel()))


def test_filled_boxes_come_back_from_their_raster():
    rng = np.random.default_rng(0)
    low = rng.integers(-1, 5, (20, 3))
    expected = np.concatenate([low, low + rng.integers(2, 9, (20, 3))], axis=1).astype(np.float64)
    for box in expected:  # alone, because they overlap
        ids, found = box_ops.from_instances(shapes.filled_box(SHAPE, [box]))
        assert ids.tolist() == [1]
        assert found[0].tolist() == box.tolist()


def test_filled_box_by_hand():
    raster = shapes.filled_box(SHAPE, [[1, 2, 3, 4, 6, 8]])
    expected = np.zeros(SHAPE)
    expected[2:4, 3:6, 4:8] = 1
    assert (raster == expected).all()
    assert raster.dtype == np.uint8


def test_fractional_edges_leave_out_voxels_on_them_or_beyond():
    raster = shapes.filled_box(SHAPE, [[1.5, 2.9, 3.0, 4.5, 6.1, 8.0]])
    assert np.argwhere(raster).min(0).tolist() == [2, 3, 4]
    assert np.argwhere(raster).max(0).tolist() == [4, 6, 7]


@pytest.mark.parametrize("paint", [shapes.filled_box, shapes.ellipsoid])
def test_small_objects_stay_visible_in_large_ones(paint):
    boxes = [[5, 6, 7, 8, 9, 10], [1, 1, 1, 12, 14, 16], [4, 5, 6, 9, 11, 13]]  # small, large, medium
    raster = paint(SHAPE, boxes)
    assert sorted(np.unique(raster)) == [0, 1, 2, 3]
    alone = paint(SHAPE, boxes[:1])
    assert ((raster == 1) == (alone == 1)).all()  # the smallest is whole
    assert (raster[paint(SHAPE, boxes[2:]) > 0] != 2).all()  # the medium one hides the large one


def test_ellipsoid_is_the_brute_force_one():
    box = np.array([1.0, 2.5, 3.0, 11.0, 9.5, 16.0])
    raster = shapes.ellipsoid(SHAPE, [box])
    centre, half = (box[:3] + box[3:]) / 2, (box[3:] - box[:3] - 1) / 2
    grid = np.stack(np.indices(SHAPE), axis=-1)
    assert (raster == ((((grid - centre) / half) ** 2).sum(-1) <= 1)).all()


@pytest.mark.parametrize("size", [2, 3, 4, 7, 10])
def test_round_ellipsoids_fill_their_box(size):
    box = np.array([1, 2, 3, 1 + size, 2 + size, 3 + size], np.float64)
    assert box_ops.from_instances(shapes.ellipsoid(SHAPE, [box]))[1][0].tolist() == box.tolist()


@pytest.mark.parametrize("flip", [False, True])
def test_sphere_in_an_oblique_scan_is_the_brute_force_one(flip):
    geometry = _rotated(flip)
    centre = geometry.index_to_world([[11.3, 19.6, 21.2]])
    raster = shapes.sphere_mm(geometry, centre, [9.0])
    grid = np.stack(np.indices(geometry.shape), axis=-1).reshape(-1, 3)
    away = np.linalg.norm(geometry.index_to_world(grid) - centre, axis=1)
    assert (raster.ravel() == (away <= 4.5)).all()
    # the volume is the sphere's
    assert (raster > 0).sum() * np.prod(geometry.spacing) == pytest.approx(np.pi / 6 * 9.0**3, rel=0.03)


@pytest.mark.parametrize("flip", [False, True])
def test_sphere_boxes_by_hand(flip):
    geometry = _rotated(flip)
    boxes = shapes.sphere_boxes(geometry, geometry.index_to_world([[11.0, 20.0, 22.0]]), [8.4])
    # 4.2 mm are 2.1, 5.25 and 6 voxels; half a voxel more on each side
    np.testing.assert_allclose(boxes, [[8.4, 14.25, 15.5, 13.6, 25.75, 28.5]], atol=1e-9)


def test_sphere_boxes_are_those_of_the_raster_within_a_voxel():
    rng = np.random.default_rng(3)
    geometry = _rotated()
    for _ in range(40):
        centre = geometry.index_to_world(rng.uniform([6, 14, 14], [17, 25, 29]))
        diameter = [rng.uniform(3.0, 14.0)]
        ids, found = box_ops.from_instances(shapes.sphere_mm(geometry, centre, diameter))
        assert ids.tolist() == [1]
        assert np.abs(found - shapes.sphere_boxes(geometry, centre, diameter)).max() <= 1.0


def test_an_object_between_the_voxels_is_the_nearest_one():
    geometry = Geometry(SHAPE, (5.0, 0.7, 0.7))
    raster = shapes.sphere_mm(geometry, geometry.index_to_world([[3.4, 8.1, 9.2]]), [3.0])
    assert np.argwhere(raster).tolist() == [[3, 8, 9]]
    assert np.argwhere(shapes.filled_box(SHAPE, [[3.2, 7.9, 9.0, 3.8, 8.4, 9.4]])).tolist() == [[3, 8, 9]]


def test_objects_across_the_border_are_cut_and_those_outside_have_no_voxels():
    raster = shapes.filled_box(SHAPE, [[-3, -3, -3, 2, 2, 2], [20, 3, 3, 25, 6, 6]])
    assert sorted(np.unique(raster)) == [0, 1]
    assert np.argwhere(raster).max(0).tolist() == [1, 1, 1]
    assert (raster > 0).sum() == 8


@pytest.mark.parametrize("count", [255, 256])
def test_many_objects_have_an_id_each(count):
    shape = (7, 7, 7)
    voxels = np.argwhere(np.ones(shape))[:count]
    raster = shapes.filled_box(shape, np.concatenate([voxels - 1, voxels + 1], axis=1))
    assert raster[tuple(voxels.T)].tolist() == list(range(1, count + 1))


def test_no_objects():
    geometry = Geometry(SHAPE, (1.0, 1.0, 1.0))
    for raster in (shapes.filled_box(SHAPE, []), shapes.ellipsoid(SHAPE, []), shapes.sphere_mm(geometry, [], [])):
        assert raster.shape == SHAPE
        assert not raster.any()
    assert shapes.sphere_boxes(geometry, [], []).shape == (0, 6)
