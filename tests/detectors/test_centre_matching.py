import itertools

import pytest
import torch

from detpretrain.detectors.centre_matching import BACKGROUND, IGNORED, cells, match_centres

CPU = torch.device("cpu")
GRIDS = {"isotropic": ((6, 7, 5), (2, 2, 2)), "anisotropic": ((6, 4, 5), (1, 4, 3))}


def extent(shape, stride):
    return [n * s for n, s in zip(shape, stride, strict=True)]


def random_boxes(number, shape, seed=0):
    """Boxes of whole voxels with their centre in an image of this shape, also across its border as targets are: -1 .. n."""
    generator = torch.Generator().manual_seed(seed)
    limit = torch.tensor(shape)
    low = torch.stack([torch.randint(-1, n - 1, (number,), generator=generator) for n in shape], dim=1)
    size = torch.randint(2, 9, (number, 3), generator=generator)
    return torch.cat([low, torch.minimum(low + size, limit)], dim=1).float()


def by_loops(boxes, positions, positives, surround):
    """The rule word by word: per object a sorted list of distances, then position by position."""
    best = [(float("inf"), None)] * len(positions)
    near = [False] * len(positions)
    for number, box in enumerate(boxes.tolist()):
        distances = []
        for place in positions.tolist():
            terms = [
                ((box[a] + box[a + 3] - place[a] - place[a + 3]) / 2 / (place[a + 3] - place[a])) ** 2 for a in range(3)
            ]
            distances.append(torch.tensor(terms, dtype=torch.float64).sum().item())
        ranked = sorted(distances)
        own = ranked[min(positives, len(ranked)) - 1]
        around = ranked[min(positives + surround, len(ranked)) - 1]
        for place, distance in enumerate(distances):
            if distance <= own + 1e-5 and distance < best[place][0] - 1e-5:
                best[place] = (distance, number)
            near[place] |= distance <= around + 1e-5
    return [
        owner if owner is not None else IGNORED if close else BACKGROUND
        for (_, owner), close in zip(best, near, strict=True)
    ]


@pytest.mark.parametrize("grid", GRIDS)
def test_cells_tile_the_image(grid):
    shape, stride = GRIDS[grid]
    owner = torch.full(extent(shape, stride), -1)
    for number, cell in enumerate(cells(shape, stride, CPU)):
        (z1, y1, x1), (z2, y2, x2) = (cell[:3] + 0.5).int().tolist(), (cell[3:] + 0.5).int().tolist()
        assert (owner[z1:z2, y1:y2, x1:x2] == -1).all()
        owner[z1:z2, y1:y2, x1:x2] = number
    assert (owner >= 0).all()
    places = itertools.product(*map(range, shape))
    first_voxels = [[i * s for i, s in zip(place, stride, strict=True)] for place in places]
    assert [owner[tuple(voxel)].item() for voxel in first_voxels] == list(range(len(first_voxels)))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("positives", "surround"), [(1, 0), (7, 0), (7, 20), (3, 500), (500, 1)])
@pytest.mark.parametrize("number", [1, 2, 12])
def test_matching_is_what_loops_over_objects_and_positions_find(grid, positives, surround, number):
    shape, stride = GRIDS[grid]
    positions = cells(shape, stride, CPU)
    for seed in range(3):
        boxes = random_boxes(number, extent(shape, stride), seed)
        matched = match_centres(boxes, positions, positives, surround)
        assert matched.tolist() == by_loops(boxes, positions, positives, surround)


def test_an_object_on_a_position_gets_it_and_its_six_neighbours():
    """The 7 of CPM-Net: centre 6.5 is the middle of voxels 6 and 7, position 3 of stride 2."""
    positions = cells((8, 8, 8), (2, 2, 2), CPU)
    box = torch.tensor([[4.0, 3.0, 5.0, 9.0, 10.0, 8.0]])
    matched = match_centres(box, positions, 7, 20).view(8, 8, 8)
    expected = torch.full((8, 8, 8), BACKGROUND)
    expected[2:5, 2:5, 2:5] = IGNORED  # the 27 of the cube
    for axis, step in itertools.product(range(3), (-1, 0, 1)):
        place = [3, 3, 3]
        place[axis] += step
        expected[tuple(place)] = 0
    assert torch.equal(matched, expected)


def test_positions_of_one_distance_stay_together():
    """The centre lies between 8 positions: all of them are as near as the 7th."""
    box = torch.tensor([[5.0, 5.0, 5.0, 10.0, 10.0, 10.0]])
    matched = match_centres(box, cells((8, 8, 8), (2, 2, 2), CPU), 7, 0).view(8, 8, 8)
    assert (matched[3:5, 3:5, 3:5] == 0).all()
    assert (matched == 0).sum() == 8


