"""Synthetic rows: cases with objects and detections of chosen quality, through the evaluation's own matching."""

import numpy as np
import pytest

from detpretrain.evaluation import matches
from detpretrain.evaluation.cases import Case


def make_case(truth: np.random.Generator, finds: np.random.Generator, name: str, found: float, decimals: int) -> Case:
    """0-3 objects far apart, some ignored, each found with probability ``found``; 0-3 false positives; two classes."""
    n = int(truth.integers(0, 4))
    starts = np.stack([np.arange(n) * 30.0, np.zeros(n), np.zeros(n)], axis=1)
    truths = np.concatenate([starts, starts + 10.0], axis=1)
    labels, ignored = truth.integers(0, 2, n), truth.random(n) < 0.15
    hit = np.flatnonzero(finds.random(n) < found)
    n_false = int(finds.integers(0, 4))
    false = np.tile([0.0, 200.0, 0.0, 10.0, 210.0, 10.0], (n_false, 1))
    return Case(
        image_id=name,
        gt_boxes=truths,
        gt_labels=labels,
        gt_ignore=ignored.astype(int),
        pred_boxes=np.concatenate([truths[hit] + finds.normal(0, 1.3, (len(hit), 6)), false]),
        pred_labels=np.concatenate([labels[hit], finds.integers(0, 2, n_false)]),
        pred_scores=np.concatenate([finds.beta(5, 3, len(hit)), finds.beta(3, 5, n_false)]).round(decimals),
    )


@pytest.fixture
def make_table():
    """-> a matches table: patients p000, ... of one or two cases, folds by patient; ``seed_truth`` fixes cases and objects.

    ``decimals``: of the scores; 2 makes ties.
    """

    def make(
        init: str = "scratch",
        *,
        patients: int = 12,
        found: float = 0.6,
        decimals: int = 15,
        seed_truth: int = 0,
        seed_finds: int = 0,
        test_set: str = "cv",
        **run,
    ):
        truth, finds = np.random.default_rng([seed_truth, 1]), np.random.default_rng([seed_finds, 2])
        cases, infos = [], {}
        for p in range(patients):
            for session in range(int(truth.integers(1, 3))):
                name = f"p{p:03d}s{session}"
                cases.append(make_case(truth, finds, name, found, decimals))
                infos[name] = matches.CaseInfo(f"p{p:03d}", (2.0, 1.0, 1.0), p % 3 if test_set == "cv" else None)
        columns = {"study": "s", "dataset": "nodules", "detector": "net", "seed": 0, **run}
        return matches.build(cases, infos, matches.Run(test_set=test_set, init=init, **columns))

    return make


@pytest.fixture
def write_rows(tmp_path):
    """Writes tables as ``row0.parquet``, ... and returns their paths."""

    def write(*tables):
        paths = [tmp_path / f"row{i}.parquet" for i in range(len(tables))]
        for path, table in zip(paths, tables, strict=True):
            matches.write(path, table)
        return paths

    return write
