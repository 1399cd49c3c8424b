"""Primus, the plain vision transformer for volumes (Wald et al., arXiv 2503.01835), with a pyramid for detection.

Primus-M, the study's, is ``dim 864, depth 16, heads 12``, tokens of 8^3 voxels: 145.6 M parameters with its segmentation decoder.
Patch embedding and blocks are those of dynamic-network-architectures, run here so that tokens can be left out. The released
system (nnDetection, branch finetuning) takes its maps from the first stages of the segmentation decoder instead of a pyramid.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dynamic_network_architectures.building_blocks.patch_encode_decode import PatchEmbed
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from detpretrain.errors import InputError
from detpretrain.models.eva_import import eva
from detpretrain.models.simple_feature_pyramid import Levels, SimpleFeaturePyramid

# nnssl, nnU-Net and nnDetection build these by name: (dim, depth, heads), tokens of 8^3, layer scale 0.1, norm within attention
PUBLISHED = {
    "PrimusS": (396, 12, 6),
    "PrimusB": (792, 12, 12),
    "PrimusM": (864, 16, 12),
    "PrimusL": (1056, 24, 16),
}
HEAD_MULTIPLE = 6  # of a head's width: a rotary code has a sine and a cosine for each of three axes


class Transformer(nn.Module):
    """Patch embedding and blocks: tensors ``down_projection.*`` and ``eva.*``, as in Primus and nnssl's ``EvaMAE``.

    Args:
        down_projection: ``[B, C, D, H, W]`` -> ``[B, dim, d, h, w]``, one voxel per token.
        eva: the blocks with the position codes of all tokens.
        patch: voxels per axis of the images that these codes are for.
    """

    def __init__(self, down_projection: PatchEmbed, eva: nn.Module, patch: Sequence[int]) -> None:
        super().__init__()
        self.down_projection, self.eva, self.patch = down_projection, eva, tuple(patch)
        self.grid = tuple(size // side for size, side in zip(patch, down_projection.proj.stride, strict=True))

    def forward(self, images: Tensor) -> list[Tensor]:
        """``[B, C, D, H, W]`` -> one map ``[B, dim, d, h, w]``, in a list as the stages of a convolutional encoder."""
        return [self.as_map(self.encode(images))]

    def encode(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Normed tokens ``[B, K, dim]``; ``kept [B, K]``: numbers of the tokens to look at (x fastest), default all of them.

        Raises:
            InputError: images of another size than the position codes.
        """
        if tuple(images.shape[2:]) != self.patch:
            raise InputError(
                f"transformer backbone: images of {tuple(images.shape[2:])} voxels, its position codes are for {self.patch}: "
                "give it patches of the plan's size"
            )
        return run_blocks(self.eva, self.down_projection(images).flatten(2).transpose(1, 2), kept)

    def as_map(self, tokens: Tensor) -> Tensor:
        """``[B, N, dim]``, all tokens -> ``[B, dim, d, h, w]``."""
        return tokens.transpose(1, 2).unflatten(2, self.grid)


def run_blocks(eva: nn.Module, tokens: Tensor, kept: Tensor | None = None) -> Tensor:
    """``Eva`` on all tokens ``[B, N, dim]``, or on those that are kept ``[B, K]``, at their own positions.

    Written out because ``Eva`` leaves out random tokens only, which is how its random state would decide what is hidden.
    """
    tokens, rotary = tokens + eva.pos_embed, eva.rope.get_embed()
    if kept is not None:
        tokens = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        rotary = rotary[kept][:, None]  # [B, 1, K, ...]: the same for all heads
    for block in eva.blocks:
        tokens = block(tokens, rope=rotary)
    return eva.norm(tokens)


class PyramidEncoder(Transformer):
    """A transformer and the pyramid that turns its map into the plan's levels; keys ``pyramid.*`` beside the transformer's.

    ``pretrained`` is what a checkpoint fills: the pyramid starts fresh, as a detector's neck does.
    """

    def __init__(self, transformer: Transformer, pyramid: SimpleFeaturePyramid) -> None:
        super().__init__(transformer.down_projection, transformer.eva, transformer.patch)
        self.pyramid = pyramid

    @property
    def pretrained(self) -> Transformer:
        """The transformer, with the same tensors."""
        return Transformer(self.down_projection, self.eva, self.patch)

    def forward(self, images: Tensor) -> Levels:
        """``[B, C, D, H, W]`` -> maps by the plan's level."""
        return self.pyramid(self.as_map(self.encode(images)))


