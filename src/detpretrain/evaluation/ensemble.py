"""From the boxes of all models, mirrors and tiles of an image to its detections (nnDetection v0.1's box ensembler)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detpretrain import boxes as box_ops


@dataclass(frozen=True)
class Candidates:
    """Every box predicted for one image, in index coordinates of the preprocessed array.

    Attributes:
        boxes: [N, 6].
        scores: [N] in [0, 1].
        labels: [N].
        weights: [N], 1 near the centre of the tile, less towards its border.
        model: [N] which (fold, mirror) pair the box is from.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    model: NDArray[np.int64]

    def select(self, index: NDArray) -> Candidates:
        return Candidates(
            self.boxes[index], self.scores[index], self.labels[index], self.weights[index], self.model[index]
        )


@dataclass(frozen=True)
class PostProcessing:
    """How boxes become detections; the defaults are nnDetection's, the first five are what its sweep tries.

    Attributes:
        model_iou: NMS within a model removes boxes above this IoU.
        model_nms: ``weighted`` orders by score x weight and forgets the weights, ``plain`` by score and keeps them.
        ensemble_iou: boxes above this IoU are one cluster.
        score_threshold: boxes of a model need a higher score.
        min_size: boxes need this many voxels on every axis, after clipping.
        topk: best boxes of a model that are looked at.
        per_model: best boxes of a model that are left after NMS.
        ensemble_topk: best boxes of all models that are clustered.
    """

    model_iou: float = 0.1
    model_nms: Literal["weighted", "plain"] = "weighted"
    ensemble_iou: float = 0.5
    score_threshold: float = 0.0
    min_size: float = 0.01
    topk: int = 1000
    per_model: int = 100
    ensemble_topk: int = 1000

    def __post_init__(self) -> None:
        if self.model_nms not in ("weighted", "plain"):
            raise ValueError(f"model_nms is {self.model_nms!r}: use weighted or plain")


def merge(
    candidates: Candidates, n_models: int, shape: tuple[int, int, int], post: PostProcessing
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """The detections of an image.

    Args:
        n_models: (fold, mirror) pairs that predicted, those without boxes too.
        shape: of the preprocessed array; boxes are clipped to it.

    Returns:
        boxes [K, 6], scores [K] descending, labels [K]. Not limited to 100 of a class: the evaluation does that.
    """
    return cluster(within_models(candidates, shape, post), n_models, post)


def within_models(candidates: Candidates, shape: tuple[int, int, int], post: PostProcessing) -> Candidates:
    """Each model by itself: best 1000, score threshold, clipping, small boxes out, NMS within a class, best 100."""
    kept = candidates.select(_best_of_each_model(candidates.model, candidates.scores, post.topk))
    clipped = box_ops.clip(kept.boxes, shape)
    large = (clipped[:, 3:] - clipped[:, :3] >= post.min_size).all(axis=1)
    chosen = np.flatnonzero(large & (kept.scores > post.score_threshold))
    kept = Candidates(
        clipped[chosen], kept.scores[chosen], kept.labels[chosen], kept.weights[chosen], kept.model[chosen]
    )
    weighted = post.model_nms == "weighted"
    classes = int(kept.labels.max(initial=0)) + 1
    survivors = box_ops.nms(
        kept.boxes,
        kept.scores,
        kept.model * classes + kept.labels,
        post.model_iou,
        kept.weights if weighted else None,
    )
    kept = kept.select(survivors)
    # NMS has sorted by its rank, so the position is the rank.
    kept = kept.select(_best_of_each_model(kept.model, -np.arange(len(survivors)), post.per_model))
    weights = np.ones(len(kept.scores)) if weighted else kept.weights
    return Candidates(kept.boxes, kept.scores, kept.labels, weights, kept.model)


def cluster(
    kept: Candidates, n_models: int, post: PostProcessing
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """All models together: best 1000 of what ``within_models`` left, then weighted box clustering; returns as ``merge``."""
    best = np.argsort(-kept.scores, kind="stable")[: post.ensemble_topk]
    kept = kept.select(best)
    return box_ops.weighted_box_clustering(
        kept.boxes, kept.scores, kept.labels, kept.weights, post.ensemble_iou, n_models
    )


def _best_of_each_model(model: NDArray[np.int64], rank: NDArray, count: int) -> NDArray[np.int64]:
    """Indices of the ``count`` highest ranks of each model, models in ascending order, best first, equal ones as given."""
    order = np.lexsort((-rank, model))
    _, start, size = np.unique(model[order], return_index=True, return_counts=True)
    return order[np.arange(len(order)) - np.repeat(start, size) < count]
