"""The study's claims C1-C3 as contrasts between kinds of initialisations, each with an estimate and a verdict.

A contrast is taken within rows of one data set, test set, detector and seed, then averaged over seeds, detectors, test sets and
data sets in turn, so that every data set weighs the same. Patients are drawn again, data sets are not: an interval speaks of the
data sets at hand. The three claims stand by themselves; they are not adjusted for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detpretrain.comparison.bootstrap import interval, p_value
from detpretrain.comparison.scoring import ScoredRow
from detpretrain.comparison.settings import CompareSettings
from detpretrain.evaluation.matches import Run
from detpretrain.pretraining_kinds import KINDS

METRIC = "AP@0.10"
SUPPORTED, NOT_SUPPORTED, CONTRADICTED, TOO_LITTLE = "supported", "not supported", "contradicted", "too little data"
FEWEST_DATASETS = 2  # the claims speak of data sets in the plural


@dataclass(frozen=True)
class Claim:
    """``left`` and ``right``: kinds of init whose means are compared, () = the reference; ``null``: claims no difference."""

    name: str
    text: str
    left: tuple[str, ...]
    right: tuple[str, ...] = ()
    null: bool = False


CLAIMS = (
    Claim("C1", "pre-training improves detection over training from scratch", KINDS),
    Claim("C2", "reconstruction beats supervised pre-training", ("reconstruction",), ("supervised",)),
    Claim("C3", "contrastive pre-training gives no clear benefit", ("contrastive",), null=True),
)


@dataclass(frozen=True)
class Judgement:
    """A claim's contrast of AP@0.10; NaN = not defined.

    Attributes:
        p: two-sided, of no difference; of a null claim: of a difference as large as the margin (two one-sided tests, the larger).
        verdict: see ``verdict``; ``reason``: why there is too little data, else empty.
        datasets, comparisons: how many data sets, and (data set, test set, detector, seed) with both sides.
    """

    claim: Claim
    estimate: float
    low: float
    high: float
    p: float
    verdict: str
    reason: str
    datasets: int
    comparisons: int


def judge(scored: Iterable[ScoredRow], kinds: Mapping[str, str], settings: CompareSettings) -> list[Judgement]:
    """``kinds``: init -> one of ``pretraining_kinds.KINDS``; inits that are not in it take part in no claim."""
    scored = list(scored)
    return [_judge(claim, scored, kinds, settings) for claim in CLAIMS]


def _judge(claim: Claim, scored: Sequence[ScoredRow], kinds: Mapping[str, str], settings: CompareSettings) -> Judgement:
    def side(members: tuple[str, ...]) -> Callable[[str], bool]:
        return lambda init: kinds.get(init) in members if members else init == settings.reference

    contrasts = contrasts_of(scored, side(claim.left), side(claim.right))
    if not contrasts:
        nothing = float("nan")
        return Judgement(claim, *[nothing] * 4, TOO_LITTLE, "no data set has rows of both sides", 0, 0)
    values = average(contrasts)
    estimate, draws = float(values[0]), values[1:]
    low, high = interval(draws, settings.confidence)
    p = p_of_equivalence(draws, settings.margin) if claim.null else p_value(draws)
    datasets = len({key.dataset for key in contrasts})
    reason = "" if datasets >= FEWEST_DATASETS else f"{datasets} data set: the claim is about several"
    found = TOO_LITTLE if reason else verdict(low, high, claim.null, settings.margin)
    if found == TOO_LITTLE and not reason:
        reason = "the interval neither shows nor excludes it"
    return Judgement(claim, estimate, low, high, p, found, reason, datasets, len(contrasts))


def contrasts_of(
    scored: Sequence[ScoredRow], left: Callable[[str], bool], right: Callable[[str], bool]
) -> dict[Run, NDArray[np.float64]]:
    """Mean of the left inits - mean of the right ones: [1 + R], value and draws, where both sides have rows.

    The keys are the rows' without their init.
    """
    sides: dict[Run, tuple[list, list]] = {}
    for entry in scored:
        key, score = entry.row.key, entry.whole[METRIC]
        without = Run(key.study, key.dataset, key.test_set, key.detector, "", key.seed)
        values = np.append(score.value, score.draws)
        for place, belongs in enumerate((left, right)):
            if belongs(key.init):
                sides.setdefault(without, ([], []))[place].append(values)
    return {
        key: np.mean(ours, axis=0) - np.mean(theirs, axis=0) for key, (ours, theirs) in sides.items() if ours and theirs
    }


def average(contrasts: Mapping[Run, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean over seeds, then detectors, then test sets, then data sets."""
    levels: dict[tuple, NDArray[np.float64]] = {
        (key.study, key.dataset, key.test_set, key.detector, key.seed): values for key, values in contrasts.items()
    }
    for length in (4, 3, 2, 0):
        grouped: dict[tuple, list[NDArray[np.float64]]] = {}
        for key, values in levels.items():
            grouped.setdefault(key[:length], []).append(values)
        levels = {key: np.mean(values, axis=0) for key, values in grouped.items()}
    return levels[()]


def verdict(low: float, high: float, null: bool, margin: float) -> str:
    """What an interval says of a claim.

    A claim of a difference: supported above 0, contradicted below 0, not supported when the interval ends below the margin (a
    difference that matters is excluded). A claim of none: supported within the margins, contradicted beyond them, not supported
    when there is some difference. Otherwise the interval is too wide to tell.
    """
    if np.isnan(low):
        return TOO_LITTLE
    if null:
        if -margin < low and high < margin:
            return SUPPORTED
        if low >= margin or high <= -margin:
            return CONTRADICTED
        return NOT_SUPPORTED if low > 0 or high < 0 else TOO_LITTLE
    if low > 0:
        return SUPPORTED
    if high < 0:
        return CONTRADICTED
    return NOT_SUPPORTED if high < margin else TOO_LITTLE


def p_of_equivalence(draws: NDArray[np.float64], margin: float) -> float:
    """p of "the difference is at least ``margin``, up or down": the larger of two one-sided tests (Schuirmann 1987)."""
    defined = draws[~np.isnan(draws)]
    if len(defined) == 0:
        return float("nan")
    beyond = max(np.count_nonzero(defined >= margin), np.count_nonzero(defined <= -margin))
    return float((beyond + 1) / (len(defined) + 1))
