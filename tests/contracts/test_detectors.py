"""What every entry of config/detectors.yaml must do. Entries are read from the file: a new one is tested without a line here.

Entries of an engine have no class: ``test_engines`` has what they must do.

Size ``full`` is only built, without initial values. All others train for a step; the many shapes, targets and mirrors are for
the smallest size of each entry.
"""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detpretrain.detectors.contract import Targets
from detpretrain.evaluation.ensemble import PostProcessing, merge
from detpretrain.files import read_yaml
from detpretrain.inference.predict import InferenceSettings, predict_case
from detpretrain.models.factory import build_backbone
from detpretrain.training.precision import autocast
from detpretrain.training.recipe import Recipe

CONFIG = Path(__file__).resolve().parents[2] / "config"
FULL, SMALLEST = "full", "smoke"
WITH_CLASS = {name: entry for name, entry in read_yaml(CONFIG / "detectors.yaml").items() if "engine" not in entry}
ALL = [(name, size) for name, entry in WITH_CLASS.items() for size in entry["sizes"]]
SMALL = [(name, size) for name, size in ALL if size != FULL]
ONCE = list(dict(sorted(SMALL, key=lambda pair: pair[1] == SMALLEST)).items())  # each name with its smallest size

every_entry = pytest.mark.parametrize(("name", "size"), ALL)
every_small_entry = pytest.mark.parametrize(("name", "size"), SMALL)
every_name = pytest.mark.parametrize(("name", "size"), ONCE)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def targets_of(patch, boxes):
    """Per image a list of boxes, of both classes in turn; voxel i is inside of a box when low < i < high."""
    boxes = [torch.tensor(image, dtype=torch.float32).view(-1, 6) for image in boxes]
    foreground = torch.zeros(len(boxes), *patch, dtype=torch.bool)
    for image, of_image in enumerate(boxes):
        for z1, y1, x1, z2, y2, x2 in of_image.int():
            foreground[image, z1 + 1 : z2, y1 + 1 : y2, x1 + 1 : x2] = True
    return Targets(boxes, [torch.arange(len(image)) % 2 for image in boxes], foreground)


TWO = [[3, 4, 5, 9, 11, 13], [2, 12, 6, 8, 18, 14]]


def train_step(detector, images, targets):
    """A forward and a backward pass: finite scalars, finite gradients, one for every parameter of the encoder."""
    losses = detector.train()(images, targets)
    assert losses
    for name, loss in losses.items():
        assert loss.ndim == 0, name
        assert loss.isfinite(), name
    sum(losses.values()).backward()
    assert [name for name, value in detector.encoder.named_parameters() if value.grad is None] == []
    assert any(value.grad.any() for value in detector.encoder.parameters())
    assert [name for name, value in detector.named_parameters() if not finite(value.grad)] == []


def finite(gradient):
    return gradient is None or bool(gradient.isfinite().all())


