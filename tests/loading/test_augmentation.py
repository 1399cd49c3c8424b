import dataclasses
import hashlib

import numpy as np
import pytest

from detpretrain import seeds
from detpretrain.loading.augmentation import Augmentation, none, rotation

COUNT = 4000


@pytest.fixture(scope="module")
def drawn():
    study = Augmentation()
    return [study.draw(seeds.generator("test", index), channels=2) for index in range(COUNT)]


def rate(flags):
    return np.mean(list(flags))


def near(probability):
    """Within four standard errors of a frequency over COUNT draws."""
    return pytest.approx(probability, abs=4 * np.sqrt(probability * (1 - probability) / COUNT))


def factors(values, neutral=1.0):
    return np.concatenate([value for value in values if (value != neutral).any()])


@pytest.mark.parametrize(
    ("name", "probability", "bounds"),
    [
        ("brightness", 0.15, (0.75, 1.25)),
        ("contrast", 0.15, (0.75, 1.25)),
        ("inverted_gamma", 0.1, (0.7, 1.5)),
        ("gamma", 0.3, (0.7, 1.5)),
    ],
)
def test_factors_have_the_studys_probabilities_and_ranges(drawn, name, probability, bounds):
    values = [getattr(draw, name) for draw in drawn]
    assert rate((value != 1).any() for value in values) == near(probability)
    used = factors(values)
    assert bounds[0] <= used.min() < bounds[0] + 0.02
    assert bounds[1] - 0.02 < used.max() <= bounds[1]
    assert rate(used < 1) == pytest.approx(0.5, abs=0.07)
    assert all((value != 1).all() for value in values if (value != 1).any())  # all channels of a sample, each its own
    assert rate(value[0] == value[1] for value in values if (value != 1).any()) == 0


def test_noise_and_blur_have_the_studys_probabilities_and_ranges(drawn):
    noise = np.array([draw.noise for draw in drawn])
    assert rate(noise > 0) == near(0.1)
    assert (noise**2).max() == pytest.approx(0.1, rel=0.05)
    assert (noise[noise > 0] ** 2).mean() == pytest.approx(0.05, rel=0.15)  # the variance is uniform
    blur = np.array([draw.blur for draw in drawn])
    assert rate((blur > 0).any(axis=1)) == near(0.2 * 0.75)  # at least one of two channels
    assert rate((blur > 0).all(axis=1)) == near(0.2 * 0.25)
    assert (blur[blur > 0].min(), blur.max()) == pytest.approx((0.5, 1.0), abs=0.01)


def test_rotation_and_zoom_have_the_studys_probabilities_and_ranges(drawn):
    matrices = [draw.matrix for draw in drawn if draw.matrix is not None]
    assert len(matrices) / COUNT == near(1 - 0.8 * 0.8)
    zooms = np.array([np.linalg.det(matrix) ** (1 / 3) for matrix in matrices])
    turned = [not np.allclose(matrix, np.eye(3) * zoom) for matrix, zoom in zip(matrices, zooms, strict=True)]
    zoomed = ~np.isclose(zooms, 1)
    assert sum(turned) / COUNT == near(0.2)
    assert zoomed.sum() / COUNT == near(0.2)
    assert rate(zooms[zoomed] < 1) == pytest.approx(0.5, abs=0.07)
    assert (zooms.min(), zooms.max()) == pytest.approx((0.7, 1.4), abs=0.02)
    for matrix, zoom in zip(matrices, zooms, strict=True):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3) * zoom**2, atol=1e-12)


def test_mirroring_flips_each_axis_half_of_the_time(drawn):
    flips = np.array([draw.mirror for draw in drawn])
    assert flips.mean(axis=0).tolist() == pytest.approx([0.5] * 3, abs=0.04)
    assert np.corrcoef(flips.T)[np.triu_indices(3, 1)] == pytest.approx(0, abs=0.07)


def test_samples_have_noise_seeds_of_their_own(drawn):
    assert len({draw.seed for draw in drawn}) == COUNT


def fields(draws):
    return {name: np.array(value).tolist() for name, value in dataclasses.asdict(draws).items()}


def test_the_same_generator_draws_the_same():
    first, again, other = (Augmentation().draw(seeds.generator("sample", n), 3) for n in (4, 4, 5))
    assert fields(first) == fields(again) != fields(other)


