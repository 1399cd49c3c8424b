"""The two-stage transformer of Deformable DETR with box refinement (Zhu et al., ICLR 2021), over volumes.

Boxes are ``(cz, cy, cx, d, h, w)``: centre and size as fractions of the volume, see ``deformable_attention``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from detpretrain.errors import InputError
from detpretrain.models.deformable_attention import DeformableAttention, Size
from detpretrain.models.draws import Dropout
from detpretrain.models.position_code import TEMPERATURE, vector_code, voxel_centres
from detpretrain.models.self_attention import SelfAttention


@dataclass(frozen=True)
class SetPredictions:
    """What the transformer says, float32.

    Attributes:
        logits: ``[layers, B, Q, classes]``, of every decoder layer.
        boxes: ``[layers, B, Q, 6]``.
        proposal_logits: ``[B, S, 1]``, of an object of any class at every voxel of every level.
        proposal_boxes: ``[B, S, 6]``.
        extra_logits: ``[layers, B, E, classes]``, of the extra queries.
        extra_boxes: ``[layers, B, E, 6]``.
    """

    logits: Tensor
    boxes: Tensor
    proposal_logits: Tensor
    proposal_boxes: Tensor
    extra_logits: Tensor
    extra_boxes: Tensor


@dataclass(frozen=True)
class ExtraQueries:
    """E queries per image that are decoded beside the transformer's own and that those do not see.

    Attributes:
        boxes: ``[B, E, 6]``, to start from.
        content: ``[B, E, C]``, added to what the boxes say.
        hidden: ``[B, E, E]`` bool, True where the first may not look at the second. All of them see the transformer's own.
    """

    boxes: Tensor
    content: Tensor
    hidden: Tensor


def inverse_sigmoid(values: Tensor, epsilon: float = 1e-5) -> Tensor:
    """The logit of values in [0, 1], which are kept ``epsilon`` away from both ends."""
    values = values.clamp(epsilon, 1 - epsilon)
    return torch.log(values / (1 - values))


def base_boxes(sizes: Sequence[Size], scale: float, device: torch.device) -> Tensor:
    """A cube around every voxel of every level, ``[S, 6]``; its side is ``scale * 2 ** level`` of the volume."""
    parts = []
    for level, size in enumerate(sizes):
        centres = voxel_centres(size, device)
        parts.append(torch.cat([centres, torch.full_like(centres, scale * 2**level)], dim=1))
    return torch.cat(parts)


def hidden_queries(own: int, extra: Tensor) -> Tensor:
    """``ExtraQueries.hidden`` with the transformer's own queries before them, ``[B, E, E] -> [B, own + E, own + E]``."""
    hidden = functional.pad(extra, (own, 0, own, 0), value=False)
    hidden[:, :own, own:] = True
    return hidden


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, applied to the normalised input, plus the input."""

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.wide = nn.Linear(channels, width)
        self.narrow = nn.Linear(width, channels)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.narrow(self.dropout(functional.relu(self.wide(self.norm(x))))))


class EncoderLayer(nn.Module):
    """Pre-norm: every voxel looks at places around itself at all levels."""

    def __init__(self, channels: int, heads: int, levels: int, points: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = DeformableAttention(channels, heads, levels, points)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(channels, feed_forward, dropout)

    def forward(self, tokens: Tensor, positions: Tensor, references: Tensor, sizes: Sequence[Size]) -> Tensor:
        normed = self.norm(tokens)
        tokens = tokens + self.dropout(self.attention(normed + positions, references, normed, sizes))
        return self.feed_forward(tokens)


class DecoderLayer(nn.Module):
    """Pre-norm: the queries look at each other, then at the volume around their boxes."""

    def __init__(self, channels: int, heads: int, levels: int, points: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(channels)
        self.self_attention = SelfAttention(channels, heads, dropout)
        self.cross_norm = nn.LayerNorm(channels)
        self.cross_attention = DeformableAttention(channels, heads, levels, points)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(channels, feed_forward, dropout)

    def forward(
        self,
        queries: Tensor,
        positions: Tensor,
        references: Tensor,
        memory: Tensor,
        sizes: Sequence[Size],
        hidden: Tensor | None = None,
    ) -> Tensor:
        """``hidden``: ``[B, Q, Q]`` bool, True where the first query may not look at the second; None = nowhere."""
        normed = self.self_norm(queries)
        queries = queries + self.dropout(self.self_attention(normed + positions, normed, hidden))
        placed = self.cross_norm(queries) + positions
        queries = queries + self.dropout(self.cross_attention(placed, references, memory, sizes))
        return self.feed_forward(queries)


class Heads(nn.Module):
    """A linear classifier and a box regressor of three layers, both in float32 whatever autocast says.

    At the start every class has the probability ``prior``, and boxes stay as they are.
    """

    def __init__(self, channels: int, classes: int, prior: float) -> None:
        super().__init__()
        self.classifier = nn.Linear(channels, classes)
        self.regressor = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, 6)
        )
        nn.init.constant_(self.classifier.bias, -math.log((1 - prior) / prior))
        nn.init.zeros_(self.regressor[-1].weight)
        nn.init.zeros_(self.regressor[-1].bias)

    def forward(self, features: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., C]``, boxes ``[..., 6]`` -> logits ``[..., classes]``, logits of the refined boxes ``[..., 6]``."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            return self.classifier(features), self.regressor(features) + inverse_sigmoid(references)


class DeformableTransformer(nn.Module):
    """Encoder, proposals, decoder.

    The encoder's voxels each propose a box; the ``queries`` most likely ones go to the decoder, whose layers refine them one
    after the other. No voxel is padding, so that all of them may propose.

    Args:
        classes: number of classes.
        levels: number of maps.
        channels: of the maps.
        heads, points: of the attention; points per head and level.
        encoder_layers, decoder_layers: numbers of layers.
        feed_forward: width of the feed-forward layers.
        dropout: of the layers.
        queries: number of boxes.
        object_scale: side of a proposal of the finest level before refinement, as a fraction of the volume; doubles per level.
        prior: initial probability of every class.
        temperature: of the position code.
        refined_positions: a layer gets the code of the boxes that it refines, not of the proposals (DAB-DETR, ICLR 2022;
            DINO, ICLR 2023).
        ranked_content: a query starts from a learnt vector of its proposal's rank, not from the code of its box (DINO's mixed
            query selection): of two equal proposals, each can tell that it is the first or the second.

    Raises:
        InputError: the channels do not divide by the heads, or are too few for the codes of positions and boxes.
    """

    def __init__(
        self,
        *,
        classes: int,
        levels: int,
        channels: int,
        heads: int,
        points: int,
        encoder_layers: int,
        decoder_layers: int,
        feed_forward: int,
        dropout: float,
        queries: int,
        object_scale: float,
        prior: float,
        temperature: float = TEMPERATURE,
        refined_positions: bool = False,
        ranked_content: bool = False,
    ) -> None:
        super().__init__()
        if channels < 6:
            raise InputError(
                f"deformable transformer: {channels} channels are too few for a code of z, y, x: use 6 or more"
            )
        self.queries, self.object_scale, self.temperature = queries, object_scale, temperature
        self.refined_positions = refined_positions
        layer = (channels, heads, levels, points, feed_forward, dropout)
        self.level_code = nn.Parameter(torch.empty(levels, channels))
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(encoder_layers))
        self.memory_norm = nn.LayerNorm(channels)
        self.proposal_features = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.proposal_heads = Heads(channels, 1, prior)
        self.query_features = nn.Sequential(nn.Linear(3 * channels, 2 * channels), nn.LayerNorm(2 * channels))
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(decoder_layers))
        self.output_norm = nn.LayerNorm(channels)
        self.heads = nn.ModuleList(Heads(channels, classes, prior) for _ in range(decoder_layers))
        nn.init.normal_(self.level_code)
        self.ranked_content = nn.Parameter(torch.empty(queries, channels)) if ranked_content else None
        if self.ranked_content is not None:
            nn.init.normal_(self.ranked_content)

    def forward(self, maps: Sequence[Tensor], extra: ExtraQueries | None = None) -> SetPredictions:
        """Maps ``[B, channels, D, H, W]``, finest first, one per level; ``extra`` changes nothing for the other queries."""
        sizes = [tuple(level.shape[2:]) for level in maps]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
        memory = self._encode(tokens, sizes)
        proposal_logits, proposals = self._propose(memory, sizes)
        best = proposal_logits.detach()[..., 0].topk(min(self.queries, proposals.shape[1]), dim=1).indices
        chosen = proposals.detach().gather(1, best[..., None].expand(-1, -1, 6))
        logits, boxes = self._decode(chosen, extra, memory, sizes)
        own, added = slice(chosen.shape[1]), slice(chosen.shape[1], None)
        return SetPredictions(
            logits[:, :, own], boxes[:, :, own], proposal_logits, proposals, logits[:, :, added], boxes[:, :, added]
        )

    def _encode(self, tokens: Tensor, sizes: Sequence[Size]) -> Tensor:
        """``[B, S, C] -> [B, S, C]``."""
        centres = [voxel_centres(size, tokens.device) for size in sizes]
        positions = torch.cat(
            [
                vector_code(level, tokens.shape[-1], self.temperature) + code
                for level, code in zip(centres, self.level_code, strict=True)
            ]
        )
        references = torch.cat(centres)[None, :, None].expand(len(tokens), -1, len(sizes), -1)
        for layer in self.encoder:
            tokens = layer(tokens, positions, references, sizes)
        return self.memory_norm(tokens)

    def _propose(self, memory: Tensor, sizes: Sequence[Size]) -> tuple[Tensor, Tensor]:
        """Logits ``[B, S, 1]`` and boxes ``[B, S, 6]`` of all voxels."""
        bases = base_boxes(sizes, self.object_scale, memory.device)
        logits, box_logits = self.proposal_heads(self.proposal_features(memory), bases)
        return logits, box_logits.sigmoid()

    def _decode(
        self, references: Tensor, extra: ExtraQueries | None, memory: Tensor, sizes: Sequence[Size]
    ) -> tuple[Tensor, Tensor]:
        """Boxes ``[B, Q, 6]`` -> logits ``[layers, B, Q + E, classes]`` and refined boxes ``[layers, B, Q + E, 6]``."""
        own, hidden = references.shape[1], None
        if extra is not None:
            references, hidden = torch.cat([references, extra.boxes], dim=1), hidden_queries(own, extra.hidden)
        positions, queries = self._query_features(references)
        if self.ranked_content is not None:
            ranked = self.ranked_content[:own].expand(len(references), -1, -1)
            queries = functional.pad(ranked, (0, 0, 0, references.shape[1] - own))
        if extra is not None:
            queries = queries + functional.pad(extra.content.to(queries.dtype), (0, 0, own, 0))
        logits, boxes = [], []
        for layer, heads in zip(self.decoder, self.heads, strict=True):
            per_level = references[:, :, None].expand(-1, -1, len(sizes), -1)
            queries = layer(queries, positions, per_level, memory, sizes, hidden)
            layer_logits, box_logits = heads(self.output_norm(queries), references)
            logits.append(layer_logits)
            boxes.append(box_logits.sigmoid())
            references = boxes[-1].detach()  # a layer learns to refine, not to prepare what it is given
            if self.refined_positions:
                positions, _ = self._query_features(references)
        return torch.stack(logits), torch.stack(boxes)

    def _query_features(self, references: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes ``[B, Q, 6]`` -> their positions and the contents to start from, ``[B, Q, C]`` each."""
        code = vector_code(references, 3 * self.level_code.shape[-1], self.temperature)
        positions, content = self.query_features(code).chunk(2, dim=-1)
        return positions, content
