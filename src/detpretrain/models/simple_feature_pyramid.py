"""The simple feature pyramid of a plain transformer (ViTDet; Li et al., ECCV 2022, section 3), for volumes.

Its one map, at the stride of the tokens, becomes one map per detection level, each by itself: there is no way from the top down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from torch import Tensor, nn

from detpretrain.errors import InputError
from detpretrain.models.shallow_maps import guard


class Levels:
    """Values (maps, numbers of channels) by the plan's level, of those levels that a pyramid makes.

    Raises:
        InputError: a level that is not there, or all of them from full resolution on, are asked for.
    """

    def __init__(self, values: Mapping[int, Any]) -> None:
        self.values = dict(values)

    def __getitem__(self, level: int) -> Any:
        if level not in self.values:
            raise InputError(
                f"transformer backbone: no map of the plan's level {level}, it makes {self._made()}: raise the backbone's "
                "levels, or lower the detector's"
            )
        return self.values[level]

    def __iter__(self) -> Iterator[Any]:
        self._refuse()

    def __len__(self) -> int:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise InputError(
            f"transformer backbone: makes maps of the plan's levels {self._made()} only, the detector takes all from full "
            "resolution on: use Deformable DETR, or a convolutional backbone"
        )

    def _made(self) -> str:
        return ", ".join(map(str, self.values))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each voxel, ``[B, C, D, H, W]``."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


class SimpleFeaturePyramid(nn.Module):
    """One branch per level: resampling, a 1x1x1 and a 3x3x3 convolution without bias, each followed by a norm.

    Args:
        features: channels of the map.
        token: stride of the map, per axis.
        strides: of each level to make, the total stride per axis.
        channels: of the maps that are made; ViTDet has 256.

    Raises:
        InputError: a stride that is neither a multiple nor a part of the token's side.
    """

    def __init__(
        self, features: int, token: Sequence[int], strides: Mapping[int, Sequence[int]], channels: int
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(
            {str(level): branch(features, token, stride, channels) for level, stride in strides.items()}
        )
        guard(self)

    def forward(self, tokens: Tensor) -> Levels:
        """``[B, features, d, h, w]`` -> per level ``[B, channels, ...]``."""
        return Levels({int(level): module(tokens) for level, module in self.branches.items()})


def branch(features: int, token: Sequence[int], stride: Sequence[int], channels: int) -> nn.Sequential:
    """The layers of one level."""
    layers, width = resampling(features, token, stride)
    return nn.Sequential(
        *layers,
        nn.Conv3d(width, channels, 1, bias=False),
        ChannelNorm(channels),
        nn.Conv3d(channels, channels, 3, padding=1, bias=False),
        ChannelNorm(channels),
    )


def resampling(features: int, token: Sequence[int], stride: Sequence[int]) -> tuple[list[nn.Module], int]:
    """Layers from maps at the tokens' stride to another one, and the channels of the result.

    Upwards by transposed convolutions of stride 2, each halving the channels, with a norm and GELU between them; downwards by
    one strided convolution. Nothing where the strides agree.
    """
    if any(max(a, b) % min(a, b) for a, b in zip(token, stride, strict=True)):
        raise InputError(
            f"transformer backbone: tokens of {list(token)} voxels and a level of stride {list(stride)}: one must be a multiple "
            "of the other along each axis: change token, or the plan's strides"
        )
    layers: list[nn.Module] = []
    up = [max(1, a // b) for a, b in zip(token, stride, strict=True)]
    while max(up) > 1:
        step = [2 if factor % 2 == 0 else factor for factor in up]
        layers += [ChannelNorm(features), nn.GELU()] if layers else []
        layers.append(nn.ConvTranspose3d(features, features // 2, step, step))
        features //= 2
        up = [factor // taken for factor, taken in zip(up, step, strict=True)]
    down = [max(1, b // a) for a, b in zip(token, stride, strict=True)]
    if max(down) > 1:
        layers.append(nn.Conv3d(features, features, down, down))
    return layers, features
