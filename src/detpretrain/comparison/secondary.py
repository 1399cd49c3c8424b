"""The tables of the report's appendix: ranks, mixed model, stability, sources of variance; detector by detector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from detpretrain.comparison import mixed_model, stability
from detpretrain.comparison.ranking import rank
from detpretrain.comparison.scoring import ScoredRow
from detpretrain.comparison.settings import CompareSettings

METRIC = "AP@0.10"
RANK_COLUMNS = [
    "detector",
    "init",
    "mean_rank",
    "low",
    "high",
    "best",
    "blocks",
    "friedman_p",
    "critical_difference",
    "note",
]


def tables(scored: Sequence[ScoredRow], folds: pd.DataFrame, settings: CompareSettings) -> dict[str, pd.DataFrame]:
    """``ranks``, ``mixed_model``, ``stability`` and ``variance``; columns: ``comparison.compare``."""
    detectors = sorted({entry.row.key.detector for entry in scored})
    of_detector = {name: folds[folds["detector"] == name] for name in detectors}
    return {
        "ranks": pd.DataFrame(
            [line for name in detectors for line in _rank_lines(name, scored, settings)], columns=RANK_COLUMNS
        ),
        "mixed_model": _joined({name: _mixed(part, settings) for name, part in of_detector.items()}),
        "stability": _joined({name: stability.winners(part) for name, part in of_detector.items()}),
        "variance": _joined({name: _shares(part) for name, part in of_detector.items()}),
    }


def _joined(parts: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables below one another with the detector as the first column."""
    filled = [part.assign(detector=name) for name, part in parts.items() if len(part)]
    table = pd.concat(filled, ignore_index=True) if filled else next(iter(parts.values())).assign(detector=None)
    return table[["detector", *(column for column in table.columns if column != "detector")]]


def _rank_lines(detector: str, scored: Sequence[ScoredRow], settings: CompareSettings) -> Iterator[dict]:
    """Blocks are (data set, test set); inits that miss one are not ranked, which ``note`` tells."""
    values: dict[tuple[str, str], dict[str, list[NDArray]]] = {}
    for entry in scored:
        key, score = entry.row.key, entry.whole[METRIC]
        if key.detector == detector:
            block = values.setdefault((key.dataset, key.test_set), {})
            block.setdefault(key.init, []).append(np.append(score.value, score.draws))
    inits = sorted({init for block in values.values() for init in block})
    complete = [init for init in inits if all(init in block for block in values.values())]
    absent = [init for init in inits if init not in complete]
    note = f"not ranked, without a row on every data set: {', '.join(absent)}" if absent else ""
    if len(complete) < 2:
        return
    found = np.array([[np.mean(block[init], axis=0) for init in complete] for block in values.values()])
    made = rank(found[:, :, 0], np.moveaxis(found[:, :, 1:], 2, 0), settings.confidence)
    for place, init in enumerate(complete):
        yield {
            "detector": detector,
            "init": init,
            "mean_rank": made.mean_rank[place],
            "low": made.low[place],
            "high": made.high[place],
            "best": made.best[place],
            "blocks": len(values),
            "friedman_p": made.friedman_p,
            "critical_difference": made.critical_difference,
            "note": note,
        }


def _mixed(folds: pd.DataFrame, settings: CompareSettings) -> pd.DataFrame:
    """A line per init, or a single line with the reason why there is none."""
    made = mixed_model.fit(folds, settings.reference, settings.confidence)
    inits = made.inits if len(made.inits) else pd.DataFrame([dict.fromkeys(mixed_model.COLUMNS)])
    variances = {f"variance_{name}": made.variances.get(name) for name in ("dataset", "fold", "residual")}
    return inits.assign(**variances, note=made.note)


def _shares(folds: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(list(stability.variance_shares(folds).items()), columns=["source", "share"])
