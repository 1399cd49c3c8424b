import pytest
import torch
from small_detections import ONE, OTHER, PATCH, images_of, perturbed, selected, targets_of

from detpretrain.detectors.criteria import FocalL1, SampledBceGiou
from detpretrain.detectors.retina_unet import RetinaUNet, check_plan, segmentation_losses, total_stride
from detpretrain.errors import InputError
from detpretrain.models import box_ops
from detpretrain.models.resenc import ResEnc

STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]


def make_detector(criterion=None, channels=1, classes=2, levels=(1, 2), **arguments):
    torch.manual_seed(0)
    plan = {
        "strides": STRIDES,
        "kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "detection_levels": list(levels),
        "anchors": {"z": [2, 3, 4], "y": [3, 5, 7], "x": [3, 4, 6]},
        "classes": classes,
        "channels": channels,
    }
    backbone = ResEnc([4, 6, 8], [1, 1, 1], plan["strides"], plan["kernels"])
    small = {"pyramid_channels": 16, "head_channels": 16, "head_convs": 1}
    return RetinaUNet(backbone=backbone, plan=plan, criterion=criterion or FocalL1(), **small | arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"anchors": None}, "no anchors"), ({"strides": [[1, 2, 2], [2, 2, 2], [2, 2, 2]]}, "into the first stage")],
)
def test_a_plan_that_does_not_fit_is_an_input_error(change, message):
    with pytest.raises(InputError, match=f"plan small of phantoms.*{message}"):
        check_plan({"plan": "small", "dataset": "phantoms", "anchors": {}, "strides": STRIDES} | change)


BATCHES = {"empty": ([], []), "one": ([ONE], []), "several": ([ONE, OTHER], [OTHER])}


def all_deltas(detector, maps):
    """Of every anchor, level by level: what the detector computes only where it is asked."""
    scaled = zip(detector.levels, detector.level_scale, strict=True)
    return torch.cat([detector.regressor(maps[level]) * scale for level, scale in scaled], dim=1)


def test_anchors_and_predictions_of_all_levels_have_one_order():
    detector = make_detector()
    maps = detector.neck(detector.encoder(images_of(1)))
    logits, deltas = detector._logits(maps), all_deltas(detector, maps)
    grid = detector._grid(maps, torch.device("cpu"))
    assert logits.shape == (1, len(grid.boxes), 2)
    assert deltas.shape == (1, len(grid.boxes), 6)
    first = detector.classifier(maps[1])
    assert torch.equal(logits[:, : first.shape[1]], first)
    assert [len(positions) for positions in grid.positions] == [8 * 8 * 6, 4 * 4 * 3]
    # deltas carry one learnt scale per level
    with torch.no_grad():
        detector.level_scale.copy_(torch.tensor([2.0, 3.0]))
    rescaled = all_deltas(detector, maps)
    split = first.shape[1]
    torch.testing.assert_close(rescaled[:, :split], deltas[:, :split] * 2)
    torch.testing.assert_close(rescaled[:, split:], deltas[:, split:] * 3)


@pytest.mark.parametrize("criterion", [FocalL1, SampledBceGiou])
def test_the_box_loss_of_a_few_anchors_is_that_of_all_computed(criterion):
    """Losses and gradients against the regressor's output convolution over every position, picked afterwards."""
    detector = make_detector(criterion())
    with torch.no_grad():
        detector.level_scale.copy_(torch.tensor([2.0, 3.0]))
    images, targets = images_of(2), targets_of(*BATCHES["several"])
    few = gradients(detector, images, targets)
    detector.criterion.load_state_dict(criterion().state_dict())
    detector._deltas_at = lambda maps, grid, image, anchor: all_deltas(detector, maps)[image, anchor]
    dense = gradients(detector, images, targets)
    assert few.keys() == dense.keys()
    for name, expected in dense.items():
        torch.testing.assert_close(few[name], expected, rtol=1e-4, atol=1e-5, msg=name)
    assert dense["regressor.out.weight"].any()


def test_the_candidates_boxes_are_those_of_all_computed():
    detector = make_detector(candidates=300).eval()
    with torch.no_grad():
        detector.level_scale.copy_(torch.tensor([2.0, 3.0]))
    images = images_of(3)
    few = detector.predict(images)
    detector._deltas_at = lambda maps, grid, image, anchor: all_deltas(detector, maps)[image, anchor]
    for found, expected in zip(few, detector.predict(images), strict=True):
        assert len(found.boxes) > 3
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-4, atol=1e-4)
        assert torch.equal(found.scores, expected.scores)


def gradients(detector, images, targets):
    torch.manual_seed(0)
    detector.zero_grad()
    losses = detector(images, targets)
    sum(losses.values()).backward()
    return {**losses, **{name: parameter.grad.clone() for name, parameter in detector.named_parameters()}}


def test_total_strides():
    assert [total_stride(STRIDES, level) for level in range(3)] == [[1, 1, 1], [1, 2, 2], [2, 4, 4]]


@pytest.mark.parametrize("slope", [0.0, 0.01])
def test_both_heads_activate_with_the_slope(slope):
    detector = make_detector(head_slope=slope)
    for head in (detector.classifier, detector.regressor):
        last = head.tower[-1]
        assert last(torch.tensor([-2.0, 3.0])).tolist() == pytest.approx([-2 * slope, 3])


