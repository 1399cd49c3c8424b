"""Intensity transforms on the device, batched: every function takes ``[N, D, H, W]`` volumes and ``[N]`` parameters.

N counts channels of samples; callers pass only the volumes for which a transform was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from detpretrain.loading.augmentation import Draws

BLUR_RADIUS = 4  # four sigma at the largest sigma in use


def gaussian_noise(volumes: Tensor, deviation: Sequence[float], seeds: Sequence[int]) -> Tensor:
    """Adds noise whose field depends on the seed alone (per volume), whatever the batch."""
    fields = []
    for seed in seeds:
        generator = torch.Generator(volumes.device).manual_seed(seed)
        fields.append(torch.randn(volumes.shape[1:], generator=generator, device=volumes.device))
    return volumes + torch.stack(fields) * _shaped(deviation, volumes)


def blur(volumes: Tensor, parameters: Sequence[float]) -> Tensor:
    """Separable Gaussian blur, replicated borders."""
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=volumes.device, dtype=volumes.dtype)
    spread = torch.as_tensor(np.asarray(parameters), device=volumes.device, dtype=volumes.dtype)[:, None]
    kernel = torch.exp(-0.5 * (offsets / spread) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)  # [N, 9]
    result = volumes[None]
    for axis in range(3):
        shape, padding = [1, 1, 1], [0] * 6
        shape[axis] = len(offsets)
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = BLUR_RADIUS
        weight = kernel.view(len(volumes), 1, *shape)
        result = functional.conv3d(functional.pad(result, padding, mode="replicate"), weight, groups=len(volumes))
    return result[0]


def brightness(volumes: Tensor, parameters: Sequence[float]) -> Tensor:
    return volumes * _shaped(parameters, volumes)


def contrast(volumes: Tensor, parameters: Sequence[float]) -> Tensor:
    """Stretches around the mean; the original range is kept by clipping."""
    mean = volumes.mean(dim=(1, 2, 3), keepdim=True)
    low, high = volumes.amin(dim=(1, 2, 3), keepdim=True), volumes.amax(dim=(1, 2, 3), keepdim=True)
    return torch.clamp((volumes - mean) * _shaped(parameters, volumes) + mean, low, high)


def gamma(volumes: Tensor, parameters: Sequence[float]) -> Tensor:
    """Gamma on the volume's own range; mean and standard deviation are kept."""
    mean, deviation = volumes.mean(dim=(1, 2, 3), keepdim=True), volumes.std(dim=(1, 2, 3), keepdim=True)
    low = volumes.amin(dim=(1, 2, 3), keepdim=True)
    extent = (volumes.amax(dim=(1, 2, 3), keepdim=True) - low).clamp(min=1e-7)
    curved = ((volumes - low) / extent) ** _shaped(parameters, volumes) * extent + low
    new_mean, new_deviation = curved.mean(dim=(1, 2, 3), keepdim=True), curved.std(dim=(1, 2, 3), keepdim=True)
    return (curved - new_mean) / new_deviation.clamp(min=1e-8) * deviation + mean


def low_resolution(volumes: Tensor, parameters: Sequence[float]) -> Tensor:
    """Every axis is sampled at ``round(size * factor)`` voxels (nearest), then interpolated back linearly.

    As nnU-Net's SimulateLowResolution in batchgeneratorsv2; the older batchgenerators goes back by cubic splines. All factors at
    once: along one axis, an output voxel is a mean of two input voxels, wherever the coarse voxels around it come from.
    """
    for axis in (1, 2, 3):
        below, above, weight = coarse_neighbours(volumes.shape[axis], parameters)
        shape = [len(volumes), 1, 1, 1]
        shape[axis] = -1
        below, above = (
            torch.as_tensor(place, device=volumes.device).view(shape).expand_as(volumes) for place in (below, above)
        )
        weight = torch.as_tensor(weight, device=volumes.device, dtype=volumes.dtype).view(shape)
        volumes = torch.lerp(volumes.gather(axis, below), volumes.gather(axis, above), weight)
    return volumes


def coarse_neighbours(size: int, factors: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the two coarse voxels around each voxel were sampled, and the weight of the second: ``[N, size]`` each.

    Voxels are compared by their centres; beyond the outermost coarse voxels their value goes on.
    """
    coarse = np.maximum(np.round(size * np.asarray(factors)), 1).astype(np.int64)[:, None]
    position = np.clip((np.arange(size) + 0.5) * coarse / size - 0.5, 0, coarse - 1)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, coarse - 1)
    # the voxel that holds the centre of a coarse one, in whole numbers: its border is hit exactly
    first, second = ((2 * index + 1) * size // (2 * coarse) for index in (below, above))
    return first, second, position - below


def inverted_gamma(volumes: Tensor, parameters: Sequence[float]) -> Tensor:
    return -gamma(-volumes, parameters)


# in the study's order, after the noise: function, field of Draws, the value that means "not drawn"
TRANSFORMS: tuple[tuple[Callable[[Tensor, Sequence[float]], Tensor], str, float], ...] = (
    (blur, "blur", 0.0),
    (brightness, "brightness", 1.0),
    (contrast, "contrast", 1.0),
    (low_resolution, "low_resolution", 1.0),
    (inverted_gamma, "inverted_gamma", 1.0),
    (gamma, "gamma", 1.0),
)


def apply(images: Tensor, draws: Sequence[Draws]) -> Tensor:
    """All drawn intensity transforms, in the study's order: ``[B, C, D, H, W]`` and one ``Draws`` per sample."""
    channels = images.shape[1]
    volumes = images.flatten(0, 1)
    noise = np.repeat([draw.noise for draw in draws], channels)
    rows = np.flatnonzero(noise)
    if len(rows):
        # every channel has a noise field of its own
        seeds = [draws[row // channels].seed + int(row % channels) for row in rows]
        volumes = replaced(volumes, rows, lambda chosen: gaussian_noise(chosen, noise[rows], seeds))
    for function, name, neutral in TRANSFORMS:
        values = np.concatenate([getattr(draw, name) for draw in draws])
        rows = np.flatnonzero(values != neutral)
        if len(rows):
            volumes = replaced(volumes, rows, partial(function, parameters=values[rows]))
    return volumes.unflatten(0, images.shape[:2])


def replaced(volumes: Tensor, rows: np.ndarray, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A copy of ``volumes [N, ...]`` in which ``function`` has been applied to the given rows."""
    index = torch.as_tensor(rows, device=volumes.device)
    return volumes.index_copy(0, index, function(volumes[index]))


def _shaped(values: Sequence[float], volumes: Tensor) -> Tensor:
    return torch.as_tensor(np.asarray(values), device=volumes.device, dtype=volumes.dtype)[:, None, None, None]
