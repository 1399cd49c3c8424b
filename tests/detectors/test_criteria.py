import math

import pytest
import torch
from torch.nn import functional

from detpretrain.detectors.criteria import FocalL1, SampledBceGiou, anchor_targets, hardest
from detpretrain.models import box_ops

CLASSES = 2


def anchors(count):
    centres = torch.arange(count)[:, None] * torch.tensor([[1.0, 2.0, 3.0]])
    return torch.cat([centres - 2, centres + 2], dim=1)


def picked(criterion, batch):
    """The criterion sees the deltas of matched anchors alone; these batches hold those of all."""
    return criterion(**batch | {"deltas": batch["deltas"][batch["matched"] >= 0]})


def batch_of(matches, count=40, seed=0):
    """Random predictions for ``count`` anchors; ``matches[b]`` maps anchor -> object, of three objects per image."""
    generator = torch.Generator().manual_seed(seed)
    matched = torch.full((len(matches), count), -1)
    for image, pairs in enumerate(matches):
        for anchor, number in pairs.items():
            matched[image, anchor] = number
    low = torch.rand(len(matches), 3, 3, generator=generator) * 10
    return {
        "logits": torch.randn(len(matches), count, CLASSES, generator=generator),
        "deltas": torch.randn(len(matches), count, 6, generator=generator),
        "anchors": anchors(count),
        "matched": matched,
        "boxes": list(torch.cat([low, low + 1 + torch.rand(len(matches), 3, 3, generator=generator) * 5], dim=2)),
        "labels": [torch.tensor([0, 1, 1]) for _ in matches],
    }


TWO_IMAGES = [{3: 0, 4: 2}, {0: 1, 7: 1, 39: 0}]


def test_targets_of_anchors_across_images():
    boxes = [torch.arange(6.0)[None], torch.empty(0, 6), torch.arange(12.0).view(2, 6)]
    labels = [torch.tensor([1]), torch.empty(0, dtype=torch.int64), torch.tensor([0, 1])]
    matched = torch.tensor([[-1, 0, -1], [-1, -1, -1], [1, 0, 1]])
    classes, positive_boxes = anchor_targets(matched, boxes, labels)
    assert classes.tolist() == [-1, 1, -1, -1, -1, -1, 1, 0, 1]
    expected = [boxes[0][0], boxes[2][1], boxes[2][0], boxes[2][1]]
    assert positive_boxes.tolist() == [box.tolist() for box in expected]


def naive_focal_l1(batch, alpha, gamma):
    """Sums of both terms, anchor by anchor."""
    focal = box = 0.0
    for image, matched in enumerate(batch["matched"].tolist()):
        for anchor, number in enumerate(matched):
            for c in range(CLASSES):
                probability = torch.sigmoid(batch["logits"][image, anchor, c].double()).item()
                target = number >= 0 and batch["labels"][image][number].item() == c
                right = probability if target else 1 - probability
                focal -= (alpha if target else 1 - alpha) * (1 - right) ** gamma * math.log(right)
            if number >= 0:
                coded = box_ops.encode(batch["boxes"][image][number], batch["anchors"][anchor])
                box += (batch["deltas"][image, anchor] - coded).abs().sum().item()
    return focal, box


@pytest.mark.parametrize(
    "arguments", [{}, {"alpha": 0.25, "gamma": 2.0, "classification_weight": 1.0, "box_weight": 3.0}]
)
def test_focal_l1_equals_a_loop_over_anchors(arguments):
    batch = batch_of(TWO_IMAGES)
    losses = picked(FocalL1(**arguments), batch)
    focal, box = naive_focal_l1(batch, arguments.get("alpha", 0.75), arguments.get("gamma", 1.0))
    assert losses["cls"].item() == pytest.approx(arguments.get("classification_weight", 0.3) * focal / 5, rel=1e-4)
    assert losses["box"].item() == pytest.approx(arguments.get("box_weight", 1.0) * box / 5, rel=1e-4)


