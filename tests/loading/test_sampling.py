import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detpretrain.loading.sampling import object_centred, object_start, random_start

sizes = st.integers(1, 40)
axes = st.lists(st.tuples(sizes, sizes, st.integers(0, 39), sizes), min_size=3, max_size=3)


@given(axes, st.integers(0, 2**32 - 1))
@settings(max_examples=200)
def test_an_object_lies_inside_the_patch_whenever_it_fits(axes, seed):
    """Per axis: volume, patch, first voxel and length of the object."""
    shape, patch, first, length = (list(values) for values in zip(*axes, strict=True))
    first = [min(a, n - 1) for a, n in zip(first, shape, strict=True)]
    last = [min(a + n, size) for a, n, size in zip(first, length, shape, strict=True)]
    box = [a - 1 for a in first] + last  # min - 1 .. max + 1
    start = object_start(np.random.default_rng(seed), box, shape, patch)
    for axis in range(3):
        begin, end = start[axis], start[axis] + patch[axis]
        if last[axis] - first[axis] <= patch[axis]:
            assert begin <= first[axis]
            assert end >= last[axis]
        else:  # longer than the patch: the patch shows some of it
            assert max(begin, first[axis]) < min(end, last[axis])
        if patch[axis] <= shape[axis]:
            assert begin >= 0
            assert end <= shape[axis]
        else:  # the volume is shorter than the patch: it lies inside, in the middle
            assert begin <= 0
            assert end >= shape[axis]
            assert abs((-begin) - (end - shape[axis])) <= 1


def test_every_offset_of_an_object_occurs():
    rng, box = np.random.default_rng(0), [19, 19, 19, 23, 24, 23]  # voxels 20..22, 20..23, 20..22
    starts = np.array([object_start(rng, box, (60, 60, 60), (6, 6, 6)) for _ in range(400)])
    assert sorted(set(starts[:, 0].tolist())) == [17, 18, 19, 20]
    assert sorted(set(starts[:, 1].tolist())) == [18, 19, 20]


def test_a_long_object_is_seen_at_each_of_its_points():
    rng, box = np.random.default_rng(0), [9, 9, 9, 30, 12, 12]  # 20 voxels along z, from 10
    starts = np.array([object_start(rng, box, (60, 60, 60), (8, 8, 8)) for _ in range(600)])
    assert sorted(set((starts[:, 0] + 4).tolist())) == list(range(10, 30))


def test_boxes_between_voxels_are_rounded_to_the_voxels_they_touch():
    """Annotated boxes need not lie on voxels: -0.5 .. 4.5 around the centre 2 covers the voxels 0.5 .. 3.5."""
    rng = np.random.default_rng(0)
    starts = {int(object_start(rng, [9.5, 9, 9, 14.5, 13, 13], (60,) * 3, (6,) * 3)[0]) for _ in range(200)}
    assert starts == {9, 10}  # voxels 10 .. 14


def test_random_patches_cover_the_volume_evenly():
    rng = np.random.default_rng(0)
    starts = np.array([random_start(rng, (12, 8, 5), (8, 8, 8)) for _ in range(500)])
    values, counts = np.unique(starts[:, 0], return_counts=True)
    assert values.tolist() == [0, 1, 2, 3, 4]
    assert counts.min() > 60
    assert set(starts[:, 1].tolist()) == {0}
    assert set(starts[:, 2].tolist()) == {-2}  # 5 voxels in a patch of 8: 2 empty ones before, 1 after


@pytest.mark.parametrize(
    ("batch", "fraction", "random"), [(4, 0.5, 2), (8, 0.5, 4), (3, 0.5, 2), (4, 1.0, 0), (4, 0.0, 4), (6, 0.33, 4)]
)
def test_the_first_places_of_a_batch_are_random(batch, fraction, random):
    centred = [object_centred(place, batch, fraction) for place in range(batch)]
    assert centred == [False] * random + [True] * (batch - random)
