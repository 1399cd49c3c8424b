import itertools
import math

import pytest
import torch

from detpretrain.detectors.losses import sigmoid_focal
from detpretrain.detectors.set_matching import (
    MatchingCosts,
    ObjectSets,
    centre_and_size,
    corners,
    focal_cost,
    match,
    pair_costs,
)
from detpretrain.models import box_ops

COSTS = MatchingCosts()


def draw_boxes(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.cat(
        [torch.rand(*shape, 3, generator=generator), 0.1 + 0.4 * torch.rand(*shape, 3, generator=generator)], -1
    )


def draw_logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def objects_of(counts, classes=3, seed=5):
    boxes = [draw_boxes(count, seed=seed + image) for image, count in enumerate(counts)]
    return ObjectSets.of(boxes, [torch.arange(count) % classes for count in counts])


def naive_cost(logits, box, target, label):
    """Of one pair, from the paper's formulas."""
    p = 1 / (1 + math.exp(-logits[label].item()))
    classification = -0.75 * (1 - p) * math.log(p) + 0.25 * p * math.log(1 - p)
    distance = sum(abs(a - b) for a, b in zip(box.tolist(), target.tolist(), strict=True))
    overlap = box_ops.paired_giou(corners(box), corners(target)).item()
    return 2 * classification + 5 * distance - 2 * overlap


def test_corners_and_centres_by_hand():
    box = torch.tensor([0.5, 0.4, 0.3, 0.2, 0.4, 0.6])
    torch.testing.assert_close(corners(box), torch.tensor([0.4, 0.2, 0.0, 0.6, 0.6, 0.6]))
    torch.testing.assert_close(centre_and_size(corners(box)), box)


def test_the_class_cost_is_what_the_focal_loss_changes_by():
    logits = torch.linspace(-6, 6, 25)
    ones, zeros = torch.ones(25), torch.zeros(25)
    for alpha, gamma in ((0.75, 1.0), (0.25, 2.0)):
        change = sigmoid_focal(logits, ones, alpha, gamma) - sigmoid_focal(logits, zeros, alpha, gamma)
        torch.testing.assert_close(focal_cost(logits, alpha, gamma), change)


def test_costs_are_those_of_each_pair_alone():
    logits, boxes, objects = draw_logits(2, 2, 5, 3), draw_boxes(2, 2, 5), objects_of([3, 1])
    costs = pair_costs(logits, boxes, objects, COSTS)
    assert costs.shape == (2, 2, 5, 3)
    for layer, image, prediction in itertools.product(range(2), range(2), range(5)):
        for target in range(objects.counts[image]):
            place = (layer, image, prediction)
            expected = naive_cost(
                logits[place], boxes[place], objects.boxes[image, target], objects.labels[image, target]
            )
            assert costs[*place, target].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("counts", [[3, 1], [0, 2], [4, 4], [6, 5]], ids=str)
def test_the_matching_is_the_cheapest_of_all(counts):
    """Every assignment is tried; also where there are more objects (6, 5) than predictions (4)."""
    logits, boxes, objects = draw_logits(2, 2, 4, 3), draw_boxes(2, 2, 4), objects_of(counts)
    costs = pair_costs(logits, boxes, objects, COSTS)
    pairs = match(logits, boxes, objects, COSTS)
    for layer, image in itertools.product(range(2), range(2)):
        mine = pairs[:, (pairs[0] == layer) & (pairs[1] == image)]
        count = counts[image]
        size = min(4, count)
        assert mine.shape[1] == size
        assert len(set(mine[2].tolist())) == len(set(mine[3].tolist())) == size
        assert (mine[3] < count).all()
        best = min(
            sum(costs[layer, image, p, t].item() for p, t in zip(some_predictions, some_objects, strict=True))
            for some_predictions in itertools.permutations(range(4), size)
            for some_objects in itertools.combinations(range(count), size)
        )
        assert costs[layer, image, mine[2], mine[3]].sum().item() == pytest.approx(best, abs=1e-4)


def test_predictions_that_are_the_objects_are_matched_to_them():
    objects = objects_of([5, 3])
    order = torch.tensor([4, 2, 0, 3, 1])
    boxes = objects.boxes[:, order][None]
    logits = 8 * torch.nn.functional.one_hot(objects.labels[:, order], 3).float()[None] - 4
    pairs = match(logits, boxes, objects, COSTS)
    assert torch.equal(order[pairs[2]], pairs[3])
    assert pairs[1].tolist() == [0] * 5 + [1] * 3


def test_no_objects_no_pairs():
    objects = objects_of([0, 0])
    assert objects.boxes.shape == (2, 0, 6)
    assert match(draw_logits(3, 2, 4, 3), draw_boxes(3, 2, 4), objects, COSTS).shape == (4, 0)


def test_a_sample_s_pairs_do_not_depend_on_its_batch():
    logits, boxes, objects = draw_logits(1, 3, 8, 3), draw_boxes(1, 3, 8), objects_of([2, 6, 4])
    together = match(logits, boxes, objects, COSTS)
    for image in range(3):
        count = objects.counts[image]
        alone = ObjectSets.of([objects.boxes[image, :count]], [objects.labels[image, :count]])
        pairs = match(logits[:, [image]], boxes[:, [image]], alone, COSTS)
        assert torch.equal(pairs[2:], together[2:, together[1] == image])


def test_numbers_that_are_not_finite_are_left_for_the_loss_to_report():
    logits = draw_logits(1, 1, 4, 3)
    logits[0, 0, 1:] = math.nan
    pairs = match(logits, draw_boxes(1, 1, 4), objects_of([2]), COSTS)
    assert pairs.shape == (4, 2)
    assert 0 in pairs[2]


def test_objects_without_their_classes():
    objects = objects_of([3, 1])
    assert objects.labels.tolist() == [[0, 1, 2], [0, 0, 0]]
    plain = objects.without_classes()
    assert not plain.labels.any()
    assert torch.equal(plain.boxes, objects.boxes)
    assert plain.counts == objects.counts
