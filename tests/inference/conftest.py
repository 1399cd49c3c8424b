"""A detector without weights that finds bright cubes exactly, and images that hold some."""

import types
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from detpretrain.detectors.contract import Detections
from detpretrain.detectors.factory import build_detector
from detpretrain.geometry import Geometry
from detpretrain.inference.model import Model
from detpretrain.inference.predict import InferenceSettings
from detpretrain.training import checkpoints

torch.set_num_threads(1)
SIDE = 4  # voxels of a cube
PLAN = {
    "dataset": "cubes",
    "plan": "cubes",
    "spacing": [1.5, 1.5, 1.5],
    "transpose": [0, 1, 2],
    "modalities": ["CT"],
    "channels": 1,
    "classes": 2,
    "class_names": ["nodule", "cyst"],
    "intensity": {"scheme": [{"scheme": "ct", "clip": [0, 1000], "mean": 0.0, "sd": 1000.0}], "nonzero_mask": False},
    "patch": [16, 16, 16],
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "kernels": [[3, 3, 3]] * 3,
    "detection_levels": [1, 2],
    "anchors": {"z": [3, 4, 6], "y": [3, 4, 6], "x": [3, 4, 6]},
}
BACKBONE = {"class": "detpretrain.models.resenc.ResEnc", "features": [4, 8, 8], "blocks": [1, 1, 1]}
RETINA = {
    "class": "detpretrain.detectors.retina_unet.RetinaUNet",
    "backbone": "resenc",
    "criterion": {"class": "detpretrain.detectors.criteria.FocalL1"},
    "plan": "cubes",
    "recipe": "none",
    "pyramid_channels": 8,
    "head_channels": 8,
    "candidates": 200,
    "inference": {"overlap": 0.25, "mirror_axes": [2], "tile_batch": 3},
}


class BrightCubes(torch.nn.Module):
    """Whole cubes only (a tile may cut one), their mean brightness as score; class 1 above 0.75."""

    def __init__(self, *, backbone=None, plan=None, side=SIDE):
        super().__init__()
        self.side = side

    def predict(self, images):
        return [self._in_tile(image[0].float().numpy()) for image in images]

    def _in_tile(self, image):
        parts, _ = ndimage.label(image > 0.3)
        found = []
        for number, where in enumerate(ndimage.find_objects(parts), start=1):
            inside = parts[where] == number
            if inside.all() and inside.shape == (self.side,) * 3:
                box = [axis.start - 1 for axis in where] + [axis.stop for axis in where]
                found.append((box, image[where].mean()))
        found.sort(key=lambda item: -item[1])
        boxes = torch.tensor([box for box, _ in found], dtype=torch.float32).reshape(-1, 6)
        scores = torch.tensor([float(score) for _, score in found])
        return Detections(boxes, scores, (scores > 0.75).long())


def draw_cubes(shape, corners, brightness):
    """float32 [D, H, W] with cubes at ``corners``, and their boxes [N, 6]."""
    image = np.zeros(shape, np.float32)
    for corner, value in zip(corners, brightness, strict=True):
        image[tuple(slice(c, c + SIDE) for c in corner)] = value
    corners = np.asarray(corners, np.float64)
    return image, np.hstack([corners - 1, corners + SIDE])


@pytest.fixture
def cubes():
    """``draw_cubes``."""
    return draw_cubes


@pytest.fixture
def detector():
    return BrightCubes()


@pytest.fixture
def cubes_model():
    return Model(BrightCubes(), PLAN, InferenceSettings(mirror_axes=(0, 1, 2)), None, {})


@pytest.fixture
def retina():
    """A small Retina U-Net with random weights whose scores differ, its entries and its plan."""
    torch.manual_seed(0)
    network = build_detector(RETINA, BACKBONE, PLAN).eval()
    with torch.no_grad():
        for parameter in network.classifier.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return types.SimpleNamespace(network=network, entry=RETINA, backbone=BACKBONE, plan=PLAN)


@pytest.fixture
def cubes_model_file(tmp_path, monkeypatch) -> Path:
    """A ``model.pth`` whose detector is ``BrightCubes``, as a detector of an outside package would be."""
    package = types.ModuleType("outside_package")
    package.BrightCubes = BrightCubes
    monkeypatch.setitem(__import__("sys").modules, "outside_package", package)
    content = {
        "weights": {},
        "cell": "cubes/bright/scratch/fold0-seed0",
        "detector": {"class": "outside_package.BrightCubes", "backbone": "resenc", "inference": {"mirror_axes": [2]}},
        "backbone": BACKBONE,
        "precision": "fp32",
        "plan": PLAN,
        "provenance": {"recipe": "abc"},
    }
    path = tmp_path / "model" / "model.pth"
    checkpoints.save(path, content)
    return path


@pytest.fixture
def write_image():
    """Writes an array [D, H, W] with a geometry in the format of the name."""

    def write(path: Path, array: np.ndarray, geometry: Geometry) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(array)
        geometry.apply_to(image)
        sitk.WriteImage(image, str(path))
        return path

    return write
