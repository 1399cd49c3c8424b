"""A small canonical task written file by file, so that the tests do not rest on the package's own writer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk


def _save(path: Path, array: np.ndarray, spacing: tuple[float, float, float]) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


class TaskFolder:
    """Writes cases one by one; ``labels`` empty = a corpus."""

    def __init__(self, root: Path, labels: list[str], modalities: list[str]) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        names = {"labels": labels, "modalities": modalities}
        content = {key: {str(i): name for i, name in enumerate(value)} for key, value in names.items()}
        (root / "dataset.json").write_text(json.dumps({"name": root.name, **content}))

    def add(self, case, images, instances=None, classes=None, spacing=(1.0, 1.0, 1.0), suffix="Tr", **annotation):
        raw = self.root / "raw_splitted"
        for channel, image in enumerate(images):
            _save(raw / f"images{suffix}" / f"{case}_{channel:04d}.nii.gz", image, spacing)
        if instances is not None:
            _save(raw / f"labels{suffix}" / f"{case}.nii.gz", instances, spacing)
            content = {"instances": {str(key): value for key, value in (classes or {}).items()}, **annotation}
            (raw / f"labels{suffix}" / f"{case}.json").write_text(json.dumps(content))


@pytest.fixture
def make_task(tmp_path):
    def make(labels=("lesion",), modalities=("MR",), name="task") -> TaskFolder:
        return TaskFolder(tmp_path / name, list(labels), list(modalities))

    return make


def noisy_case(rng, shape=(20, 24, 28), objects=2, channels=1):
    """Random images without zeros and an instance map of separate cuboids."""
    images = [rng.normal(100, 20, shape).astype(np.float32) for _ in range(channels)]
    instances = np.zeros(shape, np.uint8)
    for number in range(objects):
        low = np.array([2 + 8 * number, *rng.integers(2, 10, 2)])
        size = rng.integers(4, 8, 3)
        instances[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = number + 1
    return images, instances


@pytest.fixture
def demo_task(make_task):
    """Six two-channel cases with objects of two classes, one case without any, spacings that differ; and a test case."""
    rng = np.random.default_rng(7)
    task = make_task(labels=("a", "b"), modalities=("MR", "CT"))
    for number in range(6):
        images, instances = noisy_case(rng, objects=number % 3, channels=2)
        classes = {i + 1: i % 2 for i in range(number % 3)}
        task.add(f"case_{number}", images, instances, classes, spacing=(2.0 if number % 2 else 1.5, 1.0, 1.0))
    images, instances = noisy_case(rng, objects=1, channels=2)
    task.add("held_out", images, instances, {1: 1}, suffix="Ts")
    return task
