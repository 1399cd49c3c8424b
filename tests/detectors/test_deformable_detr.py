import pytest
import torch
from scipy.optimize import linear_sum_assignment
from small_detections import ONE, OTHER, PATCH, images_of, perturbed, targets_of

from detpretrain.detectors.contract import Targets
from detpretrain.detectors.deformable_detr import DeformableDETR, indexed, normalised
from detpretrain.detectors.set_matching import MatchingCosts, ObjectSets, centre_and_size, corners, pair_costs
from detpretrain.errors import InputError
from detpretrain.models import box_ops
from detpretrain.models.resenc import ResEnc

STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def make_detector(channels=1, classes=2, detection_levels=(1, 2), **arguments):
    torch.manual_seed(0)
    plan = {
        "strides": STRIDES,
        "kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "detection_levels": list(detection_levels),
        "anchors": None,
        "classes": classes,
        "channels": channels,
    }
    small = {"hidden": 24, "heads": 4, "points": 2, "encoder_layers": 1, "decoder_layers": 3, "feed_forward": 32}
    small |= {"queries": 20, "norm_groups": 4, "candidates": 20}
    backbone = ResEnc([4, 6, 8], [1, 1, 1], plan["strides"], plan["kernels"])
    return DeformableDETR(backbone=backbone, plan=plan, **small | arguments)


WHOLE, CORNER = ((-1, -1, -1, 8, 16, 12), 1), ((-1, -1, -1, 1, 1, 1), 0)  # as large, and as far out, as objects get
MANY = [((i % 6, i % 14, i % 10, i % 6 + 2, i % 14 + 3, i % 10 + 2), i % 2) for i in range(200)]
BATCHES = {
    "empty": ([], []),
    "one": ([ONE], []),
    "several": ([ONE, OTHER], [OTHER]),
    "border": ([WHOLE], [CORNER, WHOLE]),
    "200": (MANY, [ONE]),
}


def test_a_patch_reaches_half_a_voxel_beyond_its_first_and_last_centres():
    shape = (4, 10, 20)
    edges = torch.tensor([-0.5, -0.5, -0.5, 3.5, 9.5, 19.5])
    torch.testing.assert_close(normalised(edges, shape), torch.tensor([0.0, 0, 0, 1, 1, 1]))
    # voxel j of n is centred at (j + 0.5) / n, where the attention has it
    centre = normalised(torch.tensor([[1.0, 4.0, 0.0, 1.0, 4.0, 0.0]]), shape)
    torch.testing.assert_close(centre, torch.tensor([[0.375, 0.45, 0.025, 0.375, 0.45, 0.025]]))
    boxes = torch.tensor([WHOLE[0], CORNER[0], ONE[0]]).float()
    back = indexed(corners(centre_and_size(normalised(boxes, PATCH))), PATCH)
    torch.testing.assert_close(back, boxes, atol=1e-5, rtol=0)


@pytest.mark.parametrize("objects", BATCHES.values(), ids=BATCHES)
def test_every_parameter_is_trained_with_any_number_of_objects(objects):
    detector = perturbed(make_detector())
    losses = detector(images_of(2), targets_of(*objects))
    assert list(losses) == ["cls", "box", "giou", "aux"]
    assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # without objects no box is wrong
        assert any(objects) == bool(parameter.grad.any()) or "regressor" not in name, name
    trained = [name for name, parameter in detector.named_parameters() if parameter.grad.any()]
    left = {name for name, _ in detector.named_parameters()} - set(trained)
    # a bias before an instance norm is of no consequence
    assert all(name.endswith(".conv.bias") or ("regressor" in name and not any(objects)) for name in left), left
    assert (losses["box"].item() != 0) == any(objects)


def naive_losses(logits, boxes, targets, classes):
    """Losses of one layer, image by image and pair by pair: ``logits [B, Q, K]``, normalised boxes ``[B, Q, 6]``."""
    cls = box = giou = 0.0
    for image, (wanted, labels) in enumerate(zip(targets.boxes, targets.labels, strict=True)):
        wanted = centre_and_size(normalised(wanted, PATCH))
        costs = pair_costs(
            logits[image : image + 1], boxes[image : image + 1], ObjectSets.of([wanted], [labels]), COSTS
        )
        pairs = list(zip(*linear_sum_assignment(costs[0].numpy()), strict=True))
        truth = torch.zeros(len(logits[image]), classes)
        for prediction, target in pairs:
            truth[prediction, labels[target]] = 1
            box += 5 * (boxes[image, prediction] - wanted[target]).abs().sum()
            giou += 2 * (1 - box_ops.paired_giou(corners(boxes[image, prediction]), corners(wanted[target])))
        p = logits[image].sigmoid()
        hit, miss = -0.75 * (1 - p) * p.log(), -0.25 * p * (1 - p).log()
        cls += (truth * hit + (1 - truth) * miss).sum()
    number = max(1, sum(map(len, targets.labels)))
    return torch.stack([torch.as_tensor(part / number) for part in (cls, box, giou)])


