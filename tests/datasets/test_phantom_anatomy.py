import numpy as np
import pytest

from detpretrain.datasets.phantom_anatomy import draw_anatomy
from detpretrain.geometry import Geometry

CUBE = Geometry((64, 64, 64), (1.4, 1.4, 1.4))


@pytest.fixture(scope="module", params=[0, 1, 2])
def anatomy(request):
    return draw_anatomy(CUBE, np.random.default_rng(request.param))


def test_two_lungs_inside_the_body(anatomy):
    lungs = anatomy.lungs > 0.5
    assert 0.15 < lungs.mean() < 0.35
    assert (anatomy.body[lungs] > 0.99).all()
    left, right = lungs[:, :, 36:].sum(), lungs[:, :, :28].sum()
    assert 0.6 < left / right < 1.2  # the heart takes room on the left
    assert not (lungs & (anatomy.heart > 0.5)).any()
    assert not (lungs & (anatomy.bones > 0.5)).any()


def test_places(anatomy):
    def centre(occupancy):
        return np.argwhere(occupancy > 0.5).mean(0)

    z, _, x = centre(anatomy.heart)
    assert z < 36  # low in the chest
    assert x > 31  # left of the middle
    assert centre(anatomy.discs)[1] > 40  # the spine is behind
    assert centre(anatomy.abdomen)[0] < 20  # below the diaphragm
    assert anatomy.body[:, 0, 0].max() == 0  # air around the patient


def test_the_same_patient_at_another_spacing():
    fine = draw_anatomy(CUBE, np.random.default_rng(5))
    coarse = draw_anatomy(Geometry((32, 64, 64), (2.8, 1.4, 1.4)), np.random.default_rng(5))
    for name in ("body", "lungs", "heart", "abdomen"):
        a, b = getattr(fine, name).mean(), getattr(coarse, name).mean()
        assert b == pytest.approx(a, rel=0.05), name


def test_patients_differ():
    a, b = (draw_anatomy(CUBE, np.random.default_rng(seed)).lungs for seed in (0, 1))
    assert np.abs(a - b).mean() > 0.01
