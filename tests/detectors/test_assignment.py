import itertools

import numpy as np
import pytest
import torch

from detpretrain import boxes as numpy_boxes
from detpretrain.detectors.anchors import AnchorGenerator
from detpretrain.detectors.assignment import atss

SIZES = {"z": [2, 4, 6], "y": [3, 5, 7], "x": [4, 8, 10]}


def make_grid(map_shapes, strides, sizes=SIZES):
    return AnchorGenerator(sizes, strides).grid(map_shapes, torch.device("cpu"))


def usual_grid():
    return make_grid([(4, 8, 8), (2, 4, 4), (1, 2, 2)], [(2, 2, 2), (4, 4, 4), (8, 8, 8)])


def brute_force(grid, objects, candidates=4):
    """ATSS as written down in the paper, over all anchors; equally far anchors are taken in their order."""
    anchors = grid.boxes.double().numpy()
    objects = objects.double().numpy()
    overlap = numpy_boxes.iou(objects, anchors)
    centres = (anchors[:, :3] + anchors[:, 3:]) / 2
    best = np.zeros(len(anchors))
    matched = np.full(len(anchors), -1)
    for number, box in enumerate(objects):
        distance = np.linalg.norm(centres - (box[:3] + box[3:]) / 2, axis=1)
        chosen, offset = [], 0
        for positions in grid.positions:
            count = len(positions) * grid.shapes
            order = np.argsort(distance[offset : offset + count], kind="stable")
            chosen += (offset + order[: candidates * grid.shapes]).tolist()
            offset += count
        threshold = overlap[number, chosen].mean() + overlap[number, chosen].std(ddof=1)
        for anchor in chosen:
            value = overlap[number, anchor]
            if value >= threshold and value > 0 and value > best[anchor]:
                best[anchor], matched[anchor] = value, number
    return matched


def random_objects(seed, count, extent=(8, 16, 16)):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-1, extent, (count, 3))
    return torch.from_numpy(np.hstack([low, low + rng.uniform(1, 12, (count, 3))])).float()


@pytest.mark.parametrize("count", [1, 3, 12])
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_brute_force(seed, count):
    grid, objects = usual_grid(), random_objects(seed, count)
    matched = atss(grid, objects)
    assert matched.tolist() == brute_force(grid, objects).tolist()
    assert len(set(matched.tolist()) - {-1}) >= min(count, 3)


@pytest.mark.parametrize("candidates", [1, 2, 9])
def test_the_number_of_candidates_is_obeyed(candidates):
    grid, objects = usual_grid(), random_objects(11, 4)
    assert atss(grid, objects, candidates).tolist() == brute_force(grid, objects, candidates).tolist()


def test_without_objects_everything_is_background():
    grid = usual_grid()
    matched = atss(grid, torch.empty(0, 6))
    assert matched.tolist() == [-1] * len(grid.boxes)
    assert matched.dtype == torch.int64


def test_an_object_without_overlap_claims_no_anchor():
    grid = usual_grid()
    outside = torch.tensor([[500.0, 500, 500, 510, 510, 510]])
    inside = random_objects(3, 2)
    assert (atss(grid, outside) == -1).all()
    assert atss(grid, torch.cat([outside, inside])).tolist() == [
        -1 if number < 0 else number + 1 for number in atss(grid, inside).tolist()
    ]


def test_an_object_that_reaches_over_the_border_is_matched():
    grid, objects = usual_grid(), torch.tensor([[-6.0, -6, -6, 1, 2, 3]])
    assert atss(grid, objects).tolist() == brute_force(grid, objects).tolist()
    assert (atss(grid, objects) == 0).any()


def test_a_coarse_level_with_fewer_positions_than_candidates_gives_them_all():
    grid = make_grid([(1, 1, 2), (1, 1, 1)], [(4, 4, 4), (8, 8, 8)])
    objects = torch.tensor([[-1.5, -2, -1, 2.2, 3, 5]])
    assert atss(grid, objects).tolist() == brute_force(grid, objects).tolist()
    assert (atss(grid, objects) == 0).any()


def test_of_two_equal_objects_the_first_wins():
    grid, box = usual_grid(), random_objects(5, 1)
    assert set(atss(grid, box.repeat(2, 1)).tolist()) == {-1, 0}


def test_an_anchor_goes_to_the_object_of_highest_iou():
    grid = make_grid([(1, 1, 1)], [(4, 4, 4)], {"z": [4, 5, 6], "y": [4], "x": [4]})
    # anchors of length 4, 5, 6 around 0; the objects have lengths 4 and 6 and would both like the middle one
    short, long = [-2.0, -2, -2, 2, 2, 2], [-3.0, -2, -2, 3, 2, 2]
    alone = [atss(grid, torch.tensor([box])).tolist() for box in (short, long)]
    assert alone == [[0, -1, -1], [-1, -1, 0]]
    assert atss(grid, torch.tensor([short, long])).tolist() == [0, -1, 1]
    assert atss(grid, torch.tensor([long, short])).tolist() == [1, -1, 0]
    # nearly the same object twice: the better fit takes the anchor, whatever its place in the list
    worse = [-2.0, -2, -2, 2, 2, 2.5]
    assert atss(grid, torch.tensor([worse, short])).tolist()[0] == 1
    assert atss(grid, torch.tensor([short, worse])).tolist()[0] == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_objects_does_not_matter(seed):
    grid, objects = usual_grid(), random_objects(seed + 50, 9)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(9))
    matched, shuffled = atss(grid, objects), atss(grid, objects[order])
    assert torch.where(shuffled >= 0, order[shuffled.clamp(min=0)], -1).tolist() == matched.tolist()


def test_of_equally_near_positions_some_four_are_candidates():
    """Objects with whole coordinates lie midway between positions all the time."""
    grid, box = make_grid([(2, 2, 2)], [(2, 2, 2)]), torch.tensor([[-1.0, -1, -1, 3, 3, 3.5]])
    box[0, [2, 5]] -= 0.25  # centre (1, 1, 1): all eight positions are equally far
    overlap = numpy_boxes.iou(box.numpy(), grid.boxes.numpy())[0]
    possible = []
    for positions in itertools.combinations(range(8), 4):
        chosen = np.concatenate([np.arange(27) + 27 * position for position in positions])
        threshold = overlap[chosen].mean() + overlap[chosen].std(ddof=1)
        possible.append({int(anchor) for anchor in chosen if overlap[anchor] >= threshold})
    found = set(atss(grid, box).eq(0).nonzero()[:, 0].tolist())
    assert found in possible
    # and the same ones in the company of other objects
    crowd = torch.cat([box, box + 40, box - 60])
    assert set(atss(grid, crowd).eq(0).nonzero()[:, 0].tolist()) == found