def test_focal_l1_is_normalised_by_a_running_number_of_positives():
    criterion = FocalL1(momentum=0.7)
    sums = []
    for count in (4, 10, 0):
        batch = batch_of([dict.fromkeys(range(count), 0)])
        focal, _ = naive_focal_l1(batch, 0.75, 1.0)
        sums.append(0.3 * focal / picked(criterion, batch)["cls"].item())
    # the first batch counts alone; one without positives counts as one
    second = 0.7 * 4 + 0.3 * 10
    assert sums == pytest.approx([4, second, 0.7 * second + 0.3 * 1], rel=1e-4)
    assert criterion.positives.item() == pytest.approx(0.7 * second + 0.3)
    assert "positives" in criterion.state_dict()  # a resumed run goes on with it


def test_focal_l1_without_momentum_uses_the_batch_alone():
    criterion, batch = FocalL1(momentum=0.0), batch_of(TWO_IMAGES)
    first = picked(criterion, batch)
    picked(criterion, batch_of([{0: 0}]))
    assert picked(criterion, batch)["cls"].item() == first["cls"].item()


def test_validation_uses_its_own_number_of_positives_and_leaves_the_running_one():
    criterion, batch = FocalL1(), batch_of(TWO_IMAGES)
    fresh = picked(criterion, batch)
    picked(criterion, batch_of([dict.fromkeys(range(20), 0)]))
    before = criterion.positives.clone()
    criterion.eval()
    assert picked(criterion, batch)["cls"].item() == fresh["cls"].item()
    assert torch.equal(criterion.positives, before)


@pytest.mark.parametrize("criterion", [FocalL1(), SampledBceGiou()])
@pytest.mark.parametrize("without_objects", [True, False])
def test_a_batch_without_positives_trains_the_classifier_only(criterion, without_objects):
    batch = batch_of([{}, {}])
    if without_objects:
        batch["boxes"] = [torch.empty(0, 6)] * 2
        batch["labels"] = [torch.empty(0, dtype=torch.int64)] * 2
    logits, deltas = batch["logits"].requires_grad_(), batch["deltas"].requires_grad_()
    losses = picked(criterion, batch)
    assert losses["box"].item() == 0
    assert losses["cls"].item() > 0
    (losses["cls"] + losses["box"]).backward()
    assert logits.grad.any()
    assert deltas.grad is not None  # no unused parameters for distributed training
    assert not deltas.grad.any()


@pytest.mark.parametrize("criterion", [FocalL1(), SampledBceGiou()])
def test_only_matched_anchors_train_the_regressor(criterion):
    batch = batch_of(TWO_IMAGES)
    deltas = batch["deltas"].requires_grad_()
    picked(criterion, batch)["box"].backward()
    trained = [sorted(image.any(dim=1).nonzero()[:, 0].tolist()) for image in deltas.grad]
    assert trained == [[3, 4], [0, 7, 39]]


@pytest.mark.parametrize(
    ("batch", "positives", "expected"),
    [
        (4, 500, (42, 85)),  # int(32 x 4 x 0.33) positives, 2.03 x as many negatives
        (4, 7, (7, 14)),
        (4, 0, (0, 2)),
        (1, 500, (10, 20)),
        (2, 1, (1, 2)),
    ],
)
def test_sampled_counts(batch, positives, expected):
    classes = torch.full((2000,), -1)
    classes[torch.randperm(2000, generator=torch.Generator().manual_seed(0))[:positives]] = 0
    torch.manual_seed(0)
    chosen, negative = SampledBceGiou().sample(torch.randn(2000, CLASSES), classes.view(batch, -1))
    assert (len(set(chosen.tolist())), len(set(negative.tolist()))) == (len(chosen), len(negative)) == expected
    assert (classes[negative] == -1).all()
    assert not len(chosen) or chosen.max() < positives


def test_negatives_come_from_the_most_confident_ones_and_vary():
    classes = torch.full((1000,), -1)
    classes[:3] = 0
    logits = torch.zeros(1000, CLASSES)
    logits[:, 1] = -torch.arange(1000.0)  # the later, the less confident; the positives would come first
    logits[:, 0] = -2000
    drawn = set()
    for seed in range(60):
        torch.manual_seed(seed)
        _, negative = SampledBceGiou(pool=4).sample(logits, classes[None])
        drawn |= set(negative.tolist())
    assert drawn == set(range(3, 3 + 4 * 6))  # int(3 x 2.03) = 6 negatives from a pool of 24


