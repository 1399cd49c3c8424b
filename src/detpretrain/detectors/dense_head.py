"""Convolutions over pyramid maps that say the same number of things about every anchor, densely or where asked."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

KERNEL = 3
CHUNK = 8192  # anchors at a time: at full size the maps around each are 3,456 numbers


class DenseHead(nn.Module):
    """Convolutions with GroupNorm and LeakyReLU, then one output convolution, ``outputs`` per anchor shape; shared by all levels.

    ``slope``: of LeakyReLU, 0 makes it ReLU.
    """

    def __init__(
        self, channels: int, width: int, convs: int, shapes: int, outputs: int, bias: float = 0.0, slope: float = 0.01
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(convs):
            layers += [
                nn.Conv3d(channels if index == 0 else width, width, KERNEL, padding=KERNEL // 2, bias=False),
                nn.GroupNorm(max(1, width // 16), width),
                nn.LeakyReLU(slope, inplace=True),
            ]
        self.tower = nn.Sequential(*layers)
        self.out = nn.Conv3d(width if convs else channels, shapes * outputs, KERNEL, padding=KERNEL // 2)
        self.outputs = outputs
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.normal_(module.weight, 0.0, 0.01)
        nn.init.constant_(self.out.bias, bias)

    def forward(self, features: Tensor) -> Tensor:
        """``[B, C, D, H, W] -> [B, D * H * W * shapes, outputs]``, in the order of ``AnchorGrid.boxes``."""
        result = self.out(self.tower(features)).float()
        return result.permute(0, 2, 3, 4, 1).reshape(len(result), -1, self.outputs)

    def at(self, features: Tensor, image: Tensor, position: Tensor, shape: Tensor) -> Tensor:
        """The rows of ``forward`` for P anchors, without the output convolution of all others: ``[P, outputs]`` float32.

        ``image``, ``position`` (row-major in z, y, x) and ``shape``: int64 ``[P]``.
        """
        maps = self.tower(features)
        parts = zip(image.split(CHUNK), position.split(CHUNK), strict=True)
        rows = torch.cat([self._rows(maps, *part) for part in parts])
        by_shape = rows.view(len(rows), self.out.out_channels // self.outputs, self.outputs)
        return by_shape[torch.arange(len(rows), device=rows.device), shape]

    def _rows(self, features: Tensor, image: Tensor, position: Tensor) -> Tensor:
        """The output convolution at ``[P]`` positions of these maps: ``[P, shapes * outputs]`` float32."""
        _, _, height, width = features.shape[1:]
        padded = functional.pad(features, [KERNEL // 2] * 6)
        corner = (position // (height * width), position // width % height, position % width)
        steps = torch.arange(KERNEL, device=features.device)
        z, y, x = (start[:, None] + steps for start in corner)
        # the indexed axes come first, the channels last: [P, 3, 3, 3, C]
        window = padded[image[:, None, None, None], :, z[:, :, None, None], y[:, None, :, None], x[:, None, None, :]]
        weight = self.out.weight.permute(0, 2, 3, 4, 1).flatten(1)
        return functional.linear(window.flatten(1), weight, self.out.bias).float()
