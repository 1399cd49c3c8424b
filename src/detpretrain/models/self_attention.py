"""Self-attention of a decoder's queries, whose weights are dropped by global sample."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from detpretrain.models.draws import Dropout


class SelfAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` of ``[B, Q, C]`` with itself, its tensors by the same names.

    ``dropout``: of the attention weights. torch draws that within its kernel, for a rank's own samples alone, so that it is
    written out here.
    """

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__(channels, heads, batch_first=True)
        self.drop = Dropout(dropout)

    def forward(self, placed: Tensor, contents: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Queries and keys ``placed [B, Q, C]``, values ``contents [B, Q, C]`` -> ``[B, Q, C]``.

        ``hidden [B, Q, Q]`` bool: True where the first may not look at the second; None = nowhere.
        """
        if not (self.training and self.drop.probability):
            per_head = None if hidden is None else hidden.repeat_interleave(self.num_heads, dim=0)
            return super().forward(placed, placed, contents, need_weights=False, attn_mask=per_head)[0]
        parts = zip((placed, placed, contents), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        projected = [functional.linear(*part).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts]
        queries, keys, values = projected  # [B, heads, Q, C / heads]
        scores = queries @ keys.transpose(2, 3) / math.sqrt(self.head_dim)
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, None], -math.inf)
        seen = self.drop(scores.softmax(-1)) @ values
        return self.out_proj(seen.transpose(1, 2).flatten(2))
