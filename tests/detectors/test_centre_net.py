import math

import pytest
import torch
from small_detections import ONE, OTHER, PATCH, images_of, perturbed, selected, targets_of

from detpretrain.detectors.centre_matching import cells, match_centres
from detpretrain.detectors.centre_net import CentreNet, box_losses, mined_focal
from detpretrain.errors import InputError
from detpretrain.models import box_ops
from detpretrain.models.resenc import ResEnc

STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
FOCAL = {"alpha": 0.75, "gamma": 2.0, "missed_weight": 4.0, "negatives": 2}


def make_detector(channels=1, classes=2, levels=(1, 2), **arguments):
    torch.manual_seed(0)
    plan = {
        "plan": "small",
        "dataset": "phantoms",
        "strides": STRIDES,
        "kernels": KERNELS,
        "detection_levels": list(levels),
        "anchors": None,
        "classes": classes,
        "channels": channels,
    }
    backbone = ResEnc([4, 6, 8], [1, 1, 1], STRIDES, KERNELS)
    small = {"pyramid_channels": 16, "head_channels": 16, "head_convs": 1}
    return CentreNet(backbone=backbone, plan=plan, **small | arguments)


BATCHES = {"empty": ([], []), "one": ([ONE], []), "several": ([ONE, OTHER], [OTHER])}


# --- losses -------------------------------------------------------------------------------------------------------------


def test_mined_focal_by_hand():
    """At probability 0.5 the focal term is 0.75 / 4 ln 2 of a found position, 0.25 / 4 ln 2 of any other."""
    found, other = 0.75 * 0.25 * math.log(2), 0.25 * 0.25 * math.log(2)
    logits = torch.zeros(1, 5, 1)
    wanted = torch.tensor([[[1.0], [0.0], [0.0], [0.0], [0.0]]])
    nowhere = torch.zeros(1, 5, dtype=torch.bool)
    assert mined_focal(logits, wanted, nowhere, **FOCAL).item() == pytest.approx(4 * found + 2 * other)
    assert mined_focal(logits, 0 * wanted, nowhere, **FOCAL).item() == pytest.approx(2 * other)
    # three ignored: one negative is left
    ignored = torch.tensor([[False, True, True, True, False]])
    assert mined_focal(logits, wanted, ignored, **FOCAL).item() == pytest.approx(4 * found + other)
    # found with a probability above 0.8: counts once
    logits[0, 0] = 2.0
    sure = 0.75 * (1 - 0.880797) ** 2 * -math.log(0.880797)
    assert mined_focal(logits, wanted, nowhere, **FOCAL).item() == pytest.approx(sure + 2 * other, rel=1e-5)


def test_mined_focal_is_what_a_loop_over_images_and_pairs_finds():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 40, 2, generator=generator)
    wanted = (torch.rand(3, 40, 2, generator=generator) < 0.05).float()
    wanted[2] = 0
    ignored = (torch.rand(3, 40, generator=generator) < 0.3) & ~wanted.any(dim=2)
    assert wanted.sum(dim=(1, 2)).tolist() == [3, 2, 0]
    images = []
    for image in range(3):
        found, others = [], []
        for place in range(40):
            for label in range(2):
                p = torch.sigmoid(logits[image, place, label]).item()
                if wanted[image, place, label]:
                    found.append((4 if p < 0.8 else 1) * 0.75 * (1 - p) ** 2 * -math.log(p))
                elif not ignored[image, place]:
                    others.append(0.25 * p**2 * -math.log(1 - p))
        number = max(1, len(found))
        images.append((sum(found) + sum(sorted(others, reverse=True)[: 2 * number])) / number)
    assert mined_focal(logits, wanted, ignored, **FOCAL).item() == pytest.approx(sum(images) / 3, rel=1e-5)


