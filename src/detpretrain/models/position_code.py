"""Sine codes of positions and boxes (Vaswani et al., 2017; normalised as in DETR, Carion et al., ECCV 2020), for volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TEMPERATURE = 10_000.0


def sine_code(values: Tensor, channels: int, temperature: float = TEMPERATURE) -> Tensor:
    """Code of fractions, ``[...] -> [..., channels]``: sine and cosine side by side, of ``channels / 2`` wavelengths.

    The angle of channels 2i and 2i + 1 is ``2 pi value / temperature ** (2i / channels)``; ``channels`` is even.
    """
    exponents = torch.arange(0, channels, 2, device=values.device, dtype=values.dtype) / channels
    angles = 2 * math.pi * values[..., None] / temperature**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def vector_code(vectors: Tensor, channels: int, temperature: float = TEMPERATURE) -> Tensor:
    """Codes of the components one after the other: ``[..., N] -> [..., channels]``.

    Each component gets the largest even number of channels that fits N times; what is left over is zero: of 128 channels for
    (z, y, x), 42 each and 2 zeros.
    """
    components = vectors.shape[-1]
    each = channels // (2 * components) * 2
    code = sine_code(vectors, each, temperature).flatten(-2)
    return torch.nn.functional.pad(code, (0, channels - each * components))


def voxel_centres(size: Sequence[int], device: torch.device) -> Tensor:
    """``(D, H, W) -> [D * H * W, 3]``: centres of the voxels as fractions (z, y, x) of the volume, x fastest."""
    axes = [(torch.arange(n, device=device, dtype=torch.float32) + 0.5) / n for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
