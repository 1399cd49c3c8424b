"""Anchors of a feature pyramid: 27 shapes at every position, centred at index x stride (nnDetection v0.1)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnchorGrid:
    """All anchors of one image shape.

    Attributes:
        boxes: ``[N, 6]``, level by level, then position (z, y, x row-major), then shape.
        positions: per level the anchor centres, ``[P_l, 3]``.
        shapes: number of shapes per position; ``N = sum(P_l) * shapes``.
    """

    boxes: Tensor
    positions: tuple[Tensor, ...]
    shapes: int


class AnchorGenerator:
    """Makes the grid for an image shape and keeps it: shapes repeat in training and in sliding windows.

    Args:
        sizes: three sizes per axis in voxels, ``{"z": [3], "y": [3], "x": [3]}``; the shapes are all combinations.
        strides: voxels per position of each detection level and axis. Shapes grow with the level's stride relative to the
            first level, per axis.
    """

    def __init__(self, sizes: Mapping[str, Sequence[float]], strides: Sequence[Sequence[int]]) -> None:
        shapes = torch.tensor(list(itertools.product(sizes["z"], sizes["y"], sizes["x"])), dtype=torch.float32)
        self.strides = [tuple(stride) for stride in strides]
        first = torch.tensor(self.strides[0], dtype=torch.float32)
        self.level_shapes = [shapes * torch.tensor(stride) / first for stride in self.strides]
        self._grids: dict[tuple, AnchorGrid] = {}

    @property
    def shapes(self) -> int:
        return len(self.level_shapes[0])

    def grid(self, map_shapes: Sequence[Sequence[int]], device: torch.device) -> AnchorGrid:
        """The anchors for feature maps of these shapes (one per level)."""
        key = (tuple(tuple(shape) for shape in map_shapes), str(device))
        if key not in self._grids:
            self._grids[key] = self._make(map_shapes, device)
        return self._grids[key]

    def _make(self, map_shapes: Sequence[Sequence[int]], device: torch.device) -> AnchorGrid:
        boxes, positions = [], []
        for shape, stride, level_shapes in zip(map_shapes, self.strides, self.level_shapes, strict=True):
            axes = [torch.arange(n, dtype=torch.float32) * s for n, s in zip(shape, stride, strict=True)]
            centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
            low = centres[:, None] - level_shapes[None] / 2
            high = centres[:, None] + level_shapes[None] / 2
            boxes.append(torch.cat([low, high], dim=-1).reshape(-1, 6))
            positions.append(centres.to(device))
        return AnchorGrid(torch.cat(boxes).to(device), tuple(positions), self.shapes)