def test_ignored_positions_and_easy_negatives_have_no_gradient():
    logits = torch.tensor([[[0.0], [1.0], [2.0], [-1.0], [-2.0]]], requires_grad=True)
    wanted = torch.tensor([[[1.0], [0.0], [0.0], [0.0], [0.0]]])
    ignored = torch.tensor([[False, False, True, False, False]])
    mined_focal(logits, wanted, ignored, **FOCAL).backward()
    assert (logits.grad[0, :, 0] != 0).tolist() == [True, True, False, True, False]


def test_box_losses_by_hand():
    """Stride (1, 2, 2), cell of position (1, 1, 1): z 0.5 .. 1.5, y and x 1.5 .. 3.5."""
    position = cells((2, 2, 2), (1, 2, 2), torch.device("cpu"))[-1:]
    box = torch.tensor([[0.5, 0.5, 1.5, 3.5, 4.5, 5.5]])  # centre 2, 2.5, 3.5: 1, 0, 0.5 cells off; 3, 2, 2 cells
    deltas = torch.tensor([[0.5, 0.0, 0.0, math.log(3), math.log(2), math.log(1)]])
    losses = box_losses(deltas, position, box)
    assert losses["offset"].item() == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert losses["size"].item() == pytest.approx(math.log(2) / 3)
    predicted = torch.tensor([[0.0, 0.5, 1.5, 3.0, 4.5, 3.5]])
    assert losses["iou"].item() == pytest.approx(1 - box_ops.paired_diou(predicted, box).item())
    exact = box_losses(box_ops.encode(box, position), position, box)
    assert {name: loss.item() for name, loss in exact.items()} == pytest.approx(dict.fromkeys(exact, 0), abs=1e-6)


def test_no_objects_no_box_loss():
    deltas = torch.zeros(0, 6, requires_grad=True)
    losses = box_losses(deltas, torch.zeros(0, 6), torch.zeros(0, 6))
    assert {name: loss.item() for name, loss in losses.items()} == {"offset": 0, "size": 0, "iou": 0}
    sum(losses.values()).backward()


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 4, 4)])
def test_boxes_of_any_size_come_back_from_their_code(stride):
    positions = cells((5, 5, 5), stride, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    centre = 20 * torch.rand(len(positions), 3, generator=generator)
    half = 0.5 + 20 * torch.rand(len(positions), 3, generator=generator)
    boxes = torch.cat([centre - half, centre + half], dim=1)
    torch.testing.assert_close(box_ops.decode(box_ops.encode(boxes, positions), positions), boxes)


# --- the detector -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"classes": 0}, "plan small of phantoms: no classes"), ({"positives": 0}, "positives 0")],
)
def test_what_it_cannot_be_built_on_is_an_input_error(arguments, message):
    with pytest.raises(InputError, match=message):
        make_detector(**arguments)


