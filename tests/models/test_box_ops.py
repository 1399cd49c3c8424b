import itertools
import math

import numpy as np
import pytest
import torch

from detpretrain import boxes as numpy_boxes
from detpretrain.models import box_ops


def random_boxes(seed, count, extent=30.0, largest=12.0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-2, extent, (count, 3))
    return torch.from_numpy(np.hstack([low, low + rng.uniform(0.5, largest, (count, 3))])).float()


def voxels(box, extent=12):
    """The box as unit cubes: for integer corners, volumes are counts."""
    grid = np.zeros((extent,) * 3, dtype=bool)
    z1, y1, x1, z2, y2, x2 = (int(value) for value in box)
    grid[z1:z2, y1:y2, x1:x2] = True
    return grid


def whole_boxes(seed, count):
    low = np.random.default_rng(seed).integers(0, 8, (count, 3))
    size = np.random.default_rng(seed + 1).integers(1, 5, (count, 3))
    return torch.from_numpy(np.hstack([low, low + size])).float()


def naive_nms(boxes, scores, labels, threshold):
    overlap = numpy_boxes.iou(boxes.numpy(), boxes.numpy())
    remaining = sorted(range(len(scores)), key=lambda i: -float(scores[i]))
    kept = []
    while remaining:
        best, *rest = remaining
        kept.append(best)
        remaining = [i for i in rest if labels[i] != labels[best] or overlap[best, i] <= threshold]
    return kept


@pytest.mark.parametrize(("n", "m"), [(40, 30), (1, 7), (0, 5), (5, 0)])
def test_iou_equals_the_numpy_one(n, m):
    a, b = random_boxes(n, n), random_boxes(m + 100, m)
    found = box_ops.iou(a, b)
    assert found.shape == (n, m)
    np.testing.assert_allclose(found.numpy(), numpy_boxes.iou(a.numpy(), b.numpy()), atol=1e-6)
    np.testing.assert_allclose(box_ops.volume(a).numpy(), numpy_boxes.volume(a.numpy()), rtol=1e-5)


def test_boxes_without_volume_overlap_nothing():
    flat = torch.tensor([[1.0, 1, 1, 1, 4, 4]])
    inverted = torch.tensor([[4.0, 4, 4, 1, 1, 1]])
    whole = torch.tensor([[0.0, 0, 0, 5, 5, 5]])
    for box in (flat, inverted):
        assert box_ops.iou(box, torch.cat([box, whole])).tolist() == [[0.0, 0.0]]
        assert box_ops.volume(box).tolist() == [0.0]


def test_giou_by_hand():
    a = torch.tensor([0.0, 0, 0, 2, 2, 2])
    # IoU 4/12, hull 12; touching corners: IoU 0, hull 64, union 16; apart by one: hull 5^3
    others = torch.tensor([[0.0, 0, 1, 2, 2, 3], [2, 2, 2, 4, 4, 4], [3, 3, 3, 5, 5, 5], [0, 0, 0, 2, 2, 2]])
    expected = [4 / 12, -(64 - 16) / 64, -(125 - 16) / 125, 1.0]
    assert box_ops.paired_giou(a, others).tolist() == pytest.approx(expected)


def test_giou_equals_counted_voxels():
    a, b = whole_boxes(0, 60), whole_boxes(7, 60)
    for first, second, found in zip(a.numpy(), b.numpy(), box_ops.paired_giou(a, b).tolist(), strict=True):
        one, two = voxels(first), voxels(second)
        low, high = np.minimum(first[:3], second[:3]), np.maximum(first[3:], second[3:])
        hull = voxels([*low, *high]).sum()
        union = (one | two).sum()
        assert found == pytest.approx((one & two).sum() / union - (hull - union) / hull, abs=1e-6)


def test_gradients_of_giou_are_finite_and_pull_boxes_together():
    target = torch.tensor([[4.0, 4, 4, 8, 8, 8]])
    flat = [[4.0, 4, 4, 4, 8, 8], [0, 0, 0, 0, 0, 0]]
    boxes = torch.tensor([[20.0, 4, 4, 24, 8, 8], [4, 4, 4, 8, 8, 8], [0, 0, 0, 20, 20, 20], *flat], requires_grad=True)
    box_ops.paired_giou(boxes, target.expand(5, 6)).sum().backward()
    assert boxes.grad.isfinite().all()
    assert boxes.grad[0, 0] < 0  # the box lies behind its target: less z1, more GIoU
    assert boxes.grad[2, 0] > 0  # the box is too large: more z1, more GIoU


