import math

import pytest
import torch

from detpretrain.detectors.losses import one_hot_labels, sigmoid_focal, soft_dice


def naive_focal(logit, target, alpha, gamma):
    probability = 1 / (1 + math.exp(-logit))
    true_class = probability if target else 1 - probability
    return -(alpha if target else 1 - alpha) * (1 - true_class) ** gamma * math.log(true_class)


def test_focal_loss_by_hand():
    # p = 0.5: -0.75 x 0.5 x ln 0.5 for the object, a third of it for background
    found = sigmoid_focal(torch.zeros(2), torch.tensor([1.0, 0.0]), alpha=0.75, gamma=1.0)
    assert found.tolist() == pytest.approx([0.375 * math.log(2), 0.125 * math.log(2)])


@pytest.mark.parametrize(("alpha", "gamma"), [(0.75, 1.0), (0.25, 2.0), (0.5, 0.0)])
def test_focal_loss_equals_a_loop(alpha, gamma):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=generator) * 3
    targets = (torch.rand(6, 4, generator=generator) < 0.3).float()
    expected = [
        naive_focal(logit, target, alpha, gamma)
        for logit, target in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True)
    ]
    found = sigmoid_focal(logits, targets, alpha, gamma)
    assert found.shape == (6, 4)
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_focal_loss_of_certain_predictions_is_finite():
    logits = torch.tensor([80.0, -80.0, 80.0, -80.0], requires_grad=True)
    loss = sigmoid_focal(logits, torch.tensor([1.0, 1.0, 0.0, 0.0]), 0.75, 1.0)
    assert loss.tolist() == pytest.approx([0.0, 60.0, 20.0, 0.0])
    loss.sum().backward()
    assert logits.grad.isfinite().all()


def test_dice_by_hand():
    prediction = torch.tensor([[[[0.5, 1.0]]], [[[0.0, 0.5]]]])  # two images: their sums are pooled
    target = torch.tensor([[[[True, True]]], [[[False, False]]]])
    assert soft_dice(prediction, target, 0.0).item() == pytest.approx(1 - 2 * 1.5 / 4, abs=1e-5)
    assert soft_dice(prediction, target, 1.0, 1.0).item() == pytest.approx(1 - (2 * 1.5 + 1) / 5)


def test_dice_without_foreground():
    empty = torch.zeros(1, 2, 2, 2)
    assert soft_dice(empty, empty, smooth_numerator=0.0).item() == 1.0  # v002
    assert soft_dice(empty, empty, smooth_numerator=1e-5).item() == pytest.approx(
        0.0
    )  # v001: nothing to find, nothing lost
    uncertain = torch.full_like(empty, 0.1).requires_grad_()
    soft_dice(uncertain, empty, 0.0).backward()
    assert uncertain.grad.isfinite().all()


def test_one_hot_labels_leave_background_empty():
    assert one_hot_labels(torch.tensor([1, -1, 0]), 3).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