@pytest.mark.parametrize("mirror", [False, True])
def test_no_augmentation_draws_nothing(mirror):
    for index in range(50):
        draws = none(mirror).draw(seeds.generator(index), 2)
        assert draws.matrix is None
        assert draws.noise == 0
        assert not draws.blur.any()
        for name in ("brightness", "contrast", "low_resolution", "inverted_gamma", "gamma"):
            assert (getattr(draws, name) == 1).all()
        assert mirror or not any(draws.mirror)


def test_the_studys_draws_are_those_of_its_first_results():
    """Recorded before low resolution was added: other draws would make another study of the same seeds."""
    names = ("seed", "noise", "blur", "brightness", "contrast", "inverted_gamma", "gamma", "mirror")
    text = []
    for index in range(300):
        draw = Augmentation().draw(seeds.generator("fixed", index), 1 + index % 3, index % 4 == 3)
        assert (draw.low_resolution == 1).all()
        # rounded: the last digits of sines and products are the processor's
        text.append(repr(None if draw.matrix is None else (np.round(draw.matrix, 6) + 0.0).tolist()))
        text += [repr(np.asarray(getattr(draw, name)).tolist()) for name in names]
    digest = hashlib.sha256("\n".join(text).encode()).hexdigest()
    assert digest == "bd3084b02abc081b6667b8ce8506b5624e8f66f70cad75207af8be7ba83797aa"


def test_low_resolution_changes_no_other_draw():
    for index in range(200):
        plain = fields(Augmentation().draw(seeds.generator(index), 2))
        coarse = fields(Augmentation(low_resolution_probability=1.0).draw(seeds.generator(index), 2))
        assert plain.pop("low_resolution") == [1, 1]
        assert all(0.5 <= factor < 1 for factor in coarse.pop("low_resolution"))
        assert coarse == plain


def test_low_resolution_has_its_probability_and_range():
    augmentation = Augmentation(low_resolution_probability=0.1)
    values = [augmentation.draw(seeds.generator("coarse", index), 2).low_resolution for index in range(COUNT)]
    assert rate((value != 1).any() for value in values) == near(0.1)
    used = factors(values)
    assert (used.min(), used.max()) == pytest.approx((0.5, 1.0), abs=0.01)
    assert used.mean() == pytest.approx(0.75, abs=0.03)  # uniform
    assert rate(value[0] == value[1] for value in values if (value != 1).any()) == 0  # each channel its own


def test_a_probability_of_zero_leaves_the_other_draws_alone():
    """Switching one transform off must not reshuffle the rest of a comparison."""
    for index in range(200):
        full = fields(Augmentation().draw(seeds.generator(index), 2))
        for name in ("brightness", "contrast", "gamma", "noise", "blur"):
            part = fields(Augmentation(**{f"{name}_probability": 0.0}).draw(seeds.generator(index), 2))
            assert {key: value for key, value in part.items() if key != name} == {
                key: value for key, value in full.items() if key != name
            }


def test_flat_patches_turn_and_zoom_in_plane_only():
    always = Augmentation(rotation_probability=1.0, zoom_probability=1.0)
    angles = []
    for index in range(300):
        matrix = always.draw(seeds.generator(index), 1, in_plane=True).matrix
        np.testing.assert_array_equal(matrix[0], [1, 0, 0])
        np.testing.assert_array_equal(matrix[:, 0], [1, 0, 0])
        angles.append(np.rad2deg(np.arctan2(matrix[2, 1], matrix[1, 1])))
    assert (min(angles), max(angles)) == pytest.approx((-180, 180), abs=5)


def test_mirror_axes_limit_the_flips():
    flips = np.array([Augmentation(mirror_axes=[2]).draw(seeds.generator(i), 1).mirror for i in range(100)])
    assert not flips[:, :2].any()
    assert 30 < flips[:, 2].sum() < 70


def test_rotations_by_hand():
    z, y, x = np.eye(3)
    quarter = np.pi / 2
    np.testing.assert_allclose(rotation(np.array([quarter, 0, 0])) @ y, x, atol=1e-12)
    np.testing.assert_allclose(rotation(np.array([0, quarter, 0])) @ z, x, atol=1e-12)
    np.testing.assert_allclose(rotation(np.array([0, 0, quarter])) @ z, y, atol=1e-12)
    # about z first, then about x: y -> x stays
    np.testing.assert_allclose(rotation(np.array([quarter, 0, quarter])) @ y, x, atol=1e-12)
    np.testing.assert_allclose(rotation(np.array([quarter, 0, quarter])) @ x, z, atol=1e-12)