def test_coding_is_its_own_inverse():
    anchors, boxes = random_boxes(1, 200), random_boxes(2, 200, largest=20.0)
    torch.testing.assert_close(box_ops.decode(box_ops.encode(boxes, anchors), anchors), boxes, rtol=0, atol=1e-4)
    anchors, boxes = anchors.double(), boxes.double()
    torch.testing.assert_close(box_ops.decode(box_ops.encode(boxes, anchors), anchors), boxes, rtol=0, atol=1e-12)
    deltas = torch.randn(200, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(box_ops.encode(box_ops.decode(deltas, anchors), anchors), deltas, rtol=0, atol=1e-12)


def test_coding_by_hand():
    anchor, box = torch.tensor([[0.0, 0, 0, 4, 4, 4]]), torch.tensor([[1.0, 1, 2, 3, 9, 6]])
    expected = [0.0, 3 / 4, 2 / 4, math.log(0.5), math.log(2), 0.0]
    assert box_ops.encode(box, anchor)[0].tolist() == pytest.approx(expected)
    assert box_ops.encode(anchor, anchor)[0].tolist() == [0.0] * 6


def test_decoding_limits_the_size_and_keeps_gradients_finite():
    anchor = torch.tensor([[0.0, 0, 0, 16, 16, 16]])
    deltas = torch.tensor([[0.0, 0, 0, 200.0, 0, -200.0]], requires_grad=True)
    decoded = box_ops.decode(deltas, anchor)
    sides = decoded[0, 3:] - decoded[0, :3]
    assert sides.tolist() == pytest.approx([1000.0, 16.0, 0.0], rel=1e-5)
    decoded.sum().backward()
    assert deltas.grad.isfinite().all()


def test_clip_equals_the_numpy_one():
    boxes = random_boxes(4, 50)
    found = box_ops.clip(boxes, torch.Size([20, 10, 30]))
    np.testing.assert_array_equal(found.numpy(), numpy_boxes.clip(boxes.numpy(), (20, 10, 30)).astype(np.float32))


@pytest.mark.parametrize("threshold", [1e-5, 0.1, 0.4])
@pytest.mark.parametrize("seed", range(4))
def test_nms_equals_the_numpy_one_and_the_naive_loop(seed, threshold):
    rng = np.random.default_rng(seed)
    boxes = random_boxes(seed, 120, extent=4.0)
    scores = torch.from_numpy(rng.integers(0, 25, 120) / 25).float()  # with ties
    labels = torch.from_numpy(rng.integers(0, 3, 120))
    kept = box_ops.nms(boxes, scores, labels, threshold).tolist()
    assert kept == naive_nms(boxes, scores, labels, threshold)
    assert kept == numpy_boxes.nms(boxes.numpy(), scores.numpy(), labels.numpy(), threshold).tolist()
    assert len(kept) < 120


def test_nms_leaves_boxes_of_other_classes_and_of_equal_iou():
    same = torch.tensor([[0.0, 0, 0, 2, 2, 2]]).repeat(3, 1)
    assert box_ops.nms(same, torch.tensor([0.1, 0.9, 0.5]), torch.tensor([0, 1, 0]), 0.5).tolist() == [1, 2]
    half = torch.tensor([[0.0, 0, 0, 1, 1, 4], [0, 0, 0, 1, 1, 2]])  # IoU exactly 0.5
    assert box_ops.nms(half, torch.tensor([0.9, 0.8]), torch.zeros(2), 0.5).tolist() == [0, 1]
    assert box_ops.nms(half, torch.tensor([0.9, 0.8]), torch.zeros(2), 0.49).tolist() == [0]


@pytest.mark.parametrize("keep", [0, 1, 5, 1000])
def test_nms_keeps_the_best_ones(keep):
    boxes, labels = random_boxes(3, 60), torch.zeros(60, dtype=torch.int64)
    scores = torch.rand(60, generator=torch.Generator().manual_seed(1))
    everything = box_ops.nms(boxes, scores, labels, 0.2)
    assert box_ops.nms(boxes, scores, labels, 0.2, keep=keep).tolist() == everything[:keep].tolist()


def test_nms_keeps_boxes_without_volume():
    """They overlap with nothing, each other included."""
    flat = torch.tensor([[0.0, 0, 0, 0, 2, 2], [0, 0, 0, 0, 2, 2], [3, 3, 3, 2, 4, 4]])
    assert box_ops.nms(flat, torch.tensor([0.5, 0.9, 0.7]), torch.zeros(3), 0.1).tolist() == [1, 2, 0]


def test_nms_of_nothing():
    kept = box_ops.nms(torch.empty(0, 6), torch.empty(0), torch.empty(0, dtype=torch.int64), 0.5, keep=10)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


def instance_map(seed, shape, ids):
    rng = np.random.default_rng(seed)
    instances = np.zeros(shape, dtype=np.int32)
    for id in ids:
        for _ in range(2):  # two parts each, that may cover others
            low = rng.integers(0, shape)
            high = np.minimum(low + rng.integers(1, 6, 3), shape)
            instances[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = id
    return instances


@pytest.mark.parametrize("seed", range(6))
def test_instance_boxes_equal_the_numpy_ones(seed):
    instances = instance_map(seed, (12, 9, 16), (2, 3, 40, 1000))
    instances[0, 0, 0], instances[1, 1, 1] = 7, -1  # one voxel at the border; what is negative is background
    ids, boxes = box_ops.from_instances(torch.from_numpy(instances))
    expected_ids, expected = numpy_boxes.from_instances(instances)
    assert ids.tolist() == expected_ids.tolist()
    np.testing.assert_array_equal(boxes.numpy(), expected)
    assert boxes.dtype == torch.float32


def test_no_instances_no_boxes():
    ids, boxes = box_ops.from_instances(torch.zeros(3, 4, 5, dtype=torch.int32))
    assert (ids.shape, boxes.shape) == ((0,), (0, 6))


def test_an_instance_may_fill_the_map():
    for shape in itertools.permutations((1, 3, 7)):
        _, boxes = box_ops.from_instances(torch.full(shape, 5))
        assert boxes.tolist() == [[-1.0, -1, -1, *shape]]


def test_distance_iou_by_hand():
    a = torch.tensor([0.0, 0, 0, 2, 2, 2])
    shifted = torch.tensor([1.0, 0, 0, 3, 2, 2])
    # IoU 4 / 12, centres 1 apart, the box around both 3 x 2 x 2
    assert box_ops.paired_diou(a, shifted).item() == pytest.approx(1 / 3 - 1 / 17)
    assert box_ops.paired_diou(a, a).item() == 1
    apart = torch.tensor([100.0, 100, 100, 102, 102, 102])
    assert box_ops.paired_diou(a, apart).item() == pytest.approx(-(100**2) / 102**2)
    concentric = torch.tensor([0.5, 0.5, 0.5, 1.5, 1.5, 1.5])
    assert box_ops.paired_diou(a, concentric).item() == pytest.approx(1 / 8)
