"""A linear mixed model of the folds' AP over all data sets (secondary: folds are few and share their training cases).

Per detector: init fixed; data set, and fold within data set, random intercepts. A fold's score is one observation.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.formula.api as smf
from scipy.stats import norm
from statsmodels.tools.sm_exceptions import ConvergenceWarning

METRIC = "AP@0.10"
POINTS = 100.0  # fitted in points of AP: statsmodels takes variances below 0.01 for none


@dataclass(frozen=True)
class MixedModel:
    """Of one detector; an empty ``inits`` table when it was not fitted.

    Attributes:
        inits: one line per init: ``init``, ``mean`` (marginal), ``mean_low``, ``mean_high``, and of the difference to the
            reference ``difference``, ``low``, ``high``, ``p`` (Wald; empty for the reference).
        variances: of data set, fold in data set, and the rest.
        note: why there is no fit, or what the fit complained of; empty = converged without a word.
    """

    inits: pd.DataFrame
    variances: dict[str, float]
    note: str


FAILED = "the fit failed"
COLUMNS = ["init", "mean", "mean_low", "mean_high", "difference", "low", "high", "p"]


def fit(folds: pd.DataFrame, reference: str, confidence: float) -> MixedModel:
    """``folds``: lines of ``folds.csv`` of one detector (``dataset``, ``init``, ``fold``, ``seed``, AP@0.10)."""
    table = folds.rename(columns={METRIC: "ap"})[["dataset", "init", "fold", "ap"]].dropna()
    reason = _too_small(table, reference)
    if reason:
        return MixedModel(pd.DataFrame(columns=COLUMNS), {}, reason)
    inits = [reference, *sorted(set(table["init"]) - {reference})]
    table = table.assign(place=table["init"].map(inits.index), ap=table["ap"] * POINTS)
    model = smf.mixedlm("ap ~ C(place)", table, groups="dataset", re_formula="1", vc_formula={"fold": "0 + C(fold)"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = model.fit(reml=True)
        except (np.linalg.LinAlgError, ValueError) as error:
            return MixedModel(pd.DataFrame(columns=COLUMNS), {}, f"{FAILED}: {error}")
    note = _complaints(caught, result.converged)
    found = {"dataset": result.cov_re.iloc[0, 0], "fold": result.vcomp[0], "residual": result.scale}
    variances = {name: float(value) / POINTS**2 for name, value in found.items()}
    return MixedModel(_lines(result, inits, confidence), variances, note)


def _too_small(table: pd.DataFrame, reference: str) -> str:
    if table["dataset"].nunique() < 2:
        return "one data set: its effect cannot be told from the mean"
    if reference not in set(table["init"]):
        return f"no row of {reference}"
    if table["init"].nunique() < 2:
        return f"nothing beside {reference}"
    if table.groupby("dataset")["fold"].nunique().max() < 2:
        return "one fold in every data set: no spread to compare with"
    return ""


def _complaints(caught: list[warnings.WarningMessage], converged: bool) -> str:
    told = [warning for warning in caught if issubclass(warning.category, (ConvergenceWarning, RuntimeWarning))]
    texts = [str(warning.message).split(",")[0] for warning in told]
    if not converged:
        texts.insert(0, "the fit did not converge")
    return "; ".join(dict.fromkeys(texts))


def _lines(result, inits: list[str], confidence: float) -> pd.DataFrame:
    """Marginal means and differences from the fixed effects (treatment coding: intercept = reference)."""
    effects = result.fe_params.to_numpy() / POINTS
    covariance = result.cov_params().to_numpy()[: len(inits), : len(inits)] / POINTS**2
    width = norm.ppf((1 + confidence) / 2)
    lines = []
    for place, init in enumerate(inits):
        weights = np.zeros(len(inits))
        weights[0] = weights[place] = 1
        mean, error = weights @ effects, np.sqrt(weights @ covariance @ weights)
        line = {"init": init, "mean": mean, "mean_low": mean - width * error, "mean_high": mean + width * error}
        if place:
            difference, of_difference = effects[place], np.sqrt(covariance[place, place])
            line |= {"difference": difference, "p": 2 * norm.sf(abs(difference) / of_difference)}
            line |= {"low": difference - width * of_difference, "high": difference + width * of_difference}
        lines.append(line)
    return pd.DataFrame(lines, columns=COLUMNS)