def test_every_anchor_starts_at_the_prior_probability():
    detector = make_detector(prior=0.01)
    maps = detector.neck(detector.encoder(images_of(2)))
    assert torch.sigmoid(detector._logits(maps)).mean().item() == pytest.approx(0.01, rel=0.05)
    weights = [module.weight for module in detector.regressor.modules() if isinstance(module, torch.nn.Conv3d)]
    assert all(weight.std().item() == pytest.approx(0.01, rel=0.1) for weight in weights)


@pytest.mark.parametrize("objects", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("criterion", [FocalL1, SampledBceGiou])
def test_every_parameter_is_trained_with_any_number_of_objects(criterion, objects):
    detector = make_detector(criterion())
    losses = detector(images_of(2), targets_of(*objects))
    assert set(losses) == {"cls", "box", "seg_ce", "seg_dice"}
    assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert detector.encoder.stem.convs[0].conv.weight.grad.any()
    assert (losses["box"].item() != 0) == any(objects)


def test_without_segmentation_the_detection_losses_and_the_boxes_are_the_same():
    with_both, alone = make_detector().eval(), make_detector(segmentation=False).eval()
    alone.load_state_dict({key: value for key, value in with_both.state_dict().items() if "segmenter" not in key})
    images, targets = images_of(2), targets_of(*BATCHES["several"])
    losses, fewer = with_both(images, targets), alone(images, targets)
    assert set(fewer) == {"cls", "box"}
    assert all(torch.equal(losses[name], loss) for name, loss in fewer.items())
    for expected, found in zip(with_both.predict(images), alone.predict(images), strict=True):
        assert torch.equal(expected.boxes, found.boxes)
    sum(fewer.values()).backward()
    idle = {name for name, value in alone.named_parameters() if value.grad is None}
    below = ("lateral.0", "up.0", "out.0")
    assert idle == {f"neck.{part}.{kind}" for part in below for kind in ("weight", "bias")}


def test_four_channels():
    detector = make_detector(channels=4)
    losses = detector(images_of(1, channels=4), targets_of([ONE]))
    sum(losses.values()).backward()
    gradient = detector.encoder.stem.convs[0].conv.weight.grad
    assert gradient.shape[1] == 4
    assert gradient.abs().sum(dim=(0, 2, 3, 4)).all()


def test_a_batch_is_its_images_one_by_one():
    detector, images = perturbed(make_detector()).eval(), images_of(3)
    together = detector.predict(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = detector.predict(image[None])
        assert len(found.scores) == len(alone.scores) > 0
        torch.testing.assert_close(found.boxes, alone.boxes, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("levels", [(1, 2), (0, 1, 2), (2,)])
def test_predictions_keep_the_contract(levels):
    detector = perturbed(make_detector(levels=levels, detections=20)).eval()
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
        assert (overlap[same] <= 0.6).all()


def test_predict_needs_no_gradient_and_leaves_the_state_alone():
    detector = make_detector().eval()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    (found,) = detector.predict(images_of(1))
    assert not found.boxes.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_the_best_anchor_of_a_confident_classifier_is_decoded_in_its_place():
    """One anchor far above the rest, with known deltas: the box must come out where that anchor lies."""
    detector = make_detector()
    anchors = detector._grid(detector.neck(detector.encoder(images_of(1))), torch.device("cpu")).boxes
    inside = ((anchors[:, :3] > 1) & (anchors[:, 3:] < torch.tensor(PATCH) - 1)).all(dim=1).nonzero()[:, 0]
    for index in inside[:: len(inside) // 5].tolist():
        logits, deltas = torch.full((len(anchors), 2), -9.0), torch.zeros(len(anchors), 6)
        logits[index, 1] = 2.0
        deltas[index] = torch.tensor([0.0, 0.1, 0.0, 0.0, -0.2, 0.0])
        found = selected(detector.select, logits, deltas, anchors, torch.Size(PATCH))
        torch.testing.assert_close(found.boxes[0], box_ops.decode(deltas[index], anchors[index]))
        assert found.scores[0].item() == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item())
        assert found.labels[0].item() == 1


def test_segmentation_losses_by_hand():
    logits = torch.zeros(1, 2, 1, 1, 2)
    foreground = torch.tensor([[[[True, False]]]])
    losses = segmentation_losses(logits, foreground, dice_smooth=0.0)
    assert losses["seg_ce"].item() == pytest.approx(0.5 * 0.6931, abs=1e-4)
    assert losses["seg_dice"].item() == pytest.approx(0.5 * (1 - 2 * 0.5 / 2), abs=1e-5)


@pytest.mark.parametrize("criterion", [FocalL1, SampledBceGiou])
def test_a_single_patch_can_be_learnt_by_heart(criterion):
    """Bright boxes of two classes: after some steps both are found, in their places and with their classes."""
    detector, targets = make_detector(criterion(), nms_iou=0.1), targets_of([ONE, OTHER])
    images = 0.3 * images_of(1)
    images[0, 0][targets.foreground[0]] += 3
    optimizer = torch.optim.AdamW(detector.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        sum(detector(images, targets).values()).backward()
        optimizer.step()
    (found,) = detector.eval().predict(images)
    overlap = box_ops.iou(targets.boxes[0], found.boxes[:2])
    assert overlap.max(dim=1).values.min() > 0.4
    assert found.labels[overlap.argmax(dim=1)].tolist() == [0, 1]


def test_autocast_keeps_boxes_and_losses_in_full_precision():
    detector = make_detector()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector(images_of(2), targets_of([ONE], [OTHER]))
        (found,) = detector.eval().predict(images_of(1))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert found.boxes.dtype == found.scores.dtype == torch.float32
