import numpy as np
import pytest

from detpretrain.datasets import phantom_structures as structures
from detpretrain.datasets.phantom_structures import Grid, Segment

GRID = Grid((40, 40, 40), (1.0, 1.0, 1.0))
MIDDLE = np.array([20.0, 20.0, 20.0])


def _volume(piece) -> float:
    return float(piece.occupancy.sum())


def test_tube_has_the_volume_of_a_capsule():
    segment = Segment(np.array([20.0, 20.0, 8.0]), np.array([20.0, 20.0, 32.0]), (3.0, 3.0))
    expected = np.pi * 9 * 24 + 4 / 3 * np.pi * 27
    assert _volume(structures.tube(GRID, segment)) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0)])
def test_nodule_has_about_its_diameter(spacing):
    grid = Grid((40, 40, 40), spacing)
    volumes = [
        _volume(structures.nodule(grid, MIDDLE, 12.0, 0.18, np.random.default_rng(seed))) * np.prod(spacing)
        for seed in range(20)
    ]
    assert np.mean(volumes) == pytest.approx(np.pi / 6 * 12**3, rel=0.15)
    assert np.std(volumes) > 20  # borders are uneven


def test_smooth_nodule_is_an_ellipsoid_of_that_volume():
    piece = structures.nodule(GRID, MIDDLE, 12.0, 0.0, np.random.default_rng(0))
    assert _volume(piece) == pytest.approx(np.pi / 6 * 12**3, rel=0.06)


def test_ring_is_hollow():
    piece = structures.ring(GRID, MIDDLE, 14.0, 2.0)
    volume = np.zeros(GRID.shape)
    volume[piece.block] = piece.occupancy
    assert volume[20, 20, 20] == 0
    assert volume[20, 20, 27] == 1
    assert volume[20, 20, 31] == 0


def test_plaque_is_flat():
    normal = np.array([0.0, 0.0, 1.0])
    piece = structures.plaque(GRID, MIDDLE, normal, 14.0, 2.5, np.random.default_rng(0))
    extent = np.ptp(np.argwhere(piece.occupancy > 0.5), axis=0)
    assert extent[2] < 0.6 * min(extent[:2])


def test_vessels_branch_from_the_hilum_and_thin_out():
    tree = structures.vessel_tree(MIDDLE, np.array([0.0, 0.0, 1.0]), 10.0, 2.5, np.random.default_rng(0))
    starts = {tuple(np.round(s.start, 6)) for s in tree}
    ends = {tuple(np.round(s.end, 6)) for s in tree}
    assert starts - ends == {tuple(MIDDLE)}  # one connected tree
    assert len(tree) == 4 * (1 + 2 + 4 + 8 + 16) * 2
    assert max(s.radius[0] for s in tree) == 2.5
    assert min(s.radius[1] for s in tree) < 1.0


def test_outside_of_the_volume_there_is_nothing():
    far = np.array([200.0, 20.0, 20.0])
    assert structures.nodule(GRID, far, 10.0, 0.1, np.random.default_rng(0)) is None
    assert structures.tube(GRID, Segment(far, far + 5, (1.0, 1.0))) is None
