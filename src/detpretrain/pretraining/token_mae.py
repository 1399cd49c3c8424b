"""Masked autoencoding for transformers: the encoder sees the visible tokens only, a light decoder fills in the others.

He et al., CVPR 2022. Recipe and details as nnssl's ``BaseEvaMAETrainer``: three quarters of the tokens are hidden, two decoder
blocks of the encoder's width, the error is that of voxels. Unlike there, validation leaves no blocks out (drop path), and what is
hidden comes from the sample's seed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.patch_encode_decode import PatchDecode
from torch import Tensor, nn

from detpretrain.errors import InputError
from detpretrain.models.primus import Transformer, run_blocks
from detpretrain.pretraining.mae import MAE

MASK_TOKEN_SD = 1e-6


class TokenAutoencoder(Transformer):
    """Encoder of the tokens that are kept and decoder of all; tensors named as in nnssl's ``EvaMAE``.

    Args:
        backbone: makes the encoder (``models.primus.Primus`` or alike).
        decoder_depth: blocks of the decoder; otherwise it is as the encoder.
    """

    def __init__(self, backbone: Any, decoder_depth: int) -> None:
        encoder = backbone.transformer(1)
        super().__init__(encoder.down_projection, encoder.eva, encoder.patch)
        self.decoder = backbone.blocks(decoder_depth)
        self.up_projection = PatchDecode(backbone.token_shape, backbone.dim, 1)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, backbone.dim))
        nn.init.normal_(self.mask_token, std=MASK_TOKEN_SD)

    def restore(self, images: Tensor, kept: Tensor) -> Tensor:
        """``[B, 1, D, H, W]``, of which the tokens ``kept [B, K]`` are looked at -> the decoder's image, same shape."""
        encoded = self.encode(images, kept)
        hidden = self.mask_token.to(encoded.dtype).expand(len(encoded), math.prod(self.grid), -1)
        tokens = hidden.scatter(1, kept[..., None].expand_as(encoded), encoded)
        return self.up_projection(self.as_map(run_blocks(self.decoder, tokens)))


class TokenMAE(MAE):
    """Reconstruction of hidden blocks of tokens; views, loss and figures are those of ``MAE``.

    Args:
        backbone: a transformer (``models.primus.Primus`` or alike).
        block: side of a hidden block in voxels, a multiple of the token's; None = one token.
        ratio: part of the blocks that is hidden, exactly ``int(ratio * blocks)`` per sample.
        decoder_depth: blocks of the decoder.

    Raises:
        InputError: the ratio does not lie between 0 and 1, a block is no whole number of tokens, or a
            token's side no power of two.
    """

    family = "transformer"

    def __init__(self, *, backbone: Any, block: int | None = None, ratio: float = 0.75, decoder_depth: int = 2) -> None:
        self.token, self.decoder_depth = backbone.token_shape, decoder_depth
        block = max(self.token) if block is None else block
        if any(side & (side - 1) for side in self.token):
            raise InputError(
                f"MAE of tokens: tokens of {list(self.token)}: its decoder doubles them to voxels: use powers of two"
            )
        if any(block % side for side in self.token):
            raise InputError(
                f"MAE of tokens: blocks of {block} voxels, tokens of {list(self.token)}: give a block that is a multiple of the "
                "token's sides"
            )
        super().__init__(backbone=backbone, block=block, ratio=ratio)

    def network_of(self, backbone: Any) -> TokenAutoencoder:
        return TokenAutoencoder(backbone, self.decoder_depth)

    def restore(self, images: Tensor, visible: Tensor) -> Tensor:
        """The network's image ``[B, 1, D, H, W]``."""
        return self.network.restore(images, self.kept_tokens(visible))

    def kept_tokens(self, visible: Tensor) -> Tensor:
        """Numbers of the visible tokens, rising, ``[B, 1, D, H, W] -> [B, K]``: every sample has as many."""
        seen = visible[(slice(None), 0, *(slice(None, None, side) for side in self.token))].flatten(1)
        blocks = math.prod(size // self.block for size in visible.shape[2:])
        share = (blocks - int(self.ratio * blocks)) / blocks  # known without looking at the device's values
        return seen.argsort(dim=1, descending=True, stable=True)[:, : round(share * seen.shape[1])]
