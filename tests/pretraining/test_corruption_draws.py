"""What Models Genesis draws for a sample, and what becomes of it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from detpretrain.errors import InputError
from detpretrain.pretraining.corruptions import (
    Corruption,
    Draws,
    bend,
    curve_table,
    paint,
    shuffle,
)

SHAPE = (20, 24, 30)
SEEDS = 3000


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def image(seed=0, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_share(count, share, trials=SEEDS):
    """Within 4 standard deviations of a binomial count."""
    assert abs(count / trials - share) <= 4 * (share * (1 - share) / trials) ** 0.5


def certain(**arguments):
    """Everything happens."""
    always = dict.fromkeys(("shuffle_probability", "curve_probability", "paint_probability"), 1.0)
    return Corruption(**{"windows": 900} | always | arguments)


def sampled_bezier(curve, samples=100_000):
    """By de Casteljau's construction; made a function of x as the original does it, by sorting."""
    t = np.linspace(0, 1, samples)[:, None]
    points = [np.zeros(2), *curve.points, np.ones(2)]
    while len(points) > 1:
        points = [(1 - t) * left + t * right for left, right in pairwise(points)]
    x, y = points[0][::-1].T  # the original runs through its curve from the end
    return np.sort(x), y if curve.decreasing else np.sort(y)


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_transforms_are_as_frequent_as_in_the_original():
    draws = [Corruption(windows=1).draw(SHAPE, seed) for seed in range(SEEDS)]
    paints = [drawn.paint for drawn in draws if drawn.paint]
    assert_share(sum(any(drawn.flips) for drawn in draws), 0.24 + 0.096 * 2 / 3 + 0.064)  # two equal flips cancel
    assert_share(sum(drawn.shuffle is not None for drawn in draws), 0.5)
    curves = [drawn.curve for drawn in draws if drawn.curve]
    assert_share(len(curves), 0.9)
    assert_share(sum(curve.decreasing for curve in curves), 0.5, trials=len(curves))
    assert_share(sum(not drawn.outside for drawn in paints), 0.18)
    assert_share(sum(drawn.outside for drawn in paints), 0.72)


@pytest.mark.parametrize(("inpaint", "first"), [(1.0, 0), (0.0, 1)])
def test_further_blocks_come_with_their_probability(inpaint, first):
    corruption = Corruption(windows=1, paint_probability=1.0, inpaint_probability=inpaint, block_probability=0.7)
    counts = [len(corruption.draw(SHAPE, seed).paint.blocks.starts) for seed in range(SEEDS)]
    for count in range(first, 5):
        assert_share(counts.count(count), 0.3 * 0.7 ** (count - first))
    assert_share(counts.count(5), 0.7 ** (5 - first))
    assert max(counts) == 5


def test_a_seed_gives_its_draws_whatever_the_state_of_the_generators():
    results = []
    for state in (1, 2):
        torch.manual_seed(state)
        np.random.seed(state)  # noqa: NPY002
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        results.append(certain().corrupt(image(), certain().draw(SHAPE, seed=9)))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))
    other = certain().corrupt(image(), certain().draw(SHAPE, seed=10))
    assert not torch.equal(other[0], results[0][0])


def test_another_probability_of_one_transform_leaves_the_others_as_they_are():
    for seed in range(20):
        volume, usual = image(), Corruption(windows=50).draw(SHAPE, seed)
        changed = Corruption(windows=50, shuffle_probability=0.0, flip_probability=0.0).draw(SHAPE, seed)
        assert changed.shuffle is None
        expected = replace(usual, shuffle=None, flips=(False, False, False))
        assert torch.equal(Corruption().corrupt(volume, changed)[0], Corruption().corrupt(volume, expected)[0])


# --- all together -----------------------------------------------------------------------------------------------------


