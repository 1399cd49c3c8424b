"""VoCo's crops: a grid of base crops that tiles the patch, random target crops, and how much of each base a target shares.

Everything is drawn and measured in numpy; crops are cut, augmented, mirrored and turned for the whole batch at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor

from detpretrain.errors import InputError
from detpretrain.loading import intensity
from detpretrain.loading.augmentation import Augmentation, Draws

FEWEST_BASES = 4  # of a crop side derived from the patch
TURN_PROBABILITY = 0.3
# Turns are in the plane of the last two axes (y, x): that is the axial plane, and the one of nnssl's two long patch axes.
TURN_PLANE = (-2, -1)

# nnssl's VocoTransform. Blur and low resolution reach half of a sample's channels there. A crop has one channel, so that they
# are half as likely as their probabilities, 0.2 and 0.1, say.
CROP_AUGMENTATION = Augmentation(
    rotation_probability=0.0,
    zoom_probability=0.0,
    noise_probability=0.1,
    noise_variance=(0.0, 0.1),
    blur_probability=0.2,
    blur_channel_probability=0.5,
    blur_sigma=(0.5, 1.0),
    brightness_probability=0.15,
    brightness=(0.75, 1.25),
    contrast_probability=0.15,
    contrast=(0.75, 1.25),
    low_resolution_probability=0.05,
    low_resolution=(0.5, 1.0),
    inverted_gamma_probability=0.1,
    gamma_probability=0.3,
    gamma=(0.7, 1.5),
    mirror_axes=(0, 1, 2),
)


@dataclass(frozen=True)
class CropDraws:
    """One crop's augmentation: intensities and mirroring, then so many quarter turns."""

    draws: Draws
    turns: int


def crop_side(patch: Sequence[int], crop: int | None) -> int:
    """The given side of a crop, or the derived one.

    Raises:
        InputError: crops of that side do not tile the patch, or there is only one.
    """
    side = derived_crop(patch) if crop is None else crop
    if any(size % side for size in patch):
        raise InputError(
            f"VoCo: crops of {side} do not tile the patch {tuple(patch)}: set crop to a divisor of all its sides"
        )
    if all(size == side for size in patch):
        raise InputError(f"VoCo: patch {tuple(patch)} is a single crop of {side}: set crop to a smaller side")
    return side


def derived_crop(patch: Sequence[int]) -> int:
    """The shortest side of the patch, halved until at least four crops fit: (64, 192, 192) -> 64, 32^3 -> 16."""
    side = min(patch)
    while side > 1 and np.prod([size // side for size in patch]) < FEWEST_BASES:
        side //= 2
    return side


def base_starts(patch: Sequence[int], crop: int) -> np.ndarray:
    """First voxels ``[N, 3]`` of the crops that tile the patch, z slowest."""
    return np.array(list(product(*(range(0, size, crop) for size in patch))))


def target_starts(rng: np.random.Generator, patch: Sequence[int], crop: int, count: int) -> np.ndarray:
    """First voxels ``[count, 3]`` of crops anywhere inside the patch, every position as likely."""
    return rng.integers(0, np.asarray(patch) - crop, size=(count, 3), endpoint=True)


def overlaps(targets: np.ndarray, bases: np.ndarray, crop: int) -> np.ndarray:
    """Shared volume / volume of a crop, ``[T, 3], [N, 3] -> [T, N]``; a target's sum to 1 where the bases tile its place."""
    shared = np.maximum(crop - np.abs(targets[:, None] - bases), 0)
    return shared.prod(axis=-1) / crop**3


def cut(images: Tensor, starts: Tensor, crop: int) -> Tensor:
    """Crops ``[B, K, c, c, c]`` of ``images [B, 1, D, H, W]`` at ``starts [B, K, 3]``: a copy, in one operation."""
    windows = images[:, 0].unfold(1, crop, 1).unfold(2, crop, 1).unfold(3, crop, 1)
    sample = torch.arange(len(images), device=images.device)[:, None]
    return windows[sample, starts[..., 0], starts[..., 1], starts[..., 2]]


def draw_crops(rng: np.random.Generator, augmentation: Augmentation, count: int) -> list[CropDraws]:
    """Draws for so many crops, each its own."""
    return [_draw_crop(rng, augmentation) for _ in range(count)]


def augment(crops: Tensor, draws: Sequence[CropDraws]) -> Tensor:
    """``[K, c, c, c]`` cubes with their draws: intensities, mirroring, turns, in this order."""
    crops = intensity.apply(crops[:, None], [crop.draws for crop in draws])[:, 0]
    mirrors = np.array([crop.draws.mirror for crop in draws])
    for axis in range(3):
        crops = _changed(crops, mirrors[:, axis], partial(torch.flip, dims=(axis + 1,)))
    turns = np.array([crop.turns for crop in draws])
    for number in (1, 2, 3):
        crops = _changed(crops, turns == number, partial(torch.rot90, k=number, dims=TURN_PLANE))
    return crops


def _draw_crop(rng: np.random.Generator, augmentation: Augmentation) -> CropDraws:
    draws = augmentation.draw(rng, channels=1)
    drawn, turns = rng.random() < TURN_PROBABILITY, int(rng.integers(1, 4))
    return CropDraws(draws, turns if drawn else 0)


def _changed(crops: Tensor, chosen: np.ndarray, function: Callable[[Tensor], Tensor]) -> Tensor:
    return intensity.replaced(crops, np.flatnonzero(chosen), function) if chosen.any() else crops