@pytest.mark.parametrize(("levels", "stride"), [((0, 1), [1, 1, 1]), ((1, 2), [1, 2, 2]), ((2,), [2, 4, 4])])
def test_it_predicts_on_the_finest_detection_level(levels, stride):
    detector = make_detector(levels=levels)
    logits, deltas, positions = detector._heads(images_of(2))
    number = math.prod(n // s for n, s in zip(PATCH, stride, strict=True))
    assert (logits.shape, deltas.shape, positions.shape) == ((2, number, 2), (2, number, 6), (number, 6))
    assert (positions[0, 3:] - positions[0, :3]).tolist() == stride
    assert torch.equal(positions[-1, 3:], torch.tensor(PATCH) - 0.5)


def test_every_position_starts_at_the_prior_probability_with_a_box_of_the_start_size():
    detector = make_detector(prior=0.02, start_size=4.0)
    logits, deltas, _ = detector._heads(images_of(2))
    assert torch.sigmoid(logits).mean().item() == pytest.approx(0.02, rel=0.05)
    sizes = torch.exp(deltas[..., 3:]) * 2  # of the cells along y and x
    assert sizes.mean().item() == pytest.approx(8, rel=0.1)
    assert deltas[..., :3].mean().item() == pytest.approx(0, abs=0.2)


# below the used level the pyramid is Retina U-Net's segmentation branch, above it there is nothing to be detected
IDLE = ("neck.lateral.0.", "neck.up.0.", "neck.out.0.", "neck.out.2.")


@pytest.mark.parametrize("objects", BATCHES.values(), ids=BATCHES)
def test_every_parameter_in_use_is_trained_with_any_number_of_objects(objects):
    detector = make_detector()
    losses = detector(images_of(2), targets_of(*objects))
    assert set(losses) == {"cls", "offset", "size", "iou"}
    assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in detector.named_parameters():
        assert (parameter.grad is None) == name.startswith(IDLE), name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    assert detector.encoder.stem.convs[0].conv.weight.grad.any()
    for name in ("offset", "size", "iou"):
        assert (losses[name].item() != 0) == any(objects)


def test_the_positions_of_an_object_are_trained_for_its_class_and_box():
    """Predictions that are right at the matched positions, and only there, cost nothing."""
    detector, targets = make_detector(), targets_of([ONE, OTHER], [])
    images = images_of(2)
    logits, deltas, positions = detector._heads(images)
    matched = match_centres(targets.boxes[0], positions, 7, 7 * 3)
    logits, deltas = torch.full_like(logits, -20.0), torch.full_like(deltas, 9.0)
    for number, (box, label) in enumerate((ONE, OTHER)):
        own = matched == number
        assert own.any()
        logits[0, own, label] = 20.0
        deltas[0, own] = box_ops.encode(torch.tensor(box).float(), positions[own])
    detector._heads = lambda _: (logits, deltas, positions)
    losses = detector(images, targets)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(dict.fromkeys(losses, 0), abs=1e-5)
    logits[0, matched == 1] = logits[0, matched == 1].flip(1)  # the wrong class
    assert detector(images, targets)["cls"].item() > 1


def test_weights_scale_their_terms():
    images, targets = images_of(2), targets_of([ONE], [OTHER])
    plain = make_detector(classification_weight=1.0, offset_weight=1.0, size_weight=1.0, iou_weight=1.0)
    scaled = make_detector(classification_weight=2.0, offset_weight=3.0, size_weight=5.0, iou_weight=7.0)
    expected = {name: loss.item() for name, loss in plain(images, targets).items()}
    found = {name: loss.item() for name, loss in scaled(images, targets).items()}
    factors = {"cls": 2, "offset": 3, "size": 5, "iou": 7}
    assert found == pytest.approx({name: factors[name] * loss for name, loss in expected.items()})


def test_the_classification_loss_of_a_batch_is_the_mean_of_its_images():
    detector = perturbed(make_detector())
    images, objects = images_of(3), ([ONE, OTHER], [], [OTHER])
    together = detector(images, targets_of(*objects))["cls"]
    alone = [detector(image[None], targets_of(found))["cls"] for image, found in zip(images, objects, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_two_hundred_objects_and_objects_at_the_border_are_trained():
    generator = torch.Generator().manual_seed(0)
    low = torch.stack([torch.randint(-1, n - 1, (200,), generator=generator) for n in PATCH], dim=1)
    high = torch.minimum(low + torch.randint(2, 7, (200, 3), generator=generator), torch.tensor(PATCH))
    boxes = torch.cat([low, high], dim=1).tolist()
    detector = make_detector()
    corners = [((-1, -1, -1, 1, 1, 1), 0), ((6, 14, 10, 8, 16, 12), 1), ((-1, -1, -1, *PATCH), 0)]
    losses = detector(images_of(2), targets_of([(box, number % 2) for number, box in enumerate(boxes)], corners))
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    gradients = [parameter.grad for parameter in detector.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_batch_is_its_images_one_by_one():
    detector, images = perturbed(make_detector()).eval(), images_of(3)
    together = detector.predict(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = detector.predict(image[None])
        assert len(found.scores) == len(alone.scores) > 0
        torch.testing.assert_close(found.boxes, alone.boxes, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("levels", [(0, 1), (1, 2), (2,)])
def test_predictions_keep_the_contract(levels):
    detector = perturbed(make_detector(levels=levels, detections=20, nms_iou=0.2)).eval()
    for found in detector.predict(images_of(2)):
        assert 0 < len(found.scores) <= 20
        assert found.boxes.shape == (len(found.scores), 6)
        assert (found.boxes.dtype, found.labels.dtype) == (torch.float32, torch.int64)
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert (found.scores.diff() <= 0).all()
        assert set(found.labels.tolist()) <= {0, 1}
        assert (found.boxes >= 0).all()
        assert (found.boxes[:, 3:] <= torch.tensor(PATCH)).all()
        assert (found.boxes[:, 3:] > found.boxes[:, :3]).all()
        overlap = box_ops.iou(found.boxes, found.boxes) - torch.eye(len(found.boxes))
        same = found.labels[:, None] == found.labels
        assert (overlap[same] <= 0.2).all()


def test_a_confident_position_is_decoded_in_its_place_with_its_class():
    detector = make_detector()
    _, _, positions = detector._heads(images_of(1))
    inside = ((positions[:, :3] > 2) & (positions[:, 3:] < torch.tensor(PATCH) - 3)).all(dim=1).nonzero()[:, 0]
    for index in inside[:: len(inside) // 5].tolist():
        logits, deltas = torch.full((len(positions), 2), -9.0), torch.zeros(len(positions), 6)
        logits[index, 1] = 2.0
        deltas[index] = torch.tensor([0.5, 0.0, -0.5, math.log(2), 0.0, 0.0])
        found = selected(detector.select, logits, deltas, positions, PATCH)
        z1, y1, x1, z2, y2, x2 = positions[index].tolist()  # 1 x 2 x 2 voxels
        assert found.boxes[0].tolist() == pytest.approx([z1, y1, x1 - 1, z2 + 1, y2, x2 - 1])
        assert found.scores[0].item() == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item())
        assert found.labels[0].item() == 1


def test_only_the_best_pairs_are_candidates_and_boxes_without_volume_are_dropped():
    detector = make_detector(candidates=2, nms_iou=0.9)
    _, _, positions = detector._heads(images_of(1))
    logits, deltas = torch.full((len(positions), 2), -9.0), torch.zeros(len(positions), 6)
    logits[100, 0], logits[101, 0], logits[102, 0] = 3.0, 2.0, 1.0
    deltas[100, 0] = -100.0  # in front of the image: nothing is left of it
    found = selected(detector.select, logits, deltas, positions, PATCH)
    assert found.scores.tolist() == pytest.approx([torch.sigmoid(torch.tensor(2.0)).item()])


def test_predict_needs_no_gradient_and_leaves_the_state_alone():
    detector = make_detector().eval()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    (found,) = detector.predict(images_of(1))
    assert not found.boxes.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_a_single_patch_can_be_learnt_by_heart():
    """Bright boxes of two classes on an anisotropic map: after some steps both are found, in place and with their classes."""
    detector, targets = make_detector(), targets_of([ONE, OTHER])
    images = 0.3 * images_of(1)
    images[0, 0][targets.foreground[0]] += 3
    optimizer = torch.optim.AdamW(detector.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        sum(detector(images, targets).values()).backward()
        optimizer.step()
    (found,) = detector.eval().predict(images)
    overlap = box_ops.iou(targets.boxes[0], found.boxes[:2])
    assert overlap.max(dim=1).values.min() > 0.5
    assert found.labels[overlap.argmax(dim=1)].tolist() == [0, 1]
    assert found.scores[1] > 0.8
    assert len(found.scores) == 2 or found.scores[2] < 0.5 * found.scores[1]


def test_autocast_keeps_boxes_and_losses_in_full_precision():
    detector = make_detector()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector(images_of(2), targets_of([ONE], [OTHER]))
        (found,) = detector.eval().predict(images_of(1))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert found.boxes.dtype == found.scores.dtype == torch.float32
