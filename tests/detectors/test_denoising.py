import math

import pytest
import torch

from detpretrain.detectors.denoising import (
    Denoising,
    Noise,
    NoisedObjects,
    denoising_loss,
    group_shape,
    hidden_pairs,
    noised_boxes,
    noised_labels,
    noised_objects,
)
from detpretrain.detectors.set_matching import ObjectSets
from detpretrain.errors import InputError

WEIGHTS = {"cls": 1.0, "box": 5.0, "giou": 2.0}


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)


def objects_of(*counts, classes=2, seed=0):
    """Objects of random places, sizes 0.05 to 0.3."""
    generator = torch.Generator().manual_seed(seed)
    boxes = [
        torch.cat([torch.rand(n, 3, generator=generator), 0.05 + 0.25 * torch.rand(n, 3, generator=generator)], 1)
        for n in counts
    ]
    return ObjectSets.of(boxes, [torch.randint(classes, (n,), generator=generator) for n in counts])


@pytest.mark.parametrize(
    ("counts", "limit", "copies", "expected"),
    [
        ([3, 1, 0], 100, 2, (16, 3)),  # 16 x 2 x 3 = 96
        ([3, 1, 0], 100, 1, (33, 3)),
        ([1], 100, 2, (50, 1)),
        ([50, 2], 100, 2, (1, 50)),
        ([200, 1], 100, 2, (1, 50)),
        ([200], 101, 1, (1, 101)),
        ([0, 0], 100, 2, (0, 0)),
    ],
)
def test_as_many_groups_as_fit_and_never_more_queries_than_the_limit(counts, limit, copies, expected):
    assert group_shape(counts, limit, copies) == expected
    assert math.prod(expected) * copies <= limit


@pytest.mark.parametrize("scale", [0.4, 1.0])
def test_noise_stays_within_its_bounds_and_fills_them(scale):
    box = torch.tensor([0.5, 0.45, 0.55, 0.1, 0.2, 0.3])  # too far inside to meet the border
    negative = torch.arange(4000) % 2 == 1
    noised = noised_boxes(box.expand(4000, 6), negative, scale)
    shift = ((noised[:, :3] - box[:3]) / (scale * box[3:] / 2)).abs()  # in units of the allowed noise
    growth = (noised[:, 3:] / box[3:] - 1) / scale
    near, far = shift[~negative], shift[negative]
    slack = 1e-4
    assert near.max() <= 1 + slack
    assert (far.min() >= 1 - slack) & (far.max() <= 2 + slack)
    assert growth.abs().max() <= 1 + slack
    assert noised[:, 3:].min() >= 0
    for values, low, high in ((near, 0, 1), (far, 1, 2), (growth, -1, 1)):
        torch.testing.assert_close(values.mean(0), torch.full((3,), (low + high) / 2), atol=0.05, rtol=0)
        assert (values.min(0).values < low + 0.01).all()
        assert (values.max(0).values > high - 0.01).all()
    signs = (noised[:, :3] > box[:3]).float()
    # to both sides, on every axis on its own
    torch.testing.assert_close(signs.mean(0), torch.full((3,), 0.5), atol=0.05, rtol=0)
    assert signs.T.corrcoef().triu(1).abs().max() < 0.06


def test_boxes_stay_in_the_patch():
    edge = torch.tensor([[0.02, 0.5, 0.99, 0.06, 1.05, 0.04]]).expand(500, 6)
    noised = noised_boxes(edge, torch.arange(500) % 2 == 0, 1.0)
    assert (noised >= 0).all()
    assert (noised <= 1).all()


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_labels_are_drawn_anew_with_the_probability(probability):
    labels = torch.full((20_000,), 2)
    noised = noised_labels(labels, 4, probability)
    shares = torch.bincount(noised, minlength=4) / len(labels)
    expected = torch.full((4,), probability / 4)
    expected[2] += 1 - probability
    torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)
    assert noised.dtype == torch.int64