@pytest.mark.parametrize("number", [0, 1, 3, 7, 50])
def test_the_hardest_are_the_highest_and_of_equal_ones_the_first(number):
    generator = torch.Generator().manual_seed(number)
    scores = torch.randint(4, (20,), generator=generator).float()
    expected = sorted(range(20), key=lambda place: (-scores[place].item(), place))[:number]
    assert hardest(scores, number).tolist() == expected
    assert hardest(scores[:0], number).tolist() == []


def test_a_score_that_is_no_number_is_not_left_out():
    """The loss has to show it."""
    assert hardest(torch.tensor([1.0, math.nan, 3.0, 2.0]), 2).tolist() == [1, 2]


def test_positives_are_drawn_evenly():
    classes, seen = torch.zeros(100, dtype=torch.int64), torch.zeros(100)
    classes[50:] = -1
    for seed in range(300):
        torch.manual_seed(seed)
        chosen, _ = SampledBceGiou().sample(torch.zeros(100, 1), classes[None])
        seen[chosen] += 1
    assert not seen[50:].any()
    assert seen[:50].min() > 30  # 300 x 10 draws of 50: 60 each on average
    assert seen[:50].max() < 95


def test_sampling_takes_what_there_is():
    classes = torch.tensor([0, 1, -1])
    chosen, negative = SampledBceGiou().sample(torch.zeros(3, CLASSES), classes[None])
    assert sorted(chosen.tolist()) == [0, 1]
    assert negative.tolist() == [2]
    _, negative = SampledBceGiou().sample(torch.zeros(2, CLASSES), classes[None, :2])
    assert negative.tolist() == []


def test_bce_giou_by_hand():
    """All anchors are sampled, so that the draw does not matter."""
    batch = batch_of([{0: 0, 2: 2}, {1: 1}], count=4)
    losses = picked(SampledBceGiou(), batch)
    one_hot = torch.zeros(2, 4, CLASSES)
    one_hot[0, 0, 0] = one_hot[0, 2, 1] = one_hot[1, 1, 1] = 1
    expected = functional.binary_cross_entropy_with_logits(
        batch["logits"], one_hot
    )  # 3 positives, 5 of 6 wanted negatives
    assert losses["cls"].item() == pytest.approx(expected.item(), rel=1e-5)
    overlaps = [
        box_ops.paired_giou(
            box_ops.decode(batch["deltas"][image, anchor], batch["anchors"][anchor]), batch["boxes"][image][number]
        ).item()
        for image, anchor, number in ((0, 0, 0), (0, 2, 2), (1, 1, 1))
    ]
    assert losses["box"].item() == pytest.approx(-sum(overlaps) / 3, rel=1e-4)


@pytest.mark.parametrize("chosen", [[2, 0], [1], [2, 1, 0]])
def test_the_box_loss_is_of_the_drawn_positives(monkeypatch, chosen):
    """Each drawn positive brings its own deltas, anchor and object; the others get no gradient."""
    pairs = ((0, 3, 0), (0, 5, 2), (1, 1, 1))  # image, anchor, object, in the order of the deltas
    batch = batch_of([{3: 0, 5: 2}, {1: 1}])
    deltas = torch.stack([batch["deltas"][image, anchor] for image, anchor, _ in pairs]).requires_grad_()
    monkeypatch.setattr(SampledBceGiou, "sample", lambda *_, **__: (torch.tensor(chosen), torch.tensor([0, 1])))
    loss = SampledBceGiou()(**batch | {"deltas": deltas})["box"]
    overlaps = []
    for place in chosen:
        image, anchor, number = pairs[place]
        decoded = box_ops.decode(deltas[place].detach(), batch["anchors"][anchor])
        overlaps.append(box_ops.paired_giou(decoded, batch["boxes"][image][number]).item())
    assert loss.item() == pytest.approx(-sum(overlaps) / len(chosen), rel=1e-4)
    loss.backward()
    assert (deltas.grad != 0).any(dim=1).nonzero()[:, 0].tolist() == sorted(chosen)
