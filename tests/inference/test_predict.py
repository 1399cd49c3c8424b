import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from detpretrain.evaluation.ensemble import PostProcessing, merge
from detpretrain.inference.predict import InferenceSettings, mirror_boxes, predict_case

CPU = torch.device("cpu")
PATCH = [16, 16, 16]
CORNERS, BRIGHTNESS = [(3, 5, 20), (14, 11, 2), (25, 21, 31)], [0.9, 0.6, 0.5]
SHAPE = (30, 27, 37)


def predict(detector, image, **settings):
    return predict_case(detector, image[None], PATCH, InferenceSettings(**settings), CPU, None)


def test_mirroring_boxes_twice_gives_them_back():
    boxes = np.random.default_rng(0).uniform(0, 20, (9, 3))
    boxes = np.hstack([boxes, boxes + 3])
    for axes in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in range(4)):
        mirrored = mirror_boxes(boxes, (20, 30, 40), axes)
        assert (mirrored[:, 3:] > mirrored[:, :3]).all()
        np.testing.assert_allclose(mirror_boxes(mirrored, (20, 30, 40), axes), boxes, atol=1e-12)


def test_a_mirrored_box_holds_the_mirrored_voxels(cubes):
    image, boxes = cubes((10, 12, 14), [(1, 2, 3)], [1.0])
    occupied = np.argwhere(np.flip(image, (0, 2)))
    expected = [*(occupied.min(axis=0) - 1), *(occupied.max(axis=0) + 1)]
    np.testing.assert_array_equal(mirror_boxes(boxes, image.shape, (0, 2))[0], expected)


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_every_mirror_gives_every_box_back_exactly(detector, cubes, overlap):
    image, boxes = cubes(SHAPE, CORNERS, BRIGHTNESS)
    settings = InferenceSettings(overlap=overlap)
    assert len(settings.mirrors) == 8
    found = predict(detector, image, overlap=overlap)
    for mirror in range(8):
        own = found.select(found.model == mirror)
        for box, brightness in zip(boxes, BRIGHTNESS, strict=True):
            same = (own.boxes == box).all(axis=1)
            assert same.any()
            np.testing.assert_allclose(own.scores[same], brightness, rtol=1e-6)
        assert len(np.unique(own.boxes, axis=0)) == len(boxes)
    merged, scores, labels = merge(found, 8, SHAPE, PostProcessing())
    np.testing.assert_allclose(merged, boxes, atol=1e-9)
    np.testing.assert_allclose(scores, BRIGHTNESS, rtol=1e-6)
    assert labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_a_mirrored_image_gives_mirrored_boxes(detector, cubes, axes):
    image, _ = cubes(SHAPE, CORNERS, BRIGHTNESS)
    flipped = np.flip(image, axes).copy()
    merged = [merge(predict(detector, i), 8, SHAPE, PostProcessing()) for i in (image, flipped)]
    np.testing.assert_allclose(merged[1][0], mirror_boxes(merged[0][0], SHAPE, axes), atol=1e-9)
    np.testing.assert_allclose(merged[1][1], merged[0][1], rtol=1e-6)


def assert_same(a, b, tolerance=1e-3):
    """Every one of the best 300 boxes of ``a`` is in ``b`` with its score and label, in whatever order ties are."""
    lines = [np.column_stack([found.boxes, 10 * found.scores, 10 * found.labels]) for found in (a, b)]
    lines[0] = lines[0][np.argsort(-a.scores)[:300]]
    distance = np.abs(lines[0][:, None] - lines[1]).max(axis=2).min(axis=1)
    assert distance.max() < tolerance


def test_a_network_sees_the_mirrored_image_as_mirroring_says(retina):
    """On a symmetric grid of tiles, model () on the mirrored image is model (0, 2) on the image, box by box."""
    image = np.random.default_rng(1).normal(size=(16, 24, 32)).astype(np.float32)
    plain = predict(retina.network, np.flip(image, (0, 2)).copy(), mirror_axes=())
    found = predict(retina.network, image, mirror_axes=(0, 1, 2))
    mirrored = found.select(found.model == InferenceSettings().mirrors.index((0, 2)))
    assert len(plain.scores) == len(mirrored.scores) > 300
    back = replace(plain, boxes=mirror_boxes(plain.boxes, image.shape, (0, 2)))
    assert_same(mirrored, back)
    assert_same(back, mirrored)


def test_the_number_of_tiles_at_once_does_not_matter(retina):
    image = np.random.default_rng(2).normal(size=(20, 30, 25)).astype(np.float32)
    one, eight = (predict(retina.network, image, mirror_axes=(), tile_batch=batch) for batch in (1, 8))
    assert_same(one, eight)
    assert_same(eight, one)


def test_an_image_smaller_than_the_patch(detector, cubes):
    image, boxes = cubes((9, 12, 30), [(3, 4, 20)], [0.8])
    found = predict(detector, image)
    assert (found.boxes == boxes[0]).all(axis=1).sum() >= 8
    # its reflections lie outside the image and are gone after clipping
    merged, scores, _ = merge(found, 8, image.shape, PostProcessing())
    np.testing.assert_allclose(merged, boxes, atol=1e-9)
    np.testing.assert_allclose(scores, [0.8], rtol=1e-6)


def test_the_best_boxes_of_each_mirror_are_kept(detector, cubes):
    image, boxes = cubes((16, 16, 16), [(1, 1, 1), (1, 8, 8), (9, 2, 9)], [0.5, 0.9, 0.7])
    found = predict(detector, image, keep=2)
    assert np.bincount(found.model).tolist() == [2] * 8
    assert {tuple(box) for box in found.boxes} == {tuple(box) for box in boxes[1:]}


def test_nothing_found_is_no_box(detector):
    found = predict(detector, np.zeros((20, 20, 20), np.float32))
    assert found.boxes.shape == (0, 6)
    assert len(found.scores) == len(found.labels) == len(found.weights) == len(found.model) == 0


def test_a_box_near_the_border_of_its_tile_weighs_less(detector, cubes):
    image, boxes = cubes((16, 16, 16), [(6, 6, 6), (1, 1, 1)], [0.9, 0.8])
    found = predict(detector, image, mirror_axes=())
    # the centres are 7.5 (0.5 from the middle) and 2.5 (5.5 of 8 to the corner)
    np.testing.assert_allclose(found.boxes, boxes)
    np.testing.assert_allclose(found.weights, [1.0, 1.5 - 5.5 / 8], rtol=1e-6)
