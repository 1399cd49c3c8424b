"""Patches with two objects, and a detector as after some training, for the tests of every detector."""

import torch

from detpretrain.detectors.contract import Targets

PATCH = (8, 16, 12)
ONE, OTHER = ((1, 2, 2, 5, 8, 8), 0), ((2, 9, 5, 7, 15, 11), 1)  # (box in whole voxels, class)


def images_of(batch, channels=1, seed=0):
    return torch.randn(batch, channels, *PATCH, generator=torch.Generator().manual_seed(seed))


def targets_of(*objects):
    """Targets of a batch: per image a list of (box in whole voxels, class)."""
    foreground = torch.zeros(len(objects), *PATCH, dtype=torch.bool)
    for image, found in enumerate(objects):
        for (z1, y1, x1, z2, y2, x2), _ in found:
            foreground[image, z1 + 1 : z2, y1 + 1 : y2, x1 + 1 : x2] = True
    boxes = [torch.tensor([box for box, _ in found]).float().view(-1, 6) for found in objects]
    return Targets(boxes, [torch.tensor([c for _, c in found], dtype=torch.int64) for found in objects], foreground)


def perturbed(detector, seed=1):
    """Zero-initialised branches and tiny heads say little about the wiring: weights as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return detector


def selected(select, logits, deltas, anchors, shape):
    """Detections of one image from what a head says of every anchor: ``[N, K], [N, 6], [N, 6]``."""
    scores, places, labels = (found[0] for found in select.best(logits[None]))
    return select(scores, labels, deltas[places], anchors[places], shape)