def test_distances_are_counted_in_positions():
    """Thick slices: of stride (1, 4, 4) the neighbours are the same seven, not a column across the slices."""
    box = torch.tensor([[3.0, 4.0, 8.0, 5.0, 15.0, 11.0]])  # centre 4, 9.5, 9.5: position 4, 2, 2
    matched = match_centres(box, cells((8, 5, 5), (1, 4, 4), CPU), 7, 0)
    places = (matched.view(8, 5, 5) == 0).nonzero().tolist()
    assert sorted(places) == sorted([[4, 2, 2], [3, 2, 2], [5, 2, 2], [4, 1, 2], [4, 3, 2], [4, 2, 1], [4, 2, 3]])


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_mirrored_object_has_the_mirrored_positions(grid, axes):
    shape, stride = GRIDS[grid]
    positions = cells(shape, stride, CPU)
    boxes = random_boxes(6, extent(shape, stride), seed=5)
    mirrored = boxes.clone()
    for axis in axes:
        mirrored[:, [axis, axis + 3]] = extent(shape, stride)[axis] - 1 - boxes[:, [axis + 3, axis]]
    original = match_centres(boxes, positions, 7, 20).view(shape)
    assert len(original.unique()) >= 4
    assert torch.equal(match_centres(mirrored, positions, 7, 20).view(shape), original.flip(axes))


def test_a_position_that_two_objects_want_goes_to_the_nearer_centre():
    boxes = torch.tensor([[4.0, 4.0, 1.0, 9.0, 9.0, 6.0], [4.0, 4.0, 4.0, 9.0, 9.0, 9.0]])  # centres x 3.5 and 6.5
    positions = cells((8, 8, 8), (2, 2, 2), CPU)
    alone = [match_centres(box[None], positions, 7, 20) == 0 for box in boxes]
    wanted_by_both = alone[0] & alone[1]
    assert wanted_by_both.any()
    matched = match_centres(boxes, positions, 7, 20)
    centre = (positions[:, 2] + positions[:, 5]) / 2
    shared = matched[wanted_by_both]
    nearer = (centre[wanted_by_both] - 6.5).abs() < (centre[wanted_by_both] - 3.5).abs()
    assert torch.equal(shared, nearer.long())
    assert torch.equal(matched == 0, alone[0] & ~(wanted_by_both & (matched == 1)))


def test_what_an_object_wants_is_not_ignored_for_its_neighbour():
    boxes = torch.tensor([[4.0, 4.0, 1.0, 9.0, 9.0, 6.0], [4.0, 4.0, 7.0, 9.0, 9.0, 12.0]])
    positions = cells((8, 8, 8), (2, 2, 2), CPU)
    alone = match_centres(boxes[:1], positions, 7, 100)
    both = match_centres(boxes, positions, 7, 100)
    assert ((alone == IGNORED) & (both == 1)).any()
    assert (both == 1).sum() >= 7 - 1


def test_objects_of_one_centre_leave_the_positions_to_the_first():
    boxes = torch.tensor([[4.0, 4.0, 4.0, 9.0, 9.0, 9.0], [2.0, 2.0, 2.0, 11.0, 11.0, 11.0]])
    positions = cells((8, 8, 8), (2, 2, 2), CPU)
    assert set(match_centres(boxes, positions).tolist()) <= {0, BACKGROUND, IGNORED}


def test_no_object_leaves_background_only():
    matched = match_centres(torch.zeros(0, 6), cells((3, 3, 3), (2, 2, 2), CPU))
    assert matched.dtype == torch.int64
    assert (matched == BACKGROUND).all()


def test_a_tiny_object_in_any_corner_has_positions():
    shape, stride = GRIDS["anisotropic"]
    positions, limit = cells(shape, stride, CPU), extent(shape, stride)
    for corner in itertools.product((0, 1), repeat=3):
        low = [limit[axis] - 2 if corner[axis] else -1 for axis in range(3)]
        matched = match_centres(torch.tensor([[*low, *(n + 2 for n in low)]]).float(), positions, 7, 0).view(shape)
        place = tuple((shape[axis] - 1) * corner[axis] for axis in range(3))
        assert matched[place] == 0
        assert (matched == 0).sum() >= 7


def test_two_hundred_objects_on_a_small_map():
    """More than there is room for: every position is somebody's or ignored, and most objects have one of their own."""
    shape, stride = (12, 12, 12), (2, 2, 2)
    boxes = random_boxes(200, extent(shape, stride), seed=2)
    matched = match_centres(boxes, cells(shape, stride, CPU), 7, 182)
    assert not (matched == BACKGROUND).any()
    assert len(matched[matched >= 0].unique()) > 180
    assert matched.max() < 200
