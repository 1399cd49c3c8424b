import functools
from pathlib import Path

import numpy as np
import pytest
import yaml

from detpretrain import boxes as box_ops
from detpretrain.build import build
from detpretrain.datasets.phantom_anatomy import ORGANS
from detpretrain.datasets.phantoms import ChestPhantom
from detpretrain.evaluation import baselines, metrics
from detpretrain.evaluation.cases import Case

CONFIG = Path(__file__).parents[2] / "config" / "datasets.yaml"


class _Collect:
    """A writer that keeps what a data set writes in memory."""

    def __init__(self) -> None:
        self.cases: list[tuple[str, np.ndarray, np.ndarray]] = []

    def describe(self, labels, modalities) -> None:
        pass

    def excluded(self, case) -> bool:
        return False

    def add_case(self, case, images, geometry, *, instances, classes) -> None:
        self.cases.append((case, images[0], box_ops.from_instances(instances)[1]))


@functools.cache
def _demo() -> list[tuple[str, np.ndarray, np.ndarray]]:
    entry = yaml.safe_load(CONFIG.read_text())["phantom_nodules"]
    writer = _Collect()
    build({key: value for key, value in entry.items() if key != "splits"}).write(None, writer)
    return writer.cases


def _ap(detect) -> float:
    cases = []
    for name, image, truth in _demo():
        boxes, scores = detect(image)
        labels, ignore = np.zeros(len(truth), int), np.zeros(len(truth), bool)
        cases.append(Case(name, truth, labels, ignore, boxes, np.zeros(len(boxes), int), scores))
    return metrics.evaluate(cases, 1)["AP@0.10"]


def test_the_demo_has_enough_objects_and_cases_without():
    counts = [len(truth) for _, _, truth in _demo()]
    assert sum(counts) >= 60
    assert 0 < counts.count(0) <= len(counts) / 4


@pytest.mark.slow
def test_thresholding_fails_on_the_demo_at_its_best():
    ranges = {0.7: (-750, -730), 1.0: (-775, -755, -740), 1.4: (-790, -770)}
    found = {
        (rank, smoothing, threshold): _ap(
            functools.partial(baselines.threshold_baseline, smoothing=smoothing, threshold=threshold, rank=rank)
        )
        for rank in ("brightness", "size")
        for smoothing, thresholds in ranges.items()
        for threshold in thresholds
    }
    assert max(found.values()) < 0.3, found
    assert max(found.values()) > 0.1, found  # it is a baseline, not a broken detector


def test_thresholding_finds_balls_in_an_empty_lung():
    grid = np.stack(np.meshgrid(*[np.arange(48)] * 3, indexing="ij"))

    def ball(centre, radius):
        return ((grid - np.array(centre)[:, None, None, None]) ** 2).sum(0) <= radius**2

    image = np.full((48, 48, 48), 40.0)
    image[:, [0, 1, -2, -1]] = -1000.0
    image[ball((24, 24, 24), 19)] = -850.0
    truth = []
    for centre, radius in (((24, 24, 14), 4), ((24, 24, 32), 3)):
        image[ball(centre, radius)] = -400.0
        truth.append([c - radius - 1 for c in centre] + [c + radius + 1 for c in centre])
    boxes, scores = baselines.threshold_baseline(image, threshold=-600.0, smoothing=0, max_voxels=1000, rank="size")
    assert boxes.tolist() == truth
    assert scores.tolist() == [ball((24, 24, 14), 4).sum() / 1000, ball((24, 24, 32), 3).sum() / 1000]
    _, brightness = baselines.threshold_baseline(image, threshold=-600.0, smoothing=0, max_voxels=1000)
    np.testing.assert_allclose(brightness, [0.6, 0.6])


def test_lungs_are_found():
    scan = ChestPhantom(anisotropic=0.0).draw(np.random.default_rng(0))
    truth = np.isin(scan.organs, [1 + ORGANS.index("lungs"), 1 + ORGANS.index("lung vessels")])
    found = baselines.lungs(scan.image)
    assert (found & truth).sum() / found.sum() > 0.97
    assert (found & truth).sum() / truth.sum() > 0.6


def test_no_lungs_no_boxes():
    boxes, scores = baselines.threshold_baseline(np.zeros((16, 16, 16)))
    assert boxes.shape == (0, 6)
    assert scores.shape == (0,)


def test_random_boxes_have_the_sizes_of_the_training_boxes():
    sizes = np.array([[3.0, 4.0, 5.0], [8.0, 8.0, 8.0]])
    boxes, scores = baselines.random_boxes((20, 30, 40), sizes, 2000, np.random.default_rng(0))
    edges = boxes[:, 3:] - boxes[:, :3]
    first = np.isclose(edges, sizes[0]).all(1)
    assert (first | np.isclose(edges, sizes[1]).all(1)).all()
    assert first.mean() == pytest.approx(0.5, abs=0.05)
    assert (boxes[:, :3] >= 0).all()
    assert (boxes[:, 3:] <= np.array([19, 29, 39]) + 1e-4).all()
    assert scores.min() >= 0
    assert scores.max() < 1


def test_random_boxes_score_next_to_nothing_on_the_demo():
    sizes = np.concatenate([truth[:, 3:] - truth[:, :3] for _, _, truth in _demo()])
    rng = np.random.default_rng(0)
    assert _ap(lambda image: baselines.random_boxes(image.shape, sizes, 50, rng)) < 0.05


def test_random_boxes_without_sizes():
    assert len(baselines.random_boxes((9, 9, 9), np.empty((0, 3)), 0, np.random.default_rng(0))[0]) == 0
    with pytest.raises(ValueError, match="at least one"):
        baselines.random_boxes((9, 9, 9), np.empty((0, 3)), 5, np.random.default_rng(0))
