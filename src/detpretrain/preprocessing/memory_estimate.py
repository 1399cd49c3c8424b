"""GPU memory of one training step of the reference detector, by counting what the backward pass keeps.

nnDetection v0.1 builds its network on a GPU and shrinks the patch until ten steps fit an RTX 2080 Ti. A plan must come out
the same on every machine, so the same network is counted instead of run:

    bytes = batch * (encoder + neck + heads + segmentation + input) + anchors + gradients + parameters

with V_s the voxels of stage s, C_s its encoder channels (32 doubling to 320), F_s its neck channels (128 from the first
detection level on, halved per level below), all maps in half precision (2 bytes):

- encoder: 2 blocks per stage; each keeps the convolution's output and the normalised one: 4 C_s V_s values;
- neck: the lateral sum and the output convolution: 2 F_s V_s values;
- heads (detection levels): 2 branches of 2 blocks with GroupNorm, which autocast runs in single precision: per value a half
  output, its single copy, the normalised single one and its half copy: 4 * 12 * 128 V_s bytes; logits and deltas of the 27
  anchors in half and single precision;
- segmentation: 2 classes, half and single logits and the softmax; input: single and half;
- anchors: 27 boxes of 6 single values per position; gradients: two of the largest map;
- parameters: single weight, gradient, Adam's two moments, half copy: 18 bytes each.

Reference network: 2 convolutions per stage, InstanceNorm, ReLU in place; nnDetection v0.1, ``RetinaUNetV001``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# RTX 2080 Ti as nnDetection budgets it: 11523260416 bytes less a margin of 11 MiB and the 768 MiB held back while measuring.
BUDGET = 11_523_260_416 - (11 + 768) * 2**20
BATCH = 4
START, LARGEST, NECK, HEAD, NECK_SMALLEST = 32, 320, 128, 128, 8
ANCHORS, BOX = 27, 6
HALF, SINGLE = 2, 4


def training_bytes(
    patch: Sequence[int],
    strides: Sequence[Sequence[int]],
    kernels: Sequence[Sequence[int]],
    detection_levels: Sequence[int],
    channels: int,
    classes: int,
    batch: int = BATCH,
) -> int:
    """Bytes of a training step for an architecture, see the module's text; ``strides`` and ``kernels`` [stages][3]."""
    voxels = np.prod(np.asarray(patch) / np.cumprod(strides, axis=0), axis=1)
    encoder, neck = widths(len(strides), min(detection_levels))
    heads = voxels[list(detection_levels)]

    kept = 4 * HALF * (encoder * voxels).sum() + 2 * HALF * (neck * voxels).sum()
    kept += (4 * (2 * HALF + 2 * SINGLE) * HEAD + ANCHORS * (classes + BOX) * (HALF + SINGLE)) * heads.sum()
    kept += (2 * (HALF + 2 * SINGLE) + channels * (SINGLE + HALF)) * voxels[0]
    gradients = 2 * HALF * max((encoder * voxels).max(), (neck * voxels).max())
    anchors = ANCHORS * BOX * SINGLE * heads.sum()
    weights = parameters(strides, kernels, detection_levels, channels, classes)
    return int(batch * (kept + gradients) + anchors + weights * (4 * SINGLE + HALF))


def widths(stages: int, first_level: int) -> tuple[np.ndarray, np.ndarray]:
    """Channels of the reference network's encoder and neck, per stage."""
    encoder = np.minimum(START * 2 ** np.arange(stages), LARGEST)
    neck = [NECK if s >= first_level else max(NECK_SMALLEST, NECK >> (first_level - s)) for s in range(stages)]
    return encoder, np.array(neck)


def parameters(
    strides: Sequence[Sequence[int]],
    kernels: Sequence[Sequence[int]],
    detection_levels: Sequence[int],
    channels: int,
    classes: int,
) -> int:
    """Weights of the reference network; biases and norms are too few to matter."""
    encoder, neck = widths(len(strides), min(detection_levels))
    taps = np.prod(kernels, axis=1)
    before = np.concatenate([[channels], encoder[:-1]])
    count = (taps * encoder * (before + encoder)).sum() + (encoder * neck).sum() + (taps * neck * neck).sum()
    count += (np.prod(strides, axis=1)[1:] * neck[1:] * neck[:-1]).sum()
    return int(count + 27 * HEAD * (4 * HEAD + ANCHORS * (classes + BOX)) + 2 * neck[0])
