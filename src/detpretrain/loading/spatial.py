"""Rotation, zoom and mirroring of patches: how much to read, and the resampling on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def source_region(start: np.ndarray, patch: Sequence[int], matrix: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """First and one-past-last source voxel that a transformed patch touches, ``[3], [3]``.

    Without a transform it is the patch itself, so that nothing is read or interpolated in vain.
    """
    patch = np.asarray(patch)
    if matrix is None:
        return start, start + patch
    centre = start + (patch - 1) / 2
    reach = np.abs(matrix) @ ((patch - 1) / 2)
    return np.floor(centre - reach).astype(int) - 1, np.ceil(centre + reach).astype(int) + 2


def read_region(array, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """``array[..., low:high]`` over the last three axes, zero outside the volume."""
    shape = np.asarray(array.shape[-3:])
    inside_low, inside_high = np.clip(low, 0, shape), np.clip(high, 0, shape)
    lead = array.shape[:-3]
    result = np.zeros((*lead, *(high - low)), dtype=array.dtype)
    if (inside_high <= inside_low).any():
        return result
    window = tuple(slice(a, b) for a, b in zip(inside_low - low, inside_high - low, strict=True))
    source = tuple(slice(a, b) for a, b in zip(inside_low, inside_high, strict=True))
    result[(..., *window)] = array[(*(slice(None) for _ in lead), *source)]
    return result


def resample(region: Tensor, matrix: Tensor, offset: Tensor, patch: Sequence[int], nearest: bool) -> Tensor:
    """The transformed patch, ``[C, d, h, w] -> [C, *patch]``, zero outside.

    Output voxel ``o`` takes the source at ``offset + matrix @ (o - (patch - 1) / 2)`` (region index coordinates), trilinear or
    nearest.
    """
    device = region.device
    axes = [torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2 for n in patch]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    source = grid @ matrix.to(device, torch.float32).T + offset.to(device, torch.float32)
    size = torch.tensor(region.shape[1:], device=device, dtype=torch.float32)
    normalised = ((2 * source + 1) / size - 1).flip(-1)  # grid_sample wants (x, y, z)
    mode = "nearest" if nearest else "bilinear"
    return functional.grid_sample(region[None].float(), normalised[None], mode=mode, align_corners=False)[0]


def mirror(volume: Tensor, axes: Sequence[bool]) -> Tensor:
    """Flips the last three axes where asked."""
    dims = [axis - 3 for axis, flip in enumerate(axes) if flip]
    return volume.flip(dims) if dims else volume