COSTS = MatchingCosts()


@pytest.mark.parametrize("objects", [BATCHES["several"], BATCHES["border"]], ids=["several", "border"])
def test_losses_are_those_of_every_pair_added_up(objects):
    detector, images, targets = perturbed(make_detector()), images_of(2), targets_of(*objects)
    with torch.no_grad():
        losses = detector(images, targets)
        found = detector._predict_sets(images)
        layers = [naive_losses(*layer, targets, 2) for layer in zip(found.logits, found.boxes, strict=True)]
        anything = Targets(targets.boxes, [torch.zeros_like(label) for label in targets.labels], targets.foreground)
        proposals = naive_losses(found.proposal_logits, found.proposal_boxes, anything, 1)
    torch.testing.assert_close(torch.stack([losses[name] for name in ("cls", "box", "giou")]), layers[-1])
    torch.testing.assert_close(losses["aux"], layers[0].sum() + layers[1].sum() + proposals.sum())


def test_a_batch_s_losses_are_those_of_its_images_weighted_by_their_objects():
    detector, images = perturbed(make_detector()), images_of(2)
    with torch.no_grad():
        together = detector(images, targets_of([ONE, OTHER], [OTHER]))
        first = detector(images[:1], targets_of([ONE, OTHER]))
        second = detector(images[1:], targets_of([OTHER]))
    for name, loss in together.items():
        torch.testing.assert_close(loss, (2 * first[name] + second[name]) / 3, rtol=1e-4, atol=1e-5)


