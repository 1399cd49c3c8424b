from itertools import pairwise

import numpy as np
import pytest
import torch

from detpretrain.pretraining.corruptions import (
    Boxes,
    Corruption,
    Curve,
    Paint,
    Shuffle,
    bend,
    curve_table,
    flip,
    paint,
    shuffle,
    window_permutations,
    window_voxels,
)

SHAPE = (20, 24, 30)
CPU = torch.device("cpu")
SEEDS = 3000


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def ramp(shape=SHAPE):
    """Every voxel its own value, exact in float32."""
    return torch.arange(np.prod(shape), dtype=torch.float32).view(*shape)


def image(seed=0, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def boxes(*corners):
    """Of (z, y, x, sizes along z, y, x)."""
    values = np.array(corners)
    return Boxes(values[:, :3], values[:, 3:])


def scalars(*values):
    return [torch.tensor(float(value)) for value in values]


def assert_share(count, share, trials=SEEDS):
    """Within 4 standard deviations of a binomial count."""
    assert abs(count / trials - share) <= 4 * (share * (1 - share) / trials) ** 0.5


# --- flip -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flips", [tuple(bool(code & bit) for bit in (4, 2, 1)) for code in range(8)])
def test_a_flip_mirrors_the_axes_it_names(flips):
    volume, flipped = ramp((3, 4, 5)), flip(ramp((3, 4, 5)), flips)
    for z, y, x in np.ndindex(3, 4, 5):
        source = [2 - z if flips[0] else z, 3 - y if flips[1] else y, 4 - x if flips[2] else x]
        assert flipped[z, y, x] == volume[tuple(source)]


# expected by hand: 1, 2 or 3 draws (.24, .096, .064) of one of three axes, an odd number of them for this one
FLIPPED = 0.24 / 3 + 0.096 * 4 / 9 + 0.064 * 13 / 27


@pytest.mark.parametrize(("faithful", "shares"), [(False, (FLIPPED,) * 3), (True, (FLIPPED, FLIPPED, 0.0))])
def test_axes_are_flipped_as_often_as_drawn_and_the_originals_last_one_never(faithful, shares):
    corruption = Corruption(windows=1, faithful_flip_axes=faithful)
    counts = np.sum([corruption.draw(SHAPE, seed).flips for seed in range(SEEDS)], axis=0)
    for count, share in zip(counts, shares, strict=True):
        assert_share(count, share)


def test_there_are_three_flips_at_most():
    corruption = Corruption(windows=1, flip_probability=1.0)
    odd = {sum(corruption.draw(SHAPE, seed).flips) % 2 for seed in range(50)}
    assert odd == {1}  # three draws flip one axis or three


# --- local pixel shuffling --------------------------------------------------------------------------------------------


def loop(volume, drawn):
    """The original's way: window after window, each from the untransformed volume; with the same permutations."""
    voxels, sources, numbers = (values.numpy() for values in window_permutations(drawn, volume.shape, CPU))
    places = np.arange(volume.numel()).reshape(volume.shape)
    result, touched = volume.clone(), torch.zeros(volume.shape, dtype=torch.bool)
    for number, window in enumerate(drawn.windows.slices()):
        mine = numbers == number
        inside = places[window].ravel()
        assert np.array_equal(voxels[mine], inside)
        assert np.array_equal(np.sort(sources[mine]), inside)  # a permutation of the window's own voxels
        result[window] = volume.flatten()[sources[mine]].view_as(result[window])
        touched[window] = len(inside) > 1
    return result, touched


@pytest.mark.parametrize("shape", [(20, 24, 30), (33, 40, 21)])
def test_shuffling_is_that_of_a_loop_over_the_windows(shape):
    drawn = Corruption(windows=1500, shuffle_probability=1.0).draw(shape, seed=4).shuffle
    result, touched = shuffle(ramp(shape), drawn)
    expected, expected_touched = loop(ramp(shape), drawn)
    assert torch.equal(result, expected)
    assert torch.equal(touched, expected_touched)
    assert (result != ramp(shape)).float().mean() > 0.2
    assert not touched.all()


def test_windows_that_nothing_overlaps_keep_their_values_and_the_rest_its_places():
    windows = boxes((0, 0, 0, 2, 3, 4), (10, 20, 25, 3, 4, 5), (17, 0, 29, 3, 2, 1), (5, 5, 5, 1, 1, 1))
    volume = ramp()
    result, touched = shuffle(volume, Shuffle(windows, seed=3))
    outside = torch.ones(SHAPE, dtype=torch.bool)
    for window in windows.slices()[:3]:
        assert torch.equal(result[window].flatten().sort().values, volume[window].flatten())
        assert not torch.equal(result[window], volume[window])
        outside[window] = False
    assert torch.equal(result[outside], volume[outside])
    assert torch.equal(touched, ~outside)  # the window of one voxel does nothing


def test_the_last_window_wins_and_reads_the_original():
    inner, outer = (4, 4, 4, 2, 2, 2), (3, 3, 3, 4, 4, 4)
    volume = ramp()
    result, _ = shuffle(volume, Shuffle(boxes(outer, inner), seed=1))
    within = boxes(inner).slices()[0]
    assert torch.equal(result[within].flatten().sort().values, volume[within].flatten())
    result, _ = shuffle(volume, Shuffle(boxes(inner, outer), seed=1))
    within = boxes(outer).slices()[0]
    assert torch.equal(result[within].flatten().sort().values, volume[within].flatten())


def test_all_permutations_of_a_window_are_equally_likely():
    starts = np.array([(z, y, x) for z in range(20) for y in range(24) for x in range(0, 30, 3)])
    windows = Boxes(starts, np.tile([1, 1, 3], (len(starts), 1)))
    result, _ = shuffle(ramp(), Shuffle(windows, seed=0))
    orders = (result.view(-1, 3) - ramp().view(-1, 3)[:, :1]).long()
    counts = torch.unique(orders, dim=0, return_counts=True)[1].tolist()
    assert len(counts) == 6
    for count in counts:
        assert_share(count, 1 / 6, trials=len(starts))


def test_windows_reach_every_size_and_place():
    sides = np.array([20, 47, 35])
    drawn = Corruption(windows=20000, shuffle_probability=1.0).draw(sides, seed=0).shuffle.windows
    assert drawn.starts.shape == drawn.sizes.shape == (20000, 3)
    assert (drawn.starts.min(axis=0) == 0).all()
    assert ((drawn.starts + drawn.sizes).max(axis=0) == sides).all()
    for axis, largest in enumerate((2, 4, 3)):
        sizes, counts = np.unique(drawn.sizes[:, axis], return_counts=True)
        assert sizes.tolist() == list(range(1, largest + 1))
        for count in counts:
            assert_share(count, 1 / largest, trials=20000)


def test_the_voxels_of_a_window_are_counted_in_z_y_x():
    voxels, numbers = window_voxels(boxes((1, 2, 0, 2, 1, 2), (0, 0, 4, 1, 2, 1)), (3, 4, 5), CPU)
    assert voxels.tolist() == [30, 31, 50, 51, 4, 9]
    assert numbers.tolist() == [0, 0, 0, 0, 1, 1]


# --- intensity curve --------------------------------------------------------------------------------------------------


def sampled_bezier(curve, samples=100_000):
    """By de Casteljau's construction; made a function of x as the original does it, by sorting."""
    t = np.linspace(0, 1, samples)[:, None]
    points = [np.zeros(2), *curve.points, np.ones(2)]
    while len(points) > 1:
        points = [(1 - t) * left + t * right for left, right in pairwise(points)]
    x, y = points[0][::-1].T  # the original runs through its curve from the end
    return np.sort(x), y if curve.decreasing else np.sort(y)


def curve_of(seed, decreasing):
    return Curve(np.random.default_rng(seed).random((2, 2)), decreasing)


@pytest.mark.parametrize("decreasing", [False, True])
def test_the_curve_is_the_sampled_bezier_curve(decreasing):
    x = np.linspace(0, 1, 5003)
    for seed in range(20):
        curve = curve_of(seed, decreasing)
        expected = np.interp(x, *sampled_bezier(curve))
        bent = bend(torch.from_numpy(x).float(), curve_table(curve), *scalars(0, 1)).numpy()
        assert np.abs(bent - expected).max() < 5e-3  # where the curve is all but vertical
        assert np.abs(bent - expected).mean() < 2e-6


@pytest.mark.parametrize("decreasing", [False, True])
def test_the_curve_is_monotone_between_0_and_1(decreasing):
    corners = [Curve(np.array([[1.0, a], [0.0, b]]), decreasing) for a in (0.0, 1.0) for b in (0.0, 1.0)]
    for curve in [*corners, *(curve_of(seed, decreasing) for seed in range(20))]:
        table = curve_table(curve)
        assert table[[0, -1]].tolist() == ([1, 0] if decreasing else [0, 1])
        steps = table.diff()
        assert (steps <= 1e-7).all() if decreasing else (steps >= -1e-7).all()


def test_points_on_the_diagonal_make_the_identity():
    table = curve_table(Curve(np.array([[1 / 3, 1 / 3], [2 / 3, 2 / 3]]), decreasing=False))
    volume = image()
    torch.testing.assert_close(bend(volume, table, volume.min(), volume.max() - volume.min()), volume)
    mirrored = curve_table(Curve(np.array([[1 / 3, 1 / 3], [2 / 3, 2 / 3]]), decreasing=True))
    expected = volume.min() + volume.max() - volume
    torch.testing.assert_close(bend(volume, mirrored, volume.min(), volume.max() - volume.min()), expected)


@pytest.mark.parametrize("decreasing", [False, True])
def test_the_range_is_mapped_to_itself(decreasing):
    volume, curve = image() * 3 - 2, curve_of(2, decreasing)
    low, high = volume.aminmax()
    bent = bend(volume, curve_table(curve), low, high - low)
    expected = np.interp((volume - low) / (high - low), *sampled_bezier(curve)) * (high - low).item() + low.item()
    np.testing.assert_allclose(bent, expected, atol=1e-4)
    ends = [bent.flatten()[volume.argmin()].item(), bent.flatten()[volume.argmax()].item()]
    assert ends == pytest.approx([high.item(), low.item()] if decreasing else [low.item(), high.item()], abs=1e-5)


def test_beyond_the_range_the_curve_goes_on_flat():
    volume, curve = image() * 2, curve_of(5, decreasing=False)
    bent = bend(volume, curve_table(curve), *scalars(0, 1))
    np.testing.assert_allclose(bent, np.interp(volume, *sampled_bezier(curve)), atol=1e-4)
    assert set(bent[volume < 0].tolist()) == {0.0}
    assert set(bent[volume > 1].tolist()) == {1.0}


# --- painting ---------------------------------------------------------------------------------------------------------

BLOCKS = boxes((3, 4, 5, 6, 7, 8), (6, 8, 10, 6, 7, 8), (11, 3, 20, 5, 6, 7))


def inside(blocks):
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    for z, y, x, dz, dy, dx in np.hstack([blocks.starts, blocks.sizes]).tolist():
        mask[z : z + dz, y : y + dy, x : x + dx] = True
    return mask


@pytest.mark.parametrize("outside", [False, True])
def test_noise_replaces_the_blocks_or_everything_else(outside):
    volume, expected = image(), inside(BLOCKS) != outside
    result, painted = paint(volume, Paint(BLOCKS, outside, seed=0), *scalars(-2, 6))  # low, span
    assert torch.equal(painted, expected)
    assert torch.equal(result[~painted], volume[~painted])
    noise = result[painted]
    assert noise.min() >= -2
    assert noise.max() <= 4
    assert len(noise.unique()) > 0.99 * len(noise)
    uniform = torch.linspace(-2, 4, len(noise))
    assert (noise.sort().values - uniform).abs().max() < 6 * 1.95 / len(noise) ** 0.5  # Kolmogorov-Smirnov at 0.1 %


def test_no_blocks_paint_nothing():
    none = Boxes(np.zeros((0, 3), dtype=np.int64), np.zeros((0, 3), dtype=np.int64))
    result, painted = paint(image(), Paint(none, outside=False, seed=0), *scalars(0, 1))
    assert torch.equal(result, image())
    assert not painted.any()


@pytest.mark.parametrize(
    ("inpaint", "smallest", "largest"),
    [(1.0, (3, 4, 26), (6, 8, 53)), (0.0, (9, 11, 69), (12, 14, 92))],  # side 20, 24, 160
)
def test_blocks_have_the_originals_sizes_and_keep_off_the_border(inpaint, smallest, largest):
    sides = np.array([20, 24, 160])
    corruption = Corruption(windows=1, paint_probability=1.0, inpaint_probability=inpaint)
    blocks = [corruption.draw(sides, seed).paint.blocks for seed in range(SEEDS)]
    starts, sizes = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("starts", "sizes"))
    assert sizes.min(axis=0).tolist() == list(smallest)
    assert sizes.max(axis=0).tolist() == list(largest)
    assert (starts.min(axis=0) == 3).all()
    assert ((starts + sizes).max(axis=0) == sides - 3).all()
