"""Which position of a map answers for which object: the centre-point matching of CPM-Net (Song et al., MICCAI 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BACKGROUND, IGNORED = -1, -2


def cells(map_shape: Sequence[int], stride: Sequence[int], device: torch.device) -> Tensor:
    """The block of voxels that each position of a map stands for, as boxes ``[N, 6]`` (z, y, x row-major).

    Voxel i covers i - 0.5 .. i + 0.5, so the blocks tile the image. Their centres mirror onto each other when the image is
    mirrored, which positions at index x stride do not: a mirrored object gets the mirrored positions.
    """
    axes = [torch.arange(n, dtype=torch.float32, device=device) * s for n, s in zip(map_shape, stride, strict=True)]
    low = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3) - 0.5
    return torch.cat([low, low + low.new_tensor(stride)], dim=1)


def match_centres(boxes: Tensor, positions: Tensor, positives: int = 7, surround: int = 21) -> Tensor:
    """The object of each position in one image.

    The ``positives`` positions nearest to an object's centre are its own, the ``surround`` next ones are ignored, all others
    are background; positions as far away as the last one of a group belong to it too, so that no order of the positions
    decides. A position wanted by several objects goes to the nearest centre (equal: the first object), one that an object
    wants is never ignored. Objects with the same centre want the same positions, and all but the first get none.

    Distances are counted in positions, not voxels: strides follow the spacing, so a map is far closer to isotropic than its
    input, and every map has the same neighbourhoods. In voxels an object of few, thick slices would be answered by a column
    of positions across the slices, most of them outside of it.

    Args:
        boxes: ``[G, 6]``, G may be 0.
        positions: ``[N, 6]`` from ``cells``.
        positives, surround: positions per object; a small map is used up without complaint.

    Returns:
        ``[N]`` int64: index of the object, ``BACKGROUND`` or ``IGNORED``.
    """
    matched = torch.full((len(positions),), BACKGROUND, dtype=torch.int64, device=boxes.device)
    if len(boxes) == 0:
        return matched
    distance = _squared_distances(boxes, positions)
    own = distance.masked_fill(~_nearest(distance, positives), torch.inf)
    nearest, winner = own.min(dim=0)  # of equal ones the first
    near = _nearest(distance, positives + surround).any(dim=0)
    return torch.where(nearest < torch.inf, winner, matched.masked_fill(near, IGNORED))


def _squared_distances(boxes: Tensor, positions: Tensor) -> Tensor:
    """Between centres, in positions: ``[G, N]``; axis by axis, as ``[G, N, 3]`` is large with many objects."""
    centres, places = ((box[:, :3] + box[:, 3:]) / 2 for box in (boxes, positions))
    size = positions[:, 3:] - positions[:, :3]
    return sum(((centres[:, None, axis] - places[:, axis]) / size[:, axis]) ** 2 for axis in range(3))


def _nearest(distance: Tensor, number: int) -> Tensor:
    """``[G, N]`` bool: the ``number`` nearest of each row and all as near as the last of them."""
    ranked = distance.topk(min(number, distance.shape[1]), dim=1, largest=False).values
    return distance <= ranked.amax(dim=1, keepdim=True)