def test_a_batch_is_its_images_one_by_one():
    detector, images = perturbed(make_detector()).eval(), images_of(3)
    for image, found in zip(images, detector.predict(images), strict=True):
        (alone,) = detector.predict(image[None])
        assert len(found.scores) == len(alone.scores) > 0
        torch.testing.assert_close(found.boxes, alone.boxes, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("detection_levels", [(1, 2), (0, 1, 2), (2,)])
def test_predictions_keep_the_contract(detection_levels):
    detector = perturbed(make_detector(detection_levels=detection_levels)).eval()
    for found in detector.predict(images_of(2)):
        assert len(found.scores) == 20
        assert found.boxes.shape == (20, 6)
        assert (found.boxes.dtype, found.labels.dtype) == (torch.float32, torch.int64)
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert (found.scores.diff() <= 0).all()
        assert set(found.labels.tolist()) <= {0, 1}
        assert (found.boxes >= -1).all()
        assert (found.boxes[:, 3:] <= torch.tensor(PATCH)).all()
        assert (found.boxes[:, 3:] > found.boxes[:, :3]).all()
        assert not found.boxes.requires_grad


def test_the_likeliest_pairs_are_taken_and_boxes_end_where_objects_end():
    detector = make_detector(candidates=12, classes=3)
    logits = torch.full((20, 3), -9.0)
    logits[4, 2], logits[4, 0], logits[7, 1] = 3.0, 2.0, 1.0
    boxes = torch.tensor([1.0, 2, 3, 4, 5, 6]).repeat(20, 1)
    boxes[4] = torch.tensor([-7.0, -1, 0, 9, 16, 11])
    boxes[7] = torch.tensor([2.0, 3, 4, 5, 6, 30])
    found = detector._select(logits, boxes, torch.Size(PATCH))
    assert len(found.scores) == 12
    assert found.labels[:3].tolist() == [2, 0, 1]
    torch.testing.assert_close(found.scores[:3], torch.tensor([3.0, 2.0, 1.0]).sigmoid())
    torch.testing.assert_close(found.boxes[0], torch.tensor([-1.0, -1, 0, 8, 16, 11]))
    torch.testing.assert_close(found.boxes[1], found.boxes[0])
    torch.testing.assert_close(found.boxes[2], torch.tensor([2.0, 3, 4, 5, 6, 12]))
    boxes[4, 3:] = boxes[4, :3]  # of no extent
    assert len(detector._select(logits, boxes, torch.Size(PATCH)).scores) == 10


def test_predictions_are_the_last_layer_s_in_their_places():
    detector, images = perturbed(make_detector()).eval(), images_of(2)
    with torch.no_grad():
        sets = detector._predict_sets(images)
    for image, found in enumerate(detector.predict(images)):
        scores = sets.logits[2, image].sigmoid()
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            query = (scores[:, label] - score).abs().argmin()
            torch.testing.assert_close(scores[query, label], score)
            centre, size = sets.boxes[2, image, query].view(2, 3) * torch.tensor(PATCH)
            low, high = centre - 0.5 - size / 2, centre - 0.5 + size / 2
            expected = torch.cat([low.clamp(min=-1), torch.minimum(high, torch.tensor(PATCH))])
            torch.testing.assert_close(box, expected, rtol=1e-4, atol=1e-4)


def test_the_coarsest_levels_are_used():
    detector = make_detector(detection_levels=(0, 1, 2), levels=2)
    assert list(detector.levels) == [1, 2]
    widths = [convolution.in_channels for convolution, _ in detector.mapper.maps]
    assert widths == [6, 8]
    found = detector._predict_sets(images_of(1))
    assert found.proposal_boxes.shape[1] == 8 * 8 * 6 + 4 * 4 * 3
    assert list(make_detector(detection_levels=(1, 2), levels=4).levels) == [1, 2]


def test_four_channels():
    detector = make_detector(channels=4)
    sum(detector(images_of(1, channels=4), targets_of([ONE])).values()).backward()
    gradient = detector.encoder.stem.convs[0].conv.weight.grad
    assert gradient.shape[1] == 4
    assert gradient.abs().sum(dim=(0, 2, 3, 4)).all()


def test_the_same_weights_give_the_same_gradients_to_the_bit():
    gradients = []
    for _ in range(2):
        detector = perturbed(make_detector())
        sum(detector(images_of(2), targets_of([ONE, OTHER], [OTHER])).values()).backward()
        gradients.append([parameter.grad for parameter in detector.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_autocast_keeps_boxes_and_losses_in_full_precision():
    detector = perturbed(make_detector())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector(images_of(2), targets_of([ONE], [OTHER]))
        (found,) = detector.eval().predict(images_of(1))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in detector.parameters())


def test_a_single_patch_can_be_learnt_by_heart():
    """Bright boxes of two classes, one at the border: after some steps the best two boxes are theirs."""
    edge = ((2, 9, 7, 7, 16, 12), 1)
    detector, targets = make_detector(), targets_of([ONE, edge])
    images = 0.3 * images_of(1)
    images[0, 0, 2:5, 3:8, 3:8] += 3
    images[0, 0, 3:7, 10:16, 8:12] += 3
    optimizer = torch.optim.AdamW(detector.parameters(), lr=0.001)
    for _ in range(250):
        optimizer.zero_grad()
        sum(detector(images, targets).values()).backward()
        optimizer.step()
    (found,) = detector.eval().predict(images)
    overlap = box_ops.iou(targets.boxes[0], found.boxes[:2])
    assert overlap.max(dim=1).values.min() > 0.85
    assert found.labels[overlap.argmax(dim=1)].tolist() == [0, 1]
    # one query per object, though nothing is suppressed
    assert found.scores[1] > 3 * found.scores[2]


DENOISING = {"denoising": 24}


@pytest.mark.parametrize("objects", BATCHES.values(), ids=BATCHES)
def test_denoising_queries_train_every_parameter_and_their_own(objects):
    detector = perturbed(make_detector(**DENOISING))
    losses = detector(images_of(2), targets_of(*objects))
    assert list(losses) == ["cls", "box", "giou", "aux", "dn"]
    assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    assert (losses["dn"].item() > 0) == any(objects)
    losses["dn"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())
    code = detector.denoising.label_code.weight.grad
    assert bool(code.any()) == any(objects)
    assert bool(detector.encoder.stem.convs[0].conv.weight.grad.any()) == any(objects)
    # what makes and ranks proposals is not the denoising's concern
    assert not any(p.grad is not None and p.grad.any() for p in detector.transformer.proposal_heads.parameters())


@pytest.mark.parametrize("objects", BATCHES.values(), ids=BATCHES)
def test_denoising_changes_no_other_loss(objects):
    images, targets = images_of(2), targets_of(*objects)
    plain, detector = make_detector(), make_detector(**DENOISING)
    weights = {name: value for name, value in detector.state_dict().items() if not name.startswith("denoising.")}
    assert list(weights) == list(plain.state_dict())
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in weights.items())
    losses, expected = perturbed(detector)(images, targets), perturbed(plain)(images, targets)
    assert list(expected) == ["cls", "box", "giou", "aux"]
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss)