@pytest.mark.parametrize("contrastive", [True, False])
def test_every_object_is_in_every_group_once_per_copy(contrastive):
    objects = objects_of(3, 1, 0)
    noised = noised_objects(objects, 2, Noise(limit=20, contrastive=contrastive))
    copies = 2 if contrastive else 1
    groups = 20 // (3 * copies)
    assert noised.boxes.shape == noised.true_boxes.shape == (3, groups * copies * 3, 6)
    assert noised.number == groups * 4 == noised.positive.sum()
    assert noised.group.tolist() == sorted(list(range(groups)) * 3 * copies)
    for image, count in enumerate(objects.counts):
        for group in range(groups):
            for positive in (True, False):
                here = (noised.group == group) & noised.valid[image] & (noised.positive[image] == positive)
                boxes, labels = noised.true_boxes[image, here], noised.true_labels[image, here]
                assert len(boxes) == (count if positive or contrastive else 0)
                for box, label in zip(boxes, labels, strict=True):
                    (place,) = (objects.boxes[image, :count] == box).all(1).nonzero()[0].tolist()
                    assert objects.labels[image, place] == label
                assert len(boxes.unique(dim=0)) == len(boxes)


def test_positives_are_near_their_own_objects_and_negatives_away_from_them():
    objects = objects_of(3, 2)
    noised = noised_objects(objects, 2, Noise(limit=60, box=0.4))
    shift = (noised.boxes - noised.true_boxes)[..., :3].abs() / (0.2 * noised.true_boxes[..., 3:])
    inside = ((noised.boxes > 0) & (noised.boxes < 1)).all(-1)
    assert (shift[noised.positive] <= 1 + 1e-4).all()
    assert (shift[noised.valid & ~noised.positive & inside] >= 1 - 1e-4).all()


def test_all_noise_follows_torch_s_seed_and_differs_between_groups():
    objects = objects_of(3, 1)
    torch.manual_seed(5)
    first = noised_objects(objects, 2, Noise(limit=20))
    torch.manual_seed(5)
    again = noised_objects(objects, 2, Noise(limit=20))
    other = noised_objects(objects, 2, Noise(limit=20))
    assert torch.equal(first.boxes, again.boxes)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.boxes, other.boxes)
    groups = first.boxes[0].view(3, 6, 6)
    assert not torch.isclose(groups[0], groups[1]).any()


def test_of_more_objects_than_fit_each_has_its_turn():
    objects = objects_of(200, 1)
    seen = torch.zeros(200, dtype=torch.bool)
    for _ in range(25):
        noised = noised_objects(objects, 2, Noise(limit=100))
        assert noised.boxes.shape == (2, 100, 6)
        assert noised.number == 51
        assert noised.valid.sum(1).tolist() == [100, 2]
        there = (noised.true_boxes[0][:, None] == objects.boxes[0]).all(-1)
        assert (there.sum(0)[there.any(0)] == 2).all()  # a positive and a negative each
        seen |= there.any(0)
    assert seen.sum() > 195


def test_the_mask_is_that_of_every_pair_looked_at():
    noised = noised_objects(objects_of(3, 1, 0), 2, Noise(limit=30))
    hidden = hidden_pairs(noised.group, noised.valid)
    for image in range(3):
        for asks in range(30):
            for asked in range(30):
                same_group = asks // 6 == asked // 6
                has_object = asked % 3 < (3, 1, 0)[image]
                assert hidden[image, asks, asked] == (not (same_group and has_object))


def test_a_query_s_content_is_the_code_of_its_noised_label():
    denoising = Denoising(Noise(limit=40, label=1.0), classes=3, channels=5)
    noised, extra = denoising(objects_of(3, 2, classes=3))
    assert (noised.labels != noised.true_labels).any()
    assert torch.equal(extra.boxes, noised.boxes)
    for image in range(2):
        for query in range(extra.boxes.shape[1]):
            assert torch.equal(extra.content[image, query], denoising.label_code.weight[noised.labels[image, query]])
    assert torch.equal(extra.hidden, hidden_pairs(noised.group, noised.valid))


