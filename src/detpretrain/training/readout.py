"""A linear classifier of voxels: fitted to features within a fixed budget, scored per class."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression


@dataclass(frozen=True)
class Readout:
    """Multinomial logistic regression on features standardised with the training voxels' mean and standard deviation."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    model: LogisticRegression

    @staticmethod
    def fit(inputs: NDArray[np.float32], labels: NDArray[np.int64], l2: float, iterations: int) -> Readout:
        """Minimises the mean log loss + ``l2`` / 2 times the squared norm of the weights, within ``iterations``."""
        values = inputs.astype(np.float64)
        mean, scale = values.mean(axis=0), values.std(axis=0)
        scale[scale == 0] = 1.0  # a feature that never changes tells nothing
        model = LogisticRegression(C=1 / (l2 * len(labels)), max_iter=iterations)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the budget is fixed; ``converged`` says how it ended
            model.fit((values - mean) / scale, labels)
        return Readout(mean, scale, model)

    @property
    def converged(self) -> bool:
        return bool((self.model.n_iter_ < self.model.max_iter).all())

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.int64]:
        return self.model.predict((inputs.astype(np.float64) - self.mean) / self.scale)


def scores_of(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> dict[str, Any]:
    """``recall`` and ``dice`` per class (None: no voxel has it) and their means, ``balanced_accuracy`` and ``mean_dice``.

    On voxels Dice is the F1 score.
    """
    confusion = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    hit, true, called = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    present = true > 0
    recall, dice = hit[present] / true[present], 2 * hit[present] / (true + called)[present]
    return {
        "balanced_accuracy": float(recall.mean()),
        "mean_dice": float(dice.mean()),
        "recall": _with_none(recall, present),
        "dice": _with_none(dice, present),
    }


def _with_none(values: NDArray[np.float64], present: NDArray[np.bool_]) -> list[float | None]:
    remaining = iter(values.tolist())
    return [next(remaining) if there else None for there in present]
