import numpy as np
import pandas as pd
import pytest

from detpretrain.comparison.stability import variance_shares, winners


def folds(values):
    """(dataset, fold, init, seed) -> AP."""
    lines = [(*key, value) for key, value in values.items()]
    return pd.DataFrame(lines, columns=["dataset", "fold", "init", "seed", "AP@0.10"])


def test_a_win_that_hangs_on_one_data_set():
    table = folds({
        ("a", 0, "mae", 0): 0.9, ("a", 1, "mae", 0): 0.9, ("a", 0, "mg", 0): 0.3, ("a", 1, "mg", 0): 0.3,
        ("b", 0, "mae", 0): 0.4, ("b", 1, "mae", 0): 0.4, ("b", 0, "mg", 0): 0.5, ("b", 1, "mg", 0): 0.5,
    })  # fmt: skip
    found = winners(table).set_index("left_out")
    assert found.loc["nothing", ["winner", "stable"]].tolist() == ["mae", True]
    assert found.loc["nothing", "lead"] == pytest.approx(0.25)
    assert found.loc["data set a", ["winner", "stable"]].tolist() == ["mg", False]
    assert found.loc["data set b", "stable"]
    assert found.loc[["fold 0", "fold 1"], "stable"].all()
    assert len(found) == 5


def test_folds_of_a_data_set_do_not_outweigh_another():
    table = folds({("a", fold, "mae", 0): 0.5 for fold in range(5)} | {("a", fold, "mg", 0): 0.4 for fold in range(5)}
                  | {("b", 0, "mae", 0): 0.2, ("b", 0, "mg", 0): 0.5})  # fmt: skip
    assert winners(table)["winner"].iloc[0] == "mg"


def test_an_init_that_misses_a_data_set_cannot_win():
    table = folds({("a", 0, "mae", 0): 0.3, ("b", 0, "mae", 0): 0.3, ("a", 0, "voco", 0): 0.9})
    found = winners(table)
    assert set(found["winner"]) == {"mae"}
    assert found["lead"].isna().all()
    assert winners(table.iloc[:0]).empty


def test_shares_of_planted_effects():
    """Balanced and additive: the shares are the squared effects."""
    values = {
        (d, f, i, s): 0.5 + {"a": -0.2, "b": 0.2}[d] + {"mae": 0.1, "mg": -0.1}[i] + (0.05 if s else -0.05)
        for d in "ab" for f in range(2) for i in ("mae", "mg") for s in range(2)
    }  # fmt: skip
    found = variance_shares(folds(values))
    total = 0.2**2 + 0.1**2 + 0.05**2
    assert found == pytest.approx(
        {"dataset": 0.04 / total, "fold": 0, "init": 0.01 / total, "seed": 0.0025 / total, "residual": 0}, abs=1e-9
    )


def test_noise_is_the_residual():
    rng = np.random.default_rng(0)
    values = {(d, f, i, s): rng.normal() for d in "abc" for f in range(3) for i in ("x", "y") for s in range(4)}
    found = variance_shares(folds(values))
    assert found["residual"] > 0.6
    assert sum(found.values()) == pytest.approx(1)


def test_one_seed_has_no_shares():
    assert variance_shares(folds({("a", 0, "mae", 0): 0.5, ("a", 1, "mae", 0): 0.6})) == {}