@dataclass(frozen=True)
class Primus:
    """A recipe for transformers of one size; the interface of ``models.resenc.ResEnc``, without a U-Net.

    Args:
        dim: channels of a token.
        depth: number of blocks.
        heads: of the attention.
        patch: voxels per axis (z, y, x), from the plan.
        strides: per stage and axis, from the plan.
        detection_levels: from the plan.
        token: voxels per axis of a token, or one number for all.
        levels: how many of the plan's detection levels get a map, the coarsest ones, as the detector takes them; None = all.
        pyramid_channels: of each map.
        drop_path: probability of leaving out the last block; rises linearly from 0 at the first.
        layer_scale: initial factor of the residual branches, None = without.
        inner_norm: norm the attention's result before it is projected.

    Raises:
        InputError: numbers that do not fit each other.
    """

    dim: int
    depth: int
    heads: int
    patch: Sequence[int]
    strides: Sequence[Sequence[int]]
    detection_levels: Sequence[int]
    token: int | Sequence[int] = 8
    levels: int | None = None
    pyramid_channels: int = 256
    drop_path: float = 0.2
    layer_scale: float | None = 0.1
    inner_norm: bool = True

    family = "transformer"
    # where nnssl's adaptation plan finds the parts in a network's state dict
    key_to_encoder = "eva"
    key_to_stem = "down_projection"
    keys_to_in_proj = ("down_projection.proj",)
    key_to_lpe = "eva.pos_embed"

    def __post_init__(self) -> None:
        if self.dim % (self.heads * HEAD_MULTIPLE):
            raise InputError(
                f"Primus: dim {self.dim} with {self.heads} heads: a head's width must be a multiple of {HEAD_MULTIPLE}: "
                "change dim or heads"
            )
        if any(size % side for size, side in zip(self.patch, self.token_shape, strict=True)):
            raise InputError(
                f"Primus: patch {list(self.patch)} does not divide into tokens of {list(self.token_shape)}: change the plan's "
                "patch, or the backbone's token"
            )

    @property
    def token_shape(self) -> tuple[int, ...]:
        return (self.token,) * 3 if isinstance(self.token, int) else tuple(self.token)

    @property
    def features(self) -> Levels:
        """Channels by the plan's level."""
        return Levels(dict.fromkeys(self._level_strides(), self.pyramid_channels))

    def encoder(self, channels: int) -> PyramidEncoder:
        """``[B, channels, *patch]`` -> ``Levels`` of ``[B, pyramid_channels, ...]``."""
        pyramid = SimpleFeaturePyramid(self.dim, self.token_shape, self._level_strides(), self.pyramid_channels)
        return PyramidEncoder(self.transformer(channels), pyramid)

    def transformer(self, channels: int) -> Transformer:
        """``[B, channels, *patch]`` -> list of one map ``[B, dim, ...]``; keys ``down_projection.*``, ``eva.*``."""
        embedding = PatchEmbed(self.token_shape, channels, self.dim)
        embedding.apply(InitWeights_He(1e-2))
        return Transformer(embedding, self.blocks(self.depth), self.patch)

    def blocks(self, depth: int) -> nn.Module:
        """``Eva`` of so many blocks, with absolute and rotary position codes of the patch's tokens."""
        return eva(
            embed_dim=self.dim,
            depth=depth,
            num_heads=self.heads,
            ref_feat_shape=tuple(size // side for size, side in zip(self.patch, self.token_shape, strict=True)),
            drop_path_rate=self.drop_path,
            init_values=self.layer_scale,
            scale_attn_inner=self.inner_norm,
        )

    def architecture_plan(self) -> dict[str, Any]:
        """``architecture_plans`` of the adaptation plan: a published size by its name, as nnssl writes it, others by figures."""
        usual = (self.token_shape, self.layer_scale, self.inner_norm) == ((8, 8, 8), 0.1, True)
        for name, figures in PUBLISHED.items():
            if usual and figures == (self.dim, self.depth, self.heads):
                return {"arch_class_name": name, "arch_kwargs": None, "arch_kwargs_requiring_import": None}
        return {
            "arch_class_name": "Primus",
            "arch_kwargs": {
                "embed_dim": self.dim,
                "patch_embed_size": list(self.token_shape),
                "eva_depth": self.depth,
                "eva_numheads": self.heads,
                "input_shape": list(self.patch),
                "drop_path_rate": self.drop_path,
                "init_values": self.layer_scale,
                "scale_attn_inner": self.inner_norm,
            },
            "arch_kwargs_requiring_import": None,
        }

    def _level_strides(self) -> dict[int, tuple[int, ...]]:
        totals = list(itertools.accumulate(self.strides, lambda total, stride: np.multiply(total, stride)))
        chosen = self.detection_levels[-(self.levels or len(self.detection_levels)) :]
        return {level: tuple(int(side) for side in totals[level]) for level in chosen}
