"""What the numbers of a finished demo study are worth. Needs `make demo`; run by `make demo-check`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detpretrain import volumes
from detpretrain.detectors.factory import build_detector
from detpretrain.evaluation import baselines, matches, metrics
from detpretrain.evaluation.cases import Case
from detpretrain.evaluation.ensemble import PostProcessing, merge
from detpretrain.files import read_json
from detpretrain.inference.predict import InferenceSettings, predict_case
from detpretrain.inference.scoring import Truth
from detpretrain.preprocessing.restore import boxes_to_original
from detpretrain.preprocessing.store import read_case
from detpretrain.tasks import Task
from detpretrain.training import checkpoints
from detpretrain.training.precision import autocast_dtype

pytestmark = pytest.mark.demo

RESULTS = Path("results")
TASK = RESULTS / "data" / "phantom_nodules" / "task"
SCRATCH = Path("phantom_nodules") / "retina_unet_resenc" / "scratch"
CELL = RESULTS / "demo" / "cells" / SCRATCH / "fold0-seed0"


@pytest.fixture(scope="module")
def row():
    path = RESULTS / "demo" / "rows" / SCRATCH / "seed0" / "matches.parquet"
    assert path.exists(), f"{path} is missing: run `make demo` first"
    return matches.read(path)


@pytest.fixture(scope="module")
def scored(row) -> list[Case]:
    """Cases of the scratch row, boxes in mm along the image axes."""
    return matches.cases(row)


@pytest.fixture(scope="module")
def images(scored) -> dict[str, np.ndarray]:
    task = Task.read(TASK)
    return {case.image_id: volumes.read(task.image_paths(case.image_id)[0])[0] for case in scored}


@pytest.fixture(scope="module")
def random_ap(images) -> float:
    """AP@0.10 of chance: boxes of the objects' sizes centred anywhere in the lungs, 100 per case; mean of 20 draws.

    In the lungs, because shuffled truth and shuffled detections share the anatomy: knowing where lungs are is no detection.
    """
    truth = Truth.read(TASK)
    table = Task.read(TASK).objects()
    sizes = table[["z2", "y2", "x2"]].to_numpy() - table[["z1", "y1", "x1"]].to_numpy()
    inside = {case: baselines.lungs(image) for case, image in images.items()}
    scores = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        drawn = [
            found_in(truth, case, *baselines.random_boxes(mask.shape, sizes, 100, rng, where=mask))
            for case, mask in inside.items()
        ]
        scores.append(ap(drawn))
    return float(np.mean(scores))


def test_scratch_lands_in_the_useful_range(scored):
    assert sum(len(case.gt_boxes) for case in scored) >= 60
    assert 0.5 <= ap(scored) <= 0.9


@pytest.mark.parametrize(
    ("detector", "least"),
    [("retina_unet_resenc", 0.5), ("retina_unet_plainconv", 0.5), ("deformable_detr_resenc", 0.2)],
)
def test_every_row_learns_to_detect(detector, least):
    found = sorted((RESULTS / "demo" / "rows" / "phantom_nodules" / detector).glob("*/seed0/matches.parquet"))
    assert found
    for path in found:
        score = ap(matches.cases(matches.read(path)))
        print(f"{detector}, {path.parts[-3]}: {score:.3f}")
        assert score >= least, path


def test_thresholding_stays_below(images):
    truth = Truth.read(TASK)
    best = 0.0
    for threshold in (-820.0, -800.0, -780.0, -760.0, -740.0, -720.0, -700.0):
        boxes = {case: baselines.threshold_baseline(image, threshold=threshold) for case, image in images.items()}
        best = max(best, ap([found_in(truth, case, *found) for case, found in boxes.items()]))
    print(f"thresholding: {best:.3f}")
    assert best < 0.3


def test_shuffled_truth_is_no_better_than_random_boxes(scored, random_ap):
    shuffled = [
        replace(
            case, gt_boxes=other.gt_boxes, gt_labels=other.gt_labels, gt_ignore=other.gt_ignore, gt_ids=other.gt_ids
        )
        for case, other in zip(scored, scored[1:] + scored[:1], strict=True)
    ]
    print(f"shuffled truth: {ap(shuffled):.4f}, random boxes: {random_ap:.4f}")
    assert ap(shuffled) < 2 * random_ap


def test_untrained_network_is_no_better_than_random_boxes(scored, random_ap):
    content = checkpoints.load(CELL / "model.pth")
    torch.manual_seed(0)
    detector = build_detector(content["detector"], content["backbone"], content["plan"]).eval()
    truth, folder = Truth.read(TASK), RESULTS / "data" / "phantom_nodules" / content["plan"]["plan"] / "preprocessed"
    settings, cpu = InferenceSettings(mirror_axes=(), overlap=0.25, tile_batch=8), torch.device("cpu")
    found = []
    for record in read_json(folder / "index.json")["cases"]:
        case = read_case(folder, record["case"])
        patch, shape = content["plan"]["patch"], tuple(case.properties["shape"])
        raw = predict_case(detector, case.data[...], patch, settings, cpu, autocast_dtype(content["precision"], cpu))
        boxes, confidence, labels = merge(raw, 1, shape, PostProcessing())
        found.append(truth.scored(record["case"], boxes_to_original(boxes, case.properties), confidence, labels))
    print(f"untrained: {ap(found):.4f}, random boxes: {random_ap:.4f}")
    assert ap(found) < 2 * random_ap


def test_every_pre_training_beats_its_trivial_baseline():
    found = sorted((RESULTS / "demo" / "pretrained").glob("*/*/assessment.json"))
    assert {path.parts[-3] for path in found} >= {"mae", "voco", "multitalent"}
    for path in found:
        for score in read_json(path)["scores"]:
            print(
                f"{path.parts[-3]}, {score['name']}: {score['value']:.3f}, {score['baseline_name']}: {score['baseline']:.3f}"
            )
            assert score["beats_baseline"], (path, score)


def ap(cases: list[Case]) -> float:
    return metrics.evaluate(cases, 1)["AP@0.10"]


def found_in(truth: Truth, case: str, boxes: np.ndarray, scores: np.ndarray) -> Case:
    return truth.scored(case, boxes, scores, np.zeros(len(boxes), dtype=np.int64))
