"""The mixed model against a balanced design, whose estimates can be written down."""

import numpy as np
import pandas as pd
import pytest

from detpretrain.comparison import mixed_model


def design(datasets=6, folds=5, inits=("scratch", "mae", "voco"), effects=(0.0, 0.05, 0.01), noise=0.01, seed=0):
    rng = np.random.default_rng(seed)
    lines = []
    for d in range(datasets):
        of_dataset = rng.normal(0, 0.1)
        for f in range(folds):
            of_fold = rng.normal(0, 0.03)
            for init, effect in zip(inits, effects, strict=True):
                ap = 0.5 + of_dataset + of_fold + effect + rng.normal(0, noise)
                lines.append({"dataset": f"d{d}", "fold": f, "init": init, "seed": 0, "AP@0.10": ap})
    return pd.DataFrame(lines)


def test_balanced_design_has_the_known_answer():
    """Contrasts are differences of means; their variance is twice the residual mean square over the number of blocks."""
    table = design()
    found = mixed_model.fit(table, "scratch", 0.95)
    lines = found.inits.set_index("init")
    means = table.groupby("init")["AP@0.10"].mean()
    assert lines["mean"].to_dict() == pytest.approx(means.to_dict(), abs=1e-6)
    wide = table.pivot_table(index=["dataset", "fold"], columns="init", values="AP@0.10").to_numpy()
    rest = wide - wide.mean(axis=1, keepdims=True) - wide.mean(axis=0) + wide.mean()
    square = (rest**2).sum() / ((len(wide) - 1) * 2)
    for init in ("mae", "voco"):
        assert lines.loc[init, "difference"] == pytest.approx(means[init] - means["scratch"], abs=1e-6)
        half = 1.959964 * np.sqrt(2 * square / len(wide))
        assert lines.loc[init, "high"] - lines.loc[init, "difference"] == pytest.approx(half, rel=0.01)
    assert np.isnan(lines.loc["scratch", ["difference", "p"]].to_numpy(float)).all()
    assert lines.loc["mae", "p"] < 1e-6
    assert found.note == ""


def test_variance_components_are_found():
    found = mixed_model.fit(design(datasets=40, noise=0.02), "scratch", 0.95)
    assert np.sqrt(found.variances["dataset"]) == pytest.approx(0.1, rel=0.3)
    assert np.sqrt(found.variances["fold"]) == pytest.approx(0.03, rel=0.2)
    assert np.sqrt(found.variances["residual"]) == pytest.approx(0.02, rel=0.1)


def test_missing_cells_are_no_obstacle():
    table = design()
    table = table[~((table["init"] == "voco") & (table["dataset"] == "d0"))]
    lines = mixed_model.fit(table, "scratch", 0.95).inits.set_index("init")
    assert lines.loc["voco", "difference"] == pytest.approx(0.01, abs=0.01)


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (lambda t: t["dataset"] == "d0", "one data set"),
        (lambda t: t["init"] != "scratch", "no row of scratch"),
        (lambda t: t["init"] == "scratch", "nothing beside scratch"),
        (lambda t: t["fold"] == 0, "one fold"),
    ],
)
def test_skipped_with_a_reason(keep, reason):
    table = design()
    found = mixed_model.fit(table[keep(table)], "scratch", 0.95)
    assert found.inits.empty
    assert list(found.inits.columns) == mixed_model.COLUMNS
    assert found.note.startswith(reason)


def test_what_the_fit_complains_of_is_told():
    """No spread between data sets and folds at all: the variances lie on their boundary."""
    table = design(noise=0.01)
    table["AP@0.10"] = np.random.default_rng(0).normal(0.5, 0.01, len(table))
    assert mixed_model.fit(table, "scratch", 0.95).note != ""