def one_group():
    """Two images: one with an object of class 1 (a positive and a negative), one without."""
    truth = torch.tensor([[[0.5, 0.5, 0.5, 0.2, 0.2, 0.2]] * 2, [[0.0] * 6] * 2])
    return NoisedObjects(
        boxes=truth,
        labels=torch.zeros(2, 2, dtype=torch.int64),
        true_boxes=truth,
        true_labels=torch.tensor([[1, 1], [0, 0]]),
        valid=torch.tensor([[True, True], [False, False]]),
        positive=torch.tensor([[True, False], [False, False]]),
        group=torch.zeros(2, dtype=torch.int64),
        number=1,
    )


def test_the_loss_of_a_hand_worked_case():
    """Positive: moved by 0.1 along z, so that IoU 1/3 and no gap in the hull; p 0.25 of its class, 0.5 of the other."""
    quarter = -math.log(3)
    logits = torch.tensor([[[0.0, quarter], [0.0, quarter]], [[7.0, 7.0], [7.0, 7.0]]])[None]
    boxes = torch.tensor([[0.6, 0.5, 0.5, 0.2, 0.2, 0.2], [0.9, 0.1, 0.2, 0.2, 0.9, 0.4]]).expand(1, 2, 2, 6)
    # focal, gamma 1: weight x miss x -log(hit); alpha 0.75
    positive = 0.75 * 0.75 * math.log(4) + 0.25 * 0.5 * math.log(2)
    negative = 0.25 * 0.25 * math.log(4 / 3) + 0.25 * 0.5 * math.log(2)
    expected = positive + negative + 5 * 0.1 + 2 * (1 - 1 / 3)
    loss = denoising_loss(logits, boxes, one_group(), WEIGHTS, 0.75, 1.0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    # a second layer that says the same counts as much
    twice = denoising_loss(logits.repeat(2, 1, 1, 1), boxes.repeat(2, 1, 1, 1), one_group(), WEIGHTS, 0.75, 1.0)
    assert twice.item() == pytest.approx(2 * expected, rel=1e-5)


def test_groups_that_say_the_same_cost_as_much_as_one():
    torch.manual_seed(1)
    noise = Noise(limit=12)
    three = noised_objects(objects_of(2, 1), 2, noise)
    one = NoisedObjects(
        **{k: v[..., :4, :] if v.ndim == 3 else v[..., :4] for k, v in vars(three).items() if k != "number"}, number=3
    )
    assert three.number == 9
    logits, boxes = torch.randn(2, 2, 4, 2), torch.rand(2, 2, 4, 6)
    loss = denoising_loss(logits, boxes, one, WEIGHTS, 0.75, 1.0)
    tripled = denoising_loss(logits.repeat(1, 1, 3, 1), boxes.repeat(1, 1, 3, 1), three, WEIGHTS, 0.75, 1.0)
    torch.testing.assert_close(tripled, loss)


def test_without_any_object_there_are_no_queries_and_no_loss():
    noised, extra = Denoising(Noise(), classes=2, channels=4)(objects_of(0, 0))
    assert extra.boxes.shape == (2, 0, 6)
    assert extra.content.shape == (2, 0, 4)
    assert extra.hidden.shape == (2, 0, 0)
    loss = denoising_loss(torch.zeros(3, 2, 0, 2), torch.zeros(3, 2, 0, 6), noised, WEIGHTS, 0.75, 1.0)
    assert loss == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 1}, "denoising 1: use 2 or more"),
        ({"limit": -1, "contrastive": False}, "denoising -1: use 1 or more"),
        ({"box": 0}, "box_noise 0"),
        ({"box": 1.2}, "box_noise 1.2"),
        ({"label": 1.5}, "label_noise 1.5"),
    ],
)
def test_values_out_of_range_are_input_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        Noise(**arguments)