def opinionated(detector, strength=0.05):
    """Weights as if training had pulled them about: scores that differ, boxes of all sizes; with a large strength huge ones."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in detector.named_parameters():
            if not name.startswith("encoder."):
                value += strength * torch.randn(value.shape, generator=generator)
    return detector.eval()


@every_entry
def test_detector_entries_build_and_name_what_exists(name, size, resolved, detector_of, without_values):
    entry = resolved("detectors", name, size)
    detector, plan = detector_of(name, size)
    backbone = build_backbone(resolved("backbones", entry["backbone"], size), plan)
    assert list(detector.encoder.state_dict()) == list(backbone.encoder(2).state_dict())
    assert resolved("recipes", entry["recipe"], size)
    assert InferenceSettings(**entry["inference"]).mirrors[0] == ()


@pytest.mark.parametrize("boxes", [[[], []], [TWO, []]], ids=["empty", "some"])
@every_small_entry
def test_detectors_train_on_any_targets(name, size, boxes, resolved, detector_of):
    detector, plan = detector_of(name, size)
    recipe = Recipe.from_entry(name, resolved("recipes", resolved("detectors", name, size)["recipe"], size))
    with autocast(recipe.precision, torch.device("cpu")):
        train_step(detector, noise(2, 2, *plan["patch"]), targets_of(plan["patch"], boxes))


@every_small_entry
def test_detections_keep_the_contract(name, size, detector_of):
    detector, plan = detector_of(name, size)
    images = noise(2, 2, *plan["patch"])
    found = detector.eval().predict(images)
    assert len(found) == 2
    for image in found:
        count = len(image.scores)
        assert 0 < count <= 1000
        assert image.boxes.shape == (count, 6)
        assert image.labels.shape == (count,)
        assert (image.boxes.dtype, image.scores.dtype, image.labels.dtype) == (
            torch.float32,
            torch.float32,
            torch.int64,
        )
        assert ((image.scores >= 0) & (image.scores <= 1)).all()
        assert (image.scores.diff() <= 0).all()
        assert set(image.labels.tolist()) <= {0, 1}
        assert (image.boxes[:, 3:] > image.boxes[:, :3]).all()
        assert_within(image.boxes, plan["patch"])
        assert not image.boxes.requires_grad


def assert_within(boxes, patch):
    """As far as a target's box can reach: -1 .. n."""
    assert (boxes >= -1).all()
    assert (boxes <= torch.tensor([*patch, *patch])).all()


@every_small_entry
def test_seeds_decide_and_the_weights_are_all_there_is(name, size, detector_of):
    losses, states = [], []
    for seed in (0, 0, 1):
        detector, plan = detector_of(name, size, seed)
        torch.manual_seed(5)
        batch = noise(1, 2, *plan["patch"]), targets_of(plan["patch"], [TWO[:1]])
        losses.append({key: value.item() for key, value in detector(*batch).items()})
        states.append(detector)
    assert losses[0] == losses[1] != losses[2]
    states[2].load_state_dict(states[0].state_dict(), strict=True)
    first, copy = (detector.eval().predict(batch[0])[0] for detector in (states[0], states[2]))
    assert torch.equal(first.boxes, copy.boxes)
    assert torch.equal(first.scores, copy.scores)


@pytest.mark.parametrize("anisotropic", [False, True], ids=["isotropic", "anisotropic"])
@pytest.mark.parametrize("channels", [1, 4])
@every_name
def test_detectors_train_on_any_number_of_channels_and_any_shape(name, size, channels, anisotropic, detector_of):
    modalities = ("CT", "MR", "PT", "US")[:channels]
    detector, plan = detector_of(name, size, modalities=modalities, anisotropic=anisotropic)
    assert (plan["patch"][0] < plan["patch"][1]) == anisotropic
    images = noise(2, channels, *plan["patch"])
    train_step(detector, images, targets_of(plan["patch"], [TWO, TWO[:1]]))
    for image in detector.eval().predict(images):
        assert len(image.scores)
        assert_within(image.boxes, plan["patch"])


@every_name
def test_two_hundred_objects_in_one_patch_are_no_trouble(name, size, detector_of):
    detector, plan = detector_of(name, size)
    rng = np.random.default_rng(3)
    sizes = rng.integers(2, 9, (200, 3))
    low = rng.integers(-1, np.array(plan["patch"]) + 1 - sizes)
    boxes = np.concatenate([low, low + sizes], axis=1).tolist()
    train_step(detector, noise(2, 2, *plan["patch"]), targets_of(plan["patch"], [boxes, TWO]))


@every_name
def test_objects_may_touch_the_border_on_every_side(name, size, detector_of):
    detector, plan = detector_of(name, size)
    patch = np.array(plan["patch"])
    boxes = [[-1] * 3 + patch.tolist()]  # all of the patch
    for axis, high in itertools.product(range(3), (False, True)):
        low = patch // 2 - 3
        low[axis] = patch[axis] - 6 if high else -1
        boxes.append([*low, *(low + 6)])
        assert (boxes[-1][axis + 3] == patch[axis]) if high else (boxes[-1][axis] == -1)
    train_step(detector, noise(2, 2, *patch), targets_of(patch, [boxes, boxes[:1]]))