def test_the_order_is_flip_shuffle_curve_paint():
    volume, corruption = image(), certain()
    drawn = replace(corruption.draw(SHAPE, seed=1), flips=(True, False, True))
    corrupted, target, touched = corruption.corrupt(volume, drawn)
    assert torch.equal(target, volume.flip([0, 2]))
    low, high = target.min(), target.max()
    shuffled, moved = shuffle(target, drawn.shuffle)
    bent = bend(shuffled, curve_table(drawn.curve), low, high - low)
    expected, painted = paint(bent, drawn.paint, low, high - low)
    assert torch.equal(corrupted, expected)
    assert torch.equal(touched, moved | painted)
    assert (moved & ~painted).any()
    assert (painted & ~moved).any()


def test_what_is_not_touched_went_through_the_curve_only():
    for seed in range(10):
        drawn = certain().draw(SHAPE, seed)
        corrupted, target, touched = certain().corrupt(image(), drawn)
        low, high = target.min(), target.max()
        only_bent = bend(target, curve_table(drawn.curve), low, high - low)
        assert torch.equal(corrupted[~touched], only_bent[~touched])
        assert (corrupted[touched] != only_bent[touched]).float().mean() > 0.5


@pytest.mark.parametrize("offset", [-50.0, 0.0, 1000.0])
def test_input_and_target_live_in_one_range(offset):
    volume = image() * 20 + offset
    for seed in range(20):
        corrupted, target, _ = certain().corrupt(volume, certain().draw(SHAPE, seed))
        slack = 1e-6 * (volume.max() - volume.min() + volume.abs().max())
        assert corrupted.min() >= target.min() - slack
        assert corrupted.max() <= target.max() + slack
        assert corrupted.max() - corrupted.min() > 0.9 * (target.max() - target.min())


def test_a_constant_patch_stays_what_it_is():
    for seed in range(20):
        volume = torch.full(SHAPE, -1.25)
        corrupted, target, _ = certain().corrupt(volume, certain().draw(SHAPE, seed))
        assert torch.equal(corrupted, volume)
        assert torch.equal(target, volume)


def test_the_originals_range_is_0_to_1_whatever_the_image():
    corruption, volume = certain(faithful_intensity_range=True), image() * 3
    for seed in range(10):
        drawn = replace(corruption.draw(SHAPE, seed), shuffle=None)
        corrupted, target, touched = corruption.corrupt(volume, drawn)
        expected = np.interp(target, *sampled_bezier(drawn.curve))
        np.testing.assert_allclose(corrupted[~touched], expected[~touched.numpy()], atol=5e-3)
        assert corrupted.min() >= 0
        assert corrupted.max() <= 1
        below = corrupted[~touched & (target < 0)]
        assert set(below.tolist()) == {float(drawn.curve.decreasing)}


def test_nothing_drawn_changes_nothing():
    corrupted, target, touched = Corruption().corrupt(image(), Draws((False,) * 3, None, None, None))
    assert torch.equal(corrupted, image())
    assert torch.equal(target, image())
    assert not touched.any()


# --- wrong settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(13, 40, 40), (40, 40, 13), (19, 19, 19)])
def test_a_patch_too_small_for_the_windows_is_an_input_error(shape):
    with pytest.raises(InputError, match=r"patch \(\d+, \d+, \d+\) is too small for its windows") as error:
        Corruption().draw(shape, 0)
    assert "\n" not in str(error.value)


def test_the_smallest_patch_works():
    corruption = certain(inpaint_probability=0.5)
    for seed in range(200):
        corruption.corrupt(image(shape=(14, 20, 14)), corruption.draw((14, 20, 14), seed))


@pytest.mark.parametrize(
    "name", ["flip", "shuffle", "curve", "paint", "inpaint", "block"], ids=lambda name: f"{name}_probability"
)
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_probabilities_lie_between_0_and_1(name, value):
    with pytest.raises(InputError, match=f"{name}_probability {value}: must lie between 0 and 1"):
        Corruption(**{f"{name}_probability": value})


def test_there_is_a_window_at_least():
    with pytest.raises(InputError, match="windows 0: use 1 or more"):
        Corruption(windows=0)