def test_outside_of_training_there_is_no_denoising():
    images, targets = images_of(2), targets_of([ONE, OTHER], [OTHER])
    plain, detector = perturbed(make_detector()).eval(), perturbed(make_detector(**DENOISING)).eval()
    losses, expected = detector(images, targets), plain(images, targets)
    assert list(losses) == list(expected)
    assert all(torch.equal(losses[name], loss) for name, loss in expected.items())
    for mode in (True, False):
        for found, without in zip(detector.train(mode).predict(images), plain.train(mode).predict(images), strict=True):
            assert torch.equal(found.boxes, without.boxes)
            assert torch.equal(found.scores, without.scores)


def test_the_denoising_loss_is_that_of_every_query_and_layer_added_up():
    detector, images, targets = perturbed(make_detector(**DENOISING)), images_of(2), targets_of([ONE, OTHER], [OTHER])
    found = []
    detector.transformer.register_forward_hook(lambda _, inputs, result: found.append((inputs[1], result)))
    with torch.no_grad():
        loss = detector(images, targets)["dn"]
    ((extra, sets),) = found
    expected = 0.0
    for image, (boxes, labels) in enumerate(zip(targets.boxes, targets.labels, strict=True)):
        truths = centre_and_size(normalised(boxes, PATCH))
        for query in range(24):
            copy = query // 2 % 2  # six groups, in each two objects' positives, then their negatives
            if extra.hidden[image, query, query]:
                assert image == 1  # room that its only object does not need
                continue
            start = extra.boxes[image, query]
            shift = ((start - truths).abs()[:, :3] / (0.2 * truths[:, 3:])).amax(1)
            own = shift.argmin()  # a positive's; which object a negative is of makes no difference
            for logits, box in zip(sets.extra_logits[:, image, query], sets.extra_boxes[:, image, query], strict=True):
                p = logits.sigmoid()
                truth = torch.arange(2) == labels[own] if copy == 0 else torch.zeros(2, dtype=torch.bool)
                expected += torch.where(truth, -0.75 * (1 - p) * p.log(), -0.25 * p * (1 - p).log()).sum()
                if copy == 0:
                    expected += 5 * (box - truths[own]).abs().sum()
                    expected += 2 * (1 - box_ops.paired_giou(corners(box), corners(truths[own])))
    torch.testing.assert_close(loss, expected / (6 * 3), rtol=1e-4, atol=1e-5)


def test_denoising_follows_torch_s_seed():
    detector, images, targets = perturbed(make_detector(**DENOISING)), images_of(2), targets_of([ONE, OTHER], [OTHER])
    values = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        values.append(detector(images, targets)["dn"].item())
    assert values[0] == values[1] != values[2]


def test_denoising_queries_that_start_at_their_objects_pay_for_classes_only():
    """Before training boxes stay where they are: almost without noise the box terms are almost nothing."""
    detector = make_detector(denoising=24, box_noise=1e-4, contrastive=False)
    detector.weights = {"cls": 0.0, "box": 5.0, "giou": 2.0}
    assert 0 < detector(images_of(2), targets_of([ONE, OTHER], [OTHER]))["dn"] < 0.01


def test_denoising_queries_of_an_image_are_not_affected_by_the_room_that_others_need():
    """No noise to speak of: one object alone costs what it costs beside an image of none or of the same."""
    detector = perturbed(make_detector(denoising=8, box_noise=1e-6, label_noise=0.0))
    images = images_of(2)
    alone = detector(images[:1], targets_of([ONE]))["dn"]
    beside = detector(images, targets_of([ONE], []))["dn"]
    torch.testing.assert_close(beside, alone, rtol=1e-3, atol=1e-4)
    two = detector(images[1:], targets_of([ONE, OTHER]))["dn"]
    together = detector(images, targets_of([ONE], [ONE, OTHER]))["dn"]
    torch.testing.assert_close(together, (alone + 2 * two) / 3, rtol=1e-3, atol=1e-4)


def test_denoising_under_autocast():
    detector = perturbed(make_detector(**DENOISING))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector(images_of(2), targets_of([ONE], [OTHER]))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in detector.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"candidates": 11}, "candidates 11: use at least 12"),
        ({"norm_groups": 5}, "hidden 24 does not divide by norm_groups 5"),
        ({"heads": 5}, "24 channels do not divide by 5 heads"),
        ({"denoising": -1}, "denoising -1: use 2 or more, or 0"),
        ({"denoising": 10, "box_noise": 2.0}, "box_noise 2.0"),
    ],
)
def test_numbers_that_do_not_fit_are_input_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        make_detector(**arguments)