@every_name
def test_no_box_reaches_beyond_where_an_object_s_can(name, size, detector_of):
    detector, plan = detector_of(name, size, anisotropic=True)
    patch = torch.tensor(plan["patch"])
    found = opinionated(detector, strength=0.2).predict(3 * noise(4, 2, *plan["patch"]))
    boxes = torch.cat([image.boxes for image in found])
    assert_within(boxes, plan["patch"])
    assert ((boxes[:, :3] <= 0) | (boxes[:, 3:] >= patch)).any()  # there was something to limit


@every_name
def test_detections_of_an_image_do_not_depend_on_its_batch(name, size, detector_of):
    detector, plan = detector_of(name, size)
    opinionated(detector)
    images = noise(3, 2, *plan["patch"], seed=2)  # a seed without a tie in rounding where a detector takes its best
    for image, together in zip(images, detector.predict(images), strict=True):
        alone = detector.predict(image[None])[0]
        assert len(alone.scores) >= 10
        torch.testing.assert_close(together.boxes, alone.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(together.scores, alone.scores, rtol=1e-4, atol=1e-5)
        assert torch.equal(together.labels, alone.labels)


@every_name
def test_a_mirrored_image_has_the_mirrored_boxes(name, size, detector_of):
    """Strided convolutions are not equivariant, but over all mirrors the network sees the same arrays of both images."""
    detector, plan = detector_of(name, size, anisotropic=True)
    opinionated(detector)
    patch = plan["patch"]
    shape = (patch[0] + patch[0] // 2, patch[1], patch[2])  # two tiles
    settings = InferenceSettings(overlap=0.5, mirror_axes=(0, 1, 2), tile_batch=1, keep=100)

    def predict(image):
        return predict_case(detector, image, patch, settings, torch.device("cpu"), None)

    def merged(found):
        inner = clear_of_the_border(found, shape)
        boxes, scores, labels = merge(inner, len(settings.mirrors), shape, PostProcessing())
        assert 50 < len(scores) < len(inner.scores)
        return boxes, scores, labels

    image = noise(2, *shape).numpy()
    found = predict(image)
    boxes, scores, labels = merged(found)
    for axis in range(3):
        of_mirrored = predict(np.flip(image, axis + 1).copy())
        assert_same_boxes(
            (mirrored(found.boxes, shape, axis), found.scores, found.labels),
            (of_mirrored.boxes, of_mirrored.scores, of_mirrored.labels),
        )
        assert_same_boxes((mirrored(boxes, shape, axis), scores, labels), merged(of_mirrored))


def mirrored(boxes, shape, axis):
    boxes = boxes.copy()
    boxes[:, [axis, axis + 3]] = shape[axis] - 1 - boxes[:, [axis + 3, axis]]
    return boxes


def clear_of_the_border(found, shape):
    """Boxes that clipping leaves alone, all of one weight.

    Clipping to 0 .. n and weights by the distance from n / 2 are nnDetection's: half a voxel off the middle of a mirror.
    """
    inside = ((found.boxes[:, :3] >= 0) & (found.boxes[:, 3:] <= np.array(shape) - 1)).all(axis=1)
    return replace(found.select(inside), weights=np.ones(inside.sum(), np.float32))


def assert_same_boxes(expected, found):
    """In any order: boxes, scores, labels."""
    expected, found = (
        [part[np.lexsort((boxes.sum(axis=1), scores))] for part in (boxes, scores, labels)]
        for boxes, scores, labels in (expected, found)
    )
    np.testing.assert_allclose(found[0], expected[0], atol=1e-3)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
    np.testing.assert_array_equal(found[2], expected[2])
