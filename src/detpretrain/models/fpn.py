"""The U-shaped feature pyramid of Retina U-Net (Jaeger et al., 2020; sizes of nnDetection v0.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def pyramid_channels(stages: int, first_level: int, channels: int = 128, least: int = 8) -> list[int]:
    """Channels of each level: ``channels`` from the first detection level on, halved per level below it, at least ``least``."""
    return [max(least, channels >> max(0, first_level - level)) for level in range(stages)]


class UFPN(nn.Module):
    """Top-down pyramid over every encoder stage, full resolution included (for the segmentation branch).

    One 1x1x1 lateral convolution, transposed convolutions upwards (kernel = stride), a sum, one output convolution with the
    stage's kernel; no norm, no activation, all with bias.

    Args:
        encoder_channels: per stage.
        strides: per stage, the stride entering it.
        kernels: per stage.
        first_level: first detection level.
        channels: width from that level on.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernels: Sequence[Sequence[int]],
        first_level: int,
        channels: int = 128,
    ) -> None:
        super().__init__()
        self.channels = pyramid_channels(len(encoder_channels), first_level, channels)
        self.lateral = nn.ModuleList(
            nn.Conv3d(n, width, 1) for n, width in zip(encoder_channels, self.channels, strict=True)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(
                self.channels[level], self.channels[level - 1], tuple(strides[level]), tuple(strides[level])
            )
            for level in range(1, len(encoder_channels))
        )
        self.out = nn.ModuleList(
            nn.Conv3d(width, width, tuple(kernel), padding=tuple(k // 2 for k in kernel))
            for width, kernel in zip(self.channels, kernels, strict=True)
        )

    def forward(self, features: Sequence[Tensor], lowest: int = 0) -> dict[int, Tensor]:
        """Encoder features (finest first) -> pyramid maps from ``lowest`` to the coarsest level, by level."""
        top = len(features) - 1
        merged = self.lateral[top](features[top])
        maps = {top: self.out[top](merged)}
        for level in range(top - 1, lowest - 1, -1):
            merged = self.lateral[level](features[level]) + self.up[level](merged)
            maps[level] = self.out[level](merged)
        return maps
